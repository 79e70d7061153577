package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/idptest"
)

// echo is something to pass requests to, where what answers does not matter.
func echo(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d %d", r.Method, r.URL.Path, len(b), len(r.Header.Get("X-Long")))
	}))
	t.Cleanup(s.Close)
	return s
}

func TestServeWithThePrimaryAway(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	n.start()
	n.until("gave the primary up", func() bool { return n.status().Tenants[0].Endpoints["token"].Mode == "outage" })
	n.run("status").want(t, 0, "outage: the backup answers", "no issuer is known yet")
	for _, path := range []string{"/health/started", "/health/live", "/health/ready", "/livez", "/readyz"} {
		resp, err := n.api(path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	// HTTP/1.0, by address, without Host.
	c, err := net.Dial("tcp", strings.TrimPrefix(n.url(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /.understudy/health HTTP/1.0\r\n\r\n")
	if line, _ := bufio.NewReader(c).ReadString('\n'); !strings.Contains(line, "200") {
		t.Errorf("the health path: %q", line)
	}
}

// The form that needs no file.
func TestServeWithoutAFile(t *testing.T) {
	e := echo(t)
	n := newNode(t, e.URL)
	n.args = []string{"serve", "--primary", e.URL, "--listen", strings.TrimPrefix(n.url(), "http://"), "--data-dir", n.data()}
	n.start()
	body(t, n.url()+"/some//path", "GET /some//path 0 0")
	if _, err := os.Stat(n.data() + ".key"); err != nil {
		t.Errorf("the sealing key beside the data directory: %v", err)
	}
	command(t, "", nil, "status", "--data-dir", n.data()).want(t, 0, "tenant default")
	command(t, "", nil, "serve", "--primary", e.URL, "--listen", ":0", "--host", "x.example").want(t, 1, "--allow-plain")
	command(t, "", nil, "serve", "--primary", e.URL).want(t, 2, "--listen ADDR")
	n.hangup()
	n.until("said that SIGHUP changes nothing", func() bool { return n.logged("SIGHUP changes nothing") })
	body(t, n.url()+"/x", "GET /x 0 0")
}

func body(t *testing.T, url, want string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if string(b) != want {
		t.Errorf("%s: %d %q, want %q", url, resp.StatusCode, b, want)
	}
}

func TestTheDataDirectoryIsItsUsersAlone(t *testing.T) {
	n := newNode(t, echo(t).URL)
	if err := os.Mkdir(n.data(), 0o755); err != nil {
		t.Fatal(err)
	}
	n.start()
	for path, mode := range map[string]os.FileMode{n.data(): 0o700, n.socket(): 0o600, n.data() + ".key": 0o600, filepath.Join(n.data(), "store"): 0o700} {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != mode {
			t.Errorf("%s has mode %04o, want %04o", path, st.Mode().Perm(), mode)
		}
	}
	command(t, "", nil, "serve", "--primary", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--host", "x", "--data-dir", n.data()).
		want(t, 1, "another understudy runs on the data directory")
	n.run("status").want(t, 0)

	// A socket that a killed process left behind is no obstacle.
	n.kill()
	if _, err := os.Lstat(n.socket()); err != nil {
		t.Fatalf("the test wants a socket that was left behind: %v", err)
	}
	n.start()
	n.run("status").want(t, 0)
}

func TestReload(t *testing.T) {
	e := echo(t)
	n := newNode(t, e.URL)
	n.start()
	good, err := os.ReadFile(n.file())
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct{ name, text, want string }{
		{"no YAML", "tenants: [", "it is no YAML"},
		{"an unknown key", string(good) + "tennants: []\n", `unknown key \"tennants\": did you mean \"tenants\"?`},
		{"a file that is away", string(good) + "admin: {}\nlisteners_: 1\n", "listeners_"},
		{"what needs a restart", strings.Replace(string(good), n.data(), n.data()+"2", 1), "data_dir has changed, and that needs a restart"},
		{"an address that is taken", strings.Replace(string(good), fmt.Sprintf(`{address: "127.0.0.1:%d"}`, n.port), fmt.Sprintf(`{address: "127.0.0.1:%d"}, {address: %q}`, n.port, strings.TrimPrefix(e.URL, "http://")), 1), "address already in use"},
	} {
		n.put(c.text)
		n.hangup()
		n.until("refused "+c.name, func() bool {
			b, _ := os.ReadFile(n.log)
			return strings.Count(string(b), "the new configuration is not taken") == i+1
		})
		if !n.logged(c.want) {
			t.Errorf("%s: %q is not in the log", c.name, c.want)
		}
		body(t, n.url()+"/x", "GET /x 0 0")
		n.run("status", "--data-dir", n.data()).want(t, 1, "PROBLEM reload_failed")
	}

	// A good one: another primary, and another address beside the first.
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "the other") }))
	defer other.Close()
	second := freePort(t)
	text := strings.Replace(string(good), e.URL, other.URL, 1)
	text = strings.Replace(text, `listeners: [`, fmt.Sprintf(`listeners: [{address: "127.0.0.1:%d"}, `, second), 1)
	text = strings.Replace(text, `hosts: [`, fmt.Sprintf(`hosts: ["127.0.0.1:%d", `, second), 1)
	n.put(text)
	n.hangup()
	n.until("took the new configuration", func() bool { return n.logged("the new configuration is in force") })
	body(t, n.url()+"/x", "the other")
	body(t, fmt.Sprintf("http://127.0.0.1:%d/x", second), "the other")
	n.run("status").want(t, 0, other.URL)

	// And back, with another level of the log: the address that is gone is closed.
	n.put(string(good) + "log: {level: error}\n")
	n.hangup()
	n.until("closed the other address", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", second))
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	body(t, n.url()+"/x", "GET /x 0 0")
}

// Whatever does not open, sign-ins pass, nothing is said to be revoked, and status says what to do.
func TestWhatDoesNotOpen(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, n *node)
		code  string
		mend  string
	}{
		{"a corrupt store", func(t *testing.T, n *node) {
			files, err := filepath.Glob(filepath.Join(n.data(), "store", "MANIFEST-*"))
			if err != nil || len(files) == 0 {
				t.Fatal(err, files)
			}
			for _, f := range files {
				if err := os.WriteFile(f, []byte("nothing that a store would write"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, "store_failed", "mend the disk"},
		{"a sealing key that is gone", func(t *testing.T, n *node) {
			if err := os.Remove(n.data() + ".key"); err != nil {
				t.Fatal(err)
			}
		}, "sealing_key", "put the file back"},
		{"a readable sealing key", func(t *testing.T, n *node) {
			if err := os.Chmod(n.data()+".key", 0o644); err != nil {
				t.Fatal(err)
			}
		}, "sealing_key", "chmod 600"},
		{"another sealing key", func(t *testing.T, n *node) {
			if err := os.WriteFile(n.data()+".key", []byte(strings.Repeat("k", 32)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "sealing_key", "no revocation would hold"},
		{"a signing key that was changed", func(t *testing.T, n *node) {
			files, err := filepath.Glob(filepath.Join(n.data(), "keys", "*.keys"))
			if err != nil || len(files) == 0 {
				t.Fatal(err, files)
			}
			b, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := os.WriteFile(files[0], b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "keys_failed", "the key with which the signing keys were encrypted"},
		{"a sign-in log that is a file", func(t *testing.T, n *node) {
			if err := os.RemoveAll(filepath.Join(n.data(), "audit")); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(n.data(), "audit"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "audit_failed", "make"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "http://127.0.0.1:1")
			idp := n.provider()
			n.write(idp.URL())
			n.start()
			token := n.signIn("alice")
			n.kill()
			c.spoil(t, n)
			n.start()
			n.run("status").want(t, 1, "PROBLEM "+c.code, c.mend)
			n.wantRefresh("it passes through", token, http.StatusOK, "")
			n.run("revoke", "--subject", "alice", "--issuer", n.url()).want(t, 1, "NOT in force")
			idp.Kill()
			n.wantRefresh("the backup does not play", token, http.StatusServiceUnavailable, "temporarily_unavailable")
		})
	}
}

func TestAdminOverTCP(t *testing.T) {
	a, err := idptest.NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const secret = "0123456789abcdef0123"
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, echo(t).URL)
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	good := fmt.Sprintf("admin: {listen: %q, tls: {cert_file: %s, key_file: %s}, token_file: %s}", addr, a.CertFile, a.KeyFile, token)
	for _, c := range []struct{ name, line, want string }{
		{"without TLS", fmt.Sprintf("admin: {listen: %q, token_file: %s}", addr, token), "needs a certificate"},
		{"without a token", fmt.Sprintf("admin: {listen: %q, tls: {cert_file: %s, key_file: %s}}", addr, a.CertFile, a.KeyFile), "needs a token"},
		{"a token file that is away", strings.Replace(good, token, token+"2", 1), "read the admin token"},
		{"a certificate that is no certificate", strings.Replace(good, a.CertFile, token, 1), "load the certificate"},
	} {
		n.write("http://127.0.0.1:1", c.line)
		r := command(t, "", nil, "serve", "--config", n.file())
		r.want(t, 1, c.want)
		if strings.Contains(r.err, secret) {
			t.Errorf("%s: the token is in the message", c.name)
		}
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.write("http://127.0.0.1:1", strings.Replace(good, token, short, 1))
	command(t, "", nil, "serve", "--config", n.file()).want(t, 1, "16 or more characters")

	n.write(echo(t).URL, good)
	n.start()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Pool}}}
	ask := func(path, authorization string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	for _, c := range []struct {
		path, authorization string
		want                int
	}{
		{"/v1/status", "", 401}, {"/v1/status", "Bearer " + secret + "x", 401}, {"/v1/status", "Bearer ", 401}, {"/v1/status", "Basic " + secret, 401},
		{"/v1/status", secret, 401}, {"/metrics", "", 401}, {"/v1/revoke", "", 401}, {"/health/../v1/status", "", 401}, {"/health/%2e%2e/v1/status", "", 401},
		{"/v1/status", "Bearer " + secret, 200}, {"/metrics", "Bearer " + secret, 200}, {"/v1/config", "Bearer " + secret, 200},
		{"/health/ready", "", 200}, {"/livez", "", 200},
	} {
		status, text := ask(c.path, c.authorization)
		if status != c.want {
			t.Errorf("%s with %q: %d, want %d", c.path, c.authorization, status, c.want)
		}
		if strings.Contains(text, secret) || c.want == 401 && strings.Contains(text, "tenants") {
			t.Errorf("%s: %s", c.path, text)
		}
	}
	if resp, err := http.Get("http://" + addr + "/livez"); err == nil && resp.StatusCode == http.StatusOK {
		t.Error("it speaks plain HTTP")
	}
}

func TestTLSFollowsItsFiles(t *testing.T) {
	dir := t.TempDir()
	first, err := idptest.NewAuthority(filepath.Join(dir, "1"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := idptest.NewAuthority(filepath.Join(dir, "2"))
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, echo(t).URL)
	b, err := os.ReadFile(n.file())
	if err != nil {
		t.Fatal(err)
	}
	n.put(strings.Replace(string(b), `"}]`, fmt.Sprintf(`", tls: {cert_file: %s, key_file: %s}}]`, first.CertFile, first.KeyFile), 1))
	n.start()
	serial := func() string {
		d := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}} // which certificate it is is what is asked
		c, err := d.DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", n.port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		st := c.(*tls.Conn).ConnectionState()
		if st.NegotiatedProtocol != "h2" {
			t.Errorf("no HTTP/2: %q", st.NegotiatedProtocol)
		}
		return string(st.PeerCertificates[0].Signature)
	}
	was := serial()
	copyFile(t, second.CertFile, first.CertFile) // the key does not fit yet
	n.until("noticed", func() bool { return serial() == was && n.logged("the old one stays in force") })
	copyFile(t, second.KeyFile, first.KeyFile)
	n.until("changed", func() bool { return serial() != was })
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: second.Pool}}}
	resp, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/x", n.port))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
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

// 10,000 connections that say nothing keep nobody from signing in, and are not cut off for it. Where this process may
// not open as many, it opens what it may.
func TestIdleConnections(t *testing.T) {
	want := 10_000
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		t.Fatal(err)
	}
	want = min(want, int(r.Cur)*5/10)
	n := newNode(t, echo(t).URL)
	n.start()
	addr := strings.TrimPrefix(n.url(), "http://")
	conns := make([]net.Conn, 0, want)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range want {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("after %d: %v", len(conns), err)
		}
		conns = append(conns, c)
		fmt.Fprintf(c, "GET /x HTTP/1.1\r\nHost: %s\r\n\r\n", addr)
		if len(conns)%200 == 0 { // each is served once, and then idle
			body(t, n.url()+"/x", "GET /x 0 0")
		}
	}
	for i, c := range conns {
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("connection %d: %v %v", i, resp, err)
		}
	}
	st := n.status()
	if st.Connections < want || st.Shed != 0 {
		t.Errorf("%d connections, %d shed; want %d and none", st.Connections, st.Shed, want)
	}
	body(t, n.url()+"/y", "GET /y 0 0")
	fmt.Fprintf(conns[0], "GET /z HTTP/1.1\r\nHost: %s\r\n\r\n", addr)
	if resp, err := http.ReadResponse(bufio.NewReader(conns[0]), nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the oldest of them: %v", err)
	}
	t.Logf("%d connections", want)
}

func TestHeadersAndBodiesPass(t *testing.T) {
	n := newNode(t, echo(t).URL)
	n.start()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.url()+"/x", strings.NewReader(strings.Repeat("b", 3<<20)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Long", strings.Repeat("h", 64<<10))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if string(b) != fmt.Sprintf("POST /x %d %d", 3<<20, 64<<10) {
		t.Errorf("%d %.200s", resp.StatusCode, b)
	}
}

func TestMetrics(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	idp := n.provider()
	n.write(idp.URL())
	n.start()
	n.signIn("alice")
	resp, err := n.api("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	for _, want := range []string{
		`understudy_learned_total{flow=`, `understudy_mode{endpoint="token",mode="normal",tenant="staff"} 1`, `understudy_learn_queue 0`,
		fmt.Sprintf(`understudy_keys_mergeable{issuer=%q,tenant="staff"} 1`, n.url()), `understudy_key_published_time_seconds{alg="RS256"`,
		`understudy_problems 0`, "go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is not in the metrics", want)
		}
	}
	for _, never := range []string{"alice", "label0", "label1"} {
		if strings.Contains(string(b), never) {
			t.Errorf("%q is in the metrics", never)
		}
	}
}

