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

// canonical says whether a token is in that spelling, or has no other: so are almost all.
func canonical(token string) bool {
	begin := 0
	for i := 0; i <= len(token); i++ {
		if i < len(token) && token[i] != '.' {
			if digit(token[i]) < 0 {
				return false
			}
			continue
		}
		switch n := i - begin; {
		case n == 0: // a part without anything in it
			return false
		case n%4 == 1, n%4 == 2 && digit(token[i-1])&15 != 0, n%4 == 3 && digit(token[i-1])&3 != 0:
			return false
		}
		begin = i + 1
	}
	return true
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
