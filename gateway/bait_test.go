package gateway_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/idptest"
	"understudy/session"
)

// Whoever was disabled at the primary does not get in by a request for which something before the primary fails: not by what it may
// write into a parameter, a cookie, or what it calls itself.
func TestABaitLetsNobodyIn(t *testing.T) {
	kc := keycloak(t)
	f := behind(t, kc.URL())
	r := newRig(t, f.URL())
	alice := &idptest.Browser{}
	r.tab("norot", "web", "web-secret", alice).signIn("alice")
	settled()
	enabled(t, kc, "norot", "alice", false)
	defer enabled(t, kc, "norot", "alice", true)
	endSessions(t, kc, "norot", "alice")
	bait := func(q *http.Request) bool {
		seen, err := url.QueryUnescape(q.URL.RawQuery + q.UserAgent())
		return err != nil || strings.Contains(seen, "<script") || strings.Contains(seen, "etc/passwd") || strings.Contains(seen, "sqlmap")
	}
	fault(t, f, idptest.Fault{Kind: idptest.ResetAfter, Match: bait})
	for name, change := range map[string]func(*http.Request){
		"state":         func(q *http.Request) { set(q, "state", "<script>alert(1)</script>") },
		"a path":        func(q *http.Request) { set(q, "state", "../../etc/passwd") },
		"nonce":         func(q *http.Request) { set(q, "nonce", "/etc/passwd") },
		"login_hint":    func(q *http.Request) { set(q, "login_hint", "<script") },
		"ui_locales":    func(q *http.Request) { set(q, "ui_locales", "<script") },
		"id_token_hint": func(q *http.Request) { set(q, "id_token_hint", "/etc/passwd") },
		"a library's":   func(q *http.Request) { set(q, "x-client-OS", "<script") },
		"a name":        func(q *http.Request) { q.Header.Set("User-Agent", "sqlmap 1") },
	} {
		b := alice.Clone()
		b.Transport = changing(change)
		resp, _ := r.tab("norot", "web", "web-secret", b).once()
		if at := resp.Header.Get("Location"); strings.Contains(at, "code=") {
			t.Errorf("by %s: %d %s", name, resp.StatusCode, at)
		}
	}
}

// changing changes a request before it is sent.
type changing func(*http.Request)

func (c changing) RoundTrip(q *http.Request) (*http.Response, error) {
	q = q.Clone(q.Context())
	c(q)
	return http.DefaultTransport.RoundTrip(q)
}

func set(q *http.Request, name, value string) {
	v := q.URL.Query()
	v.Set(name, value)
	q.URL.RawQuery = v.Encode()
}

// An answer that names nobody begins nothing: who was revoked here stays so, and is not let in while the primary serves either.
func TestResponseTypeNoneRevivesNobody(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	b := &idptest.Browser{}
	none := func() string {
		resp, _ := r.tab("rot", "spa", "", b).with("response_type", "none").with("nonce", "").once()
		return resp.Header.Get("Location")
	}
	k := r.tab("rot", "spa", "", b).signIn("alice")
	if at := none(); !strings.HasPrefix(at, callback) {
		t.Fatalf("the primary: %s", at)
	}
	m := session.Mark{Of: session.OfSubject, ID: r.seal.Pseudonym("subject", "default", r.realm("rot"), k.claim("sub")), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := r.backup.Mark(t.Context(), "default", m); err != nil {
		t.Fatal(err)
	}
	if at := none(); strings.HasPrefix(at, callback) {
		t.Errorf("while the primary serves: %s", at)
	}
	settled()
	r.restart()
	kc.Kill()
	defer kc.Restart(t.Context())
	if at := none(); strings.HasPrefix(at, callback) {
		t.Errorf("in the outage: %s", at)
	}
}
