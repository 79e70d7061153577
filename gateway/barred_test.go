package gateway_test

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"understudy/idptest"
	"understudy/session"
)

// No spelling of an authorization request gets tokens of a session that was ended here, and of which the primary could not have heard
// (design, law 3): not by POST (OpenID Connect Core, section 3.1.2.1), not with what is not learned from.
func TestNoRequestBringsBackASessionThatWasEndedHere(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	b := &idptest.Browser{}
	k := r.tab("rot", "web", "web-secret", b).signIn("alice")
	m := session.Mark{Of: session.OfSession, ID: r.seal.Pseudonym("session", "default", r.realm("rot"), k.claim("sid")), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := r.backup.Mark(t.Context(), "default", m); err != nil {
		t.Fatal(err)
	}
	implicit := func() *tab {
		return r.tab("rot", "spa", "", b.Clone()).with("response_type", "id_token").with("code_challenge", "").with("code_challenge_method", "")
	}
	post := func(q *http.Request) {
		body := q.URL.RawQuery
		q.Method, q.URL.RawQuery, q.Body, q.ContentLength = http.MethodPost, "", io.NopCloser(strings.NewReader(body)), int64(len(body))
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	unsigned := func(x *tab) *tab {
		e := base64.RawURLEncoding.EncodeToString
		object := e([]byte(`{"alg":"none"}`)) + "." + e([]byte(`{"client_id":"spa","response_type":"id_token","nonce":"n","scope":"openid","redirect_uri":"`+callback+`"}`)) + "."
		return x.with("request", object)
	}
	for name, c := range map[string]struct {
		x      *tab
		change func(*http.Request)
	}{
		"plain":                      {x: implicit()},
		"by POST":                    {x: implicit(), change: post},
		"authorization_details":      {x: implicit().with("authorization_details", "[]")},
		"an unsigned request object": {x: unsigned(implicit())},
		"a repeated parameter":       {x: implicit(), change: func(q *http.Request) { q.URL.RawQuery += "&ui=1&ui=2" }},
	} {
		t.Run(name, func(t *testing.T) {
			if c.change != nil {
				c.x.browser.Transport = changing(c.change)
			}
			resp, body := c.x.once()
			t.Logf("%d %.120s", resp.StatusCode, resp.Header.Get("Location"))
			if strings.Contains(resp.Header.Get("Location"), "id_token=") || strings.Contains(body, "id_token=") {
				t.Errorf("an ID token of a session that was ended here")
			}
		})
	}
}
