// Package debian installs Debian's packages, for the tests that need a browser. It refuses to start their services.
package debian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Install installs packages where one of the files that they bring is missing. It needs root, starts no daemon, and may be called by
// several processes at once.
func Install(ctx context.Context, packages, files []string) error {
	if ok, err := there(files); ok || err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "understudy-debian.lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("lock the packages: %w", err)
	}
	defer lock.Close() // gives the lock back
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock the packages: %w", err)
	}
	if ok, err := there(files); ok || err != nil { // another process was faster
		return err
	}
	undo, err := denyDaemons()
	if err != nil {
		return err
	}
	defer undo()
	for _, args := range [][]string{{"update", "-q"}, append([]string{"install", "-q", "-y", "--no-install-recommends"}, packages...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w (install Debian's %s by hand where you are not root)\n%s", args[0], err, strings.Join(packages, " "), out[max(0, len(out)-2000):])
		}
	}
	if ok, err := there(files); !ok {
		return errors.Join(fmt.Errorf("%s: installed, but not all of %s is there", strings.Join(packages, " "), strings.Join(files, " ")), err)
	}
	return nil
}

func there(files []string) (bool, error) {
	for _, f := range files {
		if _, err := os.Stat(f); errors.Is(err, fs.ErrNotExist) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	return true, nil
}

const policyFile = "/usr/sbin/policy-rc.d"

// denyDaemons keeps packages from starting services (invoke-rc.d asks that file), unless somebody else decides that.
func denyDaemons() (undo func(), err error) {
	f, err := os.OpenFile(policyFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("keep daemons from starting: %w", err)
	}
	_, err = f.WriteString("#!/bin/sh\nexit 101\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return func() { os.Remove(policyFile) }, nil
}
