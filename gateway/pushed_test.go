package gateway_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"understudy/audit"
	"understudy/flow/proof"
	"understudy/gateway"
	"understudy/idptest"
)

// push pushes an authorization request (RFC 9126) and makes the tab one that refers to it.
func (x *tab) push(change ...func(*http.Request)) (*tab, int) {
	x.t.Helper()
	q, err := http.NewRequestWithContext(x.t.Context(), http.MethodPost, x.r.realm(x.realm)+"/protocol/openid-connect/ext/par/request", strings.NewReader(x.query.Encode()))
	if err != nil {
		x.t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if x.secret != "" {
		q.SetBasicAuth(x.query.Get("client_id"), x.secret)
	}
	for _, c := range change {
		c(q)
	}
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		x.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		x.t.Fatal(err)
	}
	var o struct {
		URI string `json:"request_uri"`
		In  int    `json:"expires_in"`
	}
	if err := json.Unmarshal(b, &o); err != nil {
		x.t.Fatalf("%d %.300s", resp.StatusCode, b)
	}
	if resp.StatusCode == http.StatusCreated && (o.URI == "" || o.In <= 0) {
		x.t.Fatalf("%s", b)
	}
	by := *x
	by.query = url.Values{"client_id": {x.query.Get("client_id")}, "request_uri": {o.URI}}
	return &by, resp.StatusCode
}

// redeemPushed redeems a code of a pushed request, whose redirect URI stands in the request alone.
func (x *tab) redeemPushed(code string) *tokens {
	return x.redeem(code, func(f url.Values) { f.Set("redirect_uri", callback) })
}

// Requests that clients push are remembered, and taken in an outage; who must push gets nothing by a link.
func TestPushedRequests(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	r := newRig(t, kc.URL())
	b := &idptest.Browser{}
	n := r.learnedFlow("authorization")
	pushed, status := r.tab("rot", "web", "web-secret", b).push()
	if status != http.StatusCreated {
		t.Fatal(status)
	}
	if k := pushed.redeemPushed(pushed.open("alice").Query().Get("code")); k.AccessToken == "" {
		t.Fatalf("%v", k)
	}
	waitFor(t, "the browser is learned", func() bool {
		return r.learnedFlow("authorization") > n && r.learnedFlow("pushed_authorization_request") > 0
	})
	before, _ := r.tab("rot", "web", "web-secret", b).push() // just before it dies
	settled()
	kc.Kill()
	defer kc.Restart(ctx)

	good := func(t *testing.T, x *tab) {
		t.Helper()
		x.t = t
		code, _ := x.silent()
		if k := x.redeemPushed(code); !k.byBackup() {
			t.Errorf("%v", k)
		}
	}
	t.Run("pushed to the primary", func(t *testing.T) { good(t, before) })
	x, status := r.tab("rot", "web", "web-secret", b).push()
	if status != http.StatusCreated {
		t.Fatalf("the push: %d", status)
	}
	r.line(t, "the push", func(e audit.Entry) bool {
		return e.Flow == "pushed_authorization_request" && e.Client == "web" && e.Decision == "issued"
	})
	t.Run("pushed to the backup", func(t *testing.T) { good(t, x) })
	t.Run("after a restart", func(t *testing.T) {
		x, _ := r.tab("rot", "web", "web-secret", b).push()
		r.restart()
		good(t, x)
	})
	for name, c := range map[string]func() *tab{
		"by a link":                func() *tab { return r.tab("rot", "web", "web-secret", b) },
		"another client's request": func() *tab { x, _ := r.tab("rot", "web", "web-secret", b).push(); return x.with("client_id", "spa") },
		"another redirect URI": func() *tab {
			x, _ := r.tab("rot", "web", "web-secret", b).with("redirect_uri", "https://evil.example").push()
			return x
		},
		"a request that nobody knows": func() *tab {
			return r.tab("rot", "web", "web-secret", b).with("request_uri", "urn:ietf:params:oauth:request_uri:"+rand43())
		},
		"another browser": func() *tab { x, _ := r.tab("rot", "web", "web-secret", &idptest.Browser{}).push(); return x },
	} {
		t.Run(name, func(t *testing.T) {
			if resp, _ := c().once(); resp.Header.Get("Location") != "" || resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%d %v", resp.StatusCode, resp.Header)
			}
		})
	}
	for name, change := range map[string]func(*http.Request){
		"a wrong secret": func(q *http.Request) { q.SetBasicAuth("web", "wrong") },
		"no secret":      func(q *http.Request) { q.Header.Del("Authorization") },
		"another client": func(q *http.Request) { q.SetBasicAuth("jwtc", "web-secret") },
	} {
		t.Run("pushed with "+name, func(t *testing.T) {
			if _, status := r.tab("rot", "web", "web-secret", b).push(change); status < 400 {
				t.Error(status)
			}
		})
	}
	if err := kc.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	late, _ := r.tab("rot", "web", "web-secret", b).push()
	r.back()
	t.Run("when the primary is back", func(t *testing.T) {
		late.t = t
		code, _ := late.silent()
		if k := late.redeemPushed(code); k.AccessToken == "" {
			t.Errorf("%v", k)
		}
	})
}

