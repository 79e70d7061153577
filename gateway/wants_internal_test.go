package gateway

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"understudy/flow"
	"understudy/flow/oauth"
)

// What a reply to an authorization request says of the person is said by whoever shows a page or leads to one, to a request of bytes that a
// primary takes. A 400 is said by many, to whatever they do not like: only to a plain request does it say something.
func TestWhichRepliesAskThePerson(t *testing.T) {
	const plain = "client_id=app&response_type=code&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&scope=openid&nonce=n"
	html := http.Header{"Content-Type": {"text/html"}, "Set-Cookie": {"a=b"}}
	replies := []*http.Response{
		{StatusCode: http.StatusFound, Header: http.Header{"Location": {"/login"}}}, {StatusCode: http.StatusOK, Header: html}, {StatusCode: http.StatusBadRequest, Header: html},
	}
	for query, want := range map[string][3]bool{
		plain + "&state=s": {true, true, true},
		plain + "&state=https%3A%2F%2Fapp.example%2Fa.b%3F": {true, true, false}, // as some applications have it, and as what is refused at the door
		plain + "&state=..%2F..%2Fetc%2Fpasswd":             {true, true, false},
		plain + "&state=s&state=t":                          {},
		plain + "&state=%00":                                {},
		plain + "&state=%C3%A4":                             {},
		plain + "&state=" + strings.Repeat("a", 2049):       {},
		plain + "&ui_locales=" + strings.Repeat("a", 129):   {},
		plain + "&state=s&x=%zz":                            {},
		plain + "&state=s;t":                                {},
		plain + "&state=s&prompt=none":                      {},
		plain + "&state=s&prompt=login":                     {},
	} {
		r := &flow.Request{HTTP: httptest.NewRequest(http.MethodGet, "/auth?"+query, nil), Endpoint: flow.Authorization}
		r.Form, r.FormErr = url.ParseQuery(query)
		ask := oauth.Authorization{}.Match(r).Ask()
		for i, resp := range replies {
			if got := asksPerson(ask, r, resp); got != want[i] {
				t.Errorf("%.200s: %d: %v", query, resp.StatusCode, got)
			}
		}
	}
}
