package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"understudy/idptest"
)

// A primary that leads whoever is signed in through a place of its own (Hydra's login application, which skips its page) has asked nobody: whoever
// opens the application once more and does not end it, or is sent there by another site, is let in in an outage as before.
func TestAPrimaryThatLeadsThroughAPlaceOfItsOwnAsksNobody(t *testing.T) {
	for name, through := range map[string]bool{"control: at once": false, "through a place of its own": true} {
		t.Run(name, func(t *testing.T) {
			port := must(idptest.FreePort())
			issuer := fmt.Sprintf("http://127.0.0.1:%d", port)
			p := newSwitching(t, issuer)
			proxy := httputil.NewSingleHostReverseProxy(must(url.Parse(p.URL)))
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case through && r.URL.Path == "/auth" && r.Header.Get("Cookie") != "":
					http.Redirect(w, r, issuer+"/skip?"+r.URL.RawQuery, http.StatusFound)
					return
				case r.URL.Path == "/skip":
					r.URL.Path = "/auth"
				}
				proxy.ServeHTTP(w, r)
			}))
			t.Cleanup(front.Close)
			r := newRigAt(t, port, front.URL)
			p.next = "alice"
			b := &idptest.Browser{}
			ask := func() string {
				return issuer + "/auth?" + url.Values{"client_id": {"app"}, "response_type": {"code"}, "scope": {"openid"}, "state": {rand43()[:8]}, "nonce": {rand43()[:9]}, "redirect_uri": {callback}}.Encode()
			}
			n := r.learnedFlow("authorization")
			at := must(b.Visit(t.Context(), ask(), callback, nil))
			resp, err := http.PostForm(issuer+"/token", url.Values{"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "redirect_uri": {callback}, "client_id": {"app"}})
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(err, resp)
			}
			resp.Body.Close()
			waitFor(t, "alice is learned", func() bool { return r.learnedFlow("authorization") > n })
			if at := must(b.Visit(t.Context(), ask(), callback, nil)); at.Query().Get("code") == "" { // and nobody redeems it
				t.Fatalf("the primary: %s", at)
			}
			settled()
			front.Close()
			resp, _, err = b.Get(t.Context(), ask())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(resp.Header.Get("Location"), "code=") {
				t.Errorf("in the outage: %d %s", resp.StatusCode, resp.Header.Get("Location"))
			}
		})
	}
}
