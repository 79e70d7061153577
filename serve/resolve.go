package serve

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"understudy/backup/notice"
	"understudy/config"
	"understudy/flow/proof"
	"understudy/gateway"
	"understudy/gateway/page"
	"understudy/health"
)

// Resolve turns a checked configuration into options: it reads the files that tenants name. Its error says everything that is wrong with
// them (see [config.Problems]). Reload and Log are left to the caller.
func Resolve(c *config.Config, s *config.Source) (Options, error) {
	o := Options{
		HealthPath: c.HealthPath, DataDir: c.DataDir, SealingKeyFile: c.SealingKeyFile, KeyEncryptionKeyFile: c.KeyEncryptionKeyFile,
		Role: c.Role, Admin: Admin{c.Admin.Listen, c.Admin.TLS.CertFile, c.Admin.TLS.KeyFile, c.Admin.TokenFile},
		Audit: Audit{c.Audit.Dir, c.Audit.KeepDays, c.Audit.MaxFileBytes}, Settings: c.Tree, level: logLevel(c.Log), format: c.Log.Format,
		Remote: Remote{
			Listen: c.Backup.Listen, URL: c.Backup.URL, ServerName: c.Backup.TLS.ServerName, CertFile: c.Backup.TLS.CertFile,
			KeyFile: c.Backup.TLS.KeyFile, CAFile: c.Backup.TLS.CAFile, AllowedNames: c.Backup.AllowedNames, SpoolMaxBytes: c.Backup.SpoolMaxBytes,
		},
	}
	for _, l := range c.Listeners {
		o.Listeners = append(o.Listeners, Listener{l.Address, l.TLS.CertFile, l.TLS.KeyFile, l.AskCertificate})
	}
	var errs []error
	print := sha256.New()
	fmt.Fprintf(print, "%q", c.HealthPath)
	for i := range c.Tenants {
		t, files, err := tenant(&c.Tenants[i], s, fmt.Sprintf("tenants[%d]", i))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		o.Tenants = append(o.Tenants, t)
		flat := c.Tenants[i]
		flat.ShadowPercent = nil // a pointer would never be the same
		fmt.Fprintf(print, "%+v %g %x", flat, t.Shadow, files)
	}
	if len(errs) > 0 {
		return Options{}, errors.Join(errs...)
	}
	o.print = hex.EncodeToString(print.Sum(nil))
	return o, nil
}

// tenant returns a tenant, and what its files hold.
func tenant(c *config.Tenant, s *config.Source, at string) (*gateway.Tenant, []byte, error) {
	u, err := gateway.ParseUpstream(c.Upstream.URL)
	if err != nil {
		return nil, nil, s.Problem(at+".upstream.url", "%s", err)
	}
	h := c.Health
	t := &gateway.Tenant{
		Name: c.Name, Hosts: c.Hosts, Scheme: c.Scheme, Upstream: u, Issuers: c.Issuers, InFlight: c.Limits.InFlight, Shadow: *c.ShadowPercent,
		DisplayName: c.DisplayName, Contact: c.Contact,
		SessionCookies: c.SessionCookies, RefuseRevoked: c.RefuseRevoked,
		ProbeClient: h.ProbeClient,
		Health: health.Config{
			DeadlineMin: h.DeadlineMin, DeadlineMax: h.DeadlineMax, ProbeServing: h.ProbeServing, ProbeAway: h.ProbeAway, ProbeDeadline: h.ProbeDeadline,
			Grants: h.Grants, Requesters: h.Requesters, Window: h.Window, GoodProbes: h.GoodProbes, Ramp: h.Ramp, RampStep: h.RampStep,
			RefusedShare: h.RefusedShare, HaltWindow: h.HaltWindow, MaxAbsence: h.MaxAbsence,
		},
	}
	for i, p := range c.TrustedProxies {
		n, err := config.ParseNetwork(p)
		if err != nil {
			return nil, nil, s.Problem(fmt.Sprintf("%s.trusted_proxies[%d]", at, i), "%s", err)
		}
		t.Trusted = append(t.Trusted, n)
	}
	files, err := clientKeys(s, at, c, t)
	more, err2 := clientCertificates(s, at+".client_certificates", &c.ClientCertificates, t)
	files = append(files, more...)
	upstream, err3 := upstreamFiles(s, at+".upstream", &c.Upstream, t)
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, nil, err
	}
	return t, append(files, upstream...), nil
}

// read reads a file that a setting names.
func read(s *config.Source, at, file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err == nil {
		return b, nil
	}
	var why *fs.PathError
	if errors.As(err, &why) {
		err = why.Err // the file is named before
	}
	return nil, s.Problem(at, "%s cannot be read (%s): name a file that is there and that this user may read", file, err)
}

// authorities reads a file of certificates of authorities, and returns what it holds.
func authorities(s *config.Source, at, file string) (*x509.CertPool, []byte, error) {
	b, err := read(s, at, file)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, nil, s.Problem(at, "there is no certificate in %s: give the authority's own as PEM, which begins with -----BEGIN CERTIFICATE-----", file)
	}
	return pool, b, nil
}

// upstreamFiles reads how the primary is known and what is shown to it, and returns the files' contents.
func upstreamFiles(s *config.Source, at string, c *config.Upstream, t *gateway.Tenant) (files []byte, err error) {
	if t.Upstream.Scheme != "https" {
		return nil, nil
	}
	t.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if f := c.CAFile; f != "" {
		if t.TLS.RootCAs, files, err = authorities(s, at+".ca_file", f); err != nil {
			return nil, err
		}
	}
	if f := c.ClientCertFile; f != "" {
		cert, err := tls.LoadX509KeyPair(f, c.ClientKeyFile)
		if err != nil {
			return nil, s.Problem(at+".client_cert_file", "%s does not load with its key %s (%s): give a PEM certificate and the key that belongs to it", f, c.ClientKeyFile, err)
		}
		t.TLS.Certificates = []tls.Certificate{cert}
		for _, der := range cert.Certificate {
			files = append(files, der...)
		}
	}
	return files, nil
}

