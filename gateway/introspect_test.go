package gateway_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/audit"
	"understudy/session"
)

// introspect asks Keycloak's introspection endpoint (RFC 7662) through the gateway.
func (r *rig) introspect(realm, client, secret, token string) (int, session.Object) {
	r.t.Helper()
	req := r.about(realm, "/token/introspect", token)
	req.SetBasicAuth(client, secret)
	s, b := r.asks(req)
	o, err := session.ParseObject(b)
	if err != nil {
		r.t.Fatalf("%d %s", s, b)
	}
	return s, o
}

// about is a request about an access token at an endpoint of Keycloak's.
func (r *rig) about(realm, endpoint, token string) *http.Request {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.realm(realm)+"/protocol/openid-connect"+endpoint,
		strings.NewReader(url.Values{"token": {token}, "token_type_hint": {"access_token"}}.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req
}

// asks sends a request and reads the reply.
func (r *rig) asks(req *http.Request) (status int, body []byte) {
	r.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, b
}

// Whoever the primary told that a client's tokens are active is told so of the backup's, in the outage and until they expire;
// nobody else is told anything.
func TestIntrospectionOfTheBackupsTokens(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	ctx := context.Background()
	bob, alice := r.signIn("rot", "bob"), r.signIn("rot", "alice")
	s, was := r.introspect("rot", "svc", "svc-secret", bob.AccessToken) // svc is in its aud
	if s != http.StatusOK || string(was.Get("active")) != "true" {
		t.Fatalf("the primary does not tell svc: %d %s", s, was.Append(nil))
	}
	if _, o := r.introspect("rot", "web", "web-secret", bob.AccessToken); string(o.Get("active")) != "false" {
		t.Fatalf("the primary tells web: %s", o.Append(nil))
	}
	waitFor(t, "who is told is learned", func() bool {
		for name := range r.metrics("understudy_learned_total") {
			if strings.Contains(name, `"introspection"`) {
				return true
			}
		}
		return false
	})
	active := func(o session.Object) bool { return string(o.Get("active")) == "true" }
	kc.Kill()
	bob2, alice2 := r.refresh("rot", bob.RefreshToken), r.refresh("rot", alice.RefreshToken)
	if !bob2.byBackup() || !alice2.byBackup() {
		t.Fatalf("not served: %v, %v", bob2, alice2)
	}
	told := func(t *testing.T) {
		t.Helper()
		s, now := r.introspect("rot", "svc", "svc-secret", bob2.AccessToken)
		if s != http.StatusOK || !active(now) {
			t.Fatalf("%d %s", s, now.Append(nil))
		}
		if a, b := was.Names(), now.Names(); !slices.Equal(a, b) {
			t.Errorf("members\n%v\n%v", a, b)
		}
		claims := map[string]json.RawMessage{}
		_, body, _ := strings.Cut(bob2.AccessToken, ".")
		body, _, _ = strings.Cut(body, ".")
		must(0, json.Unmarshal([]byte(decoded(t, body)), &claims))
		for _, m := range now {
			switch m.Name {
			case "exp", "iat", "jti":
				if string(m.Value) != string(claims[m.Name]) {
					t.Errorf("%s is %s, the token's %s", m.Name, m.Value, claims[m.Name])
				}
			default:
				if string(m.Value) != string(was.Get(m.Name)) {
					t.Errorf("%s is %s, the primary said %s", m.Name, m.Value, was.Get(m.Name))
				}
			}
		}
	}
	t.Run("in the outage, who was told", func(t *testing.T) {
		told(t)
		r.line(t, "the answer", func(e audit.Entry) bool {
			return e.Flow == "introspection" && e.Client == "web" && e.Decision == "issued" && e.Trigger == "own_token"
		})
	})
	t.Run("after a restart", func(t *testing.T) {
		r.restart()
		told(t)
	})
	for name, c := range map[string]struct{ client, secret, token string }{
		"a caller who was told that it is not active": {"web", "web-secret", bob2.AccessToken},
		"a wrong secret":                          {"svc", "svc-secret2", bob2.AccessToken},
		"a caller whom the primary never saw":     {"jwtc", "secret", bob2.AccessToken},
		"the primary's own token, of another's":   {"web", "web-secret", alice.AccessToken},
		"the primary's own token, a wrong secret": {"svc", "svc-secret2", bob.AccessToken},
		"the primary's ID token":                  {"svc", "svc-secret", bob.IDToken},
		"the primary's own token, changed":        {"svc", "svc-secret", bob.AccessToken[:len(bob.AccessToken)-20] + strings.Repeat("A", 20)},
		"the primary's refresh token":             {"svc", "svc-secret", bob.RefreshToken},
		"a token of nobody's":                     {"svc", "svc-secret", "x"},
	} {
		t.Run("in the outage, "+name, func(t *testing.T) {
			if s, o := r.introspect("rot", c.client, c.secret, c.token); s < 400 || o.Has("active") {
				t.Errorf("%d %s", s, o.Append(nil))
			}
		})
	}
	t.Run("in the outage, the primary's own token", func(t *testing.T) {
		s, now := r.introspect("rot", "svc", "svc-secret", bob.AccessToken)
		if s != http.StatusOK || !active(now) || !slices.Equal(was.Names(), now.Names()) {
			t.Fatalf("%d %s", s, now.Append(nil))
		}
		for _, m := range now {
			if string(m.Value) != string(was.Get(m.Name)) {
				t.Errorf("%s is %s, the primary said %s", m.Name, m.Value, was.Get(m.Name))
			}
		}
	})
	t.Run("over", func(t *testing.T) {
		m := session.Mark{Of: session.OfSession, ID: r.seal.Pseudonym("session", "default", r.realm("rot"), alice2.claim("sid")), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
		if err := r.backup.Mark(ctx, "default", m); err != nil {
			t.Fatal(err)
		}
		for _, token := range []string{alice.AccessToken, alice2.AccessToken} {
			if s, o := r.introspect("rot", "svc", "svc-secret", token); s != http.StatusOK || string(o.Get("active")) != "false" || len(o) != 1 {
				t.Errorf("%d %s", s, o.Append(nil))
			}
		}
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.realm("rot")+"/protocol/openid-connect/userinfo", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Authorization", "Bearer "+alice2.AccessToken)
		resp, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if challenge := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != http.StatusUnauthorized || challenge != `Bearer error="invalid_token"` {
			t.Errorf("UserInfo: %d %s", resp.StatusCode, challenge)
		}
		if s, o := r.introspect("rot", "svc", "wrong", alice2.AccessToken); o.Has("active") {
			t.Errorf("who is not authenticated is told: %d %s", s, o.Append(nil))
		}
	})
	if err := kc.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	r.back()
	t.Run("when the primary is back, who was told", told)
	t.Run("when the primary is back, the primary refuses the caller", func(t *testing.T) {
		if s, o := r.introspect("rot", "svc", "svc-secret2", bob2.AccessToken); s != http.StatusUnauthorized || o.Has("active") {
			t.Errorf("%d %s", s, o.Append(nil))
		}
	})
	t.Run("an operator ended the caller", func(t *testing.T) {
		m := session.Mark{Of: session.OfClient, ID: r.seal.Pseudonym("client", "default", r.realm("rot"), "svc"), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
		if err := r.backup.Mark(ctx, "default", m); err != nil {
			t.Fatal(err)
		}
		kc.Kill()
		defer kc.Restart(ctx)
		waitFor(t, "the breaker is open", func() bool {
			return r.metrics("understudy_primary_share_percent")[`understudy_primary_share_percent{endpoint="token",tenant="default"}`] == "0"
		})
		if s, o := r.introspect("rot", "svc", "svc-secret", bob2.AccessToken); o.Has("active") {
			t.Errorf("%d %s", s, o.Append(nil))
		}
	})
}

func decoded(t *testing.T, part string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
