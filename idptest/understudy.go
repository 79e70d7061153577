package idptest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Understudy is a running understudy.
type Understudy struct {
	Port int
	Dir  string

	args []string
	bin  string
	p    *Process
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
	u := &Understudy{Port: port, Dir: dir, bin: bin}
	u.args = append([]string{"serve", "--primary", primary, "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--data-dir", filepath.Join(dir, "data")}, args...)
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
		resp, err := http.Get(u.URL() + "/.understudy/health")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// URL is scheme and host of the gateway.
func (u *Understudy) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", u.Port) }

// Kill ends it with SIGKILL.
func (u *Understudy) Kill() { u.p.Kill() }

// Stop ends it as an operator does.
func (u *Understudy) Stop() { u.p.Stop(10 * time.Second) }

// Log is the end of what it printed.
func (u *Understudy) Log() string { return u.p.Log() }
