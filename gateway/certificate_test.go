package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/audit"
	"understudy/flow/proof"
	"understudy/gateway"
	"understudy/idptest"
)

// strangers is a client that looks at nobody's certificate and shows these.
func strangers(show ...tls.Certificate) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: show}}}
}

// issuing is an authority that certifies clients.
type issuing struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newIssuing(t *testing.T, name string) *issuing {
	t.Helper()
	a := &issuing{t: t, key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 7),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, c, a.key.Public(), a.key))))
	return a
}

func (a *issuing) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// certify makes a certificate for a new key; a nil authority lets it sign itself.
func (a *issuing) certify(name string, change ...func(*x509.Certificate)) tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := &x509.Certificate{
		SerialNumber: must(rand.Int(rand.Reader, big.NewInt(1<<62))), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, f := range change {
		f(c)
	}
	parent, signer := c, key
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der := must(x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// inHeader writes a certificate as RFC 9440 has it.
func inHeader(c tls.Certificate) string {
	return ":" + base64.StdEncoding.EncodeToString(c.Certificate[0]) + ":"
}

func thumbprint(c tls.Certificate) string {
	sum := sha256.Sum256(c.Certificate[0])
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// addClient adds a client to a realm of Keycloak, in place of one that another test added.
func addClient(t *testing.T, kc *idptest.Keycloak, realm, id, authenticator string, more map[string]any) {
	t.Helper()
	c := map[string]any{
		"clientId": id, "clientAuthenticatorType": authenticator, "publicClient": false, "standardFlowEnabled": true, "serviceAccountsEnabled": true,
		"redirectUris": []string{callback}, "enabled": true,
	}
	for k, v := range more {
		c[k] = v
	}
	var before []struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(administer(t, kc, http.MethodGet, realm+"/clients?clientId="+id, nil), &before); err != nil {
		t.Fatal(err)
	}
	for _, b := range before {
		administer(t, kc, http.MethodDelete, realm+"/clients/"+b.ID, nil)
	}
	administer(t, kc, http.MethodPost, realm+"/clients", c)
}

// byCertificate are the settings of a client with a certificate whose tokens are bound to it.
func byCertificate(subject string) map[string]any {
	return map[string]any{"attributes": map[string]string{"x509.subjectdn": subject, "tls.client.certificate.bound.access.tokens": "true"}}
}

// confirms is the certificate to which a token is bound.
func (r *rig) confirms(t *testing.T, k *tokens) string {
	t.Helper()
	if k.AccessToken == "" {
		t.Errorf("no token: %v", k)
		return ""
	}
	_, c := r.claims(t, "rot", k.AccessToken)
	var cnf struct {
		X5T string `json:"x5t#S256"`
	}
	json.Unmarshal(c.Get("cnf"), &cnf)
	return cnf.X5T
}

// A client that authenticates by its certificate (tls_client_auth), and what is bound to it, go on without the primary for who
// shows the same again, and for nobody else.
func TestTLSClientAuth(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	ca, evil := newIssuing(t, "clients"), newIssuing(t, "clients")
	addClient(t, kc, "rot", "mtls", "client-x509", byCertificate("CN=mtls"))
	addClient(t, kc, "rot", "mtls2", "client-x509", byCertificate("CN=mtls2"))
	r := newRig(t, kc.URL(), func(x *gateway.Tenant) {
		x.Trusted = append(x.Trusted, loopback())
		x.Certificates = &gateway.Certificates{
			Roots: ca.pool(), Forwarded: &proof.Forwarded{Shape: proof.EscapedPEM, Header: "X-Client-Cert"}, Header: "Client-Cert", Shape: proof.ByteSequence,
		}
	})
	mine, other := ca.certify("mtls"), ca.certify("mtls2")
	// shows lets a request come from the proxy with a certificate, as that writes it.
	shows := func(certs ...tls.Certificate) func(*http.Request) {
		return func(q *http.Request) {
			q.Header.Del("Authorization")
			for _, c := range certs {
				q.Header.Add("X-Client-Cert", url.PathEscape("-----BEGIN CERTIFICATE-----\n"+base64.StdEncoding.EncodeToString(c.Certificate[0])+"\n-----END CERTIFICATE-----\n"))
			}
		}
	}
	service := func(client string, change func(*http.Request)) *tokens {
		return r.token("rot", url.Values{"grant_type": {"client_credentials"}, "client_id": {client}}, change)
	}
	b := &idptest.Browser{}
	redeem := func(x *tab, code string, change func(*http.Request)) *tokens {
		return r.token("rot", url.Values{
			"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {x.verifier}, "client_id": {"mtls"},
		}, change)
	}
	n := r.learnedFlow("authorization")
	x := r.tab("rot", "mtls", "", b)
	k := redeem(x, x.open("alice").Query().Get("code"), shows(mine))
	if at := r.confirms(t, k); at != thumbprint(mine) {
		t.Fatalf("the primary binds to %q, want %q", at, thumbprint(mine))
	}
	waitFor(t, "it is learned", func() bool { return r.learnedFlow("authorization") > n })
	for client, c := range map[string]tls.Certificate{"mtls": mine, "mtls2": other} {
		n := r.learnedFlow("client_credentials")
		if k := service(client, shows(c)); k.AccessToken == "" || fromBackup(k) {
			t.Fatalf("the service, at the primary: %v", k)
		}
		waitFor(t, "the service is learned", func() bool { return r.learnedFlow("client_credentials") > n })
	}
	settled()
	kc.Kill()
	defer kc.Restart(ctx)

	refresh := func(change func(*http.Request)) *tokens {
		return r.token("rot", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {k.RefreshToken}, "client_id": {"mtls"}}, change)
	}
	got := refresh(shows(mine))
	if !got.byBackup() || r.confirms(t, got) != thumbprint(mine) {
		t.Fatalf("not served: %v", got)
	}
	if k := service("mtls", shows(mine)); !fromBackup(k) || r.confirms(t, k) != thumbprint(mine) {
		t.Errorf("the service: %v", k)
	}
	renewed := ca.certify("mtls")
	if k := service("mtls", shows(renewed)); !fromBackup(k) || r.confirms(t, k) != thumbprint(renewed) {
		t.Errorf("the service with a renewed certificate: %v", k)
	}
	expired := ca.certify("mtls", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	for name, c := range map[string]struct {
		change        func(*http.Request)
		rule, service string // of the refresh, of the service; "": served
	}{
		"none":                        {shows(), "certificate_refused", "primary_away"},
		"another client's":            {shows(other), "client_unknown_secret", "client_unknown_secret"},
		"renewed":                     {shows(renewed), "certificate_mismatch", ""},
		"another authority's":         {shows(evil.certify("mtls")), "", "primary_away"},
		"of nobody":                   {shows((*issuing)(nil).certify("mtls")), "", "primary_away"},
		"expired":                     {shows(expired), "", "primary_away"},
		"two":                         {shows(other, mine), "", "primary_away"},
		"one more name":               {shows(ca.certify("mtls", func(c *x509.Certificate) { c.DNSNames = []string{"x.example"} })), "client_unknown_secret", "client_unknown_secret"},
		"a secret":                    {func(q *http.Request) { q.SetBasicAuth("mtls", "secret") }, "certificate_refused", ""},
		"in the primary's own header": {func(q *http.Request) { q.Header.Del("Authorization"); q.Header.Set("Client-Cert", inHeader(mine)) }, "certificate_refused", "primary_away"},
		"a secret beside another's":   {func(q *http.Request) { shows(other)(q); q.SetBasicAuth("mtls", "secret") }, "certificate_refused", ""},
		"under an old spelling": {func(q *http.Request) {
			q.Header.Del("Authorization")
			q.Header["Client_cert"] = []string{inHeader(mine)}
		}, "certificate_refused", "primary_away"},
		"for a server, not for clients": {shows(ca.certify("mtls", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), "", "primary_away"},
	} {
		t.Run(name, func(t *testing.T) {
			if k := refresh(c.change); k.AccessToken != "" {
				t.Errorf("%v", k)
			}
			if name == "renewed" {
				return
			}
			if k := service("mtls", c.change); k.AccessToken != "" {
				t.Errorf("the service: %v", k)
			}
			if c.rule != "" {
				r.line(t, c.rule, func(e audit.Entry) bool { return e.Decision == "refused" && e.Rule == c.rule })
			}
		})
	}
	userInfo := func(token string, change func(*http.Request)) int {
		q := must(http.NewRequestWithContext(ctx, http.MethodGet, r.realm("rot")+"/protocol/openid-connect/userinfo", nil))
		change(q)
		q.Header.Set("Authorization", "Bearer "+token)
		resp := must(http.DefaultClient.Do(q))
		resp.Body.Close()
		return resp.StatusCode
	}
	for name, token := range map[string]string{"the backup's": got.AccessToken, "the primary's": k.AccessToken} {
		if s := userInfo(token, shows(mine)); s != http.StatusOK {
			t.Errorf("UserInfo, %s token: %d", name, s)
		}
		for who, change := range map[string]func(*http.Request){"nobody": shows(), "another client": shows(other), "a renewed one": shows(renewed)} {
			if s := userInfo(token, change); s == http.StatusOK {
				t.Errorf("UserInfo with %s token for %s", name, who)
			}
		}
	}
	t.Run("a browser", func(t *testing.T) {
		x := r.tab("rot", "mtls", "", b)
		code, _ := x.silent()
		if k := redeem(x, code, shows(other)); k.AccessToken != "" {
			t.Errorf("with another client's: %v", k)
		}
		x = r.tab("rot", "mtls", "", b)
		code, _ = x.silent()
		if k := redeem(x, code, shows()); k.AccessToken != "" {
			t.Errorf("with none: %v", k)
		}
		x = r.tab("rot", "mtls", "", b)
		code, _ = x.silent()
		k := redeem(x, code, shows(renewed))
		if !k.byBackup() || r.confirms(t, k) != thumbprint(renewed) {
			t.Fatalf("%v", k)
		}
		if s := userInfo(k.AccessToken, shows(renewed)); s != http.StatusOK {
			t.Errorf("UserInfo: %d", s)
		}
		if s := userInfo(k.AccessToken, shows(mine)); s != http.StatusUnauthorized {
			t.Errorf("UserInfo with the old one: %d", s)
		}
	})
	if err := kc.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the primary goes on with the same token and certificate", func() bool {
		k := refresh(shows(mine))
		return k.RefreshToken != "" && !k.byBackup()
	})
}

// The gateway's own TLS takes the certificate, and what a client writes into a header is none, for the primary neither.
func TestCertificateOfOurOwnTLS(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	ca := newIssuing(t, "clients")
	addClient(t, kc, "rot", "mtls", "client-x509", byCertificate("CN=mtls"))
	addClient(t, kc, "rot", "self", "client-x509", byCertificate("CN=self"))
	self := (*issuing)(nil).certify("self")
	keys := must(proof.ParseClientKeys(must(json.Marshal(map[string]any{"keys": []any{jwkOf(self)}}))))
	r := newRig(t, kc.URL(), func(x *gateway.Tenant) {
		x.Scheme = "https"
		x.Trusted = []netip.Prefix{ten()}
		x.ClientKeys = map[string]*proof.ClientKeys{"self": keys}
		x.Certificates = &gateway.Certificates{
			Roots: ca.pool(), Forwarded: &proof.Forwarded{Shape: proof.ByteSequence, Header: "X-Forwarded-Client-Cert"}, Header: "Client-Cert", Shape: proof.ByteSequence,
		}
	})
	service := func(client string, change func(http.Header), certs ...tls.Certificate) *tokens {
		t.Helper()
		q := must(http.NewRequestWithContext(ctx, http.MethodPost, r.realm("rot")+"/protocol/openid-connect/token",
			strings.NewReader(url.Values{"grant_type": {"client_credentials"}, "client_id": {client}}.Encode())))
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if change != nil {
			change(q.Header)
		}
		resp := must(strangers(certs...).Do(q))
		defer resp.Body.Close()
		k := &tokens{status: resp.StatusCode}
		json.NewDecoder(resp.Body).Decode(k)
		return k
	}
	mine := ca.certify("mtls")
	for client, c := range map[string]tls.Certificate{"mtls": mine, "self": self} {
		n := r.learnedFlow("client_credentials")
		if k := service(client, nil, c); k.AccessToken == "" || fromBackup(k) {
			t.Fatalf("%s, at the primary: %v", client, k)
		}
		waitFor(t, "it is learned", func() bool { return r.learnedFlow("client_credentials") > n })
	}
	header := func(name string) func(http.Header) { return func(h http.Header) { h[name] = []string{inHeader(mine)} } }
	again := (*issuing)(nil).certify("self")
	attacks := func(t *testing.T) {
		for name, k := range map[string]*tokens{
			"in the primary's header":      service("mtls", header("Client-Cert")),
			"and taken off by Connection":  service("mtls", func(h http.Header) { header("Client-Cert")(h); h["Connection"] = []string{"close, Client-Cert"} }),
			"with an underscore":           service("mtls", header("Client_Cert")),
			"in the proxy's header":        service("mtls", header("X-Forwarded-Client-Cert")),
			"beside its own":               service("mtls", header("Client-Cert"), again),
			"of nobody":                    service("mtls", nil, (*issuing)(nil).certify("mtls")),
			"registered by another client": service("mtls", nil, self),
			"self-signed, of another key":  service("self", nil, again),
		} {
			if k.AccessToken != "" {
				t.Errorf("%s: %v", name, k)
			}
		}
	}
	t.Run("at the primary", attacks)
	kc.Kill()
	defer kc.Restart(ctx)
	for client, c := range map[string]tls.Certificate{"mtls": mine, "self": self} {
		if k := service(client, nil, c); !fromBackup(k) {
			t.Errorf("%s: %v", client, k)
		}
	}
	t.Run("in an outage", attacks)
	if k := service("self", nil, ca.certify("self")); k.AccessToken != "" {
		t.Errorf("certified, for a client that registered its own: %v", k)
	}
}

// jwkOf is the public key of a certificate, with the certificate, as a client registers it.
func jwkOf(c tls.Certificate) map[string]any {
	k := c.PrivateKey.(*ecdsa.PrivateKey)
	b := must(k.PublicKey.Bytes())
	enc := base64.RawURLEncoding.EncodeToString
	return map[string]any{"kty": "EC", "crv": "P-256", "x": enc(b[1:33]), "y": enc(b[33:]), "x5c": []string{base64.StdEncoding.EncodeToString(c.Certificate[0])}}
}
