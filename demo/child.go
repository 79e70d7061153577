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
	"strconv"
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

// startChild runs `understudy demo ARGS…`. Secrets go through the environment, which argument lists are not.
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
	cmd := exec.Command(self, append([]string{"demo"}, args...)...)
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

// guardCommand ends what the demo could not end itself: it outlives the demo for that moment. Standard input tells it
// which process group there is ("123", or "" for none).
type guardCommand struct {
	Dir string `help:"Directory of the demo, which is removed at the end." required:""`
}

const dirPrefix = "understudy-demo-"

func (c *guardCommand) Run() error {
	if !strings.HasPrefix(filepath.Base(c.Dir), dirPrefix) {
		return fmt.Errorf("%s is no directory of the demo", c.Dir)
	}
	pid := 0
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		pid, _ = strconv.Atoi(in.Text())
	}
	if pid > 1 {
		syscall.Kill(-pid, syscall.SIGKILL)
	}
	// The other children end by themselves, and write until then.
	for range 50 {
		if os.RemoveAll(c.Dir) == nil {
			time.Sleep(100 * time.Millisecond)
			if _, err := os.Stat(c.Dir); err != nil {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return os.RemoveAll(c.Dir)
}

// guard is the demo's end of the guard.
type guard struct {
	mu sync.Mutex // guards writes
	c  *child
}

// watch tells the guard which process group to end, 0 for none.
func (g *guard) watch(pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	line := ""
	if pid > 0 {
		line = strconv.Itoa(pid)
	}
	io.WriteString(g.c.stdin, line+"\n")
}

// stopped says whether a process is stopped (SIGSTOP), read from the process table.
func stopped(pid int) (bool, error) {
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
