package serve

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"understudy/admin"
	"understudy/config"
)

// Levels of a Finding.
const (
	OK           = "ok"
	Note         = "note" // good to know
	Warning      = "warning"
	NotProtected = "not_protected" // works, but the backup cannot answer for it
	Wrong        = "problem"
)

// Finding is one thing that Check looked at.
type Finding struct {
	Level  string `json:"level"`
	Code   string `json:"code"` // stable
	Tenant string `json:"tenant,omitempty"`
	Issuer string `json:"issuer,omitempty"`
	Text   string `json:"text"`
	Mend   string `json:"mend,omitempty"`
}

// Report is what Check found.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Bad says whether anything must be mended.
func (r *Report) Bad() bool {
	for _, f := range r.Findings {
		if f.Level == Wrong || f.Level == NotProtected {
			return true
		}
	}
	return false
}

func (r *Report) add(level, code, text, mend string) {
	r.Findings = append(r.Findings, Finding{Level: level, Code: code, Text: text, Mend: mend})
}

// Check looks at the files that a configuration names, and asks the primaries what matters. It changes nothing.
func Check(ctx context.Context, c *config.Config, s *config.Source) *Report {
	r := &Report{}
	r.dataDir(c)
	r.keyFile("sealing_key_file", c.SealingKeyFile, c)
	switch {
	case c.KeyEncryptionKeyFile != "":
		r.keyFile("key_encryption_key_file", c.KeyEncryptionKeyFile, c)
	case c.Role != config.RoleGateway: // which has no signing keys
		r.add(Note, "key_encryption_key", fmt.Sprintf("the signing keys are encrypted with a key that is derived from the sealing key (%s): whoever has that and the data directory can sign, too", c.SealingKeyFile),
			"to part the two, name another file of 32 random bytes as key_encryption_key_file before the first start; keys that were made already do not open with it")
	}
	for _, l := range c.Listeners {
		r.pair("listener "+l.Address, l.TLS.CertFile, l.TLS.KeyFile, nil)
	}
	for _, l := range c.Listeners {
		if l.TLS.CertFile != "" {
			for _, t := range c.Tenants {
				r.names(l, &t)
			}
		}
	}
	if c.Admin.Listen != "" {
		r.pair("admin listener", c.Admin.TLS.CertFile, c.Admin.TLS.KeyFile, nil)
		if _, err := admin.Token(c.Admin.TokenFile); err != nil {
			r.add(Wrong, "admin_token", err.Error(), "")
		}
	}
	if c.Backup.Listen != "" || c.Backup.URL != "" {
		r.pair("backup", c.Backup.TLS.CertFile, c.Backup.TLS.KeyFile, nil)
		if _, _, err := authorities(s, "backup.tls.ca_file", c.Backup.TLS.CAFile); err != nil {
			r.add(Wrong, "files", err.Error(), "")
		} else {
			r.authorities("backup.tls.ca_file", c.Backup.TLS.CAFile)
		}
	}
	o, err := Resolve(c, s)
	if err != nil {
		for _, p := range config.Problems(err) {
			r.add(Wrong, "files", p.Error(), "")
		}
		return r
	}
	r.clientFiles(c)
	r.clientCertificates(c)
	for i, t := range o.Tenants {
		u := c.Tenants[i].Upstream
		r.pair("upstream of "+t.Name, u.ClientCertFile, u.ClientKeyFile, nil)
		r.primary(ctx, t)
	}
	r.running(ctx, c)
	return r
}

func (r *Report) dataDir(c *config.Config) {
	st, err := os.Stat(c.DataDir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		r.add(OK, "data_dir", "the data directory "+c.DataDir+" does not exist yet and will be made", "")
	case err != nil:
		r.add(Wrong, "data_dir", "the data directory "+c.DataDir+" cannot be looked at: "+err.Error(), "give this user the right to use it")
	case !st.IsDir():
		r.add(Wrong, "data_dir", c.DataDir+" is no directory", "name a directory as data_dir")
	case st.Mode().Perm()&0o077 != 0:
		r.add(Wrong, "data_dir", fmt.Sprintf("the data directory %s is open to others (mode %04o)", c.DataDir, st.Mode().Perm()), "chmod 700 "+c.DataDir)
	default:
		r.add(OK, "data_dir", "the data directory "+c.DataDir+" is its user's alone", "")
	}
}

// keyFile looks at a key file: that there is one, that nobody else reads it, and that it is not stolen with the data.
func (r *Report) keyFile(what, file string, c *config.Config) {
	if within(file, c.DataDir) {
		r.add(Warning, "key_in_data_dir", fmt.Sprintf("%s (%s) lies in the data directory: whoever copies that can open and sign everything", what, file), "move it elsewhere, best to another volume, and name it as "+what)
	}
	_, err := secretBytes(file)
	switch {
	case errors.Is(err, os.ErrNotExist) && what == "sealing_key_file":
		if _, err := os.Stat(filepath.Join(c.DataDir, "store")); err == nil {
			r.add(Wrong, "sealing_key", fmt.Sprintf("the sealing key %s is missing, and %s was sealed with it", file, c.DataDir), "put the file back, or move the data directory away to begin anew")
			return
		}
		r.add(OK, what, file+" does not exist yet and will be made", "")
	case err != nil:
		r.add(Wrong, what, err.Error(), "give a file of 32 random bytes with mode 0600")
	default:
		r.add(OK, what, file+" is there, and its user's alone", "")
	}
}

