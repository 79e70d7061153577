package gateway

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"time"

	"understudy/flow"
	"understudy/flow/proof"
	"understudy/session"
)

// What a reply gave is learned as bound to the key that was proved, where the token itself does not say another, or none.
func TestBoundTo(t *testing.T) {
	token := func(claims string) *session.Token {
		o, err := session.ParseObject([]byte(claims))
		if err != nil {
			t.Fatal(err)
		}
		return &session.Token{Claims: o}
	}
	mine := &proof.Possession{Thumbprint: "mine"}
	for name, c := range map[string]struct {
		proved *proof.Possession
		token  *session.Token
		want   string
	}{
		"the key that was proved":       {mine, token(`{"cnf":{"jkt":"mine"}}`), "mine"},
		"an opaque token":               {mine, nil, "mine"},
		"another key":                   {mine, token(`{"cnf":{"jkt":"other"}}`), ""},
		"a token that is bound to none": {mine, token(`{"sub":"alice"}`), ""},
		"a binding that is none":        {mine, token(`{"cnf":"mine"}`), ""},
		"no proof":                      {nil, token(`{"cnf":{"jkt":"mine"}}`), ""},
		"no proof, an opaque token":     {nil, nil, ""},
	} {
		x := &trip{ask: &flow.Ask{}, possession: c.proved}
		jkt, why := x.boundTo(&session.Record{AccessToken: c.token})
		if jkt != c.want || (why == "") != (c.want != "") {
			t.Errorf("%s: %q, %q", name, jkt, why)
		}
	}
}

// A header in which a primary might read a client certificate reaches it from trusted proxies alone, in whichever spelling, and never
// where the gateway writes the certificate itself.
func TestNoOtherCertificateInAHeader(t *testing.T) {
	pass := []string{"Accept", "Authorization", "Dpop", "X-Certain"}
	names := []string{ // as the server writes them
		"Client-Cert", "Client-Cert-Chain", "Ssl-Client-Cert", "Ssl_client_cert", "Ssl_client-Verify", "X-Ssl-Client-S-Dn", "X_ssl_cert", "X-Client-Cert",
		"X-Forwarded-Client-Cert", "X_forwarded_client_cert", "X-Forwarded-Tls-Client-Cert-Info", "Cert-Chain-0", "Ssl-Cert",
	}
	for name, c := range map[string]struct {
		certificates *Certificates
		from         string
		more         []string // names of the configuration's own
		kept         bool
	}{
		"from anybody, where none are taken":      {nil, "192.0.2.1:1", nil, false},
		"from a trusted proxy, where none are":    {nil, "10.0.0.1:1", nil, true},
		"from nowhere":                            {nil, "", nil, false},
		"from anybody, where some are taken":      {&Certificates{Header: "X-Who"}, "192.0.2.1:1", []string{"X-Who", "X_who"}, false},
		"from a trusted proxy, where some are":    {&Certificates{Header: "X-Who"}, "10.0.0.1:1", []string{"X-Who"}, false},
		"with roots, which vouch for nothing yet": {&Certificates{Header: "X-Who", Roots: x509.NewCertPool()}, "10.0.0.1:1", []string{"X-Who"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/token", nil)
			r.RemoteAddr = c.from
			for _, n := range slices.Concat(pass, names, c.more) {
				r.Header[n] = []string{"x"}
			}
			tenant := &Tenant{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Certificates: c.certificates}
			if got := tenant.certificate(r, time.Unix(1e9, 0)); got.Certificate != nil || got.anchor != nil {
				t.Errorf("a certificate is made of nothing: %+v", got)
			}
			for _, n := range pass {
				if r.Header[n] == nil {
					t.Errorf("%s is gone", n)
				}
			}
			for _, n := range slices.Concat(names, c.more) {
				if (r.Header[n] != nil) != c.kept {
					t.Errorf("%s is kept: %v", n, r.Header[n] != nil)
				}
			}
		})
	}
}
