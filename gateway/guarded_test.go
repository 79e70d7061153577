package gateway_test

import (
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"understudy/idptest"
	"understudy/session"
)

// Tokens of a session that was ended here are in the page that comes after the primary has asked the person something: a page that lies
// at another endpoint, and that no request which was remembered waits for.
func TestNoPageAfterAQuestionBringsBackASessionThatWasEndedHere(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	for _, id := range []string{"consents1", "consents2", "consents3"} { // the primary asks once for each
		addClient(t, kc, "rot", id, "client-secret", map[string]any{"publicClient": true, "serviceAccountsEnabled": false, "implicitFlowEnabled": true, "consentRequired": true})
	}
	b := &idptest.Browser{}
	k := r.tab("rot", "web", "web-secret", b).signIn("alice")
	m := session.Mark{Of: session.OfSession, ID: r.seal.Pseudonym("session", "default", r.realm("rot"), k.claim("sid")), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := r.backup.Mark(t.Context(), "default", m); err != nil {
		t.Fatal(err)
	}
	action := regexp.MustCompile(`action="([^"]*consent[^"]*)"`)
	for _, c := range []struct {
		name, client          string
		byPost, withoutCookie bool
	}{{"by POST", "consents2", true, false}, {"without the gateway's cookie", "consents3", false, true}, {"plain", "consents1", false, false}} {
		t.Run(c.name, func(t *testing.T) {
			x := r.tab("rot", c.client, "", b.Clone()).with("response_type", "id_token token").with("response_mode", "form_post").with("code_challenge", "").with("code_challenge_method", "")
			if c.byPost {
				x.browser.Transport = changing(func(q *http.Request) {
					if !strings.HasSuffix(q.URL.Path, "/auth") {
						return
					}
					body := q.URL.RawQuery
					q.Method, q.URL.RawQuery, q.Body, q.ContentLength = http.MethodPost, "", io.NopCloser(strings.NewReader(body)), int64(len(body))
					q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				})
			}
			if c.withoutCookie {
				x.browser.Transport = changing(func(q *http.Request) {
					var keep []string
					for _, p := range strings.Split(q.Header.Get("Cookie"), "; ") {
						if !strings.HasPrefix(p, "understudy=") {
							keep = append(keep, p)
						}
					}
					q.Header.Set("Cookie", strings.Join(keep, "; "))
				})
			}
			resp, body := x.once()
			for range 3 {
				if l := resp.Header.Get("Location"); l != "" && strings.Contains(l, "/realms/") {
					resp, body = must2(t)(x.browser.Get(t.Context(), must(resp.Location()).String()))
				}
			}
			a := action.FindStringSubmatch(body)
			if a == nil {
				t.Fatalf("no page of consent: %d %q %.300s", resp.StatusCode, resp.Header.Get("Location"), body)
			}
			at := must(url.Parse(must(url.Parse(r.realm("rot") + "/")).String()))
			u := must(at.Parse(strings.ReplaceAll(a[1], "&amp;", "&")))
			code := regexp.MustCompile(`name="code" value="([^"]*)"`).FindStringSubmatch(body)
			form := url.Values{"accept": {"Yes"}}
			if code != nil {
				form.Set("code", code[1])
			}
			body, resp = x.post(u.String(), form)
			if l := resp.Header.Get("Location"); l != "" && strings.Contains(l, "/realms/") {
				_, body = must2(t)(x.browser.Get(t.Context(), must(resp.Location()).String()))
			}
			if strings.Contains(strings.ToLower(body), `name="id_token"`) {
				t.Errorf("tokens of a session that was ended here are in the page")
			}
		})
	}
}

// post sends a form as the tab's browser does.
func (x *tab) post(to string, form url.Values) (string, *http.Response) {
	x.t.Helper()
	was := x.browser.Transport
	defer func() { x.browser.Transport = was }()
	x.browser.Transport = changing(func(q *http.Request) {
		q.Method = http.MethodPost
		body := form.Encode()
		q.Body, q.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if was != nil {
			if f, ok := was.(changing); ok {
				f(q)
			}
		}
	})
	resp, body, err := x.browser.Get(x.t.Context(), to)
	if err != nil {
		x.t.Fatal(err)
	}
	return body, resp
}
