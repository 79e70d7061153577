package remote_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"understudy/backup"
	"understudy/backup/remote"
	"understudy/flow"
	"understudy/gateway"
	"understudy/session"
)

var (
	_ gateway.Backup = (*remote.Client)(nil)
	_ remote.Backup  = (*remote.Client)(nil)
	_ remote.Backup  = (*backup.Service)(nil)
)

// counting counts what reaches a backup.
type counting struct {
	remote.Backup
	n atomic.Int64
}

func (c *counting) Standing(ctx context.Context, tenant string, l session.ID) (backup.Standing, error) {
	c.n.Add(1)
	return c.Backup.Standing(ctx, tenant, l)
}

func (c *counting) Play(ctx context.Context, p *flow.Play) (*flow.Reply, *flow.Refusal, error) {
	c.n.Add(1)
	return c.Backup.Play(ctx, p)
}

func TestPeersThatAreNoGateways(t *testing.T) {
	ours, foreign := remote.NewAuthority(t, t.TempDir()), remote.NewAuthority(t, t.TempDir())
	svc := &counting{Backup: remote.StartService(t)}
	srv := remote.StartServer(t, ours, "", svc)
	hour := time.Now().Add(time.Hour)
	pair := func(cert, key string) *tls.Certificate {
		c, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return &c
	}
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(ours.File())
	if err != nil {
		t.Fatal(err)
	}
	roots.AppendCertsFromPEM(pem)
	good := pair(ours.Issue(t, remote.GatewayName, hour))
	post := func(cert *tls.Certificate, change func(*tls.Config)) (int, error) {
		cfg := &tls.Config{RootCAs: roots, ServerName: remote.ServerName, NextProtos: []string{"h2"}}
		if cert != nil {
			cfg.Certificates = []tls.Certificate{*cert}
		}
		if change != nil {
			change(cfg)
		}
		tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: len(cfg.NextProtos) == 1 && cfg.NextProtos[0] == "h2"}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+srv.Addr+"/v1/standing", bytes.NewReader([]byte{0xa0}))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/cbor")
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, nil
	}
	if status, err := post(good, nil); err != nil || status != http.StatusOK || svc.n.Load() != 1 {
		t.Fatalf("a gateway: %d, %v, %d calls", status, err, svc.n.Load())
	}
	for _, c := range []struct {
		name   string
		cert   *tls.Certificate
		change func(*tls.Config)
	}{
		{"no certificate", nil, nil},
		{"another authority", pair(foreign.Issue(t, remote.GatewayName, hour)), nil},
		{"another name (the common name does not count)", pair(ours.Issue(t, "printer.test", hour)), nil},
		{"a wildcard that would match", pair(ours.Issue(t, "*.test", hour)), nil},
		{"a certificate for servers only", pair(ours.Issue(t, remote.GatewayName, hour, x509.ExtKeyUsageServerAuth)), nil},
		{"an expired certificate", pair(ours.Issue(t, remote.GatewayName, time.Now().Add(-time.Minute))), nil},
		{"TLS 1.2", good, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }},
		{"HTTP/1.1", good, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }},
		{"no protocol", good, func(c *tls.Config) { c.NextProtos = nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if status, err := post(c.cert, c.change); err == nil {
				t.Errorf("got an answer: %d", status)
			}
		})
	}
	t.Run("plain HTTP", func(t *testing.T) {
		resp, err := http.Post("http://"+srv.Addr+"/v1/standing", "application/cbor", bytes.NewReader([]byte{0xa0}))
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusBadRequest {
				t.Errorf("status %d", resp.StatusCode)
			}
		}
	})
	t.Run("the handler on a listener without TLS", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		hs := &http.Server{Handler: remote.NewHandler(svc, remote.Quiet())}
		go hs.Serve(ln)
		defer hs.Close()
		resp, err := http.Post("http://"+ln.Addr().String()+"/v1/standing", "application/cbor", bytes.NewReader([]byte{0xa0}))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
	if n := svc.n.Load(); n != 1 {
		t.Errorf("%d calls reached the backup, 1 is the gateway's", n)
	}
}

