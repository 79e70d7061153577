package gateway

import (
	"net/http"
	"strings"
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
		if withoutTaken(h, []string{"_session"}, time.Now()); len(h["Set-Cookie"]) > 0 {
			t.Errorf("%q passes in a failed reply", line)
		}
		x := holding{values: map[string]string{"_session": "x"}}
		if _, cleared := x.after([]string{"_session"}, &http.Response{Header: http.Header{"Set-Cookie": {line}}}, time.Now()); !cleared {
			t.Errorf("%q does not end the session", line)
		}
	}
}

// A cookie without a name comes back as its value alone (RFC 6265bis, section 5.8.3): as one of the gateway's name where it is spelled so.
func TestACookieWithoutANameIsNoneOfTheGateways(t *testing.T) {
	for line, passes := range map[string]bool{
		"=understudy=" + strings.Repeat("A", 43) + "; Path=/": false, "understudy; Path=/": false, " = understudy =A": false, "=__Host-understudy=A; Secure; Path=/": false,
		"=other=understudy; Path=/": true, "other=understudy=A": true,
	} {
		h := http.Header{"Set-Cookie": {line}}
		if withoutTheirs(h); (len(h["Set-Cookie"]) > 0) != passes {
			t.Errorf("%q passes: %v", line, !passes)
		}
	}
}

// A failed reply that puts another value in the place of the session's cookie takes the session away as much as one that deletes it.
func TestAFailedReplyReplacesNoSession(t *testing.T) {
	for line, passes := range map[string]bool{
		"KEYCLOAK_IDENTITY=none; Path=/realms/rot/": false, "=KEYCLOAK_IDENTITY=none; Path=/realms/rot/": false, "KC_RESTART=x; Path=/realms/rot/": true,
	} {
		h := http.Header{"Set-Cookie": {line}}
		if withoutTaken(h, SessionCookies(), time.Now()); (len(h["Set-Cookie"]) > 0) != passes {
			t.Errorf("%q passes in a failed reply: %v", line, !passes)
		}
	}
}

// Cookies are read as browsers read them (RFC 6265, sections 5.1.1 and 5.2).
func TestReadSetCookie(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	at := func(y int, m time.Month, d, h, min, s int) time.Time {
		return time.Date(y, m, d, h, min, s, 0, time.UTC)
	}
	for line, want := range map[string]setCookie{
		"a=b":                                {name: "a", value: "b"},
		` a = "b" ; Path=/`:                  {name: "a", value: "b"},
		"a=b=c; Secure":                      {name: "a", value: "b=c"},
		"a":                                  {name: "", value: "a"},
		"a=":                                 {name: "a", gone: true},
		`a=""`:                               {name: "a", gone: true},
		"a=b; Max-Age=60":                    {name: "a", value: "b", ends: now.Add(time.Minute)},
		"a=b; max-age=0":                     {name: "a", value: "b", ends: now, gone: true},
		"a=b; Max-Age=-1":                    {name: "a", value: "b", ends: now.Add(-time.Second), gone: true},
		"a=b; Max-Age=99999999999999999999":  {name: "a", value: "b", ends: now.Add((1<<31 - 1) * time.Second)},
		"a=b; Max-Age=-99999999999999999999": {name: "a", value: "b", ends: now.Add(-time.Second), gone: true},
		"a=b; Max-Age=x":                     {name: "a", value: "b"},
		"a=b; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT": {name: "a", value: "b", ends: now.Add(time.Minute)},
		"a=b; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=60": {name: "a", value: "b", ends: now.Add(time.Minute)},
		"a=b; Expires=Mon, 30 Nov 2026 08:00:00 GMT":             {name: "a", value: "b", ends: at(2026, 11, 30, 8, 0, 0)},
		"a=b; Expires=Mon, 30-Nov-26 8:00:00 GMT":                {name: "a", value: "b", ends: at(2026, 11, 30, 8, 0, 0)},
		"a=b; Expires=Mon Nov 30 08:00:00 2026":                  {name: "a", value: "b", ends: at(2026, 11, 30, 8, 0, 0)},
		"a=b; Expires=Sat, 28 november 2026 08:00:00":            {name: "a", value: "b", ends: at(2026, 11, 28, 8, 0, 0), gone: true},
		"a=b; Expires=Mon, 32 Nov 2026 08:00:00 GMT":             {name: "a", value: "b"},
		"a=b; Expires=Mon, 30 Nov 2026 24:00:00 GMT":             {name: "a", value: "b"},
		"a=b; Expires=Mon, 30 Nov 1600 08:00:00 GMT":             {name: "a", value: "b"},
		"a=b; Expires=0":  {name: "a", value: "b"},
		"a=b; Expires=-1": {name: "a", value: "b"},
	} {
		if got := readSetCookie(line, now); got != want {
			t.Errorf("%q: %+v, want %+v", line, got, want)
		}
	}
}

func FuzzReadSetCookie(f *testing.F) {
	f.Add("__Host-understudy=a; Path=/; Expires=Thu, 01-Jan-70 00:00:10 GMT; Max-Age=3")
	f.Fuzz(func(t *testing.T, line string) {
		now := time.Now()
		c := readSetCookie(line, now)
		if std, err := http.ParseSetCookie(line); err == nil && (c.name != std.Name || c.value != std.Value) {
			t.Errorf("%q: %q %q, net/http reads %q %q", line, c.name, c.value, std.Name, std.Value)
		}
		if c.gone != (c.value == "" || !c.ends.IsZero() && !c.ends.After(now)) {
			t.Errorf("%q: %+v", line, c)
		}
	})
}
