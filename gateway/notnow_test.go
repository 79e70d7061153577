package gateway_test

import (
	"net/http"
	"net/url"
	"testing"

	"understudy/idptest"
)

// A primary that says "not now" in the protocol's words gets a Retry-After where it has none: without, some clients ask nothing for
// a minute.
func TestNotNowInThePrimarysWords(t *testing.T) {
	f := behind(t, keycloak(t).URL())
	r := newRig(t, f.URL())
	r.signIn("norot", "alice")
	for name, c := range map[string]struct {
		status      int
		given, want string
	}{
		"503 without": {503, "", "5"}, "503 with": {503, "7", "7"}, "500 without": {500, "", "5"}, "400 without": {400, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{"Content-Type": {"application/json"}}
			if c.given != "" {
				h.Set("Retry-After", c.given)
			}
			fault(t, f, idptest.Fault{Kind: idptest.ServerError, Status: c.status, Header: h, Body: `{"error":"temporarily_unavailable"}`, Grant: "refresh_token"})
			form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"unknown"}, "client_id": {"spa"}}
			resp, err := http.PostForm(r.realm("norot")+"/protocol/openid-connect/token", form)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := resp.Header.Get("Retry-After"); resp.StatusCode != c.status || got != c.want {
				t.Errorf("%d, Retry-After %q, want %q", resp.StatusCode, got, c.want)
			}
		})
	}
}
