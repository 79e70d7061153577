package idptest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Understudy is a running understudy.
type Understudy struct {
	Port int
	Dir  string

	scheme, host string
	more         []int // ports
	authority    *Authority
	args         []string
	bin          string
	client       *http.Client
	p            *Process
}

// BuildUnderstudy builds the program into dir and returns its path.
func BuildUnderstudy(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "understudy")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, "./cmd/understudy")
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return bin, nil
}

// StartUnderstudy starts the program in front of a primary, with its data below dir, and waits until it serves.
func StartUnderstudy(ctx context.Context, bin, dir, primary string, args ...string) (*Understudy, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	u := &Understudy{Port: port, Dir: dir, bin: bin, scheme: "http", host: "127.0.0.1", client: http.DefaultClient}
	u.args = append([]string{"serve", "--primary", primary, "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--data-dir", u.DataDir()}, args...)
	return u, u.Restart(ctx)
}

// UnderstudyOptions are how an understudy with a configuration file is started.
type UnderstudyOptions struct {
	Bin     string // the program
	Dir     string // for its configuration, data and log
	Port    int    // 0: a free one
	Primary string // URL
	// Authority: it serves https with this certificate; nil: http://127.0.0.1.
	Authority *Authority
	// Host is the public host name with an authority, and leads here whatever the resolver says; "": localhost.
	Host string
	// AskCertificate asks clients for a certificate.
	AskCertificate bool
	// Top and Tenant are more lines of the configuration file, at its top and in each tenant.
	Top, Tenant string
	// Second is the URL of another tenant's primary; "": there is one tenant. The other's host name is 127.0.0.1.
	Second string
	// More are the URLs of more tenants' primaries, each at the same host name and a port of its own: see [Understudy.More].
	More []string
}

// StartUnderstudyConfig starts the program with a configuration file and waits until it serves.
func StartUnderstudyConfig(ctx context.Context, o UnderstudyOptions) (*Understudy, error) {
	if o.Port == 0 {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		o.Port = port
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	u := &Understudy{Port: o.Port, Dir: o.Dir, bin: o.Bin, scheme: "http", host: "127.0.0.1", client: http.DefaultClient}
	certificate := ""
	if a := o.Authority; a != nil {
		u.scheme, u.host, u.authority = "https", or(o.Host, "localhost"), a
		u.client = u.at(o.Port)
		certificate = fmt.Sprintf("\n    tls: {cert_file: %q, key_file: %q}", a.CertFile, a.KeyFile)
		if o.AskCertificate {
			certificate += "\n    ask_certificate: true"
		}
	}
	listeners := ""
	for len(u.more) < len(o.More) {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		if port != o.Port && !slices.Contains(u.more, port) { // the system may give the same one again
			u.more = append(u.more, port)
		}
	}
	for _, port := range append([]int{o.Port}, u.more...) {
		listeners += fmt.Sprintf("  - address: \"127.0.0.1:%d\"%s\n", port, certificate)
	}
	indent := func(s, by string) string {
		if s == "" {
			return ""
		}
		return by + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n"+by) + "\n"
	}
	file := filepath.Join(o.Dir, "understudy.yaml")
	tenant := func(name, host string, port int, primary string) string {
		return fmt.Sprintf("  - name: %s\n    hosts: [%q]\n    scheme: %s\n    upstream: {url: %q}\n%s",
			name, fmt.Sprintf("%s:%d", host, port), u.scheme, primary, indent(o.Tenant, "    "))
	}
	text := fmt.Sprintf("data_dir: %q\nlisteners:\n%s%stenants:\n%s",
		u.DataDir(), listeners, indent(o.Top, ""), tenant("default", u.host, o.Port, o.Primary))
	for i, primary := range o.More {
		text += tenant(fmt.Sprintf("more-%d", i), u.host, u.more[i], primary)
	}
	if o.Second != "" {
		if u.host == secondHost {
			return nil, errors.New("two tenants need an authority: else both have one host name")
		}
		text += tenant("second", secondHost, o.Port, o.Second)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	u.args = []string{"serve", "--config", file}
	return u, u.Restart(ctx)
}

// Restart starts it again at the same port and waits until it serves.
func (u *Understudy) Restart(ctx context.Context) error {
	p, err := Start(filepath.Join(u.Dir, "understudy.log"), exec.Command(u.bin, u.args...))
	if err != nil {
		return err
	}
	u.p = p
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return p.await(ctx, "understudy does not serve", func() bool {
		resp, err := u.client.Get(u.URL() + "/.understudy/health")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// secondHost is the host name of the second tenant.
const secondHost = "127.0.0.1"

// Second is the same process as the second tenant's clients see it.
func (u *Understudy) Second() *Understudy {
	v := *u
	v.host = secondHost
	return &v
}

// More is the same process as the clients of one of more tenants see it.
func (u *Understudy) More(i int) *Understudy {
	v := *u
	v.Port = u.more[i]
	if u.authority != nil {
		v.client = u.at(v.Port)
	}
	return &v
}

// at is a client that finds it at a port of this machine, whatever the resolver says.
func (u *Understudy) at(port int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: u.authority.Pool}, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", port))
		},
	}}
}

// Client trusts its certificate, and finds it by any name.
func (u *Understudy) Client() *http.Client { return u.client }

// URL is scheme and host of the gateway.
func (u *Understudy) URL() string { return fmt.Sprintf("%s://%s:%d", u.scheme, u.host, u.Port) }

// DataDir is its data directory.
func (u *Understudy) DataDir() string { return filepath.Join(u.Dir, "data") }

// Command runs one of the program's commands against the running process and returns what it printed.
func (u *Understudy) Command(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, u.bin, append(args, "--data-dir", u.DataDir())...)
	out, err := cmd.Output()
	if e, ok := err.(*exec.ExitError); ok {
		return out, fmt.Errorf("understudy %s: %w: %s", strings.Join(args, " "), err, e.Stderr)
	}
	return out, err
}

// PID is the process's id.
func (u *Understudy) PID() int { return u.p.PID() }

// Kill ends it with SIGKILL.
func (u *Understudy) Kill() { u.p.Kill() }

// Stop ends it as an operator does.
func (u *Understudy) Stop() { u.p.Stop(10 * time.Second) }

// Log is the end of what it printed.
func (u *Understudy) Log() string { return u.p.Log() }
