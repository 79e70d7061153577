// Package flows takes openid-client, as it comes, through every flow that it has, at every real primary: sign in or obtain, lose
// the primary to SIGKILL, go on, and go on there when it is back.
package flows

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"understudy/idptest"
)

// world is what the primaries' runs share: the built program, the authorities and the client library's process.
type world struct {
	dir       string
	bin       string
	authority *idptest.Authority
	keys      *keyring
}

var shared *world // set once by TestMain

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "understudy-flows-")
		if err != nil {
			fmt.Fprintln(os.Stderr, "flows:", err)
			return 1
		}
		defer os.RemoveAll(dir)
		if shared, err = newWorld(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, "flows:", err)
			return 1
		}
		return m.Run()
	}())
}

func newWorld(ctx context.Context, dir string) (*world, error) {
	for _, p := range idptest.InstallParts() {
		if err := p.Install(ctx); err != nil {
			return nil, fmt.Errorf("install %s: %w", p.Name, err)
		}
	}
	w := &world{dir: dir}
	var err error
	if w.bin, err = idptest.BuildUnderstudy(ctx, dir); err != nil {
		return nil, err
	}
	if w.authority, err = idptest.NewAuthority(filepath.Join(dir, "authority")); err != nil {
		return nil, err
	}
	if w.keys, err = newKeyring(dir); err != nil {
		return nil, err
	}
	return w, nil
}
