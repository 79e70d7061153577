package gateway

import (
	"net/http"
	"testing"
	"time"
)

// What net/http cannot read a browser may: the gateway's cookie is not the primary's to take away in whatever words (RFC 6265, section
// 5.2, by which browsers read them), nor is a failed reply to end a session with a date in the old form.
func TestCookiesThatOnlyABrowserReads(t *testing.T) {
	for _, line := range []string{
		`__Host-understudy="; Path=/; Secure; Max-Age=0`,
		"__Host-understudy=\x80; Path=/; Secure; Max-Age=0",
		`__Host-understudy=a\b; Path=/; Secure; Max-Age=0`,
	} {
		h := http.Header{"Set-Cookie": {line}}
		if withoutTheirs(h); len(h["Set-Cookie"]) > 0 {
			t.Errorf("%q passes", line)
		}
	}
	for _, line := range []string{
		`_session=deleted; Path=/; Expires=Thu, 01-Jan-70 00:00:10 GMT`,
		`_session=deleted; Path=/; Expires=Thu, 1 Jan 1970 00:00:10 GMT`,
		`_session="; Path=/; Max-Age=0`,
	} {
		h := http.Header{"Set-Cookie": {line}}
		if withoutTaken(h, time.Now()); len(h["Set-Cookie"]) > 0 {
			t.Errorf("%q passes in a failed reply", line)
		}
		x := holding{values: map[string]string{"_session": "x"}}
		if _, cleared := x.after([]string{"_session"}, &http.Response{Header: http.Header{"Set-Cookie": {line}}}, time.Now()); !cleared {
			t.Errorf("%q does not end the session", line)
		}
	}
}
