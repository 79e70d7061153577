package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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

// What runs leaves no core dump and lets nobody but root look into its memory: read of a process that really serves, in
// /proc, as another user sees it.
func TestTheServedProcessIsHardened(t *testing.T) {
	n := newNode(t, echo(t).URL)
	uid := os.Getuid()
	if uid == 0 {
		// Root's processes are root's whether they are dumpable or not. It runs as somebody who owns its directory and
		// can read the program: one who cannot is not dumpable for that alone. The way there must be open to all.
		uid = 10_001
		way, err := os.MkdirTemp("/tmp", "hardened-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(way) })
		program, err := os.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(way, "node")
		if err := errors.Join(os.Chmod(way, 0o755), os.WriteFile(filepath.Join(way, "understudy"), program, 0o755), os.Mkdir(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
		n = newNodeIn(t, dir, echo(t).URL)
		n.bin = filepath.Join(way, "understudy")
		for _, path := range []string{n.dir, n.file()} {
			if err := os.Chown(path, uid, uid); err != nil {
				t.Fatal(err)
			}
		}
		n.attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	n.start()
	proc := fmt.Sprintf("/proc/%d/", n.cmd.Process.Pid)
	limits, err := os.ReadFile(proc + "limits")
	if err != nil {
		t.Fatal(err)
	}
	var core []string
	for line := range strings.Lines(string(limits)) {
		if strings.HasPrefix(line, "Max core file size") {
			core = strings.Fields(line)
		}
	}
	if len(core) < 6 || core[4] != "0" || core[5] != "0" {
		t.Errorf("soft and hard limit of core dumps: %q, want 0 and 0", core)
	}
	st, err := os.Stat(proc + "mem")
	if err != nil {
		t.Fatal(err)
	}
	if owner := st.Sys().(*syscall.Stat_t).Uid; owner == uint32(uid) {
		t.Error("the process is dumpable: its memory is its user's")
	}
	// The same of a process that is not hardened, so that the test sees what it looks for.
	if st, err = os.Stat("/proc/self/mem"); err != nil {
		t.Fatal(err)
	}
	if owner := st.Sys().(*syscall.Stat_t).Uid; owner != uint32(os.Getuid()) {
		t.Errorf("this test's own memory is not its user's: it is %d's", owner)
	}
	if ps := n.status().Problems; len(ps) > 0 {
		t.Errorf("problems: %+v", ps)
	}
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
	n.until("serves the first primary again", func() bool { // an address closes before that
		resp, err := http.Get(n.url() + "/x")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b) == "GET /x 0 0"
	})
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
