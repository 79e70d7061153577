package proof

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"understudy/session"
)

// Certificate is a client certificate whose private key the client has shown to hold, in a TLS handshake with us or with
// a trusted proxy.
type Certificate struct {
	x509     *x509.Certificate
	verified bool
}

// FromTLS returns the certificate of a connection of our own; state may be nil. Its issuer was verified where
// tls.Config.ClientAuth says so (VerifyClientCertIfGiven). Errors wrap [CertificateMissing].
func FromTLS(state *tls.ConnectionState) (*Certificate, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil, CertificateMissing.because("the connection has no client certificate")
	}
	return &Certificate{x509: state.PeerCertificates[0], verified: len(state.VerifiedChains) > 0}, nil
}

// parseCertificate parses DER that a proxy vouches for.
func parseCertificate(der []byte, verified bool) (*Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, CertificateMalformed.because("the header holds no X.509 certificate")
	}
	return &Certificate{x509: c, verified: verified}, nil
}

// Verify says whether roots vouch for the certificate, over the certificates in between that came with it, and returns the
// key of the one that does (SubjectPublicKeyInfo). From then on its issuer counts as verified.
func (c *Certificate) Verify(roots *x509.CertPool, between []*x509.Certificate, now time.Time) (anchor []byte, ok bool) {
	pool := x509.NewCertPool()
	for _, b := range between {
		pool.AddCert(b)
	}
	chains, err := c.x509.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, false
	}
	c.verified = true
	return chains[0][len(chains[0])-1].RawSubjectPublicKeyInfo, true
}

// Valid says whether the certificate is valid now.
func (c *Certificate) Valid(now time.Time) bool { return c.valid(now) == nil }

// Key is the public key (SubjectPublicKeyInfo).
func (c *Certificate) Key() []byte { return c.x509.RawSubjectPublicKeyInfo }

// SignsItself says whether its own key signed the certificate.
func (c *Certificate) SignsItself() bool {
	return bytes.Equal(c.x509.RawIssuer, c.x509.RawSubject) && c.x509.CheckSignature(c.x509.SignatureAlgorithm, c.x509.RawTBSCertificate, c.x509.Signature) == nil
}

