package remote_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"understudy/backup"
	"understudy/backup/remote"
	"understudy/flow"
	"understudy/session"
)

// hanging is a backup that does not come to an end.
type hanging struct {
	remote.Backup
	plays atomic.Int64
}

func (h *hanging) Standing(ctx context.Context, _ string, _ session.ID) (backup.Standing, error) {
	<-ctx.Done()
	return backup.Standing{}, ctx.Err()
}

func (h *hanging) Play(ctx context.Context, _ *flow.Play) (*flow.Reply, *flow.Refusal, error) {
	h.plays.Add(1)
	<-ctx.Done()
	return nil, nil, ctx.Err()
}

func TestCallsAreBounded(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	svc := &hanging{}
	srv := remote.StartServer(t, a, "", svc)
	cl, _ := remote.StartClient(t, a, srv.Addr, t.TempDir(), func(c *remote.ClientConfig) {
		c.Timeouts.Standing, c.Timeouts.Play = 50*time.Millisecond, 100*time.Millisecond
	})
	if _, err := cl.Standing(context.Background(), "acme", session.NewID()); !errors.Is(err, remote.ErrAway) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("standing: %v", err)
	}
	if _, _, err := cl.Play(context.Background(), remote.NewSignIn(t).Play("rt")); !errors.Is(err, remote.ErrAway) {
		t.Errorf("play: %v", err)
	}
	if n := svc.plays.Load(); n != 1 {
		t.Errorf("sent %d times", n)
	}
	if cl.Away() {
		t.Error("two deadlines are slow, not away")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 5 {
		if _, err := cl.Standing(ctx, "acme", session.NewID()); !errors.Is(err, context.Canceled) || errors.Is(err, remote.ErrAway) {
			t.Errorf("a caller that left: %v", err)
		}
	}
	if cl.Away() {
		t.Error("callers that left make no backup away")
	}
}

// A backup whose connection breaks with the request in its hands may have answered: it is not asked again.
func TestPlayIsSentOnce(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	svc := &hanging{}
	srv := remote.StartServer(t, a, "", svc)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", srv.Addr)
			if err != nil {
				return
			}
			go io.Copy(in, out)
			go io.Copy(out, in)
			before := svc.plays.Load()
			go func() {
				for svc.plays.Load() == before {
					time.Sleep(time.Millisecond)
				}
				in.(*net.TCPConn).SetLinger(0)
				in.Close()
				out.Close()
			}()
		}
	}()
	cl, _ := remote.StartClient(t, a, ln.Addr().String(), t.TempDir())
	if _, _, err := cl.Play(t.Context(), remote.NewSignIn(t).Play("rt")); !errors.Is(err, remote.ErrAway) {
		t.Fatal(err)
	}
	if n := svc.plays.Load(); n != 1 {
		t.Errorf("sent %d times", n)
	}
}

func TestBackAtOnce(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	svc := remote.StartService(t)
	srv := remote.StartServer(t, a, "", svc)
	cl, stop := remote.StartClient(t, a, srv.Addr, t.TempDir()+"/spool")
	ks, err := cl.PublicKeys(t.Context(), "acme", "https://id.test", []string{"ES256"})
	if err != nil || len(ks) == 0 || !strings.HasPrefix(ks[0].KeyID, "bk-") {
		t.Fatal(ks, err)
	}
	srv.Stop()
	remote.Eventually(t, "away is noticed", cl.Away)
	if _, err := cl.Standing(t.Context(), "acme", session.NewID()); !errors.Is(err, remote.ErrAway) {
		t.Errorf("standing: %v", err)
	}
	again, err := cl.PublicKeys(t.Context(), "acme", "https://id.test", []string{"ES256"})
	if err != nil || len(again) != len(ks) || again[0].KeyID != ks[0].KeyID {
		t.Errorf("keys while away: %v, %v", again, err)
	}
	if _, err := cl.PublicKeys(t.Context(), "acme", "https://other.test", nil); !errors.Is(err, remote.ErrAway) {
		t.Errorf("keys that were never seen: %v", err)
	}
	srv2 := remote.StartServer(t, a, srv.Addr, svc)
	remote.Eventually(t, "the backup is found again", func() bool { return !cl.Away() })
	if _, err := cl.Standing(t.Context(), "acme", session.NewID()); err != nil {
		t.Errorf("standing: %v", err)
	}
	stop()
	srv2.Stop()
	_ = svc
}

func TestGatewayStartsWithTheBackupAway(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	dir := t.TempDir()
	srv := remote.StartServer(t, a, "", remote.StartService(t))
	cl, stop := remote.StartClient(t, a, srv.Addr, dir)
	want, err := cl.PublicKeys(t.Context(), "acme", "https://id.test", nil)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	srv.Stop()
	cl, _ = remote.StartClient(t, a, srv.Addr, dir)
	got, err := cl.PublicKeys(t.Context(), "acme", "https://id.test", nil)
	if err != nil || len(got) != len(want) || got[0].KeyID != want[0].KeyID {
		t.Errorf("%v, %v", got, err)
	}
}

// An allowed peer that sends slowly, or without end, is cut off.
func TestSlowAndEndlessBodies(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	svc := &counting{Backup: remote.StartService(t)}
	srv := remote.StartServer(t, a, "", svc)
	cert, key := a.Issue(t, remote.GatewayName, time.Now().Add(time.Hour))
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(a.File())
	if err != nil {
		t.Fatal(err)
	}
	roots.AppendCertsFromPEM(pem)
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: remote.ServerName, Certificates: []tls.Certificate{pair}}}
	defer tr.CloseIdleConnections()
	post := func(body io.Reader) (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+srv.Addr+"/v1/standing", body)
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
	endless := readerFunc(func(b []byte) (int, error) { return len(b), nil })
	if status, err := post(endless); err == nil && status != http.StatusRequestEntityTooLarge {
		t.Errorf("an endless body: %d", status)
	}
	r, w := io.Pipe()
	defer w.Close()
	go w.Write([]byte{0xa1})
	if status, err := post(r); err == nil && status != http.StatusRequestTimeout {
		t.Errorf("a slow body: %d", status)
	}
	if svc.n.Load() != 0 {
		t.Error("it reached the backup")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
