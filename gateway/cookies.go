package gateway

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// withoutOurs takes the gateway's cookies out of a request to the primary.
func withoutOurs(h http.Header) {
	lines := h["Cookie"]
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, plainCookie) }) {
		return
	}
	var out []string
	for _, line := range lines {
		var keep []string
		for part := range strings.SplitSeq(line, ";") {
			name, _, _ := strings.Cut(strings.TrimSpace(part), "=")
			if name != hostCookie && name != plainCookie {
				keep = append(keep, part)
			}
		}
		if len(keep) > 0 {
			out = append(out, strings.TrimLeft(strings.Join(keep, ";"), " "))
		}
	}
	h.Del("Cookie")
	if len(out) > 0 {
		h["Cookie"] = out
	}
}

// setCookie is a cookie that a reply sets, as browsers read it (RFC 6265, section 5.2): they take values that net/http does not.
type setCookie struct {
	name, value string
	ends        time.Time // zero: with the browser
	gone        bool      // it is taken away
}

func readSetCookie(line string, now time.Time) (c setCookie) {
	pair, rest, _ := strings.Cut(line, ";")
	name, value, ok := strings.Cut(pair, "=")
	if !ok { // some browsers take such a one for the value of a cookie without a name
		name, value = "", pair
	}
	c.name, c.value = blanks(name), blanks(value)
	if in, ok := strings.CutPrefix(c.value, `"`); ok && strings.HasSuffix(in, `"`) {
		c.value = in[:len(in)-1] // as net/http reads it when it comes back
	}
	c.gone = c.value == ""
	var age bool // Max-Age goes before Expires
	for part := range strings.SplitSeq(rest, ";") {
		key, value, _ := strings.Cut(part, "=")
		value = blanks(value)
		switch key = blanks(key); {
		case strings.EqualFold(key, "max-age"):
			if n, ok := seconds(value); ok {
				age, c.ends = true, now.Add(n)
			}
		case strings.EqualFold(key, "expires") && !age:
			if at, ok := cookieDate(value); ok {
				c.ends = at
			}
		}
	}
	c.gone = c.gone || !c.ends.IsZero() && !c.ends.After(now)
	return c
}

func blanks(s string) string { return strings.Trim(s, " \t") }

// seconds reads a Max-Age (RFC 6265, section 5.2.2), bounded by how long browsers keep cookies.
func seconds(s string) (time.Duration, bool) {
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil { // more than there is room for
		n = math.MaxInt32
		if digits != s {
			n = -1
		}
	}
	return time.Duration(min(n, math.MaxInt32)) * time.Second, true
}

// cookieDate reads a date as browsers do: whatever of a time, a day, a month and a year is in it (RFC 6265, section 5.1.1).
func cookieDate(s string) (time.Time, bool) {
	var clock []int
	day, month, year := -1, -1, -1
	for token := range strings.FieldsFuncSeq(s, func(r rune) bool {
		return r == '\t' || r >= 0x20 && r <= 0x2f || r >= 0x3b && r <= 0x40 || r >= 0x5b && r <= 0x60 || r >= 0x7b && r <= 0x7e
	}) {
		n, width := leading(token)
		switch {
		case clock == nil && strings.Count(token, ":") == 2:
			for part := range strings.SplitSeq(token, ":") {
				if n, width := leading(part); width == 1 || width == 2 {
					clock = append(clock, n)
				}
			}
			if len(clock) != 3 {
				clock = nil
			}
		case day < 0 && (width == 1 || width == 2):
			day = n
		case month < 0 && len(token) >= 3 && monthOf(token) > 0:
			month = monthOf(token)
		case year < 0 && (width == 2 || width == 4):
			switch {
			case width == 2 && n >= 70:
				n += 1900
			case width == 2:
				n += 2000
			}
			year = n
		}
	}
	if clock == nil || month < 0 || day < 1 || day > 31 || year < 1601 || clock[0] > 23 || clock[1] > 59 || clock[2] > 59 {
		return time.Time{}, false
	}
	return time.Date(year, time.Month(month), day, clock[0], clock[1], clock[2], 0, time.UTC), true
}

// leading is the number that a text begins with, and how many digits it has.
func leading(s string) (n, width int) {
	for width < len(s) && width < 9 && s[width] >= '0' && s[width] <= '9' {
		n = n*10 + int(s[width]-'0')
		width++
	}
	return n, width
}

// monthOf is the month whose English name a text begins with, 0 for none.
func monthOf(s string) int {
	i := strings.Index("janfebmaraprmayjunjulaugsepoctnovdec", strings.ToLower(s[:3]))
	if i < 0 || i%3 != 0 {
		return 0
	}
	return i/3 + 1
}

// spelled is the name under which a cookie comes back: one without a name as its value alone (RFC 6265bis, section 5.8.3).
func (c setCookie) spelled() string {
	if c.name != "" {
		return c.name
	}
	name, _, _ := strings.Cut(c.value, "=")
	return blanks(name)
}

// withoutTheirs takes cookies of the gateway's name out of a reply of the primary's: they are not the primary's to set, or to take away.
func withoutTheirs(h http.Header) {
	keepCookies(h, func(line string) bool {
		name := readSetCookie(line, time.Time{}).spelled()
		return name != hostCookie && name != plainCookie
	})
}

// withoutTaken takes the cookies out of a failed reply that it would take away from the browser, or put in the place of the primary's
// session cookies: a failure ends nobody's session, and begins none.
func withoutTaken(h http.Header, sessions []string, now time.Time) {
	keepCookies(h, func(line string) bool {
		c := readSetCookie(line, now)
		return !c.gone && !slices.Contains(sessions, c.spelled())
	})
}

// keepCookies takes those cookies out of a reply that need not be kept.
func keepCookies(h http.Header, keep func(line string) bool) {
	lines := h["Set-Cookie"]
	if len(lines) == 0 {
		return
	}
	var out []string
	for _, line := range lines {
		if keep(line) {
			out = append(out, line)
		}
	}
	h.Del("Set-Cookie")
	if len(out) > 0 {
		h["Set-Cookie"] = out
	}
}