// Thumbprint is x5t#S256 (RFC 8705, section 3.1): what cnf says of a token bound to the certificate.
func (c *Certificate) Thumbprint() string {
	sum := sha256.Sum256(c.x509.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Subject is what a certificate must name for tls_client_auth: all that is given here, and at least one thing. A
// configured one has one name (RFC 8705, section 2.1.2). A learned one has all that the certificate had, because which of
// them the primary looks at does not show: the subject may be the same for every client of a company.
type Subject struct {
	DN    string   `json:"dn,omitempty"` // as RFC 4514 has it, exactly: CN=client,O=Example,C=DE
	DNS   []string `json:"dns,omitempty"`
	URI   []string `json:"uri,omitempty"`
	IP    []string `json:"ip,omitempty"`
	Email []string `json:"email,omitempty"`
}

// Subject returns everything that the certificate names, to be learned. Errors wrap [CertificateSubject] where it names
// nothing, or something that could not be compared again.
func (c *Certificate) Subject() (Subject, error) {
	s := Subject{DN: dn(c.x509.RawSubject), DNS: slices.Clone(c.x509.DNSNames), Email: slices.Clone(c.x509.EmailAddresses)}
	for _, u := range c.x509.URIs {
		s.URI = append(s.URI, u.String())
	}
	for _, ip := range c.x509.IPAddresses {
		s.IP = append(s.IP, ip.String())
	}
	return s, c.names(s)
}

// TLSClientAuth checks a certificate of a verified issuer for tls_client_auth. Errors wrap [CertificateUnverified],
// [CertificateExpired] or [CertificateSubject].
func (c *Certificate) TLSClientAuth(want Subject, now time.Time) error {
	if !c.verified {
		return CertificateUnverified.because("nobody verified the issuer of the client certificate: have the proxy say so, or our own TLS ask for it")
	}
	if err := c.valid(now); err != nil {
		return err
	}
	return c.names(want)
}

func (c *Certificate) names(want Subject) error {
	x := c.x509
	given := len(want.DNS) + len(want.URI) + len(want.IP) + len(want.Email) + len(want.DN)
	if given == 0 || want.DN != "" && want.DN != dn(x.RawSubject) ||
		!all(want.DNS, x.DNSNames, strings.EqualFold) ||
		!all(want.URI, x.URIs, func(s string, u *url.URL) bool { return u.String() == s }) ||
		!all(want.IP, x.IPAddresses, func(s string, ip net.IP) bool { return ip.Equal(net.ParseIP(s)) }) ||
		!all(want.Email, x.EmailAddresses, func(s, have string) bool { return s == have }) {
		return CertificateSubject.because("the client certificate has another subject, or none that can be compared")
	}
	return nil
}

// all says whether everything wanted is there.
func all[T any](want []string, have []T, same func(string, T) bool) bool {
	for _, w := range want {
		if w == "" || !slices.ContainsFunc(have, func(h T) bool { return same(w, h) }) {
			return false
		}
	}
	return true
}

// SelfSigned checks a certificate for self_signed_tls_client_auth (RFC 8705, section 2.2): its key must be among the
// registered ones and, where a certificate was registered with that key, it must be that one. Errors wrap
// [CertificateExpired] or [CertificateKeyUnknown].
func (c *Certificate) SelfSigned(keys *ClientKeys, now time.Time) error {
	if err := c.valid(now); err != nil {
		return err
	}
	public, ok := c.x509.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	sum := sha256.Sum256(c.x509.Raw)
	for _, k := range keys.all() {
		if ok && public.Equal(k.public) && (k.certificate == nil || string(k.certificate) == string(sum[:])) {
			return nil
		}
	}
	return CertificateKeyUnknown.because("the client certificate is none of those that the client registered")
}

func (c *Certificate) valid(now time.Time) error {
	if now.Before(c.x509.NotBefore) || now.After(c.x509.NotAfter) {
		return CertificateExpired.because("the client certificate is not valid now")
	}
	return nil
}

// keycloaksJKT is a member in which Keycloak says what its jkt is of.
const keycloaksJKT = "kc-jkt-type"

// Confirmation is to what a token is bound: the cnf claim (RFC 7800; RFC 9449, section 6.1; RFC 8705, section 3.1). The
// zero value is a bearer token's.
type Confirmation struct {
	Key         string // jkt
	Certificate string // x5t#S256
}

// ReadConfirmation reads cnf from the claims of a token or of an introspection. Errors wrap [ConfirmationUnknown] where
// the token is bound in another way, or in one more.
func ReadConfirmation(claims session.Object) (Confirmation, error) {
	if !claims.Has("cnf") {
		return Confirmation{}, nil
	}
	o, err := session.ParseObject(claims.Get("cnf"))
	c := Confirmation{Key: o.Text("jkt"), Certificate: o.Text("x5t#S256")}
	if err != nil || c == (Confirmation{}) || o.Has("jkt") != (c.Key != "") || o.Has("x5t#S256") != (c.Certificate != "") ||
		len(o.Without("jkt", "x5t#S256", keycloaksJKT)) > 0 {
		return Confirmation{}, ConfirmationUnknown.because("the token is bound to something that is not known here")
	}
	return c, nil
}

// Check checks what was shown, or nil, against all that the token is bound to. That a token is not bound although a proof
// came is for the caller to judge (RFC 9449, section 7.1). Errors wrap [DPoPMissing], [DPoPBinding], [CertificateMissing]
// or [CertificateBinding].
func (c Confirmation) Check(key *Possession, certificate *Certificate) error {
	switch {
	case c.Key != "" && key == nil:
		return DPoPMissing.because("the token is bound to a key, and there is no proof of it")
	case c.Key != "" && key.Thumbprint != c.Key:
		return DPoPBinding.because("the token is bound to another key")
	case c.Certificate != "" && certificate == nil:
		return CertificateMissing.because("the token is bound to a client certificate, and there is none")
	case c.Certificate != "" && certificate.Thumbprint() != c.Certificate:
		return CertificateBinding.because("the token is bound to another client certificate")
	}
	return nil
}
