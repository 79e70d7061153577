package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// Identity is one side's certificate and the authority that it believes, read again from their files when these change.
// It is safe for concurrent use.
type Identity struct {
	certFile, keyFile, caFile string
	names                     []string // of which a peer's certificate must carry one; only a server's
	log                       *slog.Logger

	mu      sync.Mutex // guards what follows
	looked  time.Time
	stamps  [3]stamp
	current *material
}

// material is what the files held at one time.
type material struct {
	cert  tls.Certificate
	roots *x509.CertPool
}

type stamp struct {
	mod  time.Time
	size int64
}

// lookEvery is how often the files are looked at, and so how late a change is seen.
const lookEvery = time.Second

// Identity reads the server's files.
func (c ServerConfig) Identity(log *slog.Logger) (*Identity, error) {
	if len(c.AllowedNames) == 0 || slices.Contains(c.AllowedNames, "") {
		return nil, errors.New("no allowed names: list the names in the gateways' certificates, or every certificate of the authority would be a gateway's")
	}
	return newIdentity(c.CertFile, c.KeyFile, c.CAFile, c.AllowedNames, log)
}

func newIdentity(certFile, keyFile, caFile string, names []string, log *slog.Logger) (*Identity, error) {
	id := &Identity{certFile: certFile, keyFile: keyFile, caFile: caFile, names: names, log: log}
	stamps, err := id.stat()
	if err != nil {
		return nil, err
	}
	if id.current, err = id.read(); err != nil {
		return nil, err
	}
	id.stamps, id.looked = stamps, time.Now()
	return id, nil
}

func (id *Identity) stat() (s [3]stamp, err error) {
	for i, f := range []string{id.certFile, id.keyFile, id.caFile} {
		st, err := os.Stat(f)
		if err != nil {
			return s, fmt.Errorf("look at a certificate file: %w", err)
		}
		s[i] = stamp{st.ModTime(), st.Size()}
	}
	return s, nil
}

func (id *Identity) read() (*material, error) {
	cert, err := tls.LoadX509KeyPair(id.certFile, id.keyFile)
	if err != nil {
		return nil, fmt.Errorf("load the certificate %s and its key: %w", id.certFile, err)
	}
	b, err := os.ReadFile(id.caFile)
	if err != nil {
		return nil, fmt.Errorf("load the authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("load the authority: %s holds no certificate in PEM form", id.caFile)
	}
	return &material{cert, roots}, nil
}

// now returns what is in force. Files that do not fit together (one is written before the other) leave the old in force;
// they are looked at again.
func (id *Identity) now() *material {
	id.mu.Lock()
	defer id.mu.Unlock()
	if time.Since(id.looked) < lookEvery {
		return id.current
	}
	id.looked = time.Now()
	stamps, err := id.stat()
	if err == nil && stamps == id.stamps {
		return id.current
	}
	var m *material
	if err == nil {
		m, err = id.read()
	}
	if err != nil {
		id.log.Error("changed certificates are not taken, the former stay in force", "error", err)
		return id.current
	}
	id.current, id.stamps = m, stamps
	id.log.Info("changed certificates are in force", "file", id.certFile)
	return m
}

// serverTLS demands a client's certificate of the authority with an allowed name. Each handshake sees the newest files.
func (id *Identity) serverTLS() *tls.Config {
	base := func() *tls.Config {
		m := id.now()
		return &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{m.cert},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: m.roots,
			// A resumed session would be one that the newest files have not seen.
			SessionTicketsDisabled: true,
			VerifyConnection: func(cs tls.ConnectionState) error {
				if cs.NegotiatedProtocol != "h2" {
					return errors.New("the peer does not speak HTTP/2")
				}
				return id.allowed(cs.PeerCertificates[0])
			},
		}
	}
	c := base()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return base(), nil }
	return c
}

// allowed checks the name: a DNS name or URI of the subject alternative names, equal to one that is configured. The
// subject's common name and wildcards do not count.
func (id *Identity) allowed(leaf *x509.Certificate) error {
	for _, n := range leaf.DNSNames {
		if slices.Contains(id.names, n) {
			return nil
		}
	}
	for _, u := range leaf.URIs {
		if slices.Contains(id.names, u.String()) {
			return nil
		}
	}
	return errors.New("the peer's certificate carries none of the allowed names")
}

// verified remembers for one connection with which files its peer was last checked.
type verified struct {
	mu sync.Mutex // guards by
	by *material
}

type verifiedKey struct{}

func (id *Identity) connContext(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, verifiedKey{}, &verified{by: id.now()})
}

// recheck refuses requests on connections whose peer would no longer get one, and closes these.
func (id *Identity) recheck(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && !id.holds(r.Context(), r.TLS.PeerCertificates) {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (id *Identity) holds(ctx context.Context, chain []*x509.Certificate) bool {
	if time.Now().After(chain[0].NotAfter) {
		return false
	}
	v, ok := ctx.Value(verifiedKey{}).(*verified)
	if !ok {
		return false
	}
	m := id.now()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.by == m {
		return true
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: m.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return false
	}
	v.by = m
	return true
}

// clientTLS demands a server's certificate of the authority for the name.
func (id *Identity) clientTLS(name string) (*tls.Config, *material) {
	m := id.now()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{m.cert}, RootCAs: m.roots, ServerName: name,
	}, m
}