func TestServersThatAreNoBackups(t *testing.T) {
	ours, foreign := remote.NewAuthority(t, t.TempDir()), remote.NewAuthority(t, t.TempDir())
	svc := &counting{Backup: remote.StartService(t)}
	hour := time.Now().Add(time.Hour)
	for _, c := range []struct {
		name      string
		cert, key string
	}{
		{"another authority", "", ""},
		{"another name", "", ""},
		{"a gateway's certificate", "", ""},
	} {
		switch c.name {
		case "another authority":
			c.cert, c.key = foreign.Issue(t, remote.ServerName, hour)
		case "another name":
			c.cert, c.key = ours.Issue(t, "other.test", hour)
		default:
			c.cert, c.key = ours.Issue(t, remote.ServerName, hour, x509.ExtKeyUsageClientAuth)
		}
		t.Run(c.name, func(t *testing.T) {
			srv := remote.StartServerWith(t, remote.ServerConfig{CertFile: c.cert, KeyFile: c.key, CAFile: ours.File(), AllowedNames: []string{remote.GatewayName}}, svc)
			cl, _ := remote.StartClient(t, ours, srv.Addr, t.TempDir())
			if _, _, err := cl.Play(t.Context(), remote.NewSignIn(t).Play("rt")); !errors.Is(err, remote.ErrAway) {
				t.Errorf("got %v", err)
			}
		})
	}
	if svc.n.Load() != 0 {
		t.Error("a client spoke to a server that is none of its")
	}
}

func TestNoNamesAreNotAllNames(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	cert, key := a.Issue(t, remote.ServerName, time.Now().Add(time.Hour))
	for _, names := range [][]string{nil, {""}} {
		if _, err := (remote.ServerConfig{CertFile: cert, KeyFile: key, CAFile: a.File(), AllowedNames: names}).Identity(remote.Quiet()); err == nil {
			t.Errorf("%q was taken", names)
		}
	}
}

// A certificate authority that is replaced ends the connections of its certificates too, and new certificates are taken
// without a restart.
func TestCertificatesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	old := remote.NewAuthority(t, dir)
	svc := remote.StartService(t)
	cert, key := old.Issue(t, remote.ServerName, time.Now().Add(time.Hour))
	srv := remote.StartServerWith(t, remote.ServerConfig{CertFile: cert, KeyFile: key, CAFile: old.File(), AllowedNames: []string{remote.GatewayName}}, svc)
	var ccert, ckey string
	// The client believes the old authority all along: only the server decides here.
	trust := t.TempDir() + "/ca.pem"
	copyFile(t, old.File(), trust)
	cl, _ := remote.StartClient(t, old, srv.Addr, t.TempDir(), func(c *remote.ClientConfig) { c.CAFile = trust; ccert, ckey = c.CertFile, c.KeyFile })
	standing := func() error {
		_, err := cl.Standing(t.Context(), "acme", session.NewID())
		return err
	}
	if err := standing(); err != nil {
		t.Fatal(err)
	}
	next := remote.NewAuthority(t, dir) // the same file
	remote.Eventually(t, "the former authority's gateway is refused", func() bool { return standing() != nil })
	c2, k2 := next.Issue(t, remote.GatewayName, time.Now().Add(time.Hour))
	copyFile(t, c2, ccert)
	copyFile(t, k2, ckey)
	remote.Eventually(t, "the gateway's new certificate is in use", func() bool { return standing() == nil })
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What was recorded on the wire is worth nothing to who sends it again.
func TestRecordedConnectionReplayed(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	svc := &counting{Backup: remote.StartService(t)}
	srv := remote.StartServer(t, a, "", svc)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var mu sync.Mutex
	var tape bytes.Buffer
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", srv.Addr)
			if err != nil {
				in.Close()
				return
			}
			go func() { io.Copy(in, out); in.Close() }()
			go func() {
				io.Copy(out, io.TeeReader(in, writerFunc(func(b []byte) (int, error) {
					mu.Lock()
					defer mu.Unlock()
					return tape.Write(b)
				})))
				out.Close()
			}()
		}
	}()
	cl, stop := remote.StartClient(t, a, ln.Addr().String(), t.TempDir())
	if _, _, err := cl.Play(t.Context(), remote.NewSignIn(t).Play("rt")); err != nil {
		t.Fatal(err)
	}
	stop()
	before := svc.n.Load()
	conn, err := net.Dial("tcp", srv.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mu.Lock()
	recorded := bytes.Clone(tape.Bytes())
	mu.Unlock()
	if len(recorded) < 1000 {
		t.Fatalf("only %d bytes recorded", len(recorded))
	}
	conn.Write(recorded)
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(conn); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error("the server kept the connection")
	}
	if svc.n.Load() != before {
		t.Error("a replayed connection reached the backup")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
