package gateway_test

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/audit"
	"understudy/idptest"
	"understudy/session"
)

// onBehalf asks as a client for a token on behalf of who a token is somebody's (RFC 8693).
func (r *rig) onBehalf(client, secret, subject string, change ...func(url.Values)) *tokens {
	r.t.Helper()
	form := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {subject},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
	}
	for _, c := range change {
		c(form)
	}
	return r.token("rot", form, func(q *http.Request) { q.SetBasicAuth(client, secret) })
}

// A service goes on asking on behalf of people whose tokens it is given, for what the primary approved for them.
func TestTokenExchange(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	r := newRig(t, kc.URL())
	bob, alice := r.signIn("rot", "bob"), r.signIn("rot", "alice")
	was := r.onBehalf("svc", "svc-secret", bob.AccessToken)
	if was.AccessToken == "" {
		t.Fatalf("the primary: %v", was)
	}
	waitFor(t, "it is learned", func() bool { return r.learnedFlow("token_exchange") > 0 })
	settled()
	kc.Kill()
	defer kc.Restart(ctx)
	_, wc := r.claims(t, "rot", was.AccessToken)
	good := func(what, subject string) *tokens {
		t.Helper()
		k := r.onBehalf("svc", "svc-secret", subject)
		if k.AccessToken == "" {
			t.Fatalf("%s: %v", what, k)
		}
		h, c := r.claims(t, "rot", k.AccessToken)
		if !strings.HasPrefix(h.Text("kid"), "bk-") || strings.Join(c.Names(), " ") != strings.Join(wc.Names(), " ") {
			t.Errorf("%s: %v\n%v\n%v", what, h, c.Names(), wc.Names())
		}
		for _, n := range []string{"sub", "sid", "azp", "aud", "scope", "acr"} {
			if string(c.Get(n)) != string(wc.Get(n)) {
				t.Errorf("%s: %s is %s, the primary's %s", what, n, c.Get(n), wc.Get(n))
			}
		}
		return k
	}
	good("the primary's token", bob.AccessToken)
	r.line(t, "the answer", func(e audit.Entry) bool {
		return e.Flow == "token_exchange" && e.Client == "svc" && e.Decision == "issued" && e.Subject != ""
	})
	own, alices := r.refresh("rot", bob.RefreshToken), r.refresh("rot", alice.RefreshToken)
	if !own.byBackup() || !alices.byBackup() {
		t.Fatalf("%v %v", own, alices)
	}
	good("the backup's token", own.AccessToken)
	head, rest, _ := strings.Cut(bob.AccessToken, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	forged := func(header string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + payload + "." + signature
	}
	set := func(name, v string) func(url.Values) { return func(f url.Values) { f.Set(name, v) } }
	for name, k := range map[string]*tokens{
		"somebody whom it was not approved for": r.onBehalf("svc", "svc-secret", alice.AccessToken),
		"somebody else, by the backup":          r.onBehalf("svc", "svc-secret", alices.AccessToken),
		"an ID token":                           r.onBehalf("svc", "svc-secret", bob.IDToken),
		"an ID token that is called one":        r.onBehalf("svc", "svc-secret", bob.IDToken, set("subject_token_type", "urn:ietf:params:oauth:token-type:id_token")),
		"a forged signature":                    r.onBehalf("svc", "svc-secret", head+"."+payload+"."+strings.Repeat("A", len(signature))),
		"other claims":                          r.onBehalf("svc", "svc-secret", strings.Replace(bob.AccessToken, payload, strings.Split(alice.AccessToken, ".")[1], 1)),
		"alg none":                              r.onBehalf("svc", "svc-secret", forged(`{"alg":"none","typ":"JWT"}`)),
		"a key that it brings":                  r.onBehalf("svc", "svc-secret", forged(`{"alg":"RS256","typ":"JWT","kid":"x","jwk":{"kty":"RSA","n":"AQAB","e":"AQAB"}}`)),
		"a refresh token":                       r.onBehalf("svc", "svc-secret", bob.RefreshToken, set("subject_token_type", "urn:ietf:params:oauth:token-type:refresh_token")),
		"more scope":                            r.onBehalf("svc", "svc-secret", bob.AccessToken, set("scope", "openid offline_access")),
		"another audience":                      r.onBehalf("svc", "svc-secret", bob.AccessToken, set("audience", "web")),
		"another type":                          r.onBehalf("svc", "svc-secret", bob.AccessToken, set("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")),
		"an actor":                              r.onBehalf("svc", "svc-secret", bob.AccessToken, set("actor_token", alice.AccessToken)),
		"a wrong secret":                        r.onBehalf("svc", "wrong", bob.AccessToken),
		"another client":                        r.onBehalf("web", "web-secret", bob.AccessToken),
		"at another issuer":                     r.token("norot", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {bob.AccessToken}, "subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"}}, func(q *http.Request) { q.SetBasicAuth("svc", "svc-secret") }),
		"no client":                             r.token("rot", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {bob.AccessToken}, "subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"}, "client_id": {"svc"}}, func(q *http.Request) { q.Header.Del("Authorization") }),
	} {
		if k.AccessToken != "" || k.status < 400 {
			t.Errorf("%s: %v", name, k)
		}
	}
	r.line(t, "a subject token that is forged", func(e audit.Entry) bool { return e.Flow == "token_exchange" && e.Rule == "subject_token_refused" })
	t.Run("after a restart", func(t *testing.T) {
		r.restart()
		good("the primary's token", bob.AccessToken)
	})
	t.Run("after a logout", func(t *testing.T) {
		m := session.Mark{Of: session.OfSession, ID: r.seal.Pseudonym("session", "default", r.realm("rot"), bob.claim("sid")), Final: true, At: time.Now().UnixNano(), Cause: "logout"}
		if err := r.backup.Mark(ctx, "default", m); err != nil {
			t.Fatal(err)
		}
		for _, subject := range []string{bob.AccessToken, own.AccessToken} {
			if k := r.onBehalf("svc", "svc-secret", subject); k.AccessToken != "" {
				t.Errorf("%v", k)
			}
		}
	})
}

