package proof

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/session"
)

// ca signs client certificates.
func ca() *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now.AddDate(-10, 0, 0), NotAfter: now.AddDate(10, 0, 0),
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, c, otherEC().Public(), otherEC()))))
}

func clientCertificate(key crypto.Signer, change func(*x509.Certificate)) []byte {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "client, 1", Organization: []string{"Example + Co"}, Country: []string{"DE"}},
		DNSNames:     []string{"client.example"}, EmailAddresses: []string{"client@example"},
		URIs: []*url.URL{must(url.Parse("spiffe://example/client"))}, IPAddresses: []net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("2001:db8::1")},
		NotBefore: now.AddDate(-10, 0, 0), NotAfter: now.AddDate(10, 0, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(c)
	}
	return must(x509.CreateCertificate(rand.Reader, c, ca(), key.Public(), otherEC()))
}

func verified(der []byte) *Certificate { return must(parseCertificate(der, true)) }

// Roots vouch for a certificate that they certified for clients and that is valid now; from then on its issuer counts as verified.
func TestVerify(t *testing.T) {
	anchors := x509.NewCertPool()
	anchors.AddCert(ca())
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		roots  *x509.CertPool
		want   bool
	}{
		"certified for clients":        {nil, anchors, true},
		"certified for servers":        {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, anchors, false},
		"by others":                    {nil, x509.NewCertPool(), false},
		"certified for an earlier day": {func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }, anchors, false},
	} {
		der := clientCertificate(ecKey(), c.change)
		x := must(parseCertificate(der, false))
		anchor, ok := x.Verify(c.roots, nil, now)
		if ok != c.want || (string(anchor) == string(ca().RawSubjectPublicKeyInfo)) != c.want {
			t.Errorf("%s: %v", name, ok)
		}
		if err := x.TLSClientAuth(Subject{DNS: []string{"client.example"}}, now); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTLSClientAuth(t *testing.T) {
	der := clientCertificate(ecKey(), nil)
	c := verified(der)
	all := must(c.Subject())
	const dn = `CN=client\, 1,O=Example \+ Co,C=DE`
	if all.DN != dn || len(all.IP) != 2 || len(all.DNS)+len(all.URI)+len(all.Email) != 3 {
		t.Fatalf("%+v", all)
	}
	for _, x := range []struct {
		rule string
		want Subject
		ok   bool
	}{
		{"everything that was learned", all, true},
		{"RFC 8705, 2.1.2: subject_dn", Subject{DN: dn}, true},
		{"RFC 4514: another order", Subject{DN: `C=DE,O=Example \+ Co,CN=client\, 1`}, false},
		{"case of the subject", Subject{DN: `CN=Client\, 1,O=Example \+ Co,C=DE`}, false},
		{"a part of the subject", Subject{DN: `CN=client\, 1`}, false},
		{"an escape that is none", Subject{DN: `CN=client, 1,O=Example + Co,C=DE`}, false},
		{"RFC 8705, 2.1.2: san_dns", Subject{DNS: []string{"Client.Example"}}, true},
		{"another san_dns", Subject{DNS: []string{"client.example.evil"}}, false},
		{"san_dns by wildcard", Subject{DNS: []string{"*.example"}}, false},
		{"RFC 8705, 2.1.2: san_uri", Subject{URI: []string{"spiffe://example/client"}}, true},
		{"another san_uri", Subject{URI: []string{"spiffe://example/client2"}}, false},
		{"RFC 8705, 2.1.2: san_ip", Subject{IP: []string{"192.0.2.1"}}, true},
		{"RFC 8705, 2.1.2: san_ip by another spelling", Subject{IP: []string{"2001:DB8:0::1"}}, true},
		{"another san_ip", Subject{IP: []string{"192.0.2.2"}}, false},
		{"no san_ip at all", Subject{IP: []string{"x"}}, false},
		{"RFC 8705, 2.1.2: san_email", Subject{Email: []string{"client@example"}}, true},
		{"another san_email", Subject{Email: []string{"Client@example"}}, false},
		{"the right subject and another name", Subject{DN: dn, DNS: []string{"x.example"}}, false},
		{"the right name and another subject", Subject{DN: "CN=x", DNS: []string{"client.example"}}, false},
		{"nothing asked", Subject{}, false},
		{"an empty name asked", Subject{DNS: []string{""}}, false},
	} {
		t.Run(x.rule, func(t *testing.T) {
			err := c.TLSClientAuth(x.want, now)
			if x.ok {
				is(t, err, "")
			} else {
				is(t, err, CertificateSubject)
			}
		})
	}
	is(t, must(parseCertificate(der, false)).TLSClientAuth(all, now), CertificateUnverified)
	is(t, c.TLSClientAuth(all, now.AddDate(11, 0, 0)), CertificateExpired)
	is(t, c.TLSClientAuth(all, now.AddDate(-11, 0, 0)), CertificateExpired)

	// Two clients of one company: what was learned of one does not take the other.
	other := verified(clientCertificate(ecKey(), func(c *x509.Certificate) { c.URIs[0].Path = "/other" }))
	is(t, other.TLSClientAuth(all, now), CertificateSubject)
	empty := verified(clientCertificate(ecKey(), func(c *x509.Certificate) { c.URIs = []*url.URL{{}} }))
	is(t, empty.TLSClientAuth(Subject{URI: []string{""}}, now), CertificateSubject)
	// A certificate that names nothing teaches nothing.
	_, err := verified(clientCertificate(ecKey(), func(c *x509.Certificate) {
		c.Subject, c.DNSNames, c.EmailAddresses, c.URIs, c.IPAddresses = pkix.Name{}, nil, nil, nil, nil
	})).Subject()
	is(t, err, CertificateSubject)
}

// Different subjects never have one string.
func TestSubjectString(t *testing.T) {
	type names = pkix.RDNSequence
	oid := func(n ...int) asn1.ObjectIdentifier { return n }
	cn, o, dc, odd := oid(2, 5, 4, 3), oid(2, 5, 4, 10), oid(0, 9, 2342, 19200300, 100, 1, 25), oid(1, 2, 3)
	a := func(t asn1.ObjectIdentifier, v any) pkix.AttributeTypeAndValue {
		return pkix.AttributeTypeAndValue{Type: t, Value: v}
	}
	for _, c := range []struct {
		names names
		want  string
	}{
		{names{{a(o, "b")}, {a(cn, "a")}}, "CN=a,O=b"},
		{names{{a(cn, "a,O=b")}}, `CN=a\,O=b`},
		{names{{a(cn, "a"), a(o, "b")}}, "CN=a+O=b"},
		{names{{a(cn, "a+O=b")}}, `CN=a\+O=b`},
		{names{{a(cn, " a ")}}, `CN=\ a\ `},
		{names{{a(cn, "#a")}}, `CN=\#a`},
		{names{{a(cn, `a\`)}}, `CN=a\\`},
		{names{{a(cn, "a\x00b")}}, `CN=a\00b`},
		{names{{a(cn, `a\00b`)}}, `CN=a\\00b`},
		{names{{a(cn, "ä \"<>;")}}, `CN=ä \"\<\>\;`},
		{names{{a(dc, "example")}, {a(odd, "x")}}, "1.2.3=x,DC=example"},
		{names{{a(odd, 7)}}, ""},
		{names{}, ""},
	} {
		if got := dn(must(asn1.Marshal(c.names))); got != c.want {
			t.Errorf("%v: %q, want %q", c.names, got, c.want)
		}
	}
	if dn([]byte("x")) != "" || dn(append(must(asn1.Marshal(names{{a(cn, "a")}})), 0)) != "" {
		t.Error("what is no subject has a string")
	}
}

func TestSelfSignedTLSClientAuth(t *testing.T) {
	der, again := selfSigned(ecKey()), clientCertificate(ecKey(), nil)
	sum := sha256.Sum256(der)
	for _, c := range []struct {
		rule string
		der  []byte
		keys *ClientKeys
		want Code
	}{
		{"RFC 8705, 2.2: the key is registered", der, keysOf(jwk(rsaKey()), jwk(ecKey())), ""},
		{"RFC 8705, 2.2: the certificate is registered", der, keysOf(jwk(ecKey(), "x5c", []string{base64.StdEncoding.EncodeToString(der)})), ""},
		{"RFC 8705, 2.2: its hash is registered", der, keysOf(jwk(ecKey(), "x5t#S256", b64(sum[:]))), ""},
		{"RFC 8705, 2.2: another certificate for the key", again, keysOf(jwk(ecKey(), "x5c", []string{base64.StdEncoding.EncodeToString(der)})), CertificateKeyUnknown},
		{"another key", selfSigned(rsaKey()), keysOf(jwk(ecKey()), jwk(otherRSA())), CertificateKeyUnknown},
		{"another key, whose hash is registered with ours", der, keysOf(jwk(rsaKey(), "x5t#S256", b64(sum[:]))), CertificateKeyUnknown},
		{"none registered", der, nil, CertificateKeyUnknown},
	} {
		t.Run(c.rule, func(t *testing.T) { is(t, must(parseCertificate(c.der, false)).SelfSigned(c.keys, now), c.want) })
	}
	is(t, must(parseCertificate(der, false)).SelfSigned(keysOf(jwk(ecKey())), now.Add(2*time.Hour)), CertificateExpired)
}

func TestForwarded(t *testing.T) {
	der, other := clientCertificate(rsaKey(), nil), clientCertificate(otherEC(), nil)
	want := verified(der).Thumbprint()
	asPEM := func(der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	nginx := strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D")
	alb := strings.NewReplacer("\n", "%0A", " ", "%20")
	esc, escOther := nginx.Replace(asPEM(der)), nginx.Replace(asPEM(other))
	envoy := `By=spiffe://mesh/gw;Hash=00;Cert="` + esc + `";Subject="CN=client\, \"1\";Cert=no";URI=spiffe://a;DNS=a.example;DNS=b.example`
	envoyOther := `Hash=01;Cert="` + escOther + `"`
	sf := func(der []byte) string { return ":" + base64.StdEncoding.EncodeToString(der) + ":" }
	for _, c := range []struct {
		rule   string
		f      Forwarded
		header string
		values []string
		want   Code
	}{
		{"nginx", Forwarded{}, "X-Ssl-Client-Cert", []string{esc}, ""},
		{"nginx, all escaped", Forwarded{}, "X-Ssl-Client-Cert", []string{url.PathEscape(asPEM(der))}, ""},
		{"AWS: plus and slash as they are", Forwarded{Header: "X-Amzn-Mtls-Clientcert"}, "X-Amzn-Mtls-Clientcert", []string{alb.Replace(asPEM(der))}, ""},
		{"none", Forwarded{}, "X-Other", []string{esc}, CertificateMissing},
		{"empty", Forwarded{}, "X-Ssl-Client-Cert", []string{""}, CertificateMissing},
		{"the client's own beside the proxy's", Forwarded{}, "X-Ssl-Client-Cert", []string{escOther, esc}, CertificateRepeated},
		{"two certificates", Forwarded{}, "X-Ssl-Client-Cert", []string{esc + escOther}, CertificateMalformed},
		{"something before it", Forwarded{}, "X-Ssl-Client-Cert", []string{"x%0A" + esc}, CertificateMalformed},
		{"something behind it", Forwarded{}, "X-Ssl-Client-Cert", []string{esc + "x"}, CertificateMalformed},
		{"a private key", Forwarded{}, "X-Ssl-Client-Cert", []string{strings.ReplaceAll(esc, "CERTIFICATE", "PRIVATE%20KEY")}, CertificateMalformed},
		{"a broken escape", Forwarded{}, "X-Ssl-Client-Cert", []string{esc + "%"}, CertificateMalformed},
		{"no certificate in the PEM", Forwarded{}, "X-Ssl-Client-Cert", []string{nginx.Replace(asPEM([]byte("x")))}, CertificateMalformed},
		{"blanks behind it", Forwarded{}, "X-Ssl-Client-Cert", []string{esc + "%0A%0A"}, ""},
		{"huge", Forwarded{}, "X-Ssl-Client-Cert", []string{esc + strings.Repeat("%0A", 12<<10)}, CertificateMalformed},
		{"Envoy", Forwarded{Shape: XFCC}, "X-Forwarded-Client-Cert", []string{envoy}, ""},
		{"Envoy appends: the rightmost counts", Forwarded{Shape: XFCC}, "X-Forwarded-Client-Cert", []string{envoyOther + "," + envoy}, ""},
		{"Envoy appends: two trusted proxies", Forwarded{Shape: XFCC, Hops: 2}, "X-Forwarded-Client-Cert", []string{envoyOther + "," + envoy + "," + envoyOther}, ""},
		{"Envoy appends: fewer elements than proxies", Forwarded{Shape: XFCC, Hops: 2}, "X-Forwarded-Client-Cert", []string{envoy}, CertificateMalformed},
		{"Envoy without Cert", Forwarded{Shape: XFCC}, "X-Forwarded-Client-Cert", []string{`By=a;Hash=00`}, CertificateMalformed},
		{"Envoy: Cert twice", Forwarded{Shape: XFCC}, "X-Forwarded-Client-Cert", []string{envoyOther + `;Cert="` + esc + `"`}, CertificateMalformed},
		{"Envoy: Cert twice, by case", Forwarded{Shape: XFCC}, "X-Forwarded-Client-Cert", []string{envoyOther + `;cert="` + esc + `"`}, CertificateMalformed},
		{"Envoy: a quote that does not end", Forwarded{Shape: XFCC}, "X-Forwarded-Client-Cert", []string{`Subject="x,` + envoy}, CertificateMalformed},
		{"Envoy: a quote inside a value", Forwarded{Shape: XFCC}, "X-Forwarded-Client-Cert", []string{`URI=a"b,` + envoy}, CertificateMalformed},
		{"Envoy: an empty element", Forwarded{Shape: XFCC}, "X-Forwarded-Client-Cert", []string{"," + envoy}, CertificateMalformed},
		{"Envoy: two headers", Forwarded{Shape: XFCC}, "X-Forwarded-Client-Cert", []string{envoyOther, envoy}, CertificateRepeated},
		{"RFC 9440", Forwarded{Shape: ByteSequence}, "Client-Cert", []string{sf(der)}, ""},
		{"RFC 9440, 2.2: a list", Forwarded{Shape: ByteSequence}, "Client-Cert", []string{sf(der) + ", " + sf(other)}, CertificateMalformed},
		{"RFC 9440, 2.2: twice", Forwarded{Shape: ByteSequence}, "Client-Cert", []string{sf(other), sf(der)}, CertificateRepeated},
		{"RFC 9440: no colons", Forwarded{Shape: ByteSequence}, "Client-Cert", []string{strings.Trim(sf(der), ":")}, CertificateMalformed},
		{"RFC 9440: a colon only", Forwarded{Shape: ByteSequence}, "Client-Cert", []string{":"}, CertificateMalformed},
		{"RFC 9440: PEM", Forwarded{Shape: ByteSequence}, "Client-Cert", []string{esc}, CertificateMalformed},
		{"RFC 9440: bytes behind the certificate", Forwarded{Shape: ByteSequence}, "Client-Cert", []string{sf(append(der[:len(der):len(der)], 0))}, CertificateMalformed},
		{"a shape that is none", Forwarded{Shape: 9, Header: "X"}, "X", []string{esc}, CertificateMalformed},
	} {
		t.Run(c.rule, func(t *testing.T) {
			got, err := c.f.Certificate(http.Header{c.header: c.values})
			is(t, err, c.want)
			if err == nil && got.Thumbprint() != want {
				t.Error("it is another's certificate")
			}
		})
	}
	// Who vouches for the issuer?
	for _, c := range []struct {
		rule    string
		f       Forwarded
		outcome []string
		ok      bool
	}{
		{"nobody", Forwarded{}, nil, false},
		{"nobody, and the client says so", Forwarded{}, []string{"SUCCESS"}, false},
		{"the proxy always", Forwarded{Verifies: true}, nil, true},
		{"nginx", Forwarded{VerifyHeader: "X-Verify"}, []string{"SUCCESS"}, true},
		{"HAProxy", Forwarded{VerifyHeader: "X-Verify"}, []string{"0"}, true},
		{"nginx, optional_no_ca", Forwarded{VerifyHeader: "X-Verify"}, []string{"FAILED:self-signed certificate"}, false},
		{"no outcome", Forwarded{VerifyHeader: "X-Verify"}, nil, false},
		{"two outcomes", Forwarded{VerifyHeader: "X-Verify"}, []string{"SUCCESS", "FAILED"}, false},
	} {
		h := http.Header{"X-Ssl-Client-Cert": {esc}, "X-Verify": c.outcome}
		got, err := c.f.Certificate(h)
		if err != nil || got.verified != c.ok {
			t.Errorf("%s: %+v %v", c.rule, got, err)
		}
	}
}

// A real handshake: what the TLS stack verified is told, and no more.
func TestFromTLS(t *testing.T) {
	roots := x509.NewCertPool()
	roots.AddCert(ca())
	fresh := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	signed, own := clientCertificate(ecKey(), fresh), selfSigned(ecKey())
	for _, c := range []struct {
		rule     string
		auth     tls.ClientAuthType
		der      []byte
		want     Code // of FromTLS
		subject  Code // of TLSClientAuth
		presents bool
	}{
		{"verified", tls.VerifyClientCertIfGiven, signed, "", "", true},
		{"asked for, not verified", tls.RequestClientCert, signed, "", CertificateUnverified, true},
		{"self-signed", tls.RequestClientCert, own, "", CertificateUnverified, true},
		{"none", tls.RequestClientCert, nil, CertificateMissing, "", false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			var state *tls.ConnectionState
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { state = r.TLS }))
			s.TLS = &tls.Config{ClientAuth: c.auth, ClientCAs: roots}
			s.StartTLS()
			defer s.Close()
			transport := s.Client().Transport.(*http.Transport)
			if c.presents {
				own := &tls.Certificate{Certificate: [][]byte{c.der}, PrivateKey: ecKey()}
				transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
			}
			r, err := s.Client().Get(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			r.Body.Close()
			got, err := FromTLS(state)
			if is(t, err, c.want); err != nil {
				return
			}
			subject := must(verified(c.der).Subject())
			is(t, got.TLSClientAuth(subject, time.Now()), c.subject)
			if got.Thumbprint() != verified(c.der).Thumbprint() {
				t.Error("another certificate")
			}
		})
	}
	_, err := FromTLS(nil)
	is(t, err, CertificateMissing)
}

func TestConfirmation(t *testing.T) {
	c := verified(clientCertificate(ecKey(), nil))
	key := &Possession{Thumbprint: "k"}
	for _, x := range []struct {
		rule, claims string
		key          *Possession
		certificate  *Certificate
		read, want   Code
	}{
		{"a bearer token", `{}`, nil, nil, "", ""},
		{"RFC 9449, 6.1: the key", `{"cnf":{"jkt":"k"}}`, key, nil, "", ""},
		{"RFC 9449, 6.1: another key", `{"cnf":{"jkt":"l"}}`, key, c, "", DPoPBinding},
		{"RFC 9449, 6.1: no proof", `{"cnf":{"jkt":"k"}}`, nil, c, "", DPoPMissing},
		{"RFC 8705, 3.1: the certificate", `{"cnf":{"x5t#S256":"` + c.Thumbprint() + `"}}`, nil, c, "", ""},
		{"RFC 8705, 3.1: another certificate", `{"cnf":{"x5t#S256":"x"}}`, key, c, "", CertificateBinding},
		{"RFC 8705, 3.1: no certificate", `{"cnf":{"x5t#S256":"x"}}`, key, nil, "", CertificateMissing},
		{"bound to both, one is shown", `{"cnf":{"jkt":"k","x5t#S256":"x"}}`, key, nil, "", CertificateMissing},
		{"RFC 7800, 3.1: bound in a way unknown", `{"cnf":{"jkt":"k","kid":"x"}}`, nil, nil, ConfirmationUnknown, ""},
		{"Keycloak's: the key", `{"cnf":{"jkt":"k","kc-jkt-type":"DPoP"}}`, key, nil, "", ""},
		{"Keycloak's, without a key", `{"cnf":{"kc-jkt-type":"DPoP"}}`, nil, nil, ConfirmationUnknown, ""},
		{"empty", `{"cnf":{}}`, nil, nil, ConfirmationUnknown, ""},
		{"null", `{"cnf":null}`, nil, nil, ConfirmationUnknown, ""},
		{"jkt is empty", `{"cnf":{"jkt":""}}`, nil, nil, ConfirmationUnknown, ""},
		{"jkt is no string", `{"cnf":{"jkt":1}}`, nil, nil, ConfirmationUnknown, ""},
		{"jkt is no string, beside a certificate", `{"cnf":{"jkt":1,"x5t#S256":"` + c.Thumbprint() + `"}}`, nil, c, ConfirmationUnknown, ""},
		{"x5t#S256 is no string, beside a key", `{"cnf":{"jkt":"k","x5t#S256":[]}}`, key, nil, ConfirmationUnknown, ""},
	} {
		t.Run(x.rule, func(t *testing.T) {
			got, err := ReadConfirmation(must(session.ParseObject([]byte(x.claims))))
			if is(t, err, x.read); err == nil {
				is(t, got.Check(x.key, x.certificate), x.want)
			}
		})
	}
}
