package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"understudy/idptest"
)

// What the primary refused to answer without a person nobody is let in to in an outage, until it has approved it again.
func TestThePrimaryWantsThePerson(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	silently := func(b *idptest.Browser, client string, more ...string) string {
		t.Helper()
		x := r.tab("rot", client, "", b).with("prompt", "none")
		for i := 0; i+1 < len(more); i += 2 {
			x.with(more[i], more[i+1])
		}
		resp, body := x.once()
		u, err := resp.Location()
		if err != nil {
			t.Fatalf("%d %.200s", resp.StatusCode, body)
		}
		return u.Query().Get("error")
	}
	lets := func(b *idptest.Browser, client string) bool {
		t.Helper()
		resp, _ := r.tab("rot", client, "", b).once()
		return strings.Contains(resp.Header.Get("Location"), "code=")
	}
	addClient(t, kc, "rot", "spa3", "client-secret", map[string]any{"publicClient": true})
	ended, asked, demanded, again := &idptest.Browser{}, &idptest.Browser{}, &idptest.Browser{}, &idptest.Browser{}
	for _, b := range []*idptest.Browser{ended, asked, demanded, again} {
		user := map[*idptest.Browser]string{ended: "bob"}[b]
		if user == "" {
			user = "alice"
		}
		r.tab("rot", "spa", "", b).signIn(user)
		r.tab("rot", "spa3", "", b).signIn("")
	}
	// Bob's sessions end at the primary, which says so to one application and clears no cookie that the gateway knows.
	endSessions(t, kc, "rot", "bob")
	if e := silently(ended, "spa"); e != "login_required" {
		t.Fatalf("the primary: %q", e)
	}
	// Alice has to do something before she goes on; another request only asks for more than there is.
	setUser(t, kc, "rot", "alice", map[string]any{"requiredActions": []string{"UPDATE_PASSWORD"}})
	if e := silently(asked, "spa"); e != "interaction_required" {
		t.Fatalf("the primary: %q", e)
	}
	if e := silently(again, "spa"); e != "interaction_required" {
		t.Fatalf("the primary: %q", e)
	}
	setUser(t, kc, "rot", "alice", map[string]any{"requiredActions": []string{}})
	if e := silently(demanded, "spa", "max_age", "0"); e == "" {
		t.Fatal("the primary takes max_age=0 silently")
	}
	r.tab("rot", "spa", "", again).signIn("")
	r.restart()
	settled()
	kc.Kill()
	defer kc.Restart(t.Context())
	for _, c := range []struct {
		name   string
		b      *idptest.Browser
		client string
		want   bool
	}{
		{"a session that is over", ended, "spa", false},
		{"another application of a session that is over", ended, "spa3", false},
		{"an application that wants the person", asked, "spa", false},
		{"another application", asked, "spa3", true},
		{"who asked for more than there was", demanded, "spa", true},
		{"who was approved again", again, "spa", true},
	} {
		if got := lets(c.b, c.client); got != c.want {
			t.Errorf("%s: let in %v", c.name, got)
		}
	}
	if e := silently(asked, "spa"); e != "temporarily_unavailable" {
		t.Errorf("the application is told %q", e)
	}
	resp, _ := r.tab("rot", "spa", "", ended).once()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d", resp.StatusCode)
	}
}
