package demo

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"understudy/admin"
	"understudy/idptest"
)

// condition is what the demo did to the primary.
type condition string

const (
	serving  condition = "serving"
	killed   condition = "killed"
	frozen   condition = "frozen" // stopped: connections are taken, and nothing is answered
	starting condition = "starting"
)

// stage is a running demo: the primary, understudy in front of it, and a guard that ends what is left.
type stage struct {
	play     *Command
	dir      string
	gateway  string // URL
	primary  *primary
	program  *child // understudy
	guard    *guard
	redirect string

	events sync.WaitGroup

	mu        sync.Mutex // guards what follows
	condition condition
	pid       int           // of the primary, 0 where it is gone
	learned   int           // sign-ins remembered so far
	unlearned []string      // why others were not
	news      chan struct{} // closed when learned changes

	act sync.Mutex // one change to the primary at a time
}

func newStage(ctx context.Context, c *Command) (_ *stage, err error) {
	dir, err := os.MkdirTemp("", dirPrefix)
	if err != nil {
		return nil, err
	}
	s := &stage{play: c, dir: dir, redirect: "http://" + c.Listen + "/cb", condition: starting, news: make(chan struct{})}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.guard, err = startGuard(dir); err != nil {
		return nil, err
	}
	port, err := idptest.FreePort()
	if err != nil {
		return nil, err
	}
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	s.gateway = "http://" + listen
	if s.primary, err = startPrimary(ctx, c, dir, s.gateway, s.redirect); err != nil {
		return nil, err
	}
	s.set(serving, s.primary.PID())
	if s.primary.redirect != "" {
		if !c.Once && s.redirect != s.primary.redirect {
			return nil, fmt.Errorf("%s knows the application at %s only: leave out --listen", s.primary.name, s.primary.redirect)
		}
		s.redirect = s.primary.redirect
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.program, err = startChild(filepath.Join(dir, "understudy.log"), w, nil,
		"understudy", "--upstream", s.primary.URL(), "--address", listen, "--data-dir", s.dataDir(), "--broken", c.Break)
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	s.guard.watch(-1, s.program.PID())
	s.events.Go(func() { s.listen(r) })
	wait, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	err = await(wait, "understudy does not serve", s.program.Process, func() bool { return answers(wait, s.gateway+"/.understudy/health") })
	return s, err
}

func (s *stage) dataDir() string { return filepath.Join(s.dir, "understudy") }

// listen reads what the gateway's process tells, until it ends.
func (s *stage) listen(r *os.File) {
	defer r.Close()
	for in := bufio.NewScanner(r); in.Scan(); {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			continue
		}
		s.mu.Lock()
		s.learned += e.Learned
		s.unlearned = append(s.unlearned, e.Unlearned...)
		close(s.news)
		s.news = make(chan struct{})
		s.mu.Unlock()
	}
}

// awaitLearned waits until n sign-ins are remembered.
func (s *stage) awaitLearned(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		s.mu.Lock()
		have, why, news := s.learned, s.unlearned, s.news
		s.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d exchanges are remembered (not learned: %s)", have, n, strings.Join(why, ", "))
		}
	}
}

func (s *stage) learnedSoFar() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.learned
}

func (s *stage) set(c condition, pid int) {
	s.mu.Lock()
	s.condition, s.pid = c, pid
	s.mu.Unlock()
	s.guard.watch(pid, -1)
}

// state is the primary's condition and process id.
func (s *stage) state() (condition, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.condition, s.pid
}

// kill ends the primary with SIGKILL and reads from the process table that it is gone.
func (s *stage) kill() (pid int, err error) {
	s.act.Lock()
	defer s.act.Unlock()
	c, pid := s.state()
	if c == killed || pid == 0 {
		return 0, nil
	}
	time.Sleep(s.primary.settle)
	s.primary.Kill()
	if !idptest.Gone(pid) {
		return pid, fmt.Errorf("process %d is still in the process table", pid)
	}
	s.set(killed, 0)
	return pid, nil
}

// freeze stops the primary's process: a black hole.
func (s *stage) freeze(ctx context.Context) (pid int, err error) {
	s.act.Lock()
	defer s.act.Unlock()
	c, pid := s.state()
	if c != serving {
		return pid, nil
	}
	if err := s.primary.Freeze(); err != nil {
		return pid, fmt.Errorf("stop process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		is, err := stopped(pid)
		if err != nil {
			return pid, err
		}
		if is {
			break
		}
		select {
		case <-ctx.Done():
			return pid, fmt.Errorf("process %d does not stop", pid)
		case <-time.After(10 * time.Millisecond):
		}
	}
	s.set(frozen, pid)
	return pid, nil
}

// bringBack starts a killed primary again, or lets a stopped one go on.
func (s *stage) bringBack(ctx context.Context) error {
	s.act.Lock()
	defer s.act.Unlock()
	c, pid := s.state()
	switch c {
	case frozen:
		if err := s.primary.Thaw(); err != nil {
			return fmt.Errorf("let process %d go on: %w", pid, err)
		}
		s.set(serving, pid)
	case killed:
		s.set(starting, 0)
		if err := s.primary.Restart(ctx); err != nil {
			s.set(killed, 0)
			return err
		}
		s.set(serving, s.primary.PID())
	}
	return nil
}

// close ends every process and removes the demo's directory.
func (s *stage) close() {
	if s.program != nil {
		s.program.stdin.Close()
		select {
		case <-s.program.Done():
		case <-time.After(3 * time.Second):
			s.program.kill()
		}
		s.events.Wait()
	}
	if s.guard == nil {
		os.RemoveAll(s.dir)
		return
	}
	if s.primary != nil {
		if _, pid := s.state(); pid != 0 {
			s.primary.Kill()
		}
		s.guard.watch(0, 0)
	}
	s.guard.end()
}

// revoke ends a person's sign-ins as an operator does (`understudy revoke --subject`): durably, whatever the primary does.
func (s *stage) revoke(ctx context.Context, subject string) error {
	c := &admin.Client{Socket: filepath.Join(s.dataDir(), "admin.sock")}
	var done admin.Revoked
	return c.Post(ctx, "/v1/revoke", admin.Revoke{Subject: subject}, &done)
}

// logs is the end of what understudy printed.
func (s *stage) logs() string {
	if s.program == nil {
		return ""
	}
	return s.program.Log()
}

func randomText() string {
	var b [24]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// afterLogout is where the identity providers send a browser after a logout, as they are told or as they know it.
func afterLogout(redirect string) string { return strings.TrimSuffix(redirect, "/cb") + "/bye" }

var errNoOutage = errors.New("the primary answered")
