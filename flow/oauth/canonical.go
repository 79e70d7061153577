package oauth

import (
	"encoding/base64"
	"strings"
)

// Canonical is a token in the one spelling by which it is found. Lenient primaries take others for the same: white space and
// padding around it, the other alphabet of base64, bits of a last character that no byte holds (RFC 4648, section 3.5). What
// was ended must not pass in another spelling. Only tokens of JOSE's form have others; the rest are compared as they are.
func Canonical(token string) string {
	if canonical(token) {
		return token
	}
	return respelled(token)
}

func respelled(token string) string {
	t := strings.TrimFunc(token, func(r rune) bool { return r <= ' ' })
	parts := strings.Split(strings.TrimRight(t, "=."), ".")
	if len(parts) != 3 && len(parts) != 5 {
		return t
	}
	for i, p := range parts {
		p = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(strings.Map(visible, p), "="))
		b, err := base64.RawURLEncoding.DecodeString(p) // not strict: unused bits are passed over
		if err != nil {
			return t
		}
		parts[i] = base64.RawURLEncoding.EncodeToString(b)
	}
	return strings.Join(parts, ".")
}

// canonical says whether a token is in that spelling, or has no other: so are almost all. It is asked for every token, of kilobytes.
func canonical(token string) bool {
	for part := range strings.SplitSeq(token, ".") {
		switch n := len(part); {
		case n == 0, !digits(part), n%4 == 1:
			return false
		case n%4 == 2 && digit(part[n-1])&15 != 0, n%4 == 3 && digit(part[n-1])&3 != 0:
			return false
		}
	}
	return true
}

// digits says whether all characters are base64url's. A set of bits and no branch for each: which comes next, nobody foretells.
func digits(s string) bool {
	const all = (1<<10-1)<<'0' | (1<<26-1)<<'A' | (1<<26-1)<<'a' | 1<<'-' | 1<<'_'
	set := [4]uint64{all & (1<<64 - 1), all >> 64}
	ok := uint64(1)
	for i := range len(s) {
		ok &= set[s[i]>>6] >> (s[i] & 63)
	}
	return ok == 1
}

// digit is the value of a character of base64url, -1 where it is none (RFC 4648, section 5).
func digit(c byte) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 26
	case c >= '0' && c <= '9':
		return int(c-'0') + 52
	case c == '-':
		return 62
	case c == '_':
		return 63
	}
	return -1
}

// visible drops what decoders of base64 pass over.
func visible(r rune) rune {
	if r <= ' ' {
		return -1
	}
	return r
}
