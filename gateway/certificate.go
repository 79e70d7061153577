package gateway

import (
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"understudy/flow"
	"understudy/flow/proof"
	"understudy/session"
)

// Certificates says where the certificates of a tenant's clients come from (RFC 8705), and how the primary gets them: as TLS
// ends at the gateway, the primary sees them only in a header.
type Certificates struct {
	// Roots vouch for the certificates; nil: they are taken as they come, and each is known by itself alone.
	Roots *x509.CertPool
	// Forwarded is how trusted proxies forward them; nil: they do not.
	Forwarded *proof.Forwarded
	// Header and Shape are those in which the primary reads them.
	Header string
	Shape  proof.Shape
}

// shown is the client certificate of a request.
type shown struct {
	*proof.Certificate        // nil: none came
	anchor             []byte // the key of who vouches for it; nil: nobody does
	unusable           bool   // one came, and it is not to be had, not valid, or nobody vouches for it though somebody should
}

// certificate takes the client certificate of a request, and takes out of it every header in which a primary might read
// another one: what a client writes there itself is no certificate.
func (t *Tenant) certificate(r *http.Request, now time.Time) (c shown) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	proxied := err == nil && t.trusts(host)
	if t.Certificates == nil {
		if !proxied {
			withoutCertificates(r.Header, "")
		}
		return c // what a proxy forwards passes, and is not learned
	}
	between := []*x509.Certificate(nil)
	switch f := t.Certificates.Forwarded; {
	case proxied && f != nil:
		c.Certificate, err = f.Certificate(r.Header)
		c.unusable = err != nil && proof.CodeOf(err) != proof.CertificateMissing
	case r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		c.Certificate, err = proof.FromTLS(r.TLS)
		c.unusable = err != nil || proxied // it is the proxy's own
		between = r.TLS.PeerCertificates[1:]
	}
	withoutCertificates(r.Header, t.Certificates.Header)
	if t.Certificates.Forwarded != nil {
		withoutCertificates(r.Header, t.Certificates.Forwarded.Name())
	}
	if c.unusable || c.Certificate == nil {
		return shown{unusable: c.unusable}
	}
	c.unusable = !c.Valid(now)
	if roots := t.Certificates.Roots; roots != nil {
		var ok bool
		if c.anchor, ok = c.Verify(roots, between, now); !ok && !t.registered(c.Certificate, now) {
			c.unusable = true
		}
	}
	return c
}

// registered says whether a certificate is one that a client registered (RFC 8705, section 2.2).
func (t *Tenant) registered(c *proof.Certificate, now time.Time) bool {
	for _, keys := range t.ClientKeys {
		if c.SelfSigned(keys, now) == nil {
			return true
		}
	}
	for client := range t.fetched {
		if c.SelfSigned(t.keysOf(client), now) == nil {
			return true
		}
	}
	return false
}

// withoutCertificates takes out every header that proxies write client certificates into, and one more. Names are compared as
// gateways of old compare them, to which _ and - are the same.
func withoutCertificates(h http.Header, more string) {
	plain := func(name string) string { return strings.ReplaceAll(strings.ToLower(name), "_", "-") }
	names := []string{"client-cert", "ssl-client", "x-ssl-client", "x-ssl-cert", "x-client-cert", "x-forwarded-client-cert", "x-forwarded-tls-client-cert", "cert-chain", "ssl-cert"}
	if more != "" {
		names = append(names, plain(more))
	}
	for name := range h {
		if more == "" && !strings.Contains(name, "ert") && !strings.Contains(name, "sl") {
			continue // in canonical form, none of them: most headers, of every request
		}
		p := plain(name)
		if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(p, n) }) {
			delete(h, name)
		}
	}
}

// handOn writes the certificate for the primary. One that is unusable here is not handed on: the primary could take what
// nobody vouches for.
func (v *visit) handOn(h http.Header) {
	to, c := v.tenant.Certificates, v.certificate
	if to == nil || c.Certificate == nil || c.unusable || !v.mayShow() {
		return
	}
	h.Set(to.Header, to.Shape.Write(c.Certificate))
}

// mayShow says whether the primary may see the certificate. Where an authority should vouch for it and does not, it is one
// that a client registered, and is for that client alone: whatever it names, it names by itself.
func (v *visit) mayShow() bool {
	if v.tenant.Certificates.Roots == nil || v.certificate.anchor != nil {
		return true
	}
	if v.exchange == nil {
		return false
	}
	id := v.exchange.Ask().Client.ID
	if id == "" {
		return v.endpoint == flow.UserInfo // whose token is bound to it
	}
	return v.certificate.SelfSigned(v.tenant.keysOf(id), v.began) == nil
}

// asked is what a flow must know of the certificate.
func (c shown) asked() flow.Certificate {
	switch {
	case c.unusable:
		return flow.Certificate{Unusable: true}
	case c.Certificate == nil:
		return flow.Certificate{}
	}
	method := "tls_client_auth"
	if c.SignsItself() {
		method = "self_signed_tls_client_auth"
	}
	return flow.Certificate{Method: method, Thumbprint: c.Thumbprint()}
}

// certify derives the client authentication by certificate: what must be the same again. It is false where the certificate is
// none of those that the client registered.
func (t *trip) certify() bool {
	c, client := t.v.certificate, t.ask.Client
	t.proof = flow.Proof{ID: client.ID, Method: client.Method, Vouched: t.vouched}
	if t.vouched {
		return true
	}
	same := session.Joined("certificate", c.Thumbprint()) // this very one
	switch keys := t.v.tenant.keysOf(client.ID); {
	case client.Method == "self_signed_tls_client_auth" && keys != nil:
		if c.SelfSigned(keys, t.g.c.Now()) != nil {
			return false
		}
		same = session.Joined("key", string(c.Key()))
	case client.Method == "tls_client_auth" && c.anchor != nil:
		s, err := c.Subject()
		if err != nil {
			break
		}
		b, err := json.Marshal(s)
		if err != nil {
			return false
		}
		same = session.Joined("subject", string(b), string(c.anchor))
	}
	t.proof.SecretID = t.g.c.Seal.Pseudonym("client-certificate", t.v.tenant.Name, t.v.issuer.ID, session.Joined(client.ID, same))
	return true
}

// bears says whether everything is shown to which a token is bound: what the primary refuses for the lack of it says nothing of
// the token.
func (t *trip) bears(tok *session.Token) bool {
	c, err := proof.ReadConfirmation(tok.Claims)
	return err == nil && c.Check(t.possession, t.v.certificate.Certificate) == nil
}
