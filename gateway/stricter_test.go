package gateway_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"understudy/idptest"
)

// An application with a sign-in of its own gets login_required although the person is signed in (Keycloak: a browser flow of the
// client's own). That says nothing about the other applications of the browser: the primary lets the person in there.
func TestAStricterApplicationTakesNoOtherAway(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	administer(t, kc, http.MethodPost, "rot/authentication/flows", map[string]any{"alias": "again", "providerId": "basic-flow", "topLevel": true, "builtIn": false})
	administer(t, kc, http.MethodPost, "rot/authentication/flows/again/executions/execution", map[string]any{"provider": "auth-username-password-form"})
	var es, fs []map[string]any
	must(0, json.Unmarshal(administer(t, kc, http.MethodGet, "rot/authentication/flows/again/executions", nil), &es))
	es[0]["requirement"] = "REQUIRED"
	administer(t, kc, http.MethodPut, "rot/authentication/flows/again/executions", es[0])
	must(0, json.Unmarshal(administer(t, kc, http.MethodGet, "rot/authentication/flows", nil), &fs))
	id := ""
	for _, f := range fs {
		if f["alias"] == "again" {
			id = f["id"].(string)
		}
	}
	addClient(t, kc, "rot", "stricter", "client-secret", map[string]any{"publicClient": true, "authenticationFlowBindingOverrides": map[string]string{"browser": id}})
	one, two := &idptest.Browser{}, &idptest.Browser{}
	for _, b := range []*idptest.Browser{one, two} {
		r.tab("rot", "spa", "", b).signIn("alice")
		resp, _ := r.tab("rot", "stricter", "", b).with("prompt", "none").once()
		if at := must(resp.Location()); at.Query().Get("error") != "login_required" {
			t.Fatalf("the primary: %s", at)
		}
	}
	if resp, _ := r.tab("rot", "spa", "", two).with("prompt", "none").once(); !strings.Contains(resp.Header.Get("Location"), "code=") {
		t.Fatalf("the primary does not let her in to the other application: %s", resp.Header.Get("Location"))
	}
	settled()
	kc.Kill()
	defer kc.Restart(t.Context())
	resp, body := r.tab("rot", "spa", "", one).once()
	if !strings.Contains(resp.Header.Get("Location"), "code=") {
		t.Errorf("an application that the primary goes on letting her in to: %d %s %.100s", resp.StatusCode, resp.Header.Get("Location"), body)
	}
}
