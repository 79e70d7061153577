package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"understudy/idptest"
)

// The program is its own children: what is measured must be a process of its own, or its CPU and memory could not be
// told from the load's.
const childVariable = "UNDERSTUDY_BENCH_CHILD"

func children() map[string]func(args []string) error {
	return map[string]func([]string) error{
		"primary": primaryChild, "proxy": proxyChild, "build": buildChild, "look-up": lookUpChild, "write": writeChild,
	}
}

// runChild runs as a child where the environment says so.
func runChild() bool {
	name, args, _ := strings.Cut(os.Getenv(childVariable), " ")
	if name == "" {
		return false
	}
	f := children()[name]
	if f == nil {
		fmt.Fprintf(os.Stderr, "bench: no child %q\n", name)
		os.Exit(2)
	}
	if err := f(strings.Fields(args)); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %s: %v\n", name, err)
		os.Exit(1)
	}
	return true
}

func (l *lab) childCommand(ctx context.Context, name string, args ...any) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childVariable+"="+name+" "+strings.TrimSpace(fmt.Sprintln(args...)))
	return cmd, nil
}

// server is a child that listens.
type server struct {
	*idptest.Process
	port int
	in   io.Closer
}

func (s *server) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }
func (s *server) url() string  { return "http://" + s.addr() }

// serve starts a child that listens on a port that it is given as its first argument.
func (l *lab) serve(ctx context.Context, name string, args ...any) (*server, error) {
	port, err := idptest.FreePort()
	if err != nil {
		return nil, err
	}
	cmd, err := l.childCommand(ctx, name, append([]any{port}, args...)...)
	if err != nil {
		return nil, err
	}
	in, err := cmd.StdinPipe() // it ends when this ends: with this process at the latest
	if err != nil {
		return nil, err
	}
	p, err := idptest.Start(filepath.Join(l.dir, fmt.Sprintf("%s-%d.log", name, port)), cmd)
	if err != nil {
		return nil, err
	}
	s := &server{p, port, in}
	for end := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("tcp", s.addr())
		if err == nil {
			c.Close()
			return s, nil
		}
		select {
		case <-p.Done():
			return nil, fmt.Errorf("%s ended: %s", name, p.Log())
		case <-ctx.Done():
			p.Kill()
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			p.Kill()
			return nil, fmt.Errorf("%s does not listen: %s", name, p.Log())
		}
	}
}

// listenAndServe is a child's main loop: until its starter is gone.
func listenAndServe(port string, h http.Handler) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	s := &http.Server{Addr: "127.0.0.1:" + port, Handler: h}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	go func() {
		<-ctx.Done()
		s.Close()
	}()
	if err := s.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

// output runs a child to its end and returns what it printed.
func (l *lab) output(ctx context.Context, name string, args ...any) ([]byte, error) {
	cmd, err := l.childCommand(ctx, name, args...)
	if err != nil {
		return nil, err
	}
	cmd.Stderr = l.log.Writer()
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

// understudy builds the program once.
func (l *lab) understudy(ctx context.Context) (string, error) {
	if l.bin == "" {
		l.log.Printf("building understudy (%s, without cgo)", runtime.Version())
		bin, err := l.build(ctx)
		if err != nil {
			return "", err
		}
		l.bin = bin
	}
	return l.bin, nil
}
