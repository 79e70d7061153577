package gateway_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"understudy/idptest"
)

// A browser application's preflights get the primary's reply while it is away, for origins that it approved there, and for
// no other.
func TestPreflightsInTheOutage(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	const good = "http://127.0.0.1:9999"
	token, userinfo := "/protocol/openid-connect/token", "/protocol/openid-connect/userinfo"
	preflight := func(realm, path, origin string) http.Header {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, r.realm(realm)+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		req.Header.Set("Access-Control-Request-Method", "POST")
		req.Header.Set("Access-Control-Request-Headers", "authorization")
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		resp.Header.Set("Status", resp.Status[:1])
		return resp.Header
	}
	from := func(origin string) func(*http.Request) {
		return func(q *http.Request) { q.Header.Set("Origin", origin) }
	}
	bad := []string{"", "null", "https://evil.example", good + ".evil.example", "http://127.0.0.1:99990", "http://127.0.0.1", "https://127.0.0.1:9999", good + "/", "HTTP://127.0.0.1:9999", "http://a@127.0.0.1:9999"}
	get(t, r.realm("rot")+"/.well-known/openid-configuration") // as an application does first
	// The primary answers everybody's preflight: that alone says nothing.
	was := map[string]http.Header{token: preflight("rot", token, good), userinfo: preflight("rot", userinfo, good)}
	if was[token].Get("Access-Control-Allow-Origin") != good {
		t.Fatalf("the primary's preflight: %v", was[token])
	}
	for _, o := range bad {
		preflight("rot", token, o)
	}
	// One sign-in from the good origin, at both endpoints; from the others what the primary refuses.
	spa := func(q *http.Request) { q.Header.Del("Authorization") }
	const verifier = "a-verifier-of-more-than-forty-three-characters-0123456789"
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"client_id": {"spa"}, "response_type": {"code"}, "scope": {"openid"}, "state": {"s"}, "redirect_uri": {good + "/cb"},
		"code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
	}
	at, err := (&idptest.Browser{}).Visit(t.Context(), r.realm("rot")+"/protocol/openid-connect/auth?"+q.Encode(), good+"/cb", map[string]string{"username": "bob", "password": "pw-bob"})
	if err != nil {
		t.Fatal(err)
	}
	refresh := func(token, origin string) *tokens {
		return r.token("rot", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {"spa"}}, spa, from(origin))
	}
	k := r.token("rot", url.Values{
		"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "redirect_uri": {good + "/cb"}, "client_id": {"spa"}, "code_verifier": {verifier},
	}, spa, from(good))
	if k.RefreshToken == "" {
		t.Fatalf("sign in: %v", k)
	}
	r.learned("rot", k.RefreshToken)
	if got := r.token("rot", url.Values{}, func(q *http.Request) {
		q.URL.Path = strings.TrimSuffix(q.URL.Path, "/token") + "/userinfo"
		q.Header.Set("Authorization", "Bearer "+k.AccessToken)
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		from(good)(q)
	}); got.status != http.StatusOK {
		t.Fatalf("UserInfo: %v", got)
	}
	for _, o := range bad {
		if got := refresh("no-token", o); got.AccessToken != "" {
			t.Fatal("a token")
		}
	}
	kc.Kill()
	defer kc.Restart(context.Background())
	check := func(t *testing.T) {
		t.Helper()
		for path, want := range was {
			got := preflight("rot", path, good)
			for _, name := range []string{"Status", "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Max-Age"} {
				if got.Get(name) != want.Get(name) {
					t.Errorf("%s: %s is %q, the primary's %q", path, name, got.Get(name), want.Get(name))
				}
			}
			if !strings.Contains(strings.Join(got.Values("Vary"), ","), "Origin") {
				t.Errorf("%s: Vary %q", path, got.Values("Vary"))
			}
		}
		for _, o := range bad {
			if got := preflight("rot", token, o); got.Get("Access-Control-Allow-Methods") != "" {
				t.Errorf("%q is allowed: %v", o, got)
			}
		}
		if got := preflight("norot", token, good); got.Get("Access-Control-Allow-Methods") != "" {
			t.Errorf("another realm allows it: %v", got)
		}
	}
	check(t)
	t.Run("after a restart", func(t *testing.T) {
		r.restart()
		check(t)
	})
	if got := refresh(k.RefreshToken, good); !got.byBackup() {
		t.Errorf("the application is not served: %v", got)
	}
}