// A request that its client signed (RFC 9101) is answered where the client's key is known, and nothing else in its place.
func TestSignedRequests(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	key, err := idptest.KeycloakClientKey()
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, kc.URL(), func(x *gateway.Tenant) { x.ClientKeys = map[string]*proof.ClientKeys{"jwtc": keysOf(t, key)} })
	p := &prover{t: t, r: r, key: key}
	b := &idptest.Browser{}
	signed := func(by *rsa.PrivateKey, change ...func(map[string]any)) *tab {
		x := r.tab("rot", "jwtc", "", b)
		claims := map[string]any{"iss": "jwtc", "aud": r.realm("rot"), "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(), "jti": rand.Text()}
		for name := range x.query {
			claims[name] = x.query.Get(name)
		}
		for _, c := range change {
			c(claims)
		}
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: by}, nil)
		if err != nil {
			t.Fatal(err)
		}
		object, err := jwt.Signed(s).Claims(claims).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		x.query = url.Values{"client_id": {"jwtc"}, "scope": {"openid profile email"}, "response_type": {"code"}, "request": {object}}
		return x
	}
	redeem := func(x *tab, code string) *tokens {
		return p.post(p.assertion(), url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {x.verifier}})
	}
	n := r.learnedFlow("authorization")
	x := signed(key)
	if k := redeem(x, x.open("alice").Query().Get("code")); k.AccessToken == "" {
		t.Fatalf("%v", k)
	}
	waitFor(t, "the browser is learned", func() bool { return r.learnedFlow("authorization") > n })
	settled()
	kc.Kill()
	defer kc.Restart(ctx)
	x = signed(key)
	code, _ := x.silent()
	if k := redeem(x, code); !k.byBackup() {
		t.Errorf("%v", k)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	set := func(name string, v any) func(map[string]any) { return func(c map[string]any) { c[name] = v } }
	for name, x := range map[string]*tab{
		"by another key":          signed(other),
		"by another client":       signed(key, set("iss", "web")),
		"for somebody else":       signed(key, set("aud", "https://other.example")),
		"expired":                 signed(key, set("exp", time.Now().Add(-time.Minute).Unix())),
		"for ever":                signed(key, func(c map[string]any) { delete(c, "exp") }),
		"more scope inside":       signed(key, set("scope", "openid profile email offline_access")),
		"more scope beside":       signed(key).with("scope", "openid offline_access"),
		"a parameter beside":      signed(key).with("redirect_uri", "https://evil.example/"),
		"another redirect URI":    signed(key, set("redirect_uri", "https://evil.example/")),
		"another client's object": signed(key).with("client_id", "web"),
		"not signed":              r.tab("rot", "jwtc", "", b),
	} {
		t.Run(name, func(t *testing.T) {
			if resp, _ := x.once(); resp.Header.Get("Location") != "" || resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%d %v", resp.StatusCode, resp.Header)
			}
		})
	}
}
