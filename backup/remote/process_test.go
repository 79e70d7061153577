package remote_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/errgroup"

	"understudy/backup/remote"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/gateway"
	"understudy/health"
	"understudy/idptest"
	"understudy/session"
)

// role is what a child process of the test is told to be.
type role struct {
	Role    string // "backup" or "gateway"
	Server  remote.ServerConfig
	Client  remote.ClientConfig
	DataDir string
	Listen  string // the gateway's
	Control string // the gateway's counters, for the test
	Primary string
}

const roleVariable = "UNDERSTUDY_TEST_ROLE"

func TestMain(m *testing.M) {
	if v := os.Getenv(roleVariable); v != "" {
		var r role
		err := json.Unmarshal([]byte(v), &r)
		if err == nil {
			err = r.run(context.Background())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func (r *role) run(ctx context.Context) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if r.Role == "backup" {
		svc, _, err := remote.OpenService(r.DataDir, log)
		if err != nil {
			return err
		}
		id, err := r.Server.Identity(log)
		if err != nil {
			return err
		}
		ln, err := net.Listen("tcp", r.Server.Listen)
		if err != nil {
			return err
		}
		return remote.Serve(ctx, ln, remote.NewHandler(svc, log), id, log)
	}
	seal, err := session.NewSealer(remote.SealKey)
	if err != nil {
		return err
	}
	cl, err := remote.NewClient(r.Client, seal, log, time.Now)
	if err != nil {
		return err
	}
	up, err := gateway.ParseUpstream(r.Primary)
	if err != nil {
		return err
	}
	g, err := gateway.New(gateway.Config{
		Tenants: []*gateway.Tenant{{
			Name: "default", Hosts: []string{r.Listen}, Scheme: "http", Upstream: up, Health: health.Config{ProbeAway: 200 * time.Millisecond},
		}},
		Flows: []flow.Flow{oauth.Refresh{}, oauth.Grant{}}, Backup: cl, Seal: seal, DataDir: r.DataDir, Log: log, Now: time.Now,
	})
	if err != nil {
		return err
	}
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { return cl.Run(ctx) })
	eg.Go(func() error { return g.Run(ctx) })
	eg.Go(func() error { return http.ListenAndServe(r.Listen, g) })
	eg.Go(func() error {
		return http.ListenAndServe(r.Control, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			json.NewEncoder(w).Encode(status{cl.Counts(), cl.Away(), g.Counts.Snapshot()})
		}))
	})
	return eg.Wait()
}

// status is what a gateway's process says of itself.
type status struct {
	Spool  remote.Counts
	Away   bool
	Counts map[string]uint64
}

// learned is how many exchanges reached the backup or the spool.
func (s *status) learned() (n uint64) {
	for k, v := range s.Counts {
		if strings.HasPrefix(k, "learned\x00") {
			n += v
		}
	}
	return n + s.Spool.Spooled
}

func start(t *testing.T, dir string, r role) *idptest.Process {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), roleVariable+"="+string(b))
	p, err := idptest.Start(filepath.Join(dir, r.Role+".log"), cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Log(r.Role + ":\n" + p.Log())
		}
	})
	return p
}

func (r *role) status(t *testing.T) *status {
	t.Helper()
	var s status
	remote.Eventually(t, "the gateway's process answers", func() bool {
		resp, err := http.Get("http://" + r.Control)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return json.NewDecoder(resp.Body).Decode(&s) == nil
	})
	return &s
}

// user is one person's application.
type user struct {
	cfg *oauth2.Config
	ver *oidc.IDTokenVerifier
	tok *oauth2.Token
}

func signIn(ctx context.Context, t *testing.T, gatewayURL, realm, name string) *user {
	t.Helper()
	p, err := oidc.NewProvider(ctx, gatewayURL+"/realms/"+realm)
	if err != nil {
		t.Fatal(err)
	}
	u := &user{
		cfg: &oauth2.Config{ClientID: "web", ClientSecret: "web-secret", Endpoint: p.Endpoint(), RedirectURL: "http://127.0.0.1:9999/cb", Scopes: []string{"openid"}},
		ver: p.Verifier(&oidc.Config{ClientID: "web"}),
	}
	at, err := (&idptest.Browser{}).Visit(ctx, u.cfg.AuthCodeURL("s"), u.cfg.RedirectURL, map[string]string{"username": name, "password": "pw-" + name})
	if err != nil {
		t.Fatal(err)
	}
	if u.tok, err = u.cfg.Exchange(ctx, at.Query().Get("code")); err != nil {
		t.Fatal(err)
	}
	return u
}

// refresh returns the key id of the new ID token, which the client's library has verified.
func (u *user) refresh(ctx context.Context) (kid string, err error) {
	next, err := u.cfg.TokenSource(ctx, &oauth2.Token{RefreshToken: u.tok.RefreshToken, Expiry: time.Unix(1, 0)}).Token()
	if err != nil {
		return "", err
	}
	raw, _ := next.Extra("id_token").(string)
	if _, err := u.ver.Verify(ctx, raw); err != nil {
		return "", err
	}
	u.tok = next
	var h struct{ Kid string }
	head, _, _ := strings.Cut(raw, ".")
	b, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return "", err
	}
	err = json.Unmarshal(b, &h)
	return h.Kid, err
}

