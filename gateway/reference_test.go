package gateway_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"understudy/audit"
	"understudy/flow/proof"
	"understudy/gateway"
	"understudy/idptest"
)

// shelf is a client's host, with its request objects on it. What is there for the gateway may be another than for the primary.
type shelf struct {
	*httptest.Server
	mu    sync.Mutex // guards what follows
	at    map[string]http.HandlerFunc
	asked map[string]int // by the gateway
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{at: map[string]http.HandlerFunc{}, asked: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		s.mu.Lock()
		h := s.at[q.URL.Path]
		if byGateway(q) {
			s.asked[q.URL.Path]++
		}
		s.mu.Unlock()
		if h == nil {
			http.NotFound(w, q)
			return
		}
		h(w, q)
	}))
	t.Cleanup(s.Close)
	return s
}

func byGateway(q *http.Request) bool {
	return strings.Contains(q.Header.Get("Accept"), "application/oauth-authz-req+jwt")
}

// put puts something there, and returns its URL.
func (s *shelf) put(dir string, h http.HandlerFunc) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := dir + rand.Text()
	s.at[at] = h
	return s.URL + at
}

func (s *shelf) times(uri string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, _ := url.Parse(uri)
	return s.asked[u.Path]
}

func text(object string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/oauth-authz-req+jwt")
		w.Write([]byte(object))
	}
}

// each gives the primary and the gateway what is for them.
func each(primary, gateway http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		if byGateway(q) {
			gateway(w, q)
		} else {
			primary(w, q)
		}
	}
}

// referrer is the client "byref" of Keycloak's, which must sign its requests and have them lie at its host.
type referrer struct {
	t     *testing.T
	r     *rig
	key   *rsa.PrivateKey
	shelf *shelf
}

func newReferrer(t *testing.T, kc *idptest.Keycloak, primary string, change ...func(*gateway.Tenant)) *referrer {
	t.Helper()
	x := &referrer{t: t, key: must(rsa.GenerateKey(rand.Reader, 2048)), shelf: newShelf(t)}
	set := must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: x.key.Public(), Use: "sig", Algorithm: "RS256", KeyID: "k"}}}))
	for _, id := range []string{"byref", "byref2"} {
		addClient(t, kc, "rot", id, "client-secret", map[string]any{
			"secret": "byref-secret", "implicitFlowEnabled": true,
			"defaultClientScopes": []string{"basic"}, "optionalClientScopes": []string{"profile", "email", "offline_access"},
			"attributes": map[string]string{
				"use.jwks.string": "true", "jwks.string": string(set), "request.object.signature.alg": "RS256", "request.object.required": "request_uri only",
				"request.uris": x.shelf.URL + "/*",
			},
		})
	}
	x.r = newRig(t, primary, append(change, func(n *gateway.Tenant) {
		n.ClientKeys = map[string]*proof.ClientKeys{"byref": keysOf(t, x.key), "byref2": keysOf(t, x.key)}
		n.RequestURIs = map[string][]string{"byref": {x.shelf.URL + "/objects/*"}}
	})...)
	return x
}

func claimed(name string, v any) func(map[string]any) { return func(c map[string]any) { c[name] = v } }

func without(names ...string) func(map[string]any) {
	return func(c map[string]any) {
		for _, name := range names {
			delete(c, name)
		}
	}
}

// object is what a tab asks for as the client signs it.
func (x *referrer) object(of *tab, by *rsa.PrivateKey, change ...func(map[string]any)) string {
	x.t.Helper()
	claims := map[string]any{"iss": "byref", "aud": x.r.realm("rot"), "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(), "jti": rand.Text()}
	for name := range of.query {
		claims[name] = of.query.Get(name)
	}
	for _, c := range change {
		c(claims)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: by, KeyID: "k"}}, (&jose.SignerOptions{}).WithType("oauth-authz-req+jwt"))
	if err != nil {
		x.t.Fatal(err)
	}
	object, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		x.t.Fatal(err)
	}
	return object
}

func (x *referrer) tab(b *idptest.Browser) *tab { return x.r.tab("rot", "byref", "byref-secret", b) }

// at is a tab whose request lies at a URL.
func at(of *tab, uri string) *tab {
	by := *of
	by.query = url.Values{"client_id": {"byref"}, "request_uri": {uri}}
	return &by
}

// lying is a tab whose request lies at the client's host.
func (x *referrer) lying(of *tab, change ...func(map[string]any)) *tab {
	return at(of, x.shelf.put("/objects/", text(x.object(of, x.key, change...))))
}

