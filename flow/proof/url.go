package proof

import (
	"net/netip"
	"strings"
)

const maxURL = 4 << 10

// sameURL compares htu with the URL of the request as RFC 9449, section 4.3, has it: without query and fragment, after
// the normalisations of RFC 3986, sections 6.2.2 and 6.2.3. What is no plain http or https URL equals nothing.
func sameURL(a, b string) bool {
	x, ok := normal(a)
	y, ok2 := normal(b)
	return ok && ok2 && x == y
}

func normal(s string) (string, bool) {
	s, _, _ = strings.Cut(s, "#")
	s, _, _ = strings.Cut(s, "?")
	scheme, rest, ok := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	standard := map[string]string{"https": "443", "http": "80"}[scheme]
	if !ok || standard == "" || len(s) > maxURL {
		return "", false
	}
	authority, path := rest, "/"
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	host, port, ok1 := hostPort(authority)
	path, ok2 := normalPath(path)
	if port != "" && port != standard {
		host += ":" + port
	}
	return scheme + "://" + host + path, ok1 && ok2
}

// hostPort takes names of the letters that DNS has, in lower case, and IP addresses; no user, no percent, no zone.
func hostPort(s string) (host, port string, ok bool) {
	if strings.HasPrefix(s, "[") {
		inside, rest, _ := strings.Cut(s[1:], "]")
		a, err := netip.ParseAddr(inside)
		if err != nil || !a.Is6() || a.Zone() != "" || rest != "" && rest[0] != ':' {
			return "", "", false
		}
		return "[" + a.String() + "]", strings.TrimPrefix(rest, ":"), digits(strings.TrimPrefix(rest, ":"))
	}
	host, port, _ = strings.Cut(s, ":")
	host = strings.ToLower(host)
	odd := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	}
	return host, port, host != "" && !strings.ContainsFunc(host, odd) && digits(port)
}

func digits(port string) bool { return len(port) <= 5 && strings.Trim(port, "0123456789") == "" }

// normalPath spells percent-encodings in one way, undoes those that were not needed (never an encoded slash), and takes
// dot segments out.
func normalPath(s string) (string, bool) {
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
		case unreserved(c) || strings.IndexByte("/!$&'()*+,;=:@", c) >= 0:
			b.WriteByte(c)
		default:
			return "", false
		}
	}
	segments := strings.Split(b.String(), "/")[1:]
	var out []string
	for i, seg := range segments {
		last := i == len(segments)-1
		switch {
		case seg != "." && seg != "..":
			out = append(out, seg)
			continue
		case seg == ".." && len(out) > 0:
			out = out[:len(out)-1]
		}
		if last {
			out = append(out, "")
		}
	}
	return "/" + strings.Join(out, "/"), true
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
