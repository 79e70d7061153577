package proof

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

var errDN = errors.New("no distinguished name as RFC 4514 has it: CN=client,O=Example,C=DE")

// rdns reads the names of a subject; nil where it cannot be read or is empty.
func rdns(raw []byte) pkix.RDNSequence {
	var out pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &out); err != nil || len(rest) > 0 {
		return nil
	}
	return out
}

// canonical spells the names of a certificate so that they can be compared, in the order of RFC 4514. Values are compared
// exactly: case matters, whatever the type's own rule. ok is false where a value is no text.
func canonical(names pkix.RDNSequence) (out []string, ok bool) {
	for _, set := range slices.Backward(names) {
		var rdn []string
		for _, a := range set {
			v, text := a.Value.(string)
			if !text || !utf8.ValidString(v) {
				return nil, false
			}
			rdn = append(rdn, a.Type.String()+"="+strconv.Quote(v))
		}
		slices.Sort(rdn)
		out = append(out, strings.Join(rdn, "+"))
	}
	return out, true
}

// parseDN reads the string form of RFC 4514 into the form of canonical. Blanks around separators are passed over
// (RFC 2253); quoted values and semicolons are not taken.
func parseDN(s string) ([]string, error) {
	var out, rdn []string
	for {
		key, rest, ok := strings.Cut(s, "=")
		oid := attribute(strings.TrimSpace(key))
		if !ok || oid == "" {
			return nil, errDN
		}
		value, rest, err := dnValue(strings.TrimLeft(rest, " "))
		if err != nil {
			return nil, err
		}
		rdn = append(rdn, oid+"="+strconv.Quote(value))
		if rest != "" && rest[0] == '+' {
			s = rest[1:]
			continue
		}
		slices.Sort(rdn)
		out, rdn = append(out, strings.Join(rdn, "+")), nil
		if rest == "" {
			return out, nil
		}
		s = rest[1:]
	}
}

// dnValue reads one value; rest begins with the separator behind it, or is empty.
func dnValue(s string) (value, rest string, err error) {
	if strings.HasPrefix(s, "#") {
		end := len(s)
		if i := strings.IndexAny(s, ",+"); i >= 0 {
			end = i
		}
		der, err := hex.DecodeString(strings.TrimSpace(s[1:end]))
		var v any
		if err == nil {
			var more []byte
			if more, err = asn1.Unmarshal(der, &v); len(more) > 0 {
				err = errDN
			}
		}
		text, ok := v.(string)
		if err != nil || !ok || !utf8.ValidString(text) {
			return "", "", errDN
		}
		return text, s[end:], nil
	}
	var b []byte
	keep := 0 // blanks before it are part of the value
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ',' || c == '+':
			return finish(b, keep, s[i:])
		case strings.IndexByte("\"<>;\x00", c) >= 0:
			return "", "", errDN
		case c != '\\':
			b = append(b, c)
			if c != ' ' {
				keep = len(b)
			}
		case i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			b = append(b, unhex(s[i+1])<<4|unhex(s[i+2]))
			keep, i = len(b), i+2
		case i+1 < len(s) && strings.IndexByte(" \"#+,;<=>\\", s[i+1]) >= 0:
			b = append(b, s[i+1])
			keep, i = len(b), i+1
		default:
			return "", "", errDN
		}
	}
	return finish(b, keep, "")
}

func finish(b []byte, keep int, rest string) (string, string, error) {
	if !utf8.Valid(b[:keep]) {
		return "", "", errDN
	}
	return string(b[:keep]), rest, nil
}

// attribute is the object identifier of an attribute type's name (RFC 4514, section 3, and those in common use), or "".
func attribute(name string) string {
	names := map[string]string{
		"CN": "2.5.4.3", "SN": "2.5.4.4", "SERIALNUMBER": "2.5.4.5", "C": "2.5.4.6", "L": "2.5.4.7", "ST": "2.5.4.8",
		"STREET": "2.5.4.9", "O": "2.5.4.10", "OU": "2.5.4.11", "TITLE": "2.5.4.12", "POSTALCODE": "2.5.4.17",
		"GIVENNAME": "2.5.4.42", "ORGANIZATIONIDENTIFIER": "2.5.4.97", "UID": "0.9.2342.19200300.100.1.1",
		"DC": "0.9.2342.19200300.100.1.25", "E": "1.2.840.113549.1.9.1", "EMAILADDRESS": "1.2.840.113549.1.9.1",
	}
	upper := strings.ToUpper(name)
	if oid := names[upper]; oid != "" {
		return oid
	}
	oid := strings.TrimPrefix(upper, "OID.")
	if !strings.Contains(oid, ".") || strings.Trim(oid, "0123456789.") != "" {
		return ""
	}
	return oid
}
