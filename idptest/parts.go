package idptest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"
)

// Part is a real part that can be installed.
type Part struct {
	Name    string
	Install func(context.Context) error
}

// InstallParts lists everything that the tests, the demo and the benchmarks run. Install does nothing where the part is
// there, and may be called by several processes at once.
func InstallParts() []Part {
	return []Part{{"keycloak", InstallKeycloak}, {"node", InstallNode}}
}

// exclusive runs f while no other process runs one of the same name.
func exclusive(ctx context.Context, name string, f func(context.Context) error) error {
	if err := os.MkdirAll(Parts(), 0o755); err != nil {
		return fmt.Errorf("make the directory of the parts: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(Parts(), name+".lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("lock %s: %w", name, err)
	}
	defer lock.Close() // gives the lock back
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", name, err)
	}
	return f(ctx)
}

// InstallNode installs the identity provider and the clients that run on Node.js, by the lock file.
func InstallNode(ctx context.Context) error {
	src, dir := filepath.Join(Root(), "idptest", "node"), nodeDir()
	packages, err := recipe(src, "package.json", "package-lock.json", ".npmrc")
	if err != nil {
		return err
	}
	scripts, err := filepath.Glob(filepath.Join(src, "*.js"))
	if err != nil {
		return err
	}
	return exclusive(ctx, "node", func(ctx context.Context) error {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the directory of the Node.js parts: %w", err)
		}
		complete := filepath.Join(dir, "complete")
		if have, _ := os.ReadFile(complete); string(have) != packages {
			os.Remove(complete)
			for _, f := range []string{"package.json", "package-lock.json", ".npmrc"} {
				if err := copyFile(filepath.Join(src, f), filepath.Join(dir, f)); err != nil {
					return err
				}
			}
			if err := run(ctx, dir, nil, "npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"); err != nil {
				return fmt.Errorf("install the Node.js parts: %w", err)
			}
			if err := os.WriteFile(complete, []byte(packages), 0o644); err != nil {
				return err
			}
		}
		// The scripts lie beside their packages, where Node.js looks for them.
		for _, s := range scripts {
			b, err := os.ReadFile(s)
			if err != nil {
				return err
			}
			to := filepath.Join(dir, filepath.Base(s))
			if have, err := os.ReadFile(to); err == nil && string(have) == string(b) {
				continue
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err := renameio.WriteFile(to, b, 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

func nodeDir() string { return filepath.Join(Parts(), "node") }

// recipe is a hash over files of a directory.
func recipe(dir string, names ...string) (string, error) {
	h := sha256.New()
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", n, len(b))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
