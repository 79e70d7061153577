package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"understudy/idptest"
)

// child is a process of this same program. It is the leader of a group of its own and ends when its standard input does.
type child struct {
	*idptest.Process
	stdin *os.File
}

// startChild runs `understudy demo-part ARGS…`. Secrets go through the environment, which argument lists are not.
func startChild(log string, stdout *os.File, env []string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(self, append([]string{"demo-part"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = r
	if stdout != nil {
		cmd.Stdout = stdout
	}
	p, err := idptest.Start(log, cmd)
	if err != nil {
		w.Close()
		return nil, err
	}
	return &child{p, w}, nil
}

func (c *child) kill() {
	c.Kill()
	c.stdin.Close()
}

// guardCommand ends what the demo could not end itself: it outlives the demo for that moment. Each line on standard input
// names the process groups that there are: the primary's, which may be stopped or know nothing of the demo, and
// understudy's, which ends by itself; 0 for none.
type guardCommand struct {
	Dir string `help:"Directory of the demo, which is removed at the end." required:""`
}

const dirPrefix = "understudy-demo-"

func (c *guardCommand) Run() error {
	if !strings.HasPrefix(filepath.Base(c.Dir), dirPrefix) {
		return fmt.Errorf("%s is no directory of the demo", c.Dir)
	}
	var primary, program int
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if _, err := fmt.Sscan(in.Text(), &primary, &program); err != nil {
			return fmt.Errorf("what the demo says is not understood: %w", err)
		}
	}
	if primary > 1 {
		syscall.Kill(-primary, syscall.SIGKILL)
	}
	if program > 1 {
		for end := time.Now().Add(10 * time.Second); !idptest.Gone(program) && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
		}
		syscall.Kill(-program, syscall.SIGKILL)
	}
	return os.RemoveAll(c.Dir)
}

// guard is the demo's end of the guard.
type guard struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu               sync.Mutex // guards what follows, and writes
	primary, program int
}

// startGuard starts the guard. Unlike the other children it must not be killed with the demo.
func startGuard(dir string) (*guard, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	g := &guard{cmd: exec.Command(self, "demo-part", "guard", "--dir", dir)}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C at the demo is not meant for it
	if g.stdin, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the demo's guard: %w", err)
	}
	return g, nil
}

// end lets the guard do its work, and waits for it.
func (g *guard) end() {
	g.stdin.Close()
	g.cmd.Wait()
}

// watch tells the guard which process groups there are; -1 leaves one as it was.
func (g *guard) watch(primary, program int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if primary >= 0 {
		g.primary = primary
	}
	if program >= 0 {
		g.program = program
	}
	fmt.Fprintln(g.stdin, g.primary, g.program)
}

// stopped says whether a process is stopped (SIGSTOP), read from the process table. Where there is no /proc the signal's
// delivery must do.
func stopped(pid int) (bool, error) {
	if runtime.GOOS != "linux" {
		return true, nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false, fmt.Errorf("read the process table: %w", err)
	}
	_, rest, ok := strings.Cut(string(b), ") ") // behind the name, which may hold anything
	if !ok {
		return false, errors.New("read the process table: unknown form")
	}
	return strings.HasPrefix(rest, "T"), nil
}

// await calls ok until it is true, the process ends or ctx ends.
func await(ctx context.Context, what string, p *idptest.Process, ok func() bool) error {
	for !ok() {
		select {
		case <-p.Done():
			return fmt.Errorf("%s: the process ended\n%s", what, p.Log())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w\n%s", what, ctx.Err(), p.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// answers says whether a GET is answered with 200.
func answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
