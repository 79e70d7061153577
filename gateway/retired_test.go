package gateway_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"understudy/idptest"
)

// A public client that the primary takes no more, and was seen to refuse, is not answered for in an outage: neither its refresh tokens
// nor the people who open it (design, laws 1 and 2).
func TestAPublicClientThatThePrimaryRefused(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	addClient(t, kc, "rot", "retired", "client-secret", map[string]any{"publicClient": true})
	b, other := &idptest.Browser{}, &idptest.Browser{}
	k := r.tab("rot", "retired", "", b).signIn("alice")
	r.tab("rot", "retired", "", other).signIn("bob")
	var cs []map[string]any
	must(0, json.Unmarshal(administer(t, kc, http.MethodGet, "rot/clients?clientId=retired", nil), &cs))
	cs[0]["enabled"] = false
	administer(t, kc, http.MethodPut, "rot/clients/"+cs[0]["id"].(string), cs[0])
	refresh := func() *tokens {
		return r.token("rot", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {k.RefreshToken}, "client_id": {"retired"}}, func(q *http.Request) { q.Header.Del("Authorization") })
	}
	if got := refresh(); got.AccessToken != "" || got.Error == "" {
		t.Fatalf("the primary: %v", got)
	} else {
		t.Logf("the primary: %d %s", got.status, got.Error)
	}
	if resp, _ := r.tab("rot", "retired", "", other).once(); resp.StatusCode != http.StatusBadRequest {
		t.Fatalf("the primary: %d", resp.StatusCode)
	}
	settled()
	kc.Kill()
	defer kc.Restart(t.Context())
	if got := refresh(); got.AccessToken != "" {
		t.Errorf("a refresh token that the primary refused gets a token, by the backup: %v", got.byBackup())
	}
	for name, b := range map[string]*idptest.Browser{"whose refresh token was refused": b, "whom the primary showed a page of refusal": other} {
		if resp, _ := r.tab("rot", "retired", "", b).once(); strings.Contains(resp.Header.Get("Location"), "code=") {
			t.Errorf("the person %s is let in", name)
		}
	}
}
