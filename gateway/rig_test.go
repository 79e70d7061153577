package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"understudy/gateway"
	"understudy/health"
	"understudy/idptest"
	"understudy/serve"
	"understudy/session"
	"understudy/store"
)

// keycloak is one real Keycloak for all tests of the package; whoever kills it brings it back.
func keycloak(t *testing.T) *idptest.Keycloak {
	t.Helper()
	shared.once.Do(func() {
		ctx := context.Background()
		if shared.err = idptest.InstallKeycloak(ctx); shared.err != nil {
			return
		}
		if shared.dir, shared.err = os.MkdirTemp("", "gateway-test-"); shared.err != nil {
			return
		}
		shared.kc, shared.err = idptest.StartKeycloak(ctx, filepath.Join(shared.dir, "kc"))
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.kc
}

var shared struct {
	once sync.Once
	kc   *idptest.Keycloak
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.kc != nil {
		shared.kc.Kill()
	}
	os.RemoveAll(shared.dir)
	os.Exit(code)
}

// rig is an understudy in this process, in front of a primary.
type rig struct {
	t      *testing.T
	url    string
	dir    string
	backup gateway.Backup
	full   atomic.Bool // the store takes nothing
	seal   *session.Sealer
	log    *bytes.Buffer
	logMu  sync.Mutex
	stop   func()
	start  func()
}

func newRig(t *testing.T, primary string, change ...func(*gateway.Tenant)) *rig {
	t.Helper()
	port, err := idptest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return newRigAt(t, port, primary, change...)
}

// newRigAt is newRig at a port that the primary knows as its own.
func newRigAt(t *testing.T, port int, primary string, change ...func(*gateway.Tenant)) *rig {
	t.Helper()
	host := fmt.Sprintf("127.0.0.1:%d", port)
	u, err := gateway.ParseUpstream(primary)
	if err != nil {
		t.Fatal(err)
	}
	key := bytes.Repeat([]byte{7}, 32)
	seal, err := session.NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, url: "http://" + host, dir: shortDir(t), seal: seal, log: &bytes.Buffer{}}
	r.start = func() {
		tenant := &gateway.Tenant{
			Name: "default", Hosts: []string{host}, Scheme: "http", Upstream: u,
			Health: health.Config{ProbeAway: 200 * time.Millisecond, RampStep: 300 * time.Millisecond},
		}
		for _, c := range change {
			c(tenant)
		}
		listen, listeners := host, []serve.Listener(nil)
		if tenant.Scheme == "https" {
			a := must(idptest.NewAuthority(filepath.Join(r.dir, "tls")))
			listen, listeners = "", []serve.Listener{{Address: host, CertFile: a.CertFile, KeyFile: a.KeyFile, AskCertificate: true}}
			r.url = "https://" + host
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- serve.Run(ctx, serve.Options{
				Listen: listen, Listeners: listeners, Tenants: []*gateway.Tenant{tenant}, DataDir: r.dir, SealingKey: key,
				Log: slog.New(slog.NewTextHandler(r, nil)),
				Hooks: serve.Hooks{
					KV:     func(kv store.KV) store.KV { return disk{kv, &r.full} },
					Backup: func(b gateway.Backup) gateway.Backup { r.backup = b; return b },
				},
			})
		}()
		r.stop = sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		for range 500 {
			if resp, err := strangers().Get(r.url + "/.understudy/health"); err == nil {
				resp.Body.Close()
				if _, err := os.Stat(filepath.Join(r.dir, "admin.sock")); err == nil { // it opens by itself
					return
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatal("does not serve")
	}
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			r.logMu.Lock()
			defer r.logMu.Unlock()
			t.Log(r.log.String())
		}
	})
	r.start()
	return r
}

// shortDir is a directory for the time of a test, in which a socket can lie however long the test's name is.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "u")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// restart ends the process's parts and starts them again on the same data.
func (r *rig) restart() *rig {
	r.stop()
	r.start()
	return r
}

func (r *rig) Write(b []byte) (int, error) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	return r.log.Write(b)
}

// tokens are what a client holds.
type tokens struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	IDToken      string `json:"id_token"`
	Error        string `json:"error"`
	Description  string `json:"error_description"`
	status       int
	code         string
}

func (r *rig) realm(name string) string { return r.url + "/realms/" + name }

// signIn signs a user in at Keycloak through the gateway, with the client "web", and waits until that is learned.
func (r *rig) signIn(realm, user string) *tokens {
	r.t.Helper()
	return r.signInWith(&idptest.Browser{}, realm, user)
}

// signInWith signs in with a browser; one that is signed in gets another grant of the same session.
func (r *rig) signInWith(b *idptest.Browser, realm, user string) *tokens {
	r.t.Helper()
	q := url.Values{"client_id": {"web"}, "response_type": {"code"}, "scope": {"openid"}, "state": {"s"}, "nonce": {"n-" + user}, "redirect_uri": {"http://127.0.0.1:9999/cb"}}
	at, err := b.Visit(r.t.Context(), r.realm(realm)+"/protocol/openid-connect/auth?"+q.Encode(), "http://127.0.0.1:9999/cb",
		map[string]string{"username": user, "password": "pw-" + user})
	if err != nil {
		r.t.Fatal(err)
	}
	code := at.Query().Get("code")
	got := r.token(realm, url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {"http://127.0.0.1:9999/cb"}})
	if got.AccessToken == "" {
		r.t.Fatalf("sign-in: %d %s %s", got.status, got.Error, got.Description)
	}
	got.code = code
	r.learned(realm, got.RefreshToken)
	return got
}

// learned waits until the record of a refresh token is there.
func (r *rig) learned(realm, refreshToken string) {
	r.t.Helper()
	r.learnedAt(r.realm(realm), refreshToken)
}

func (r *rig) learnedAt(issuer, refreshToken string) {
	r.t.Helper()
	look := r.seal.Lookup(session.RefreshToken, "default", issuer, refreshToken)
	for range 300 {
		if st, err := r.backup.Standing(r.t.Context(), "default", look); err == nil && st.Known {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatal("the sign-in was not learned")
}

// token asks the token endpoint as the client "web".
func (r *rig) token(realm string, form url.Values, change ...func(*http.Request)) *tokens {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.realm(realm)+"/protocol/openid-connect/token", strings.NewReader(form.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("web", "web-secret")
	for _, c := range change {
		c(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return &tokens{Error: "transport", Description: err.Error()}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return &tokens{Error: "transport", Description: err.Error()}
	}
	out := &tokens{status: resp.StatusCode}
	if json.Unmarshal(b, out) != nil {
		out.Error, out.Description = "not JSON", string(b[:min(len(b), 200)])
	}
	return out
}

func (r *rig) refresh(realm, refreshToken string, change ...func(*http.Request)) *tokens {
	r.t.Helper()
	return r.token(realm, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}}, change...)
}

// byBackup says whether an ID token was issued by the backup.
func (t *tokens) byBackup() bool {
	return t.IDToken != "" && strings.HasPrefix(kid(t.IDToken), "bk-")
}

// settled waits until Keycloak has written its sessions down, which it does half a second late and does not tell.
func settled() { time.Sleep(time.Second) }

// back waits until the primary has all of the traffic again.
func (r *rig) back() {
	r.t.Helper()
	waitFor(r.t, "the primary is back", func() bool {
		return r.metrics("understudy_primary_share_percent")[`understudy_primary_share_percent{endpoint="token",tenant="default"}`] == "100"
	})
}
