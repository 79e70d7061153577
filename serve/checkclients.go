package serve

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"time"

	"understudy/config"
)

// clientFiles looks at the files of upstreams and clients beside what they hold, which [Resolve] has read.
func (r *Report) clientFiles(c *config.Config) {
	for i := range c.Tenants {
		t, at := &c.Tenants[i], fmt.Sprintf("tenants[%d]", i)
		r.authorities(at+".upstream.ca_file", t.Upstream.CAFile)
		r.authorities(at+".client_certificates.ca_file", t.ClientCertificates.CAFile)
		for j, client := range t.Clients {
			if st, err := os.Stat(client.SecretFile); err == nil && st.Mode().Perm()&0o007 != 0 {
				r.find(t, Wrong, "secret_mode", fmt.Sprintf("%s.clients[%d].secret_file: %s can be read by everybody (mode %04o)", at, j, client.SecretFile, st.Mode().Perm()),
					"chmod 600 "+client.SecretFile)
			}
		}
	}
}

// authorities looks whether the authorities in a file still vouch for anybody.
func (r *Report) authorities(key, file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		return // reported before, or there is none
	}
	now, last := time.Now(), time.Time{}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && c.NotAfter.After(last) {
			last = c.NotAfter
		}
	}
	const mend = "put the authority's new certificate beside the old one"
	switch when := last.Format(time.DateOnly); {
	case !last.After(now):
		r.add(Wrong, "certificate_end", fmt.Sprintf("%s: the last certificate in %s has ended on %s", key, file, when), mend)
	case last.Before(now.Add(soon)):
		r.add(Warning, "certificate_end", fmt.Sprintf("%s: the last certificate in %s ends on %s", key, file, when), mend)
	}
}

// clientCertificates looks whether somebody asks clients for the certificates that tenants take, and the other way (RFC 8705).
func (r *Report) clientCertificates(c *config.Config) {
	if c.Role == config.RoleBackup { // which has no listeners for clients
		return
	}
	asks := slices.ContainsFunc(c.Listeners, func(l config.Listener) bool { return l.AskCertificate && l.TLS.CertFile != "" })
	takes := slices.ContainsFunc(c.Tenants, func(t config.Tenant) bool { return t.ClientCertificates.PrimaryHeader != "" })
	for _, l := range c.Listeners {
		switch {
		case l.AskCertificate && l.TLS.CertFile == "":
			r.add(Warning, "ask_certificate", fmt.Sprintf("listener %s has ask_certificate and no tls: without it no client can show a certificate", l.Address),
				"give it tls (cert_file, key_file), or take client_certificates.proxy_header where a proxy ends TLS, and remove ask_certificate")
		case l.AskCertificate && !takes:
			r.add(Warning, "ask_certificate", fmt.Sprintf("listener %s has ask_certificate, and no tenant has client_certificates: browsers ask their users for a certificate that nobody takes", l.Address),
				"set client_certificates (primary_header) in the tenant whose clients have certificates, or remove ask_certificate")
		}
	}
	for i := range c.Tenants {
		t := &c.Tenants[i]
		if t.ClientCertificates.PrimaryHeader != "" && !asks && t.ClientCertificates.ProxyHeader == "" {
			r.find(t, Warning, "client_certificates", "client_certificates is set, but no listener has ask_certificate and no proxy forwards certificates (proxy_header): clients that prove themselves by one are not learned",
				"set ask_certificate: true at the listener with tls to which these clients come, or proxy_header and trusted_proxies")
		}
	}
}

func (r *Report) find(t *config.Tenant, level, code, text, mend string) {
	r.Findings = append(r.Findings, Finding{Level: level, Code: code, Tenant: t.Name, Text: text, Mend: mend})
}