// Whoever waits for a person elsewhere goes on waiting while the primary is away, and what a device was given goes on.
func TestDevicesWait(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	r := newRig(t, kc.URL())
	begin := func() (device, verify string) {
		t.Helper()
		resp, err := http.PostForm(r.realm("rot")+"/protocol/openid-connect/auth/device", url.Values{"client_id": {"cli"}, "scope": {"openid"}})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		o, err := session.ParseObject(raw)
		if err != nil {
			t.Fatalf("%d %s", resp.StatusCode, raw)
		}
		if o.Text("device_code") == "" {
			t.Fatalf("%d %s", resp.StatusCode, raw)
		}
		return o.Text("device_code"), o.Text("verification_uri_complete")
	}
	poll := func(code string) *tokens {
		return r.token("rot", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {code}, "client_id": {"cli"}}, func(q *http.Request) { q.Header.Del("Authorization") })
	}
	done, verify := begin()
	b := &idptest.Browser{}
	if _, err := b.Visit(ctx, verify, r.url+"/never", map[string]string{"username": "alice", "password": "pw-alice", "accept": "Yes"}); err != nil && !strings.Contains(err.Error(), "without a form") {
		t.Fatal(err)
	}
	k := poll(done)
	if k.RefreshToken == "" {
		t.Fatalf("%v", k)
	}
	r.learned("rot", k.RefreshToken)
	waits, _ := begin()
	if k := poll(waits); k.Error != "authorization_pending" {
		t.Fatalf("%v", k)
	}
	settled()
	kc.Kill()
	defer kc.Restart(ctx)
	if got := r.token("rot", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {k.RefreshToken}, "client_id": {"cli"}}, func(q *http.Request) { q.Header.Del("Authorization") }); !got.byBackup() {
		t.Errorf("the device: %v", got)
	}
	for range 2 {
		if k := poll(waits); k.Error != "authorization_pending" || k.status != http.StatusBadRequest {
			t.Errorf("%v", k)
		}
	}
}
