package oauth

import (
	"encoding/base64"
	"strings"
)

// Canonical is a token in the one spelling by which it is found. Lenient primaries take others for the same: white space and
// padding around it, the other alphabet of base64, bits of a last character that no byte holds (RFC 4648, section 3.5). What
// was ended must not pass in another spelling. Only tokens of JOSE's form have others; the rest are compared as they are.
func Canonical(token string) string {
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

// visible drops what decoders of base64 pass over.
func visible(r rune) rune {
	if r <= ' ' {
		return -1
	}
	return r
}
