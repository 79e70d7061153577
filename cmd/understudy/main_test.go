package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"understudy/admin"
	"understudy/idptest"
)

// binary is the built program; set once by TestMain.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "understudy-cmd-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = idptest.InstallNode(context.Background())
		}
		if err == nil {
			binary, err = idptest.BuildUnderstudy(context.Background(), dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// result is what a command came to.
type result struct {
	code     int
	out, err string
}

// command runs the program until it ends.
func command(t *testing.T, stdin string, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdin, cmd.Env = strings.NewReader(stdin), append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		t.Fatalf("%q: %v", args, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// want fails where a command did not come to what it should.
func (r result) want(t *testing.T, code int, texts ...string) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit status %d, want %d\n%s\n%s", r.code, code, r.out, r.err)
	}
	for _, s := range texts {
		if !strings.Contains(r.out+r.err, s) {
			t.Errorf("%q is not in:\n%s%s", s, r.out, r.err)
		}
	}
	return r
}

// node is a running program with its configuration file.
type node struct {
	t    *testing.T
	dir  string
	bin  string // the program
	port int
	args []string
	attr *syscall.SysProcAttr // nil: as this process runs
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// newNode prepares a node in front of a primary. Its file has the given lines beside listeners, tenants and data_dir.
func newNode(t *testing.T, primary string, extra ...string) *node {
	t.Helper()
	return newNodeIn(t, t.TempDir(), primary, extra...)
}

// newNodeIn prepares it in a directory.
func newNodeIn(t *testing.T, dir, primary string, extra ...string) *node {
	t.Helper()
	n := &node{t: t, dir: dir, bin: binary, port: freePort(t)}
	n.log = filepath.Join(n.dir, "log")
	n.write(primary, extra...)
	n.args = []string{"serve", "--config", n.file()}
	return n
}

func freePort(t *testing.T) int {
	t.Helper()
	p, err := idptest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (n *node) file() string { return filepath.Join(n.dir, "u.yaml") }
func (n *node) data() string { return filepath.Join(n.dir, "data") }
func (n *node) url() string  { return fmt.Sprintf("http://127.0.0.1:%d", n.port) }

// write writes the configuration file.
func (n *node) write(primary string, extra ...string) {
	n.t.Helper()
	text := fmt.Sprintf(`data_dir: %s
listeners: [{address: "127.0.0.1:%d"}]
tenants:
  - name: staff
    hosts: ["127.0.0.1:%[2]d"]
    upstream: {url: "%s"}
    health: {probe_serving: 1s, probe_away: 200ms, good_probes: 1, ramp: [100], ramp_step: 100ms}
%s
`, n.data(), n.port, primary, strings.Join(extra, "\n"))
	n.put(text)
}

func (n *node) put(text string) {
	n.t.Helper()
	if err := os.WriteFile(n.file(), []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// start starts the node and waits until its admin API says that it is ready.
func (n *node) start() {
	n.t.Helper()
	n.launch()
	n.until("is ready", func() bool {
		resp, err := n.api("/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// launch starts the node and waits for nothing.
func (n *node) launch() {
	n.t.Helper()
	f, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	n.cmd = exec.Command(n.bin, n.args...)
	n.cmd.Stdout, n.cmd.Stderr, n.cmd.SysProcAttr = f, f, n.attr
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	cmd := n.cmd
	go func() { cmd.Wait(); close(done) }()
	n.done = done
	n.t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		if n.t.Failed() {
			b, _ := os.ReadFile(n.log)
			n.t.Logf("%s", b[max(0, len(b)-3000):])
		}
	})
}

// kill ends the node with SIGKILL.
func (n *node) kill() {
	n.cmd.Process.Kill()
	<-n.done
}

// until waits for something of the running node.
func (n *node) until(what string, f func() bool) {
	n.t.Helper()
	deadline := time.After(30 * time.Second)
	for !f() {
		select {
		case <-n.done:
			b, _ := os.ReadFile(n.log)
			n.t.Fatalf("it ended before it %s:\n%s", what, b)
		case <-deadline:
			b, _ := os.ReadFile(n.log)
			r := n.run("status")
			n.t.Fatalf("it never %s:\n%s\n%s", what, b, r.out)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (n *node) socket() string { return filepath.Join(n.data(), "admin.sock") }

// api asks the admin socket as any HTTP client does.
func (n *node) api(path string) (*http.Response, error) {
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", n.socket())
		},
	}}
	return c.Get("http://understudy" + path)
}

// run runs a command that speaks to the node.
func (n *node) run(args ...string) result {
	n.t.Helper()
	return command(n.t, "", nil, append(args, "--config", n.file())...)
}

func (n *node) status() *admin.Status {
	n.t.Helper()
	r := n.run("status", "--json")
	var st admin.Status
	if err := json.Unmarshal([]byte(r.out), &st); err != nil {
		n.t.Fatalf("status: %v\n%s%s", err, r.out, r.err)
	}
	return &st
}

// provider starts a real identity provider whose issuer is the node.
func (n *node) provider() *idptest.OIDCProvider {
	n.t.Helper()
	p, err := idptest.StartOIDCProvider(n.t.Context(), filepath.Join(n.dir, "idp"), idptest.OIDCProviderOptions{Issuer: n.url()})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(p.Kill)
	return p
}

// client is the application web.
func (n *node) client() *oauth2.Config {
	return &oauth2.Config{
		ClientID: "web", ClientSecret: "web-secret", RedirectURL: "http://127.0.0.1:9999/cb", Scopes: []string{"openid", "offline_access"},
		Endpoint: oauth2.Endpoint{AuthURL: n.url() + "/auth", TokenURL: n.url() + "/token", AuthStyle: oauth2.AuthStyleInHeader},
	}
}

// signIn signs a user in and returns the refresh token, once the sign-in has been learned.
func (n *node) signIn(user string) string {
	n.t.Helper()
	learned := func() (sum uint64) {
		for _, v := range n.status().Tenants[0].Learned {
			sum += v
		}
		return sum
	}
	n.until("knew the issuer", func() bool { return len(n.status().Tenants[0].Issuers) > 0 })
	before := learned()
	c := n.client()
	at, err := (&idptest.Browser{}).Visit(n.t.Context(), c.AuthCodeURL("s", oauth2.SetAuthURLParam("prompt", "consent")), c.RedirectURL, map[string]string{"login": user, "password": "x"})
	if err != nil {
		n.t.Fatal(err)
	}
	tok, err := c.Exchange(n.t.Context(), at.Query().Get("code"))
	if err != nil {
		n.t.Fatal(err)
	}
	if tok.RefreshToken == "" {
		n.t.Fatal("the provider gave no refresh token")
	}
	n.until("learned", func() bool { return learned() > before })
	return tok.RefreshToken
}

// refresh redeems a refresh token and returns the status and the OAuth 2.0 error code.
func (n *node) refresh(token string) (int, string) {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), http.MethodPost, n.url()+"/token", strings.NewReader(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}.Encode()))
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("web", "web-secret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	var e struct {
		Error string `json:"error"`
	}
	json.NewDecoder(resp.Body).Decode(&e)
	return resp.StatusCode, e.Error
}

// wantRefresh fails where a refresh does not come to what it should.
func (n *node) wantRefresh(what, token string, status int, code string) {
	n.t.Helper()
	if s, c := n.refresh(token); s != status || c != code {
		n.t.Errorf("%s: %d %q, want %d %q", what, s, c, status, code)
	}
}

// hangup sends SIGHUP.
func (n *node) hangup() {
	n.t.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		n.t.Fatal(err)
	}
}

// logged says whether the process's log has a text.
func (n *node) logged(text string) bool {
	b, _ := os.ReadFile(n.log)
	return strings.Contains(string(b), text)
}
