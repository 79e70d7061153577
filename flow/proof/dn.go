package proof

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"unicode/utf8"
)

// dn is the string form of a subject (RFC 4514): the last name first, no blanks around separators, types by the short
// names below and else by number, with the value as text. Two subjects have one string only where their types and values
// are the same. It is "" where the subject is empty or has a value that is no text.
func dn(raw []byte) string {
	var names pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &names); err != nil || len(rest) > 0 {
		return ""
	}
	short := map[string]string{
		"2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "SERIALNUMBER", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST",
		"2.5.4.9": "STREET", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.17": "POSTALCODE",
		"0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC", "1.2.840.113549.1.9.1": "EMAILADDRESS",
	}
	var b strings.Builder
	for _, set := range slices.Backward(names) {
		for i, a := range set {
			v, ok := a.Value.(string)
			if !ok || !utf8.ValidString(v) {
				return ""
			}
			switch {
			case i > 0:
				b.WriteByte('+')
			case b.Len() > 0:
				b.WriteByte(',')
			}
			oid := a.Type.String()
			if name := short[oid]; name != "" {
				oid = name
			}
			b.WriteString(oid + "=" + escapeDN(v))
		}
	}
	return b.String()
}

// escapeDN escapes a value (RFC 4514, section 2.4).
func escapeDN(v string) string {
	var b strings.Builder
	for i, r := range v {
		edge := i == 0 || i == len(v)-1
		switch {
		case r == 0:
			b.WriteString(`\00`)
			continue
		case strings.ContainsRune(`"+,;<>\`, r), r == '#' && i == 0, r == ' ' && edge:
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
