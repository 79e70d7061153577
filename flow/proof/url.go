package proof

import (
	"net/netip"
	"net/url"
	"strings"
	"unicode/utf8"
)

const maxURL = 4 << 10

// sameURL compares htu with the URL of the request as RFC 9449, section 4.3, has it: without query and fragment, after
// the normalisations of RFC 3986, sections 6.2.2 and 6.2.3. What is no plain http or https URL equals nothing.
func sameURL(a, b string) bool {
	x := normal(a)
	return x != "" && x == normal(b)
}

// normal is the normal form of a URL, or "".
func normal(s string) string {
	s, _, _ = strings.Cut(s, "#")
	s, _, _ = strings.Cut(s, "?")
	s, ok := percents(s)
	u, err := url.Parse(s)
	if !ok || err != nil || u.User != nil || u.Opaque != "" || len(s) > maxURL {
		return ""
	}
	host, port := strings.ToLower(u.Hostname()), u.Port()
	odd := func(r rune) bool { return r >= utf8.RuneSelf || !unreserved(byte(r)) || r == '~' }
	switch a, err := netip.ParseAddr(host); {
	case strings.HasPrefix(u.Host, "["):
		if err != nil || !a.Is6() || a.Zone() != "" {
			return ""
		}
		host = "[" + a.String() + "]"
	case host == "" || strings.ContainsFunc(host, odd):
		return ""
	}
	standard := map[string]string{"https": "443", "http": "80"}[u.Scheme]
	switch {
	case standard == "":
		return ""
	case port != "" && port != standard:
		host += ":" + port
	}
	u = u.ResolveReference(&url.URL{Path: u.Path, RawPath: u.RawPath}) // takes dot segments out
	if path := u.EscapedPath(); path != "" {
		return u.Scheme + "://" + host + path
	}
	return u.Scheme + "://" + host + "/"
}

// percents spells percent-encodings in one way and undoes those that were not needed, but never an encoded slash. ok is
// false where a byte may not be in a URL as it is.
func percents(s string) (out string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return "", false
			}
			if c = unhex(s[i+1])<<4 | unhex(s[i+2]); unreserved(c) {
				b.WriteByte(c)
			} else {
				b.WriteString(strings.ToUpper(s[i : i+3]))
			}
			i += 2
		case unreserved(c) || strings.IndexByte(":/@[]!$&'()*+,;=", c) >= 0:
			b.WriteByte(c)
		default:
			return "", false
		}
	}
	return b.String(), true
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
