package gateway_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"understudy/idptest"
)

// Another site sends a person's browser to the authorization endpoint with bytes that the primary does not take: that the primary
// refuses these says nothing about the person, who is let in in an outage as before.
func TestALinkOfAnotherSiteTakesNoApplicationAway(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	for name, junk := range map[string]string{"a broken escape": "&x=%zz", "a zero byte in the state": "%00"} {
		t.Run(name, func(t *testing.T) {
			b := &idptest.Browser{}
			own := r.tab("rot", "spa", "", b)
			k := own.signIn("alice")
			evil := r.tab("rot", "spa", "", b)
			evil.browser = b.Clone()
			evil.browser.Header = http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"iframe"}}
			evil.browser.Transport = changing(func(q *http.Request) {
				if junk[0] == '&' {
					q.URL.RawQuery += junk
				} else {
					q.URL.RawQuery = strings.Replace(q.URL.RawQuery, "state=", "state="+junk, 1)
				}
			})
			resp, body := evil.once()
			t.Logf("the primary: %d %q %.100s", resp.StatusCode, resp.Header.Get("Location"), body)
			settled()
			kc.Kill()
			defer func() { kc.Restart(t.Context()); r.back() }()
			if resp, _ := r.tab("rot", "spa", "", b).once(); !strings.Contains(resp.Header.Get("Location"), "code=") {
				t.Errorf("who was signed in is not let in: %d %v", resp.StatusCode, resp.Header)
			}
			if k := r.token("rot", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {k.RefreshToken}, "client_id": {"spa"}}, func(q *http.Request) { q.Header.Del("Authorization") }); !k.byBackup() {
				t.Errorf("her refresh token: %v", k)
			}
		})
	}
}
