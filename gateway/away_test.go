package gateway_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/idptest"
)

// Who cannot be let in is told so within the time that a hidden frame waits, however the primary is away; who can be is let in.
func TestNobodyWaitsForAnAbsentPrimary(t *testing.T) {
	kc := keycloak(t)
	everything := func(*http.Request) bool { return true }
	for name, away := range map[string]idptest.Fault{
		"a black hole": {Kind: idptest.BlackHole, Match: everything},
		"503":          {Kind: idptest.ServerError, Status: http.StatusServiceUnavailable, Match: everything},
	} {
		t.Run(name, func(t *testing.T) {
			f := behind(t, kc.URL())
			r := newRig(t, f.URL())
			b := &idptest.Browser{}
			r.tab("rot", "web", "web-secret", b).signIn("alice")
			fault(t, f, away)
			for _, when := range []string{"at first", "later"} {
				asked := time.Now()
				none := r.tab("rot", "web", "web-secret", &idptest.Browser{}).with("prompt", "none")
				resp, _ := none.once()
				at, err := url.Parse(resp.Header.Get("Location"))
				if err != nil || at.Query().Get("error") != "temporarily_unavailable" || at.Query().Get("state") != none.query.Get("state") {
					t.Errorf("%s, prompt=none: %d %s", when, resp.StatusCode, resp.Header.Get("Location"))
				}
				page, body := r.tab("rot", "web", "web-secret", &idptest.Browser{}).once()
				if page.StatusCode != http.StatusServiceUnavailable || page.Header.Get("Retry-After") == "" || !strings.Contains(body, "limited") {
					t.Errorf("%s, a page: %d %.200s", when, page.StatusCode, body)
				}
				// Keycloak's and most libraries' hidden frames wait for 10 s.
				if took := time.Since(asked); took > 20*time.Second {
					t.Errorf("%s: both took %v", when, took)
				}
				if code, _ := r.tab("rot", "web", "web-secret", b).silent(); code == "" {
					t.Errorf("%s: who is signed in is not let in", when)
				}
			}
			fault(t, f, idptest.Fault{})
			r.back()
			if k := r.tab("rot", "web", "web-secret", &idptest.Browser{}).signIn("alice"); k.AccessToken == "" {
				t.Errorf("back: %v", k)
			}
		})
	}
}

// A primary that is slow and serves is waited for, by who wants no page too.
func TestASlowPrimaryIsWaitedFor(t *testing.T) {
	f := behind(t, keycloak(t).URL())
	r := newRig(t, f.URL())
	r.tab("rot", "web", "web-secret", &idptest.Browser{}).signIn("alice")
	fault(t, f, idptest.Fault{Kind: idptest.SlowFirstByte, Delay: 6 * time.Second, Match: func(q *http.Request) bool {
		return strings.HasSuffix(q.URL.Path, "/auth")
	}})
	resp, _ := r.tab("rot", "web", "web-secret", &idptest.Browser{}).with("prompt", "none").once()
	if at := resp.Header.Get("Location"); !strings.Contains(at, "error=login_required") {
		t.Errorf("prompt=none: %d %s", resp.StatusCode, at)
	}
}
