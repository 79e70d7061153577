package remote

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"understudy/audit"
	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/keys"
	"understudy/policy"
	"understudy/session"
	"understudy/store"
)

// Authority makes certificates.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
	n    int
}

// NewAuthority makes one whose files lie in dir.
func NewAuthority(t testing.TB, dir string) *Authority {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a := &Authority{cert: c, key: k, dir: dir}
	write(t, a.File(), "CERTIFICATE", der)
	return a
}

// File is the authority's certificate.
func (a *Authority) File() string { return filepath.Join(a.dir, "ca.pem") }

func write(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Issue makes a certificate for a DNS name (and 127.0.0.1 where it is the backup's), for both uses where none is given.
func (a *Authority) Issue(t testing.TB, name string, ends time.Time, uses ...x509.ExtKeyUsage) (cert, key string) {
	t.Helper()
	if len(uses) == 0 {
		uses = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.n++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(int64(a.n + 1)), Subject: pkix.Name{CommonName: "gateway.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: ends,
		DNSNames: []string{name}, ExtKeyUsage: uses, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	p8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(a.dir, fmt.Sprintf("%s-%d.pem", name, a.n)), filepath.Join(a.dir, fmt.Sprintf("%s-%d.key", name, a.n))
	write(t, cert, "CERTIFICATE", der)
	write(t, key, "PRIVATE KEY", p8)
	return cert, key
}

// Names in the tests' certificates.
const (
	ServerName  = "backup.test"
	GatewayName = "gateway.test"
)

// SealKey is the tests' sealing key.
var SealKey = bytes.Repeat([]byte{7}, 32)

// NewSealer returns a sealer of the tests' key.
func NewSealer(t testing.TB) *session.Sealer {
	t.Helper()
	s, err := session.NewSealer(SealKey)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// OpenService opens a real backup with its data in dir; done closes it.
func OpenService(dir string, log *slog.Logger) (svc *backup.Service, done func(), err error) {
	db, err := store.Open(filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		return nil, nil, err
	}
	ring, err := keys.Open(filepath.Join(dir, "keys"), bytes.Repeat([]byte{9}, 32), keys.Options{})
	if err != nil {
		return nil, nil, err
	}
	signins, err := audit.Open(filepath.Join(dir, "audit"))
	if err != nil {
		return nil, nil, err
	}
	seal, err := session.NewSealer(SealKey)
	if err != nil {
		return nil, nil, err
	}
	svc = &backup.Service{
		Sessions: &session.Store{KV: db, Seal: seal}, Keys: ring, Flows: []flow.Flow{oauth.Refresh{}, oauth.Grant{}}, Policy: policy.PermitAll,
		Audit: signins, Log: log, Now: time.Now,
	}
	return svc, func() { signins.Close(); ring.Close(); db.Close() }, nil
}

// Quiet drops every line.
func Quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Server is a running server.
type Server struct {
	Addr string
	stop context.CancelFunc
	done chan error
}

// StartServer serves svc at addr ("": a free port).
func StartServer(t testing.TB, a *Authority, addr string, svc Backup) *Server {
	t.Helper()
	cert, key := a.Issue(t, ServerName, time.Now().Add(time.Hour))
	return StartServerWith(t, ServerConfig{Listen: addr, CertFile: cert, KeyFile: key, CAFile: a.File(), AllowedNames: []string{GatewayName}}, svc)
}

// StartServerWith serves svc as configured.
func StartServerWith(t testing.TB, c ServerConfig, svc Backup) *Server {
	t.Helper()
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	id, err := c.Identity(Quiet())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{Addr: ln.Addr().String(), stop: cancel, done: make(chan error, 1)}
	go func() { s.done <- Serve(ctx, ln, NewHandler(svc, Quiet()), id, Quiet()) }()
	t.Cleanup(s.Stop)
	return s
}

// Stop ends it.
func (s *Server) Stop() {
	s.stop()
	select {
	case err := <-s.done:
		s.done <- err
	case <-time.After(10 * time.Second):
	}
}

// StartClient opens a client of the server at addr, with its spool in dir, and runs it.
func StartClient(t testing.TB, a *Authority, addr, dir string, change ...func(*ClientConfig)) (c *Client, stop func()) {
	t.Helper()
	cert, key := a.Issue(t, GatewayName, time.Now().Add(time.Hour))
	cfg := ClientConfig{URL: "https://" + addr, CertFile: cert, KeyFile: key, CAFile: a.File(), ServerName: ServerName, SpoolDir: dir, Timeouts: Timeouts{Probe: 20 * time.Millisecond}}
	for _, f := range change {
		f(&cfg)
	}
	c, err := NewClient(cfg, NewSealer(t), Quiet(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	var stopped bool
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		<-done
		if err := c.Close(); err != nil {
			t.Errorf("close the client: %v", err)
		}
	}
	t.Cleanup(stop)
	return c, stop
}

// Eventually fails the test when f does not become true.
func Eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// SignIn is one client's session as a gateway would learn it.
type SignIn struct {
	Seal    *session.Sealer
	Tenant  string
	Issuer  string
	Client  string
	Subject string
	SID     string
}

// Keys of one of its refresh tokens.
func (s *SignIn) Keys(token string) session.ArtifactKeys {
	return session.ArtifactKeys{
		Kind: session.RefreshToken, Lookup: s.Seal.Lookup(session.RefreshToken, s.Tenant, s.Issuer, token),
		Key: s.Seal.ArtifactKey(session.RefreshToken, s.Tenant, s.Issuer, s.Client, token, nil),
	}
}

// Learned is what a gateway makes of a token response with next, obtained with presented ("" for a first grant).
func (s *SignIn) Learned(t testing.TB, presented, next string, sent time.Time) *backup.Learned {
	t.Helper()
	claims, err := session.ParseObject(fmt.Appendf(nil, `{"iss":%q,"sub":%q,"iat":%d,"exp":%d}`, s.Issuer, s.Subject, sent.Unix(), sent.Unix()+300))
	if err != nil {
		t.Fatal(err)
	}
	header, err := session.ParseObject([]byte(`{"alg":"ES256","kid":"k1","typ":"JWT"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := session.ParseObject([]byte(`{"access_token":null,"token_type":"Bearer","expires_in":300,"refresh_token":null}`))
	if err != nil {
		t.Fatal(err)
	}
	r := &session.Record{
		Format: session.RecordFormat, Tenant: s.Tenant, Issuer: s.Issuer, Client: s.Client, Subject: s.Subject, SID: s.SID, Grant: "refresh_token",
		Response: resp, AccessToken: &session.Token{Header: header, Claims: claims},
	}
	sealed, err := session.Seal(r, nil, s.Keys(next))
	if err != nil {
		t.Fatal(err)
	}
	p := func(what, v string) session.ID { return s.Seal.Pseudonym(what, s.Tenant, s.Issuer, v) }
	l := &backup.Learned{
		Tenant: s.Tenant, Issuer: s.Issuer, Flow: oauth.Refresh{}.Name(), Sent: sent.UnixNano(), Interactive: presented == "", Sealed: *sealed,
		Client: p("client", s.Client), Subject: p("subject", s.Subject), Session: p("session", s.SID), ClientAuth: "none", HabitKey: s.Seal.HabitKey(r),
	}
	if presented != "" {
		l.Presented = s.Keys(presented).Lookup
	}
	return l
}

// Play is a refresh in an outage that began now.
func (s *SignIn) Play(token string) *flow.Play {
	now := time.Now().UnixNano()
	return &flow.Play{
		ID: "1", Tenant: s.Tenant, Issuer: s.Issuer, Flow: oauth.Refresh{}.Name(), Client: flow.Proof{ID: s.Client, Method: "none"},
		Artifact: s.Keys(token), Received: now, Outage: now, Trigger: "test",
	}
}

// NewSignIn is alice's.
func NewSignIn(t testing.TB) *SignIn {
	return &SignIn{Seal: NewSealer(t), Tenant: "acme", Issuer: "https://id.test", Client: "spa", Subject: "alice", SID: "sid-1"}
}

// StartService is a real backup with its keys made, closed at the test's end.
func StartService(t testing.TB) *backup.Service {
	t.Helper()
	svc, done, err := OpenService(t.TempDir(), Quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	if _, err := svc.PublicKeys(t.Context(), "acme", "https://id.test", []string{"ES256"}); err != nil {
		t.Fatal(err)
	}
	return svc
}
