// Package idptest runs real identity providers, clients and faults as processes on loopback, for tests, the demo and
// the benchmarks.
//
// It owns every process that it starts: each is the leader of a group of its own, dies with its starter, and is killed
// by its id. It refuses to listen anywhere but on loopback.
package idptest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Process is a running child and all its children.
type Process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
}

// Start runs a command whose output goes to a log file.
func Start(logFile string, cmd *exec.Cmd) (*Process, error) {
	f, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	cmd.Stderr = f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &Process{cmd: cmd, log: logFile, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the starting thread ends: it is kept for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// PID is the process's id and its group's.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill sends SIGKILL to the whole group and waits until the process is gone.
func (p *Process) Kill() {
	select {
	case <-p.done: // its id may be another's by now
	default:
		syscall.Kill(-p.PID(), syscall.SIGKILL)
		<-p.done
	}
}

// Stop asks the group to end and kills it when it has not after d.
func (p *Process) Stop(d time.Duration) {
	if p.Signal(syscall.SIGTERM) != nil {
		return
	}
	select {
	case <-p.done:
	case <-time.After(d):
		p.Kill()
	}
}

// Signal sends a signal to the whole group.
func (p *Process) Signal(s syscall.Signal) error {
	select {
	case <-p.done: // its id may be another's by now
		return os.ErrProcessDone
	default:
		return syscall.Kill(-p.PID(), s)
	}
}

func (p *Process) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Log is the end of what the process printed.
func (p *Process) Log() string {
	b, _ := os.ReadFile(p.log)
	return string(b[max(0, len(b)-4000):])
}

// Gone says whether no process of this id is left in the process table.
func Gone(pid int) bool { return syscall.Kill(pid, 0) == syscall.ESRCH }

// FreePort returns a loopback port that was free a moment ago.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// await calls f until it returns true, the process ends or ctx ends.
func (p *Process) await(ctx context.Context, what string, f func() bool) error {
	for !f() {
		select {
		case <-p.done:
			return fmt.Errorf("%s: the process ended: %v\n%s", what, p.err, p.Log())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w\n%s%s", what, ctx.Err(), p.Log(), p.threads())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// serves says whether a URL answers with 200.
func serves(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// threads says for each thread of the process in which state it is and what of the kernel it waits for.
func (p *Process) threads() string {
	var out strings.Builder
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.PID()))
	for _, t := range tasks {
		stat, _ := os.ReadFile(filepath.Join(t, "stat"))
		wait, _ := os.ReadFile(filepath.Join(t, "wchan"))
		fmt.Fprintf(&out, "thread %s: %.60s waits for %s\n", filepath.Base(t), stat, wait)
	}
	return out.String()
}

// Root is the directory of this module.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(file))
}

// Parts is where the real parts are installed: $UNDERSTUDY_PARTS, or .parts in the module's directory.
func Parts() string {
	if d := os.Getenv("UNDERSTUDY_PARTS"); d != "" {
		return d
	}
	return filepath.Join(Root(), ".parts")
}
