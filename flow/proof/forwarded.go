package proof

import (
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/url"
	"strings"
)

// Shape is how a proxy writes a client certificate into a header.
type Shape int

const (
	// EscapedPEM is percent-encoded PEM: nginx's $ssl_client_escaped_cert, by custom in X-SSL-Client-Cert.
	EscapedPEM Shape = iota
	// XFCC is Envoy's X-Forwarded-Client-Cert, with its Cert member switched on (set_current_client_cert_details).
	XFCC
	// ByteSequence is Client-Cert of RFC 9440: DER as a byte sequence of structured fields.
	ByteSequence
)

// Forwarded reads the client certificate that a trusted proxy forwards in a header. Everybody can write a header: the
// caller has made sure that the request came from the proxy, and the proxy replaces what its clients send.
//
// Envoy can also append (APPEND_FORWARD), each proxy at the right: the rightmost element is what the proxy next to us saw,
// everything left of the elements of trusted proxies is the client's own invention. The leftmost element is therefore
// never taken as such: Hops counts from the right.
type Forwarded struct {
	Shape  Shape
	Header string // "": X-SSL-Client-Cert, X-Forwarded-Client-Cert or Client-Cert, by the shape
	// Hops is, of XFCC, the number of trusted proxies that append; the certificate is the one that the first of them
	// saw. 0: one.
	Hops int
	// Verifies says that the proxy lets no certificate through whose issuer it has not verified (ssl_verify_client on).
	// VerifyHeader names a header with the outcome instead: SUCCESS (nginx's $ssl_client_verify) or 0 (HAProxy's
	// ssl_c_verify). Without either, tls_client_auth is refused.
	Verifies     bool
	VerifyHeader string
}

// Name is the name of the header.
func (f Forwarded) Name() string {
	if f.Header != "" {
		return f.Header
	}
	return map[Shape]string{EscapedPEM: "X-SSL-Client-Cert", XFCC: "X-Forwarded-Client-Cert", ByteSequence: "Client-Cert"}[f.Shape]
}

// Write is the value of a header that holds a certificate, as the next one reads it: percent-encoded PEM, or a byte sequence.
func (s Shape) Write(c *Certificate) string {
	if s == ByteSequence {
		return ":" + base64.StdEncoding.EncodeToString(c.x509.Raw) + ":"
	}
	return url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.x509.Raw})))
}

// maxForwarded bounds a header with certificates, in bytes.
const maxForwarded = 32 << 10

// Certificate reads the header. Errors wrap [CertificateMissing], [CertificateRepeated] or [CertificateMalformed].
func (f Forwarded) Certificate(h http.Header) (*Certificate, error) {
	values := h.Values(f.Name())
	switch {
	case len(values) == 0 || len(values) == 1 && strings.TrimSpace(values[0]) == "":
		return nil, CertificateMissing.because("the proxy forwarded no client certificate")
	case len(values) > 1:
		return nil, CertificateRepeated.because("the header came more than once: have the proxy replace what clients send")
	case len(values[0]) > maxForwarded:
		return nil, CertificateMalformed.because("the header is larger than 32 KiB")
	}
	value := strings.Trim(values[0], " \t")
	var der []byte
	ok := false
	switch f.Shape {
	case EscapedPEM:
		der, ok = escapedPEM(value)
	case XFCC:
		var cert string
		if cert, ok = xfcc(value, max(f.Hops, 1)); ok {
			der, ok = escapedPEM(cert)
		}
	case ByteSequence:
		if len(value) > 2 && value[0] == ':' && value[len(value)-1] == ':' && !strings.ContainsAny(value, "\r\n") {
			var err error
			der, err = base64.StdEncoding.Strict().DecodeString(value[1 : len(value)-1])
			ok = err == nil
		}
	}
	if !ok {
		return nil, CertificateMalformed.because("the header has not the configured shape, or no certificate in it")
	}
	outcome := h.Values(f.VerifyHeader)
	return parseCertificate(der, f.Verifies || f.VerifyHeader != "" && len(outcome) == 1 && (outcome[0] == "SUCCESS" || outcome[0] == "0"))
}

// escapedPEM reads one certificate and nothing else. A plus is a plus: this is no form.
func escapedPEM(s string) ([]byte, bool) {
	s, err := url.PathUnescape(s)
	if err != nil || !strings.HasPrefix(s, "-----BEGIN CERTIFICATE-----") {
		return nil, false
	}
	block, rest := pem.Decode([]byte(s))
	if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 || strings.TrimSpace(string(rest)) != "" {
		return nil, false
	}
	return block.Bytes, true
}

// xfcc returns the Cert of the element that is the hops-th from the right. All elements are read, because a quote that
// does not end would move the others.
func xfcc(s string, hops int) (string, bool) {
	var elements []map[string]string
	element := map[string]string{}
	for {
		key, rest, ok := strings.Cut(s, "=")
		key = strings.ToLower(strings.TrimLeft(key, " \t"))
		if !ok || key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz") != "" {
			return "", false
		}
		value, rest, ok := xfccValue(rest)
		if _, twice := element[key]; !ok || twice && key != "dns" && key != "uri" {
			return "", false
		}
		element[key] = value
		if rest == "" || rest[0] == ',' {
			elements, element = append(elements, element), map[string]string{}
		}
		if rest == "" {
			break
		}
		s = rest[1:]
	}
	if len(elements) < hops {
		return "", false
	}
	cert := elements[len(elements)-hops]["cert"]
	return cert, cert != ""
}

// xfccValue reads a value; rest begins with the separator behind it, or is empty.
func xfccValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		end := len(s)
		if i := strings.IndexAny(s, ",;"); i >= 0 {
			end = i
		}
		return s[:end], s[end:], !strings.Contains(s[:end], `"`)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] == '"':
			rest = s[i+1:]
			return b.String(), rest, rest == "" || rest[0] == ',' || rest[0] == ';'
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}
