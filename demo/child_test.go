package demo

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/idptest"
)

// children are the processes whose parent is pid, read from the process table.
func children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range stats {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if fs := strings.Fields(rest); len(fs) > 1 && fs[1] == strconv.Itoa(pid) {
			id, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, id)
		}
	}
	return pids
}

// TestNothingStays: however the demo ends, its children and its directory go.
func TestNothingStays(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(t *testing.T, demo *os.Process, idp int)
	}{
		{"interrupted", func(t *testing.T, demo *os.Process, _ int) { demo.Signal(os.Interrupt) }},
		{"killed", func(t *testing.T, demo *os.Process, _ int) { demo.Kill() }},
		{"killed with the identity provider stopped", func(t *testing.T, demo *os.Process, idp int) {
			if err := syscall.Kill(idp, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			demo.Kill()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tmp := t.TempDir()
			cmd := exec.Command(os.Args[0], "demo", "--listen", "127.0.0.1:0")
			cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil || !strings.HasPrefix(line, "The demo is at http://127.0.0.1:") {
				t.Fatalf("it printed %q, %v", line, err)
			}
			pids := children(t, cmd.Process.Pid)
			if len(pids) != 3 {
				t.Fatalf("%d children, want guard, identity provider and understudy", len(pids))
			}
			c.end(t, cmd.Process, idpOf(t, pids))
			cmd.Wait()
			left := pids
			for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				left = slices.DeleteFunc(left, idptest.Gone)
				if len(left) == 0 {
					break
				}
			}
			if len(left) > 0 {
				t.Errorf("still there: %d", left)
			}
			dirs, err := filepath.Glob(filepath.Join(tmp, dirPrefix+"*"))
			if err != nil || len(dirs) > 0 {
				t.Errorf("still there: %s, %v", dirs, err)
			}
		})
	}
}

// idpOf finds the identity provider among the demo's children by its command line.
func idpOf(t *testing.T, pids []int) int {
	t.Helper()
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if args := strings.Split(string(b), "\x00"); len(args) > 2 && args[2] == "idp" {
			if strings.Contains(string(b), "secret") {
				t.Error("a secret in the argument list")
			}
			return pid
		}
	}
	t.Fatal("no identity provider among the children")
	return 0
}

// TestLoopbackOnly: whoever reaches the page can kill processes.
func TestLoopbackOnly(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:9999", ":9999", "192.0.2.1:9999", "[::]:9999", "localhost.example:9999"} {
		if err := (&Command{Listen: listen, Primary: "own", Break: "none"}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "loopback only") {
			t.Errorf("--listen %s: %v", listen, err)
		}
	}
}