// within says whether a file lies in a directory, symbolic links followed.
func within(file, dir string) bool {
	real := func(p string) string {
		p, _ = filepath.Abs(p)
		for rest := ""; ; {
			if q, err := filepath.EvalSymlinks(p); err == nil {
				return filepath.Join(q, rest)
			}
			if filepath.Dir(p) == p {
				return filepath.Join(p, rest)
			}
			rest = filepath.Join(filepath.Base(p), rest)
			p = filepath.Dir(p)
		}
	}
	rel, err := filepath.Rel(real(dir), real(file))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// soon is how long before its end a certificate is worth a warning.
const soon = 21 * 24 * time.Hour

// pair looks at a certificate with its key.
func (r *Report) pair(what, certFile, keyFile string, names []string) *x509.Certificate {
	if certFile == "" {
		return nil
	}
	if _, err := newCertificate(certFile, keyFile, nil); err != nil {
		r.add(Wrong, "certificate", what+": "+err.Error(), "give a PEM certificate and the key that belongs to it")
		return nil
	}
	if st, err := os.Stat(keyFile); err == nil && st.Mode().Perm()&0o007 != 0 {
		r.add(Wrong, "key_mode", fmt.Sprintf("%s: the key %s can be read by everybody (mode %04o)", what, keyFile, st.Mode().Perm()), "chmod 600 "+keyFile)
	}
	cert, err := firstCertificate(certFile)
	if err != nil {
		r.add(Wrong, "certificate", what+": "+err.Error(), "give a PEM certificate")
		return nil
	}
	r.end(what, cert)
	return cert
}

func (r *Report) end(what string, cert *x509.Certificate) {
	left := time.Until(cert.NotAfter)
	when := cert.NotAfter.Format(time.DateOnly)
	switch {
	case left <= 0:
		r.add(Wrong, "certificate_end", what+": the certificate has ended on "+when, "renew it")
	case time.Now().Before(cert.NotBefore):
		r.add(Wrong, "certificate_begin", what+": the certificate is not valid before "+cert.NotBefore.Format(time.RFC3339), "see this machine's clock, or take the right certificate")
	case left < soon:
		r.add(Warning, "certificate_end", what+": the certificate ends on "+when, "renew it; the files are read again when they change")
	default:
		r.add(OK, "certificate_end", what+": the certificate ends on "+when, "")
	}
}

func firstCertificate(file string) (*x509.Certificate, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, fmt.Errorf("there is no certificate in %s", file)
}

// names looks whether a listener's certificate covers a tenant's public names.
func (r *Report) names(l config.Listener, t *config.Tenant) {
	cert, err := firstCertificate(l.TLS.CertFile)
	if err != nil {
		return // reported before
	}
	for _, h := range t.Hosts {
		name := h
		if n, _, err := net.SplitHostPort(h); err == nil {
			name = n
		}
		if err := cert.VerifyHostname(name); err != nil {
			r.Findings = append(r.Findings, Finding{
				Level: Warning, Code: "certificate_name", Tenant: t.Name,
				Text: fmt.Sprintf("the certificate of listener %s is not for %s", l.Address, name), Mend: "take one that names every public host, where clients come to this listener by that name",
			})
		}
	}
}

// running asks a running process what it could not learn.
func (r *Report) running(ctx context.Context, c *config.Config) {
	cl := &admin.Client{Socket: filepath.Join(c.DataDir, "admin.sock")}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var st admin.Status
	if err := cl.Get(ctx, "/v1/status", &st); err != nil {
		if !errors.Is(err, admin.ErrNotRunning) {
			r.add(Warning, "running", err.Error(), "")
		}
		return
	}
	for _, p := range st.Problems {
		r.add(Wrong, p.Code, p.Text, p.Mend)
	}
	for _, t := range st.Tenants {
		for _, u := range t.NotLearned {
			switch u.Reason {
			case "queue_full", "backup_failed", "revoked", "spooled", "client_proof":
				continue // passes
			}
			r.Findings = append(r.Findings, Finding{
				Level: NotProtected, Code: u.Reason, Tenant: t.Name, Mend: u.Mend,
				Text: fmt.Sprintf("%d exchanges were not learned: %s", u.N, orCode(u.Text, u.Reason)),
			})
		}
	}
}

func orCode(text, code string) string {
	if text == "" {
		return code
	}
	return text
}

// JSON is the report for scripts.
func (r *Report) JSON() ([]byte, error) { return json.MarshalIndent(r, "", "  ") }
