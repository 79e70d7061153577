package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"understudy/idptest"
)

// hook is a file that is built into understudy where profiles are wanted: the program itself has no such switch.
//
//go:embed hook/profile.go.txt
var hook []byte

const profileVariable = "BENCH_UNDERSTUDY_PROFILE"

// overlay makes the go command build the hook in, and returns how to undo it.
func (l *lab) overlay() (undo func(), err error) {
	file, list := filepath.Join(l.dir, "hook.go"), filepath.Join(l.dir, "overlay.json")
	if err := os.WriteFile(file, hook, 0o600); err != nil {
		return nil, err
	}
	b, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(idptest.Root(), "cmd", "understudy", "bench_profile.go"): file,
	}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(list, b, 0o600); err != nil {
		return nil, err
	}
	old := os.Getenv("GOFLAGS")
	os.Setenv("GOFLAGS", old+" -overlay="+list)
	return func() { os.Setenv("GOFLAGS", old) }, nil
}

// profiled runs f while the process keeps a CPU profile under the name; without -profile it only runs f.
func (l *lab) profiled(u *idptest.Understudy, name string, f func() error) error {
	if l.profile == "" {
		return f()
	}
	raw := profileOf(u.Dir)
	if err := syscall.Kill(u.PID(), syscall.SIGUSR1); err != nil {
		return err
	}
	time.Sleep(50 * time.Millisecond)
	err := f()
	if err := syscall.Kill(u.PID(), syscall.SIGUSR2); err != nil {
		return err
	}
	for range 100 {
		b, e := os.ReadFile(raw + ".done")
		if e == nil {
			os.Remove(raw + ".done")
			to := filepath.Join(l.profile, name+".pprof")
			l.log.Printf("profile: go tool pprof -top %s", to)
			if e := os.WriteFile(to, b, 0o644); e != nil {
				return e
			}
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err == nil {
		err = fmt.Errorf("no profile came from process %d", u.PID())
	}
	return err
}

func profileOf(dir string) string { return filepath.Join(dir, "cpu.pprof") }

// build builds understudy, with the hook where profiles are wanted.
func (l *lab) build(ctx context.Context) (string, error) {
	if l.profile != "" {
		undo, err := l.overlay()
		if err != nil {
			return "", err
		}
		defer undo()
	}
	return idptest.BuildUnderstudy(ctx, l.dir)
}
