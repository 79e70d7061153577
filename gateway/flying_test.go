package gateway_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"time"

	"understudy/audit"
	"understudy/gateway"
	"understudy/idptest"
	"understudy/session"
)

// A refusal that comes when its client has been answered is a refusal: what the backup gave meanwhile was the last.
func TestALateRefusalHolds(t *testing.T) {
	kc := keycloak(t)
	f := behind(t, kc.URL())
	r := newRig(t, f.URL())
	k := r.signIn("norot", "bob")
	endSessions(t, kc, "norot", "bob") // which tells nobody
	fault(t, f, idptest.Fault{Kind: idptest.LateReply})
	if got := r.refresh("norot", k.RefreshToken); !got.byBackup() {
		t.Fatalf("in place of a silent primary: %v", got)
	}
	look := r.seal.Lookup(session.RefreshToken, "default", r.realm("norot"), k.RefreshToken)
	f.Release()
	waitFor(t, "the late refusal is kept", func() bool {
		st, err := r.backup.Standing(t.Context(), "default", look)
		return err == nil && st.Doubted
	})
	fault(t, f, idptest.Fault{Kind: idptest.Refuse})
	if got := r.refresh("norot", k.RefreshToken); got.AccessToken != "" || got.Error != "invalid_grant" {
		t.Errorf("after a late refusal: %v", got)
	}
	r.line(t, "the refusal", func(e audit.Entry) bool { return e.Decision == "refused" && e.Rule == "refused_by_primary" })
}

// The answer to a grant in doubt is given again to who repeats the very request while its exchange is under way, and to nobody else
// who presents the same token: not with another proof, not from another origin, not for anything else.
func TestOnlyTheVeryRequestIsAnsweredAgain(t *testing.T) {
	kc := keycloak(t)
	f := behind(t, kc.URL())
	r := newRig(t, f.URL(), func(t *gateway.Tenant) { t.Health.DeadlineMax = 600 * time.Millisecond })
	k := r.signIn("norot", "alice")
	fault(t, f, idptest.Fault{Kind: idptest.BlackHole, Grant: "refresh_token"}) // the gateway's probes are answered
	first := r.refresh("norot", k.RefreshToken)
	if !first.byBackup() {
		t.Fatalf("in place of a silent primary: %v", first)
	}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {k.RefreshToken}}
	narrower := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {k.RefreshToken}, "scope": {"openid"}}
	ask := func(name string, form url.Values, change func(*http.Request), same bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
		defer cancel()
		got := r.token("norot", form, change, func(q *http.Request) { *q = *q.WithContext(ctx) })
		if (got.AccessToken != "") != same {
			t.Errorf("%s: %v", name, got)
		}
		if same && (got.AccessToken != first.AccessToken || got.IDToken != first.IDToken) {
			t.Errorf("%s: another answer", name)
		}
	}
	very := func() { ask("the very request", form, func(*http.Request) {}, true) }
	very()
	ask("another secret", form, func(q *http.Request) { q.SetBasicAuth("web", "web-secret2") }, false)
	ask("another origin", form, func(q *http.Request) { q.Header.Set("Origin", "https://evil.example") }, false)
	ask("something else", narrower, func(*http.Request) {}, false)
	very() // all that was in time
	r.line(t, "the repetition", func(e audit.Entry) bool { return e.Rule == "repeated" })
}