func TestKeys(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	idp := n.provider()
	n.write(idp.URL())
	n.start()
	n.signIn("alice")
	published := func() string {
		resp, err := http.Get(n.url() + "/jwks")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	var k struct {
		Keys []struct {
			ID    string `json:"kid"`
			State string `json:"state"`
		}
	}
	if err := json.Unmarshal([]byte(n.run("keys", "--json").want(t, 0).out), &k); err != nil {
		t.Fatal(err)
	}
	kid := ""
	for _, x := range k.Keys {
		if x.State == "current" {
			kid = x.ID
		}
		n.until("published "+x.ID, func() bool { return strings.Contains(published(), x.ID) })
	}
	n.run("keys", "list").want(t, 0, kid, "RSA signatures by")
	n.run("keys", "rotate").want(t, 0, kid)
	n.run("keys", "remove", "bk-nothing").want(t, 1, "there is no key")
	n.run("keys", "remove", kid).want(t, 0, "is removed")
	n.until("withdrew the key", func() bool { return !strings.Contains(published(), kid) })
	if out := n.run("keys").out; strings.Contains(out, kid) || !strings.Contains(out, "current") {
		t.Errorf("after the removal:\n%s", out)
	}
	n.run("keys", "accept", "--tenant", "staff").want(t, 0, "no key was held")
	n.run("keys", "accept", "--issuer", "http://nobody").want(t, 1, "no such issuer")
}

func TestLogFollows(t *testing.T) {
	n := newNode(t, "http://127.0.0.1:1")
	n.start()
	n.run("revoke", "--all").want(t, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	lines := make(chan string, 10)
	follow := commandContext(ctx, "log", "--follow", "--json", "-n", "1", "--config", n.file())
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	if l := <-lines; !strings.Contains(l, `"decision":"revoked"`) {
		t.Errorf("the line that was there: %s", l)
	}
	n.run("revoke", "--subject", "follow-me", "--issuer", "http://x").want(t, 0)
	if l := <-lines; !strings.Contains(l, `"subject":"follow-me"`) {
		t.Errorf("the line that came: %s", l)
	}
	n.kill()
	follow.Wait()
	// The files are read directly where no process runs.
	n.run("log", "-n", "0").want(t, 0, `sub="follow-me"`)
	n.run("log", "--since", "tomorrow").want(t, 2, "is no time")
}

// The service manager's socket is taken, and it is told when the process is ready.
func TestServiceManager(t *testing.T) {
	n := newNode(t, echo(t).URL)
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", n.port))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(n.dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh", binary, "serve", "--config", n.file())
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(n.dir, "notify"))
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	says := func(want string) {
		t.Helper()
		b := make([]byte, 100)
		notify.SetReadDeadline(time.Now().Add(20 * time.Second))
		k, err := notify.Read(b)
		if err != nil || string(b[:k]) != want {
			t.Fatalf("%q %v, want %q", b[:k], err, want)
		}
	}
	says("READY=1")
	body(t, n.url()+"/x", "GET /x 0 0")
	cmd.Process.Signal(syscall.SIGTERM)
	says("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// Gateway and backup as two processes: the gateway's sign-ins are answered by the backup's process, and an operator's
// revocation at the gateway is kept by it.
func TestTwoProcesses(t *testing.T) {
	a, err := idptest.NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "sealing.key")
	if err := os.WriteFile(key, []byte(strings.Repeat("s", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	files := fmt.Sprintf("tls: {cert_file: %s, key_file: %s, ca_file: %s}", a.CertFile, a.KeyFile, a.CAFile)
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	b := newNode(t, "http://127.0.0.1:1")
	b.put(fmt.Sprintf("role: backup\ndata_dir: %s\nsealing_key_file: %s\nbackup: {listen: %q, allowed_names: [localhost], %s}\n", b.data(), key, addr, files))
	b.start()
	n := newNode(t, "http://127.0.0.1:1")
	idp := n.provider()
	n.write(idp.URL(), "role: gateway", "sealing_key_file: "+key, fmt.Sprintf("backup: {url: \"https://%s\", %s}", addr, files))
	n.start()
	alice, bob := n.signIn("alice"), n.signIn("bob")
	n.run("revoke", "--subject", "bob").want(t, 0)
	b.kill()
	n.until("missed the backup", func() bool {
		n.refresh(alice)
		return strings.Contains(n.run("status").out, "backup_away")
	})
	n.wantRefresh("with the backup's process away", alice, http.StatusOK, "")
	n.kill()
	n.start() // it needs no backup to start
	n.wantRefresh("started with the backup's process away", alice, http.StatusOK, "")
	b.start()
	n.until("found the backup", func() bool { return !strings.Contains(n.run("status").out, "backup_away") })
	idp.Kill()
	n.wantRefresh("in an outage", alice, http.StatusOK, "")
	n.wantRefresh("who was revoked at the gateway", bob, http.StatusBadRequest, "invalid_grant")
	b.run("log", "--decision", "issued").want(t, 0, `sub="alice"`)
	b.run("keys").want(t, 0, "current")
	n.run("keys").want(t, 1, "ask the backup's process")
	n.run("lift", "--tenant", "staff", "--from", "1h").want(t, 1, "ask the backup's process")
}