func (x *tab) redeemReferred(code string) *tokens {
	return x.redeem(code, func(f url.Values) { f.Set("redirect_uri", callback) })
}

// learns waits until what a tab is let in to is learned.
func (x *referrer) learns(of *tab, user string) *tokens {
	x.t.Helper()
	n := x.r.learnedFlow("authorization")
	k := of.redeemReferred(of.open(user).Query().Get("code"))
	if k.AccessToken == "" {
		x.t.Fatalf("%v", k)
	}
	waitFor(x.t, "the browser is learned", func() bool { return x.r.learnedFlow("authorization") > n })
	return k
}

// refuses wants a request refused by a rule, or for a reason why only the primary can answer it.
func (x *referrer) refuses(t *testing.T, of *tab, rule string) {
	t.Helper()
	began := time.Now().Truncate(time.Millisecond)
	if resp, _ := of.once(); resp.Header.Get("Location") != "" || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	x.r.line(t, rule, func(e audit.Entry) bool {
		return !e.Time.Before(began) && e.Flow == "authorization" && e.Client == of.query.Get("client_id") && e.Decision == "refused" && (e.Rule == rule || e.Rule == "not_playable" && e.Trigger == rule)
	})
}

// A signed request that lies at a URL which the client registered (RFC 9101, section 5.2) is read there, and answered as one that
// comes by itself. Nothing else is in its place, and nothing is fetched from anywhere else.
func TestRequestsByReference(t *testing.T) {
	kc := keycloak(t)
	x := newReferrer(t, kc, kc.URL())
	b := &idptest.Browser{}
	x.learns(x.lying(x.tab(b)), "alice")
	silent := x.lying(x.tab(b)) // by the primary, which asks nobody
	code, _ := silent.silent()
	if k := silent.redeemReferred(code); k.AccessToken == "" || k.byBackup() {
		t.Fatalf("%v", k)
	}
	settled()
	kc.Kill()
	defer kc.Restart(t.Context())

	good := func(t *testing.T, of *tab) {
		t.Helper()
		of.t = t
		code, _ := of.silent()
		if k := of.redeemReferred(code); !k.byBackup() || k.claim("nonce") == "" {
			t.Errorf("%v", k)
		}
	}
	t.Run("at once", func(t *testing.T) { good(t, x.lying(x.tab(b))) })
	t.Run("without a page", func(t *testing.T) { good(t, x.lying(x.tab(b).with("prompt", "none"))) })
	t.Run("after a restart", func(t *testing.T) {
		x.r.restart()
		good(t, x.lying(x.tab(b)))
	})
	t.Run("with what is in it beside it", func(t *testing.T) {
		good(t, x.lying(x.tab(b)).with("response_type", "code").with("scope", "openid profile email"))
	})
	hash := func(object string) string {
		sum := sha256.Sum256([]byte(object))
		return "#" + base64.RawURLEncoding.EncodeToString(sum[:])
	}
	t.Run("fetched once, where its URI has its hash", func(t *testing.T) {
		of := x.tab(b)
		object := x.object(of, x.key)
		uri := x.shelf.put("/objects/", text(object))
		for range 3 {
			good(t, at(of, uri+hash(object)))
		}
		if n := x.shelf.times(uri); n != 1 {
			t.Errorf("fetched %d times", n)
		}
		for range 2 {
			good(t, at(of, uri))
		}
		if n := x.shelf.times(uri); n != 3 {
			t.Errorf("without its hash: fetched %d times", n-1)
		}
	})

	other := must(rsa.GenerateKey(rand.Reader, 2048))
	placed := func(dir string, h http.HandlerFunc) *tab { return at(x.tab(b), x.shelf.put(dir, h)) }
	signed := func(by *rsa.PrivateKey, change ...func(map[string]any)) *tab {
		return placed("/objects/", text(x.object(x.tab(b), by, change...)))
	}
	one := text(x.object(x.tab(b), x.key))
	elsewhere := newShelf(t)
	for name, c := range map[string]struct {
		of   *tab
		rule string
	}{
		"by another key":           {signed(other), "request_uri"},
		"expired":                  {signed(x.key, claimed("exp", time.Now().Add(-time.Minute).Unix())), "request_uri"},
		"for ever":                 {signed(x.key, without("exp")), "request_uri"},
		"for somebody else":        {signed(x.key, claimed("aud", "https://other.example")), "request_uri"},
		"by another client":        {signed(x.key, claimed("iss", "byref2")), "request_uri"},
		"another client_id inside": {signed(x.key, claimed("client_id", "byref2")), "request_uri"},
		"another client's URI":     {signed(x.key).with("client_id", "byref2"), "request_uri"},
		"a request inside":         {signed(x.key, claimed("request", x.object(x.tab(b), x.key))), "request_uri"},
		"a request_uri inside":     {signed(x.key, claimed("request_uri", x.shelf.URL+"/objects/x")), "request_uri"},
		"a request beside":         {signed(x.key).with("request", x.object(x.tab(b), x.key)), "request_uri"},
		"more scope inside":        {signed(x.key, claimed("scope", "openid profile email offline_access")), "no_record"},
		"another redirect URI":     {signed(x.key, claimed("redirect_uri", "https://evil.example/")), "no_record"},
		"without PKCE":             {signed(x.key, without("code_challenge", "code_challenge_method")), "no_record"},
		"more scope beside":        {signed(x.key).with("scope", "openid offline_access"), "request_uri"},
		"a parameter beside":       {signed(x.key).with("login_hint", "bob"), "request_uri"},
		"not signed":               {placed("/objects/", text("e30.e30.")), "request_uri"},
		"oversized":                {signed(x.key, claimed("x", strings.Repeat("x", 17<<10))), "request_uri"},
		"nothing there":            {at(x.tab(b), x.shelf.URL+"/objects/none"), "request_uri"},
		"an error": {placed("/objects/", func(w http.ResponseWriter, q *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			one(w, q)
		}), "request_uri"},
		"a redirect": {placed("/objects/", func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, x.shelf.put("/objects/", one), http.StatusFound)
		}), "request_uri"},
		"another hash":      {at(x.tab(b), x.shelf.put("/objects/", one)+hash("another")), "request_uri"},
		"a host that hangs": {placed("/objects/", func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }), "request_uri"},
		"another browser":   {x.lying(x.tab(&idptest.Browser{})), "no_browser"},
		"by a link":         {x.tab(b), "no_record"},
		"by value":          {x.tab(b).with("request", x.object(x.tab(b), x.key)), "request_object"},
		"by value alone": {func() *tab {
			of := x.tab(b)
			of.query = url.Values{"client_id": {"byref"}, "request": {x.object(of, x.key)}}
			return of
		}(), "no_record"},
	} {
		t.Run(name, func(t *testing.T) { x.refuses(t, c.of, c.rule) })
	}
	for name, uri := range map[string]string{
		"another directory":      x.shelf.put("/other/", one),
		"another host":           elsewhere.put("/objects/", one),
		"a query":                x.shelf.put("/objects/", one) + "?x=1",
		"a directory below":      x.shelf.put("/objects/below/", one),
		"a directory above":      x.shelf.URL + "/objects/..%2fother",
		"dots":                   x.shelf.URL + "/objects/..",
		"the registered one":     x.shelf.URL + "/objects/*",
		"none":                   x.shelf.URL + "/objects/",
		"a user":                 strings.Replace(x.shelf.put("/objects/", one), "http://", "http://u@", 1),
		"another port":           strings.Replace(x.shelf.URL, "http://127.0.0.1:", "http://127.0.0.1:1", 1) + "/objects/x",
		"the host as a user":     x.shelf.URL + "@" + strings.TrimPrefix(elsewhere.URL, "http://") + "/objects/x",
		"the cloud's metadata":   "http://169.254.169.254/latest/meta-data/",
		"a file":                 "file:///etc/passwd",
		"another case":           strings.ToUpper(x.shelf.put("/objects/", one)),
		"nothing":                "",
		"a URN that nobody made": "urn:ietf:params:oauth:request_uri:x",
	} {
		t.Run("not registered: "+name, func(t *testing.T) {
			x.refuses(t, at(x.tab(b), uri), "request_uri")
			if n := x.shelf.times(uri) + elsewhere.times(uri); n != 0 {
				t.Errorf("fetched %d times", n)
			}
		})
	}
	t.Run("two URIs", func(t *testing.T) {
		of := x.lying(x.tab(b))
		of.query.Add("request_uri", x.shelf.put("/objects/", one))
		x.refuses(t, of, "repeated_parameters")
	})
	t.Run("two clients", func(t *testing.T) {
		of := x.lying(x.tab(b))
		of.query.Add("client_id", "byref2")
		x.refuses(t, of, "repeated_parameters")
	})
	if err := kc.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.r.back()
	t.Run("when the primary is back", func(t *testing.T) {
		of := x.lying(x.tab(b))
		of.t = t
		code, _ := of.silent()
		if k := of.redeemReferred(code); k.AccessToken == "" || k.byBackup() {
			t.Errorf("%v", k)
		}
	})
}

