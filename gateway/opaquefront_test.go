package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/idptest"
	"understudy/session"
)

// An opaque token that a redirect carries is of a session that was ended here as much as one that can be read, where the browser is known.
func TestAnOpaqueTokenInARedirectOfASessionThatWasEndedHere(t *testing.T) {
	port := must(idptest.FreePort())
	issuer := fmt.Sprintf("http://127.0.0.1:%d", port)
	p := newSwitching(t, issuer)
	proxy := httputil.NewSingleHostReverseProxy(must(url.Parse(p.URL)))
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); r.URL.Path == "/auth" && q.Get("response_type") == "token" { // a live session, and an opaque token
			if c, err := r.Cookie("_session"); err == nil && c.Value != "" {
				http.Redirect(w, r, q.Get("redirect_uri")+"#"+url.Values{"state": {q.Get("state")}, "access_token": {rand43()}, "token_type": {"Bearer"}, "expires_in": {"300"}}.Encode(), http.StatusFound)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	r := newRigAt(t, port, front.URL)
	p.next = "alice"
	b := &idptest.Browser{}
	ask := func(kind string) string {
		return issuer + "/auth?" + url.Values{"client_id": {"app"}, "response_type": {kind}, "scope": {"openid"}, "state": {rand43()[:8]}, "nonce": {rand43()[:9]}, "redirect_uri": {callback}}.Encode()
	}
	n := r.learnedFlow("authorization")
	at := must(b.Visit(t.Context(), ask("code"), callback, nil))
	resp, err := http.PostForm(issuer+"/token", url.Values{"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "redirect_uri": {callback}, "client_id": {"app"}})
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(err, resp)
	}
	resp.Body.Close()
	waitFor(t, "alice is learned", func() bool { return r.learnedFlow("authorization") > n })
	m := session.Mark{Of: session.OfSubject, ID: r.seal.Pseudonym("subject", "default", issuer, "alice"), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := r.backup.Mark(t.Context(), "default", m); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"none", "token"} {
		resp, _, err := b.Get(t.Context(), ask(kind))
		if err != nil {
			t.Fatal(err)
		}
		if l := resp.Header.Get("Location"); strings.HasPrefix(l, callback) {
			t.Errorf("%s: let in with a session that was ended here: %.80s", kind, l)
		}
	}
}
