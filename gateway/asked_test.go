package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"understudy/idptest"
)

// Where the primary asked the person something on a page, and they did not do it, nobody is let in in an outage: that the request did
// not say prompt=none makes no difference to what the primary wanted.
func TestThePrimaryAskedThePersonOnAPage(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	b := &idptest.Browser{}
	r.tab("rot", "spa", "", b).signIn("alice")
	setUser(t, kc, "rot", "alice", map[string]any{"requiredActions": []string{"UPDATE_PASSWORD"}})
	defer func() {
		kc.Restart(context.Background())
		setUser(t, kc, "rot", "alice", map[string]any{"requiredActions": []string{}})
	}()
	resp, _ := r.tab("rot", "spa", "", b).once()
	for strings.Contains(resp.Header.Get("Location"), "/realms/") {
		resp, _ = must2(t)(b.Get(t.Context(), must(resp.Location()).String()))
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the primary: %d %s", resp.StatusCode, resp.Header.Get("Location"))
	}
	settled()
	kc.Kill()
	if resp, _ := r.tab("rot", "spa", "", b).once(); strings.Contains(resp.Header.Get("Location"), "code=") {
		t.Errorf("who must first change the password is let in: %s", resp.Header.Get("Location"))
	}
}

func must2(t *testing.T) func(*http.Response, string, error) (*http.Response, string) {
	return func(resp *http.Response, body string, err error) (*http.Response, string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return resp, body
	}
}