// Whoever has a client's objects lie at a URL may give one to the primary and another to the gateway. Nobody gets more by that than
// what the primary gave for the one that it read.
func TestAnotherObjectThanThePrimaryRead(t *testing.T) {
	kc := keycloak(t)
	x := newReferrer(t, kc, kc.URL())
	wide := "openid profile email offline_access"
	// learned signs alice in by what the primary reads, with a code or without, and says whether anything is learned of it.
	learned := func(of *tab, primary, gateway string) (b *idptest.Browser, k *tokens, yes bool) {
		t.Helper()
		n, codes := x.r.learnedFlow("authorization"), x.r.learnedFlow("authorization_code")
		seen := at(of, x.shelf.put("/objects/", each(text(primary), text(gateway))))
		back := seen.open("alice")
		if code := back.Query().Get("code"); code != "" {
			k = seen.redeem(code, func(f url.Values) {
				f.Set("redirect_uri", callback)
				if of.verifier == "" {
					f.Del("code_verifier")
				}
			})
			if k.AccessToken == "" {
				t.Fatalf("%v", k)
			}
			waitFor(t, "the code is learned", func() bool { return x.r.learnedFlow("authorization_code") > codes })
		} else if f, _ := url.ParseQuery(back.Fragment); f.Get("id_token") != "" {
			k = &tokens{AccessToken: f.Get("access_token"), IDToken: f.Get("id_token")}
		} else {
			t.Fatalf("%s", back)
		}
		for range 30 { // it is learned in the same batch
			if yes = x.r.learnedFlow("authorization") > n; yes {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		return of.browser, k, yes
	}
	fresh := func() *tab { return x.tab(&idptest.Browser{}) }
	var wider, implicit *tab
	for _, c := range []struct {
		name             string
		of               *tab
		primary, gateway []func(map[string]any)
		learned          bool
		keep             **tab
	}{
		{name: "the same", of: fresh(), learned: true},
		{name: "wider", of: fresh(), primary: allClaimed("scope", "openid"), gateway: allClaimed("scope", wide), learned: true, keep: &wider},
		{
			name: "wider, implicit", of: fresh().with("response_type", "id_token token").with("code_challenge", "").with("code_challenge_method", ""),
			primary: allClaimed("scope", "openid"), gateway: allClaimed("scope", wide), learned: true, keep: &implicit,
		},
		{name: "another state", of: fresh(), gateway: allClaimed("state", "another")},
		{name: "no state", of: fresh(), primary: []func(map[string]any){without("state")}, gateway: []func(map[string]any){without("state")}},
		{name: "another nonce", of: fresh(), gateway: allClaimed("nonce", "another")},
		{name: "no nonce", of: fresh(), gateway: []func(map[string]any){without("nonce")}},
		{name: "without PKCE", of: fresh(), gateway: []func(map[string]any){without("code_challenge", "code_challenge_method")}},
		{name: "another challenge", of: fresh(), gateway: allClaimed("code_challenge", rand43())},
		{name: "another redirect URI", of: fresh(), gateway: allClaimed("redirect_uri", "https://evil.example/cb")},
		{name: "another response type", of: fresh(), gateway: allClaimed("response_type", "code id_token")},
		{name: "another response mode", of: fresh(), gateway: allClaimed("response_mode", "fragment")},
	} {
		primary, gateway := x.object(c.of, x.key, c.primary...), x.object(c.of, x.key, c.gateway...)
		_, k, yes := learned(c.of, primary, gateway)
		if yes != c.learned {
			t.Errorf("%s: learned %v", c.name, yes)
		}
		if c.keep == nil {
			continue
		}
		if got := scopeOf(k); strings.Contains(got, "email") || strings.Contains(got, "offline_access") {
			t.Fatalf("the primary gave %q", got) // then there is nothing to be seen here
		}
		again := c.of
		*c.keep = again
	}
	settled()
	kc.Kill()
	defer kc.Restart(t.Context())
	narrow := func(t *testing.T, k *tokens) {
		t.Helper()
		if !k.byBackup() {
			t.Fatalf("%v", k)
		}
		if got := scopeOf(k); got != "openid" {
			t.Errorf("scope %q", got)
		}
		for _, name := range []string{"email", "preferred_username", "name"} {
			if k.claim(name) != "" {
				t.Errorf("the ID token has %s", name)
			}
		}
		if status, o := x.r.userInfo("rot", k.AccessToken); status == http.StatusOK && (o.Has("email") || o.Has("preferred_username")) {
			t.Errorf("UserInfo tells %v", o.Names())
		}
	}
	renew := func(of *tab) *tab { return of.with("state", rand43()[:8]).with("nonce", rand43()[:9]) }
	t.Run("the wider one, in the outage", func(t *testing.T) {
		of := x.lying(renew(wider), claimed("scope", wide))
		code, _ := of.silent()
		narrow(t, of.redeemReferred(code))
	})
	t.Run("the wider one by implicit, in the outage", func(t *testing.T) {
		of := x.lying(renew(implicit), claimed("scope", wide))
		resp, _ := of.once()
		u, err := resp.Location()
		if err != nil {
			t.Fatalf("%d", resp.StatusCode)
		}
		f, _ := url.ParseQuery(u.Fragment)
		narrow(t, &tokens{AccessToken: f.Get("access_token"), IDToken: f.Get("id_token")})
	})
}

func allClaimed(name string, v any) []func(map[string]any) {
	return []func(map[string]any){claimed(name, v)}
}

// scopeOf is the scope of an access token that is a JWT.
func scopeOf(k *tokens) string {
	_, rest, _ := strings.Cut(k.AccessToken, ".")
	rest, _, _ = strings.Cut(rest, ".")
	return claimOf(rest, "scope")
}

// A client's host holds nobody up, and lets nobody in: neither the gateway that waits for it nor the primary that does.
func TestAHostThatHangs(t *testing.T) {
	kc := keycloak(t)
	f := behind(t, kc.URL())
	// Only a request that is overdue has the primary probed.
	x := newReferrer(t, kc, f.URL(), func(n *gateway.Tenant) { n.Health.ProbeServing = time.Hour })
	hangs := func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }
	after := func(d time.Duration, h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, q *http.Request) {
			time.Sleep(d)
			h(w, q)
		}
	}
	b := &idptest.Browser{}
	quick := func(name string, h http.HandlerFunc) {
		t.Helper()
		of := x.tab(b)
		began := time.Now()
		seen := at(of, x.shelf.put("/objects/", each(text(x.object(of, x.key)), h)))
		k := seen.redeemReferred(seen.open("alice").Query().Get("code"))
		if took := time.Since(began); k.AccessToken == "" || took > 1500*time.Millisecond {
			t.Errorf("%s: %v after %s", name, k, took)
		}
	}
	x.r.tab("rot", "web", "web-secret", b).signIn("alice") // else the first pages of Keycloak's are counted too
	quick("it hangs", hangs)
	quick("it breaks", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	quick("it sends for ever", func(w http.ResponseWriter, q *http.Request) {
		for q.Context().Err() == nil {
			w.Write(make([]byte, 1<<16))
		}
	})
	if n := x.r.learnedFlow("authorization"); n != 1 {
		t.Errorf("learned %d times", n)
	}

	// An answer that comes before the object is learned all the same.
	of := x.tab(b)
	n := x.r.learnedFlow("authorization")
	seen := at(of, x.shelf.put("/objects/", each(text(x.object(of, x.key)), after(400*time.Millisecond, text(x.object(of, x.key))))))
	code, _ := seen.silent()
	time.Sleep(600 * time.Millisecond) // the way to the application
	if k := seen.redeemReferred(code); k.AccessToken == "" {
		t.Fatalf("%v", k)
	}
	waitFor(t, "the browser is learned", func() bool { return x.r.learnedFlow("authorization") > n })

	// The primary waits for the client's host, which is no failure of the primary's.
	of = x.tab(b)
	resp := make(chan string, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	seen = at(of, x.shelf.put("/objects/", each(hangs, text(x.object(of, x.key)))))
	go func() {
		r, _, err := b.Get(ctx, x.r.realm("rot")+"/protocol/openid-connect/auth?"+seen.query.Encode())
		if err != nil {
			resp <- ""
			return
		}
		resp <- fmt.Sprint(r.StatusCode, " ", r.Header.Get("Location"))
	}()
	if got := <-resp; strings.Contains(got, "code=") {
		t.Errorf("let in by a host that hangs for the primary: %s", got)
	}

	// The primary itself hangs, or fails, for everybody.
	for name, fa := range map[string]idptest.Fault{
		"hangs": {Kind: idptest.BlackHole, Match: func(*http.Request) bool { return true }},
		"fails": {Kind: idptest.ServerError, Match: func(*http.Request) bool { return true }},
	} {
		fault(t, f, fa)
		of := x.lying(x.tab(b).with("prompt", "none"))
		code, _ := of.silent()
		if k := of.redeemReferred(code); !k.byBackup() {
			t.Errorf("the primary %s: %v", name, k)
		}
		fault(t, f, idptest.Fault{})
		x.r.back()
	}
}
