package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"understudy/idptest"
)

// A silent request of another site's that asks for more than there is, in a spelling that the gateway does not read and the primary does, says
// nothing about the person: no application is closed in an outage.
func TestADemandThatIsNotReadClosesNothing(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	for name, more := range map[string]string{
		"control: none": "",
		"acr_values":    "&acr_values=9%20;",
	} {
		t.Run(name, func(t *testing.T) {
			b := &idptest.Browser{}
			r.tab("rot", "spa", "", b).signIn("alice")
			r.tab("rot", "web", "web-secret", b).signIn("")
			evil := r.tab("rot", "spa", "", b).with("prompt", "none")
			evil.browser = b.Clone()
			evil.browser.Transport = changing(func(q *http.Request) { q.URL.RawQuery += strings.ReplaceAll(more, `"`, "%22") })
			resp, body := evil.once()
			t.Logf("the primary: %d %q %.100s", resp.StatusCode, resp.Header.Get("Location"), body)
			settled()
			kc.Kill()
			defer func() { kc.Restart(t.Context()); r.back() }()
			for _, x := range []*tab{r.tab("rot", "spa", "", b), r.tab("rot", "web", "web-secret", b)} {
				if resp, _ := x.once(); !strings.Contains(resp.Header.Get("Location"), "code=") {
					t.Errorf("who was signed in is not let in to %s: %d", x.query.Get("client_id"), resp.StatusCode)
				}
			}
		})
	}
}
