package gateway_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"understudy/idptest"
)

// What the primary refused with access_denied, because the person said no or may not go there any more, nobody is let in to in an
// outage (RFC 6749, section 4.1.2.1; design, law 1), whether the application wanted a page or not.
func TestADeniedRequestIsNotAnsweredInAnOutage(t *testing.T) {
	for _, prompt := range []string{"", "none"} {
		t.Run("prompt="+prompt, func(t *testing.T) {
			port := must(idptest.FreePort())
			issuer := fmt.Sprintf("http://127.0.0.1:%d", port)
			p := newSwitching(t, issuer)
			r := newRigAt(t, port, p.URL)
			p.next = "alice"
			b := &idptest.Browser{}
			ask := func(prompt string) url.Values {
				q := url.Values{"client_id": {"app"}, "response_type": {"code"}, "scope": {"openid"}, "state": {rand43()[:8]}, "nonce": {rand43()[:9]}, "redirect_uri": {callback}}
				if prompt != "" {
					q.Set("prompt", prompt)
				}
				return q
			}
			n := r.learnedFlow("authorization")
			at := must(b.Visit(t.Context(), issuer+"/auth?"+ask("").Encode(), callback, nil))
			resp, err := http.PostForm(issuer+"/token", url.Values{"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "redirect_uri": {callback}, "client_id": {"app"}})
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(err, resp)
			}
			resp.Body.Close()
			waitFor(t, "alice is learned", func() bool { return r.learnedFlow("authorization") > n })
			p.deny.Store(true)
			if at := must(b.Visit(t.Context(), issuer+"/auth?"+ask(prompt).Encode(), callback, nil)); at.Query().Get("error") != "access_denied" {
				t.Fatalf("the primary: %s", at)
			}
			settled()
			p.Server.Close()
			resp, _, err = b.Get(t.Context(), issuer+"/auth?"+ask("").Encode())
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(resp.Header.Get("Location"), "code=") {
				t.Errorf("who was refused is given a code: %s", resp.Header.Get("Location"))
			}
		})
	}
}
