package flows

import (
	"testing"

	"understudy/idptest"
)

// Where the primary demands nonces (RFC 9449, section 8), the library goes on with those of the backup, which it gets from nobody before
// it is asked for one, and with the primary's again when that is back. It comes again by itself, once.
func TestNonces(t *testing.T) {
	k := providerKind()
	k.name = "nonces" // a socket lies below
	var apps []*app
	for _, auth := range []string{"none", "client_secret_basic", "private_key_jwt"} {
		apps = append(apps, &app{id: "nonces-" + auth, auth: auth, dpop: true, nonces: true, grants: []string{code, refresh}})
	}
	s := newStage(t, k, apps)
	browsers, first := map[*app]*idptest.Browser{}, map[*app]*tokens{}
	asks := func(t *testing.T, a *app, what string, token string) {
		t.Helper()
		c, err := a.about(t.Context(), "userinfo", map[string]any{"token": token, "subject": "alice"})
		if err != nil || c.text("email") != "alice@example.test" {
			t.Errorf("UserInfo, %s: %v %v", what, c, err)
		}
	}
	for _, a := range apps {
		browsers[a] = s.browser()
		tokens, err := a.signIn(t.Context(), browsers[a], "alice")
		if err != nil {
			t.Fatalf("%s: %v", a.id, err)
		}
		first[a] = tokens
		asks(t, a, "at the primary", tokens.Access)
	}
	s.settled(t)
	s.p.Kill()
	s.u.Kill() // what it knew of the primary's nonces is forgotten
	if err := s.u.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, a := range apps {
		t.Run("dead/"+a.auth, func(t *testing.T) {
			var last *tokens
			for range 3 {
				tokens, err := a.ask(t.Context(), "refresh", nil)
				if err != nil {
					t.Fatalf("refresh: %v", err)
				}
				read(t, tokens.ID, true)
				last = tokens
			}
			asks(t, a, "the primary's token", first[a].Access)
			asks(t, a, "the backup's token", last.Access)
			tokens, err := a.again(t.Context(), browsers[a])
			if err != nil {
				t.Fatalf("opened anew: %v", err)
			}
			read(t, tokens.ID, true)
		})
	}
	m, err := s.metrics("understudy_demanded_total")
	if err != nil {
		t.Fatal(err)
	}
	// Each was asked for a nonce once: the library keeps one for all requests to the same host.
	if n := m[`understudy_demanded_total{flow="refresh_token",tenant="default"}`]; n != "3" {
		t.Errorf("nonces were demanded so often: %v", m)
	}
	if err := s.p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.returned(t)
	for _, a := range apps {
		t.Run("back/"+a.auth, func(t *testing.T) {
			tokens, err := a.ask(t.Context(), "refresh", nil)
			if err != nil {
				t.Fatalf("refresh: %v", err)
			}
			read(t, tokens.ID, false)
			asks(t, a, "the primary's token", tokens.Access)
			asks(t, a, "the token of before", first[a].Access)
		})
	}
}