// The gateway and the backup are two processes, and either may be killed.
func TestTwoProcesses(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	if err := idptest.InstallKeycloak(ctx); err != nil {
		t.Fatal(err)
	}
	kc, err := idptest.StartKeycloak(ctx, filepath.Join(dir, "kc"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kc.Kill() })
	a := remote.NewAuthority(t, dir)
	hour := time.Now().Add(time.Hour)
	addr, front := away(t), away(t)
	scert, skey := a.Issue(t, remote.ServerName, hour)
	ccert, ckey := a.Issue(t, remote.GatewayName, hour)
	back := role{Role: "backup", DataDir: filepath.Join(dir, "backup"), Server: remote.ServerConfig{Listen: addr, CertFile: scert, KeyFile: skey, CAFile: a.File(), AllowedNames: []string{remote.GatewayName}}}
	gate := func(n int) role {
		d := filepath.Join(dir, fmt.Sprint("gateway-", n))
		return role{Role: "gateway", DataDir: d, Listen: front, Control: away(t), Primary: kc.URL(), Client: remote.ClientConfig{
			URL: "https://" + addr, CertFile: ccert, KeyFile: ckey, CAFile: a.File(), ServerName: remote.ServerName, SpoolDir: d + "-spool",
		}}
	}
	g1 := gate(1)
	backupProcess, gatewayProcess := start(t, dir, back), start(t, dir, g1)
	remote.Eventually(t, "the gateway finds the backup", func() bool { return !g1.status(t).Away })

	alice := signIn(ctx, t, "http://"+front, "rot", "alice")
	if kid, err := alice.refresh(ctx); err != nil || strings.HasPrefix(kid, "bk-") {
		t.Fatal(kid, err)
	}
	if _, err := oidc.NewProvider(ctx, "http://"+front+"/realms/norot"); err != nil { // the backup makes its keys
		t.Fatal(err)
	}
	remote.Eventually(t, "both exchanges are learned", func() bool { return g1.status(t).learned() >= 2 })

	// The backup is killed: sign-ins, refreshes and revocations pass through, and what they taught waits.
	backupProcess.Kill()
	if kid, err := alice.refresh(ctx); err != nil || strings.HasPrefix(kid, "bk-") {
		t.Fatal(kid, err)
	}
	late := signIn(ctx, t, "http://"+front, "norot", "alice")
	gone := signIn(ctx, t, "http://"+front, "norot", "alice")
	remote.Eventually(t, "three exchanges are spooled", func() bool { return g1.status(t).Spool.Learned == 3 })
	revoke(t, "http://"+front, "norot", gone.tok.RefreshToken)
	remote.Eventually(t, "the revocation is spooled", func() bool { return g1.status(t).Spool.Marks >= 1 })

	// It is back: everything is delivered.
	start(t, dir, back)
	remote.Eventually(t, "the spool is delivered", func() bool { s := g1.status(t); return s.Spool.Learned+s.Spool.Marks == 0 && !s.Away })
	if s := g1.status(t); s.Spool.Dropped+s.Spool.Rejected+s.Spool.Lost != 0 {
		t.Errorf("%+v", s.Spool)
	}

	// The gateway is killed; another, with nothing but the sealing key, takes its place before the outage.
	gatewayProcess.Kill()
	g2 := gate(2)
	start(t, dir, g2)
	g2.status(t)
	for _, realm := range []string{"rot", "norot"} {
		remote.Eventually(t, "the new gateway knows the metadata of "+realm, func() bool {
			resp, err := http.Get("http://" + front + "/realms/" + realm + "/protocol/openid-connect/certs")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err == nil && !strings.Contains(string(b), "bk-") {
				if r, err := http.Get("http://" + front + "/realms/" + realm + "/.well-known/openid-configuration"); err == nil {
					r.Body.Close()
				}
			}
			return err == nil && strings.Contains(string(b), "bk-")
		})
	}
	kc.Kill()
	for i := range 3 {
		for name, u := range map[string]*user{"alice": alice, "late": late} {
			if kid, err := u.refresh(ctx); err != nil || !strings.HasPrefix(kid, "bk-") {
				t.Fatalf("refresh %d of %s in the outage: key %q, %v", i, name, kid, err)
			}
		}
	}
	if kid, err := gone.refresh(ctx); err == nil {
		t.Errorf("a session that was revoked while the backup was away was answered with key %s", kid)
	}
}

func revoke(t *testing.T, base, realm, token string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/realms/"+realm+"/protocol/openid-connect/revoke",
		strings.NewReader(url.Values{"token": {token}, "token_type_hint": {"refresh_token"}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("web", "web-secret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("revoke: status %d", resp.StatusCode)
	}
}
