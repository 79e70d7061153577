package gateway_test

import (
	"net/http"
	"slices"
	"testing"

	"understudy/idptest"
)

// An application that asks only whether somebody is let in (response_type=none) is told so in an outage where the primary said so of
// this browser, to whoever was known to be signed in with it; from an answer that says nothing nobody is taken to have signed in.
func TestResponseTypeNone(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	none := func(b *idptest.Browser) *tab {
		return r.tab("rot", "spa", "", b).with("response_type", "none").with("nonce", "")
	}
	alice, stranger := &idptest.Browser{}, &idptest.Browser{}
	r.tab("rot", "spa", "", alice).signIn("alice")
	learned := r.learnedFlow("authorization")
	names, was := none(alice).response()
	if !slices.Contains(names, "state") || was.Get("error") != "" || was.Has("code") {
		t.Fatalf("the primary: %v", was)
	}
	waitFor(t, "it is learned", func() bool { return r.learnedFlow("authorization") > learned })
	untold := r.metrics("understudy_unlearned_total")
	none(stranger).open("bob")
	waitFor(t, "who signed in is not known", func() bool {
		now := r.metrics("understudy_unlearned_total")
		return now[`understudy_unlearned_total{reason="no_subject",tenant="default"}`] != untold[`understudy_unlearned_total{reason="no_subject",tenant="default"}`]
	})
	// Bob signs in with alice's browser, and only an answer that does not name him shows it.
	switched := &idptest.Browser{}
	k := r.tab("rot", "spa", "", switched).signIn("alice")
	if resp, _, err := switched.Get(t.Context(), r.realm("rot")+"/protocol/openid-connect/logout?id_token_hint="+k.IDToken); err != nil || resp.StatusCode >= 400 {
		t.Fatalf("logout: %v", err)
	}
	none(switched).open("bob")
	r.restart()
	settled()
	kc.Kill()
	defer kc.Restart(t.Context())

	again, now := none(alice).response()
	if !slices.Equal(names, again) || now.Get("iss") != was.Get("iss") || now.Get("session_state") != was.Get("session_state") || now.Get("state") == "" || now.Has("code") {
		t.Errorf("%v\nthe primary: %v", now, was)
	}
	for name, x := range map[string]*tab{
		"another redirect URI":                    none(alice).with("redirect_uri", "http://127.0.0.1:9999/other"),
		"another scope":                           none(alice).with("scope", "openid profile"),
		"somebody else":                           none(alice).with("login_hint", "bob"),
		"a recent sign-in":                        none(alice).with("max_age", "10"),
		"another browser":                         none(&idptest.Browser{}),
		"who signed in with it first":             none(stranger),
		"who signed in with it last":              none(switched),
		"who signed in with it before, by a code": r.tab("rot", "spa", "", switched),
	} {
		if resp, _ := x.once(); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", name, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
}
