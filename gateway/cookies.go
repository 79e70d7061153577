package gateway

import (
	"net/http"
	"slices"
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

// withoutTheirs takes cookies of the gateway's name out of a reply of the primary's: they are not the primary's to set, or to take away.
func withoutTheirs(h http.Header) {
	keepCookies(h, func(c *http.Cookie) bool { return c.Name != hostCookie && c.Name != plainCookie })
}

// withoutTaken takes the cookies out of a failed reply that it would take away from the browser: a failure ends nobody's session.
func withoutTaken(h http.Header, now time.Time) {
	keepCookies(h, func(c *http.Cookie) bool {
		return c.Value != "" && c.MaxAge >= 0 && (c.MaxAge > 0 || c.Expires.IsZero() || c.Expires.After(now))
	})
}

// keepCookies takes those cookies out of a reply that need not be kept. What cannot be read stays.
func keepCookies(h http.Header, keep func(c *http.Cookie) bool) {
	lines := h["Set-Cookie"]
	if len(lines) == 0 {
		return
	}
	var out []string
	for _, line := range lines {
		if c, err := http.ParseSetCookie(line); err != nil || keep(c) {
			out = append(out, line)
		}
	}
	h.Del("Set-Cookie")
	if len(out) > 0 {
		h["Set-Cookie"] = out
	}
}
