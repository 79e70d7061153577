package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/idptest"
)

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

// idle is how many connections may say nothing, and idleHandles how many file handles the served process needs for them:
// it gives six of ten to clients. This process needs fewer.
const (
	idle        = 10_000
	idleHandles = 18_000
)

// 10,000 connections that say nothing keep nobody from signing in, and are not cut off for it.
func TestIdleConnections(t *testing.T) {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		t.Fatal(err)
	}
	if r.Max < idleHandles {
		t.Fatalf("%d connections need %d file handles, and the hard limit here is %d: raise it (ulimit -Hn %d)", idle, idleHandles, r.Max, idleHandles)
	}
	was := r
	r.Cur = r.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was)
	n := newNode(t, echo(t).URL)
	n.start()
	addr := strings.TrimPrefix(n.url(), "http://")
	conns := make([]net.Conn, 0, idle)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range idle {
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
	if st.Connections < idle || st.Shed != 0 {
		t.Errorf("%d connections, %d shed; want %d and none", st.Connections, st.Shed, idle)
	}
	body(t, n.url()+"/y", "GET /y 0 0")
	for i, c := range conns { // all of them are still there
		fmt.Fprintf(c, "GET /z HTTP/1.1\r\nHost: %s\r\n\r\n", addr)
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("connection %d, after it was idle: %v", i, err)
		}
	}
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
