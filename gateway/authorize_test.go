package gateway_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"understudy/audit"
	"understudy/idptest"
	"understudy/session"
)

const callback = "http://127.0.0.1:9999/cb"

// tab is one sign-in of an application in a browser.
type tab struct {
	t        *testing.T
	r        *rig
	realm    string
	browser  *idptest.Browser
	query    url.Values
	verifier string
	secret   string         // of the confidential client; "": it is public
	signed   session.Object // claims and kid of the last response in a JWT
}

func (r *rig) tab(realm, client, secret string, b *idptest.Browser) *tab {
	r.t.Helper()
	v := rand43()
	sum := sha256.Sum256([]byte(v))
	return &tab{r.t, r, realm, b, url.Values{
		"client_id": {client}, "response_type": {"code"}, "scope": {"openid profile email"}, "state": {rand43()[:8]}, "nonce": {rand43()[:9]},
		"redirect_uri": {callback}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}, v, secret, nil}
}

func rand43() string {
	a, b := session.NewID(), session.NewID()
	return base64.RawURLEncoding.EncodeToString(append(a[:], b[:]...))
}

// with changes a parameter; "" takes it away.
func (x *tab) with(name, value string) *tab {
	x.query.Set(name, value)
	if value == "" {
		x.query.Del(name)
	}
	return x
}

// open asks for authorization until the browser is back at the application.
func (x *tab) open(user string) *url.URL {
	x.t.Helper()
	fill := map[string]string{}
	if user != "" {
		fill = map[string]string{"username": user, "password": "pw-" + user}
	}
	at, err := x.browser.Visit(x.t.Context(), x.r.realm(x.realm)+"/protocol/openid-connect/auth?"+x.query.Encode(), callback, fill)
	if err != nil {
		x.t.Fatal(err)
	}
	return at
}

// once asks for authorization, once, and returns what came back.
func (x *tab) once() (*http.Response, string) {
	x.t.Helper()
	resp, body, err := x.browser.Get(x.t.Context(), x.r.realm(x.realm)+"/protocol/openid-connect/auth?"+x.query.Encode())
	if err != nil {
		x.t.Fatal(err)
	}
	return resp, body
}

// redeem redeems a code.
func (x *tab) redeem(code string, change ...func(url.Values)) *tokens {
	x.t.Helper()
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {x.query.Get("redirect_uri")}, "code_verifier": {x.verifier}}
	if x.secret == "" {
		form.Set("client_id", x.query.Get("client_id"))
	}
	for _, c := range change {
		c(form)
	}
	return x.r.token(x.realm, form, func(q *http.Request) {
		q.Header.Del("Authorization")
		if x.secret != "" {
			q.SetBasicAuth(x.query.Get("client_id"), x.secret)
		}
	})
}

// signIn signs a person in and waits until that is learned.
func (x *tab) signIn(user string) *tokens {
	x.t.Helper()
	was := x.r.learnedFlow("authorization")
	k := x.redeem(x.open(user).Query().Get("code"))
	if k.AccessToken == "" {
		x.t.Fatalf("sign in: %v", k)
	}
	waitFor(x.t, "the browser is learned", func() bool { return x.r.learnedFlow("authorization") > was })
	return k
}

// silent opens the application again in the same browser: nobody is asked.
func (x *tab) silent() (code string, answer url.Values) {
	x.t.Helper()
	resp, body := x.once()
	u, err := resp.Location()
	if err != nil || !strings.HasPrefix(u.String(), callback+"?") {
		x.t.Fatalf("%d %v %.300s", resp.StatusCode, err, body)
	}
	return u.Query().Get("code"), u.Query()
}

// learnedFlow is how often a flow was learned.
func (r *rig) learnedFlow(name string) (n int) {
	for k, v := range r.metrics("understudy_learned_total") {
		if strings.Contains(k, `"`+name+`"`) {
			i, err := strconv.Atoi(v)
			if err != nil {
				r.t.Fatal(err)
			}
			n += i
		}
	}
	return n
}