// clientKeys reads the registered keys of clients and what else is known of them, and returns the files' contents.
func clientKeys(s *config.Source, at string, c *config.Tenant, t *gateway.Tenant) (files []byte, err error) {
	t.ClientKeys, t.ClientSecrets, t.ClientKeyURIs = map[string]*proof.ClientKeys{}, map[string]proof.Secret{}, map[string]string{}
	t.RequestURIs = map[string][]string{}
	seen := map[string]bool{}
	t.Logouts, t.Applications = map[string]gateway.Logout{}, map[string]page.Application{}
	var errs []error
	bad := func(err error) { errs = append(errs, err) }
	for i, client := range c.Clients {
		at := fmt.Sprintf("%s.clients[%d]", at, i)
		if client.ID == "" {
			bad(s.Problem(at+".id", "it names no client: give its client_id"))
			continue
		}
		if seen[client.ID] {
			bad(s.Problem(at+".id", "the client %s stands here twice", client.ID))
			continue
		}
		seen[client.ID] = true
		told := client.BackchannelLogoutURI != "" || client.FrontchannelLogoutURI != ""
		if told {
			t.Logouts[client.ID] = gateway.Logout{
				Backchannel:  notice.Client{URI: client.BackchannelLogoutURI, SessionRequired: client.BackchannelLogoutSessionRequired},
				Frontchannel: client.FrontchannelLogoutURI,
			}
		}
		shown := client.ClientName != "" || client.ClientURI != ""
		if shown {
			t.Applications[client.ID] = page.Application{Name: client.ClientName, URL: client.ClientURI}
		}
		switch {
		case !told && !shown && client.JWKSFile == "" && client.JWKSURI == "" && client.SecretFile == "":
			bad(s.Problem(at+".jwks_file", "nothing is known of it: give its public keys as a JWK Set (or jwks_uri, secret_file, a logout URI, client_name or client_uri)"))
		case client.JWKSFile != "" && client.JWKSURI != "":
			bad(s.Problem(at+".jwks_uri", "the client has jwks_file too: remove one of the two"))
			continue
		case len(client.RequestURIs) > 0 && client.JWKSFile == "" && client.JWKSURI == "":
			bad(s.Problem(at+".request_uris", "nobody could tell that the client signed what is there: give jwks_file or jwks_uri"))
			continue
		}
		for j, uri := range client.RequestURIs {
			if err := gateway.CheckRequestURI(uri); err != nil {
				bad(s.Problem(fmt.Sprintf("%s.request_uris[%d]", at, j), "%s", err))
				continue
			}
			t.RequestURIs[client.ID] = append(t.RequestURIs[client.ID], uri)
		}
		if f := client.SecretFile; f != "" {
			b, err := read(s, at+".secret_file", f)
			b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
			switch {
			case err != nil:
				bad(err)
			case len(b) < 32:
				bad(s.Problem(at+".secret_file", "%s holds less than the 32 bytes that an assertion by HS256 is signed with (RFC 7518, section 3.2): give the client's secret as the primary has it", f))
			}
			t.ClientSecrets[client.ID] = b
			sum := sha256.Sum256(b)
			files = append(files, sum[:]...)
		}
		if client.JWKSURI != "" {
			if err := gateway.CheckKeyURI(client.JWKSURI); err != nil {
				bad(s.Problem(at+".jwks_uri", "%s", err))
			}
			t.ClientKeyURIs[client.ID] = client.JWKSURI
		}
		if client.JWKSFile == "" {
			continue
		}
		b, err := read(s, at+".jwks_file", client.JWKSFile)
		if err != nil {
			bad(err)
			continue
		}
		if t.ClientKeys[client.ID], err = proof.ParseClientKeys(b); err != nil {
			bad(s.Problem(at+".jwks_file", "%s holds no keys (%s): give the client's public keys as a JWK Set, {\"keys\": […]}", client.JWKSFile, err))
		}
		files = append(files, b...)
	}
	return files, errors.Join(errs...)
}

// clientCertificates reads where client certificates come from and go to, and returns the contents of its file.
func clientCertificates(s *config.Source, at string, c *config.ClientCertificates, t *gateway.Tenant) (file []byte, err error) {
	if c.PrimaryHeader == "" {
		return nil, nil
	}
	shapes := map[string]proof.Shape{"": proof.ByteSequence, "rfc9440": proof.ByteSequence, "nginx": proof.EscapedPEM, "envoy": proof.XFCC}
	t.Certificates = &gateway.Certificates{Header: c.PrimaryHeader, Shape: shapes[c.PrimaryFormat]}
	if c.ProxyHeader != "" {
		t.Certificates.Forwarded = &proof.Forwarded{Shape: shapes[c.ProxyFormat], Header: c.ProxyHeader}
	}
	if c.CAFile == "" {
		return nil, nil
	}
	t.Certificates.Roots, file, err = authorities(s, at+".ca_file", c.CAFile)
	return file, err
}

// Logger makes the process's own log, and what changes its level.
func Logger(c config.Log) (*slog.Logger, *slog.LevelVar) {
	level := &slog.LevelVar{}
	level.Set(logLevel(c))
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o)), level
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o)), level
}

func logLevel(c config.Log) (l slog.Level) {
	if err := l.UnmarshalText([]byte(c.Level)); err != nil {
		return slog.LevelInfo
	}
	return l
}
