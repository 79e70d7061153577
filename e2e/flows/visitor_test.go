package flows

import (
	"encoding/json"
	"fmt"
	"testing"

	"understudy/flow/oauth"
	"understudy/idptest"
)

// visitor is alice, who uses an application in her browser.
type visitor struct {
	a       *app
	browser *idptest.Browser
	id      claims // of the primary's ID token
	access  claims // of its access token, or what introspection says of it
	cnf     string // to what its tokens are bound, "" to nothing
}

func (v *visitor) served(t *testing.T) {
	v.browser = v.a.s.browser()
	k, err := v.a.signIn(t.Context(), v.browser, "alice")
	if err != nil {
		t.Fatal(err)
	}
	if v.id = read(t, k.ID, false); v.a.response == "id_token" {
		return
	}
	v.access = v.about(t, k)
	if v.cnf = string(v.access["cnf"]); (v.cnf != "") != (v.a.dpop || v.a.cert != nil) {
		t.Errorf("bound to %q", v.cnf)
	}
	if c := v.a.cert; c != nil && v.cnf != fmt.Sprintf(`{"x5t#S256":%q}`, c.thumbprint()) {
		t.Errorf("bound to %s, want %s", v.cnf, c.thumbprint())
	}
}

func (v *visitor) dead(t *testing.T) {
	if v.a.response != "id_token" {
		k, err := v.a.ask(t.Context(), "refresh", nil)
		v.check(t, "refresh", k, err)
	}
	if v.a.response == "jwt" {
		if err := v.a.restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	k, err := v.a.again(t.Context(), v.browser)
	v.check(t, "opened anew", k, err)
	k, err = v.a.again(t.Context(), v.browser, "prompt", "none")
	v.check(t, "opened anew with prompt=none", k, err)
}

// check holds the backup's tokens against the primary's.
func (v *visitor) check(t *testing.T, what string, k *tokens, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if err := same(read(t, k.ID, true), v.id); err != nil {
		t.Errorf("%s: the ID token: %v", what, err)
	}
	if v.a.response == "id_token" {
		return
	}
	now := v.about(t, k)
	if err := same(now, v.access); err != nil {
		t.Errorf("%s: the access token: %v", what, err)
	}
	if string(now["cnf"]) != v.cnf {
		t.Errorf("%s: bound to %s, the primary's to %s", what, now["cnf"], v.cnf)
	}
}

func (v *visitor) back(t *testing.T) {
	if v.a.response != "id_token" {
		k, err := v.a.ask(t.Context(), "refresh", nil)
		if err != nil {
			t.Fatalf("refresh: %v", err)
		}
		read(t, k.ID, false)
	}
	k, err := v.a.again(t.Context(), v.browser)
	if err != nil {
		t.Fatalf("opened anew: %v", err)
	}
	read(t, k.ID, false)
}

// about is what an access token says, itself or by introspection.
func (v *visitor) about(t *testing.T, k *tokens) claims {
	t.Helper()
	if _, err := oauth.ParseJWT(k.Access); err == nil {
		return read(t, k.Access, isBackups(k.ID))
	}
	c, err := v.a.about(t.Context(), "introspect", map[string]any{"token": k.Access})
	if err != nil {
		t.Fatalf("introspection: %v", err)
	}
	if string(c["active"]) != "true" {
		t.Errorf("introspection: %v", c)
	}
	return c
}

// read reads a token that the library or the resource took, and checks whose it is.
func read(t *testing.T, token string, backups bool) claims {
	t.Helper()
	j, err := oauth.ParseJWT(token)
	if err != nil {
		t.Fatalf("no JWT: %v", err)
	}
	if isBackups(token) != backups {
		t.Errorf("signed by %s", j.Header.Text("kid"))
	}
	c := claims{}
	for _, m := range j.Claims {
		c[m.Name] = json.RawMessage(m.Value)
	}
	return c
}