// Whoever was signed in to an application opens it again in the same browser while the primary is dead, and is let in.
func TestBrowser(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	ctx := context.Background()
	b := &idptest.Browser{}
	r.tab("rot", "web", "web-secret", b).signIn("alice")
	again := r.tab("rot", "web", "web-secret", b)
	code, learned := again.silent() // Keycloak's own silent sign-on, and new cookies
	n := r.learnedFlow("authorization")
	was := again.redeem(code)
	if was.AccessToken == "" || was.byBackup() {
		t.Fatalf("at the primary: %v", was)
	}
	waitFor(t, "it is learned", func() bool { return r.learnedFlow("authorization") > n })
	settled()
	kc.Kill()
	defer kc.Restart(ctx)

	x := r.tab("rot", "web", "web-secret", b)
	code, answer := x.silent()
	for name := range learned {
		switch {
		case name == "code":
		case name == "state":
			if answer.Get(name) != x.query.Get(name) {
				t.Errorf("state %q", answer.Get(name))
			}
		case answer.Get(name) != learned.Get(name):
			t.Errorf("%s is %q, the primary's %q", name, answer.Get(name), learned.Get(name))
		}
	}
	k := x.redeem(code)
	if !k.byBackup() {
		t.Fatalf("not redeemed: %v", k)
	}
	if n := k.claim("nonce"); n != x.query.Get("nonce") {
		t.Errorf("nonce %q, want %q", n, x.query.Get("nonce"))
	}
	for _, c := range []string{"sub", "sid", "preferred_username", "acr"} {
		if was, now := was.claim(c), k.claim(c); was != now || now == "" {
			t.Errorf("%s is %q, the primary's %q", c, now, was)
		}
	}
	if k.RefreshToken != "" {
		t.Error("a refresh token that the primary will not know")
	}
	r.line(t, "the redirect", func(e audit.Entry) bool {
		return e.Flow == "authorization" && e.Client == "web" && e.Decision == "issued" && e.Subject != ""
	})
	r.line(t, "the redemption", func(e audit.Entry) bool {
		return e.Flow == "authorization_code" && e.Client == "web" && e.Decision == "issued" && e.Trigger == "own_code"
	})
	t.Run("a code is used once", func(t *testing.T) {
		if k := x.redeem(code); k.Error != "invalid_grant" {
			t.Errorf("%v", k)
		}
	})
	x = r.tab("rot", "web", "web-secret", b)
	code, _ = x.silent()
	kept := x.redeem(code)
	if err := kc.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	r.back()
	x = r.tab("rot", "web", "web-secret", b)
	code, _ = x.silent()
	if k := x.redeem(code); k.AccessToken == "" || k.byBackup() {
		t.Errorf("at the primary again: %v", k)
	}
	t.Run("a logout with the backup's ID token", func(t *testing.T) { // which the primary does not know
		was := b.Clone()
		resp, _, err := b.Get(ctx, r.realm("rot")+"/protocol/openid-connect/logout?"+url.Values{"id_token_hint": {kept.IDToken}}.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode/100 != 2 || b.Cookie("KEYCLOAK_IDENTITY") != "" {
			t.Errorf("%s, and the browser has the primary's cookie: %v", resp.Status, b.Cookie("KEYCLOAK_IDENTITY") != "")
		}
		x := r.tab("rot", "web", "web-secret", was)
		code, _ := x.silent()
		if k := x.redeem(code); k.AccessToken != "" || k.Error != "invalid_grant" {
			t.Errorf("her old cookies, at the primary: %v", k)
		}
	})
}

// What the primary would refuse, or was never seen to approve, the backup does not answer: no code leaves, and the sign-in log
// names the rule.
func TestBrowserIsRefused(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	ctx := context.Background()
	b, other := &idptest.Browser{}, &idptest.Browser{}
	k := r.tab("rot", "web", "web-secret", b).signIn("alice")
	bob := r.tab("rot", "web", "web-secret", other).signIn("bob")
	r.tab("rot", "spa", "", b).signIn("")                          // silently, at a second application
	r.tab("norot", "web", "web-secret", &idptest.Browser{}).once() // the other realm is known
	kc.Kill()
	defer kc.Restart(ctx)

	mix := func(gateway, primary *idptest.Browser) *idptest.Browser {
		x := &idptest.Browser{}
		x.Take("understudy", gateway)
		x.Take("KEYCLOAK_IDENTITY", primary)
		return x
	}
	at := func(b *idptest.Browser) *tab { return r.tab("rot", "web", "web-secret", b) }
	if code, _ := at(mix(b, b)).silent(); code == "" {
		t.Fatal("what the cases change is not served")
	}
	for name, c := range map[string]struct {
		x    *tab
		rule string
	}{
		"a browser that nobody signed in with": {at(&idptest.Browser{}), "no_browser"},
		"another browser's primary cookie":     {at(mix(b, other)), "no_browser"},
		"another browser's gateway cookie":     {at(mix(other, b)), "no_browser"},
		"the primary's cookie alone":           {at(mix(&idptest.Browser{}, b)), "no_browser"},
		"the gateway's cookie alone":           {at(mix(b, &idptest.Browser{})), "no_browser"},
		"another realm":                        {r.tab("norot", "web", "web-secret", b), "no_browser"},
		"another client":                       {r.tab("rot", "jwtc", "", b), "no_record"},
		"redirect URI: another":                {at(b).with("redirect_uri", "https://evil.example/cb"), "no_record"},
		"redirect URI: a longer one":           {at(b).with("redirect_uri", callback+"/x"), "no_record"},
		"redirect URI: a shorter one":          {at(b).with("redirect_uri", "http://127.0.0.1:9999/"), "no_record"},
		"redirect URI: another case":           {at(b).with("redirect_uri", "http://127.0.0.1:9999/CB"), "no_record"},
		"redirect URI: with a user":            {at(b).with("redirect_uri", "http://127.0.0.1:9999@evil.example/cb"), "no_record"},
		"redirect URI: an encoded slash":       {at(b).with("redirect_uri", "http://127.0.0.1:9999%2fcb"), "redirect_uri"},
		"redirect URI: another port":           {at(b).with("redirect_uri", "http://127.0.0.1:9998/cb"), "no_record"},
		"redirect URI: a fragment":             {at(b).with("redirect_uri", callback+"#x"), "redirect_uri"},
		"redirect URI: none":                   {at(b).with("redirect_uri", ""), "redirect_uri"},
		"more scope":                           {at(b).with("scope", "openid profile email offline_access"), "no_record"},
		"less scope":                           {at(b).with("scope", "openid"), "no_record"},
		"another response type":                {at(b).with("response_type", "none"), "no_record"},
		"a response type that nobody knows":    {at(b).with("response_type", "device"), "response_type"},
		"another response mode":                {at(b).with("response_mode", "fragment"), "no_record"},
		"PKCE: plain for S256":                 {at(b).with("code_challenge_method", "plain"), "no_record"},
		"PKCE: no challenge":                   {at(b).with("code_challenge", "").with("code_challenge_method", ""), "no_record"},
		"PKCE: a method that nobody knows":     {at(b).with("code_challenge_method", "S512"), "code_challenge_method"},
		"prompt=login":                         {at(b).with("prompt", "login"), "prompt"},
		"prompt=consent":                       {at(b).with("prompt", "consent"), "prompt"},
		"prompt=select_account":                {at(b).with("prompt", "select_account"), "prompt"},
		"max_age=0":                            {at(b).with("max_age", "0"), "max_age"},
		"max_age that has passed":              {at(b).with("max_age", "1"), "max_age"},
		"acr_values":                           {at(b).with("acr_values", "gold"), "no_record"},
		"claims":                               {at(b).with("claims", `{"id_token":{"acr":{"essential":true}}}`), "no_record"},
		"a parameter that nobody knows":        {at(b).with("kc_idp_hint", "x"), "no_record"},
		"a resource":                           {at(b).with("resource", "https://api.example"), "no_record"},
		"a request object":                     {at(b).with("request", "e30.e30."), "request_object"},
		"a request object by reference":        {at(b).with("request_uri", "https://x.example/r"), "request_uri"},
		"somebody else's login_hint":           {at(b).with("login_hint", "bob"), "other_user"},
		"somebody else's id_token_hint":        {at(b).with("id_token_hint", bob.IDToken), "other_user"},
		"an id_token_hint that is none":        {at(b).with("id_token_hint", "x"), "other_user"},
	} {
		t.Run(name, func(t *testing.T) {
			resp, _ := c.x.once()
			if l := resp.Header.Get("Location"); l != "" || resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%d %s", resp.StatusCode, l)
			}
			if c.rule != "" {
				r.line(t, c.rule, func(e audit.Entry) bool {
					return e.Flow == "authorization" && e.Client == c.x.query.Get("client_id") && e.Decision == "refused" && (e.Rule == c.rule || e.Rule == "not_playable" && e.Trigger == c.rule)
				})
			}
		})
	}
	t.Run("a parameter twice", func(t *testing.T) {
		x := at(b)
		x.query.Add("client_id", "spa")
		if resp, _ := x.once(); resp.Header.Get("Location") != "" {
			t.Error(resp.Header)
		}
	})
	for name, x := range map[string]*tab{
		"her own login_hint":    at(b).with("login_hint", "alice"),
		"her own id_token_hint": at(b).with("id_token_hint", k.IDToken),
		"prompt=none":           at(b).with("prompt", "none"),
		"no state":              at(b).with("state", ""),
		"no nonce":              at(b).with("nonce", ""),
		"a second application":  r.tab("rot", "spa", "", b),
	} {
		t.Run("served: "+name, func(t *testing.T) {
			code, _ := x.silent()
			k := x.redeem(code)
			if !k.byBackup() || k.claim("nonce") != x.query.Get("nonce") {
				t.Errorf("%v", k)
			}
		})
	}
	t.Run("redemption", func(t *testing.T) {
		for name, c := range map[string]struct {
			change func(url.Values)
			as     string // another client
			rule   string
		}{
			"another redirect URI": {func(f url.Values) { f.Set("redirect_uri", "http://127.0.0.1:9999/silent") }, "", "redirect_uri_mismatch"},
			"no redirect URI":      {func(f url.Values) { f.Del("redirect_uri") }, "", "redirect_uri_mismatch"},
			"another verifier":     {func(f url.Values) { f.Set("code_verifier", rand43()) }, "", "pkce_mismatch"},
			"no verifier":          {func(f url.Values) { f.Del("code_verifier") }, "", "pkce_mismatch"},
			"another client":       {func(f url.Values) { f.Set("client_id", "spa") }, "spa", "client_mismatch"},
			"a wrong secret":       {func(url.Values) {}, "web:wrong", "client_unknown_secret"},
			"no secret":            {func(f url.Values) { f.Set("client_id", "web") }, "web:", "client_unauthenticated"},
		} {
			t.Run(name, func(t *testing.T) {
				x := at(b)
				x.t = t
				code, _ := x.silent()
				if c.as != "" {
					_, x.secret, _ = strings.Cut(c.as, ":")
				}
				if k := x.redeem(code, c.change); k.AccessToken != "" {
					t.Errorf("%v", k)
				}
				r.line(t, c.rule, func(e audit.Entry) bool {
					return e.Flow == "authorization_code" && e.Decision == "refused" && (e.Rule == c.rule || e.Rule == "not_playable" && e.Trigger == c.rule)
				})
			})
		}
		t.Run("at another issuer", func(t *testing.T) {
			x := at(b)
			code, _ := x.silent()
			x.realm = "norot"
			if k := x.redeem(code); k.AccessToken != "" {
				t.Errorf("%v", k)
			}
		})
		t.Run("what a replayed code gave is over", func(t *testing.T) {
			x := at(b)
			x.t = t
			code, _ := x.silent()
			k := x.redeem(code)
			if !k.byBackup() {
				t.Fatalf("%v", k)
			}
			if k := x.redeem(code); k.Error != "invalid_grant" {
				t.Errorf("%v", k)
			}
			r.line(t, "code_replayed", func(e audit.Entry) bool { return e.Rule == "code_replayed" })
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.realm("rot")+"/protocol/openid-connect/userinfo", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+k.AccessToken)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("UserInfo: %d", resp.StatusCode)
			}
		})
		t.Run("a code that the primary issued just before it died", func(t *testing.T) {
			if k := at(b).redeem("93d8b3c9.f00.ba5"); k.Error != "temporarily_unavailable" {
				t.Errorf("%v", k)
			}
		})
	})
	t.Run("prompt=none in a frame at another site", func(t *testing.T) {
		for name, c := range map[string]struct {
			cookies *idptest.Browser
			site    string
			want    string
		}{
			"which has no cookies":          {&idptest.Browser{}, "cross-site", "interaction_required"},
			"which is at the same":          {&idptest.Browser{}, "same-site", "temporarily_unavailable"},
			"which has another browser's":   {mix(b, other), "cross-site", "temporarily_unavailable"},
			"which has the primary's alone": {mix(&idptest.Browser{}, b), "cross-site", "temporarily_unavailable"},
		} {
			t.Run(name, func(t *testing.T) {
				x := c.cookies
				x.Header = http.Header{"Sec-Fetch-Dest": {"iframe"}, "Sec-Fetch-Site": {c.site}, "Sec-Fetch-Mode": {"navigate"}}
				resp, _ := at(x).with("prompt", "none").once()
				u, _ := url.Parse(resp.Header.Get("Location"))
				if have := u.Query().Get("error"); have != c.want {
					t.Errorf("%s, want %s", u, c.want)
				}
			})
		}
	})
	t.Run("prompt=none without a record", func(t *testing.T) {
		for name, c := range map[string]struct {
			x    *tab
			want string
		}{
			"where people were sent": {at(&idptest.Browser{}).with("prompt", "none"), "temporarily_unavailable"},
			"nowhere":                {at(&idptest.Browser{}).with("prompt", "none").with("redirect_uri", "https://evil.example/"), ""},
			"another client's":       {r.tab("rot", "jwtc", "", &idptest.Browser{}).with("prompt", "none"), ""},
		} {
			t.Run(name, func(t *testing.T) {
				resp, _ := c.x.once()
				u, _ := url.Parse(resp.Header.Get("Location"))
				if q := u.Query(); q.Get("error") != c.want || c.want != "" && (q.Get("state") != c.x.query.Get("state") || !strings.HasPrefix(u.String(), callback+"?")) {
					t.Errorf("%s", u)
				}
			})
		}
	})
}
