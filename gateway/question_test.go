package gateway_test

import (
	"context"
	"net/http"
	"testing"

	"understudy/audit"
	"understudy/idptest"
	"understudy/session"
)

// userInfo asks the UserInfo endpoint.
func (r *rig) userInfo(realm, token string) (int, session.Object) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.realm(realm)+"/protocol/openid-connect/userinfo", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	s, b := r.asks(req)
	o, err := session.ParseObject(b)
	if err != nil {
		return s, nil
	}
	return s, o
}

// revoke revokes a token as the client "web".
func (r *rig) revoke(realm, token string, change ...func(*http.Request)) int {
	r.t.Helper()
	req := r.about(realm, "/revoke", token)
	req.SetBasicAuth("web", "web-secret")
	for _, c := range change {
		c(req)
	}
	s, _ := r.asks(req)
	return s
}

// A token that the primary issued just before it went is answered for until it ends, but what the primary said of it before, and
// what was ended since, holds.
func TestTokensOfThePrimarys(t *testing.T) {
	kc := keycloak(t)
	for name, away := range map[string]struct {
		fault  idptest.FaultKind
		status int
	}{"a black hole": {fault: idptest.BlackHole}, "refused": {fault: idptest.Refuse}, "503": {idptest.ServerError, http.StatusServiceUnavailable}} {
		t.Run(name, func(t *testing.T) {
			f := behind(t, kc.URL())
			r := newRig(t, f.URL())
			alice, bob, dave := r.signIn("rot", "alice"), r.signIn("rot", "bob"), r.signIn("rot", "alice")
			active := func(caller, token string) string {
				t.Helper()
				s, o := r.introspect("rot", caller, caller+"-secret", token)
				if s != http.StatusOK {
					return http.StatusText(s)
				}
				return string(o.Get("active"))
			}
			s, was := r.userInfo("rot", alice.AccessToken)
			if s != http.StatusOK || was.Text("sub") == "" {
				t.Fatalf("the primary's UserInfo: %d", s)
			}
			// Bob's sessions end at the primary, and nobody tells the gateway but the primary's answers.
			endSessions(t, kc, "rot", "bob")
			if s, _ := r.userInfo("rot", bob.AccessToken); s != http.StatusUnauthorized {
				t.Fatalf("the primary's UserInfo for who was signed out: %d", s)
			}
			if a, b, c := active("svc", alice.AccessToken), active("svc", bob.AccessToken), active("web", alice.AccessToken); a != "true" || b != "false" || c != "false" {
				t.Fatalf("the primary: %s, %s, %s", a, b, c)
			}
			waitFor(t, "who is told is learned", func() bool { return r.learnedFlow("introspection") > 0 })
			fault(t, f, idptest.Fault{Kind: away.fault, Status: away.status, Match: func(*http.Request) bool { return true }})

			s, now := r.userInfo("rot", alice.AccessToken)
			if s != http.StatusOK || now.Text("sub") != was.Text("sub") || now.Text("preferred_username") != "alice" {
				t.Errorf("UserInfo: %d %s", s, now.Append(nil))
			}
			r.line(t, "the answer", func(e audit.Entry) bool {
				return e.Flow == "userinfo" && e.Decision == "issued" && e.TokenIssuerType == "backup"
			})
			if s, o := r.userInfo("rot", bob.AccessToken); s != http.StatusUnauthorized || o.Text("error") != "invalid_token" {
				t.Errorf("UserInfo for who was signed out: %d %s", s, o.Append(nil))
			}
			if s, _ := r.userInfo("rot", alice.AccessToken[:len(alice.AccessToken)-10]+"AAAAAAAAAA"); s == http.StatusOK {
				t.Error("UserInfo for a token that was changed")
			}
			if s, _ := r.userInfo("rot", alice.IDToken); s == http.StatusOK {
				t.Error("UserInfo for an ID token")
			}
			if a, b, c := active("svc", alice.AccessToken), active("svc", bob.AccessToken), active("web", alice.AccessToken); a != "true" || b != "false" || c != "false" {
				t.Errorf("in the outage: %s, %s, %s", a, b, c)
			}

			// A revocation of the token alone is honoured at once, and the grant goes on.
			if s := r.revoke("rot", dave.AccessToken); s != http.StatusOK {
				t.Errorf("revoke: %d", s)
			}
			if a, b := active("svc", dave.AccessToken), active("svc", alice.AccessToken); a != "false" || b != "true" {
				t.Errorf("after a revocation: %s, %s", a, b)
			}
			if s, _ := r.userInfo("rot", dave.AccessToken); s != http.StatusUnauthorized {
				t.Errorf("UserInfo after a revocation: %d", s)
			}
			if k := r.refresh("rot", dave.RefreshToken); !k.byBackup() {
				t.Errorf("the grant of a revoked access token: %v", k)
			}
			r.restart()
			if a, s := active("svc", dave.AccessToken), active("svc", bob.AccessToken); a != "false" || s != "false" {
				t.Errorf("after a restart: %s, %s", a, s)
			}
		})
	}
}

// Another client's access token is none that a client can revoke, whatever the primary says to it.
func TestAnothersAccessTokenIsNotRevoked(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	r := newRig(t, kc.URL())
	x := r.tab("rot", "spa", "", &idptest.Browser{})
	k := x.signIn("alice")
	r.revoke("rot", k.AccessToken)
	defer kc.Restart(ctx)
	kc.Kill()
	r.revoke("rot", k.AccessToken)
	if s, _ := r.userInfo("rot", k.AccessToken); s != http.StatusOK {
		t.Errorf("UserInfo: %d", s)
	}
}
