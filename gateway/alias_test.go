package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"understudy/idptest"
)

// Where the primary has nothing at a path of MSAL's, the gateway answers, however the primary fails when it is asked for that.
func TestTheAliasOfAFailingPrimary(t *testing.T) {
	alias := "/realms/norot/v2.0/.well-known/openid-configuration"
	for name, x := range map[string]idptest.Fault{
		"500": {Kind: idptest.ServerError}, "429": {Kind: idptest.ServerError, Status: 429}, "page": {Kind: idptest.HTMLPage},
		"redirect": {Kind: idptest.Redirect}, "reset": {Kind: idptest.ResetAfter},
	} {
		t.Run(name, func(t *testing.T) {
			f := behind(t, keycloak(t).URL())
			r := newRig(t, f.URL())
			get(t, r.realm("norot")+"/.well-known/openid-configuration")
			x.Match = func(q *http.Request) bool { return q.URL.Path == alias }
			fault(t, f, x)
			if status, body, _ := get(t, r.url+alias); status != http.StatusOK || !strings.Contains(body, `"issuer"`) {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	t.Run("what it has there is its own", func(t *testing.T) {
		f := behind(t, keycloak(t).URL())
		r := newRig(t, f.URL())
		get(t, r.realm("norot")+"/.well-known/openid-configuration")
		fault(t, f, idptest.Fault{Kind: idptest.ServerError, Status: http.StatusOK, Body: `{"issuer":"https://elsewhere.example"}`,
			Match: func(q *http.Request) bool { return q.URL.Path == alias }})
		if status, body, _ := get(t, r.url+alias); status != http.StatusOK || !strings.Contains(body, "elsewhere") {
			t.Errorf("%d %s", status, body)
		}
	})
}
