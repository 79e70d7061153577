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
	secret   string // of the confidential client; "": it is public
}

func (r *rig) tab(realm, client, secret string, b *idptest.Browser) *tab {
	r.t.Helper()
	v := rand43()
	sum := sha256.Sum256([]byte(v))
	return &tab{r.t, r, realm, b, url.Values{
		"client_id": {client}, "response_type": {"code"}, "scope": {"openid profile email"}, "state": {rand43()[:8]}, "nonce": {rand43()[:9]},
		"redirect_uri": {callback}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}, v, secret}
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
	if err := kc.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the primary is back", func() bool {
		return r.metrics("understudy_primary_share_percent")[`understudy_primary_share_percent{endpoint="token",tenant="default"}`] == "100"
	})
	x = r.tab("rot", "web", "web-secret", b)
	code, _ = x.silent()
	if k := x.redeem(code); k.AccessToken == "" || k.byBackup() {
		t.Errorf("at the primary again: %v", k)
	}
}
