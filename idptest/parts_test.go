package idptest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestExclusive: what two installers do is never done at the same time.
func TestExclusive(t *testing.T) {
	t.Setenv("UNDERSTUDY_PARTS", t.TempDir())
	var in atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := exclusive(t.Context(), "part", func(context.Context) error {
				if in.Add(1) != 1 {
					t.Error("two at once")
				}
				for range 1000 {
					os.Stat(".")
				}
				in.Add(-1)
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestLockFile: every package is pinned by a checksum, and no registry is named.
func TestLockFile(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(Root(), "idptest", "node", "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(`"resolved"`)) {
		t.Error("the lock file names a registry")
	}
	var lock struct {
		Packages map[string]struct{ Version, Integrity string }
	}
	if err := json.Unmarshal(b, &lock); err != nil {
		t.Fatal(err)
	}
	if len(lock.Packages) < 10 {
		t.Fatalf("%d packages", len(lock.Packages))
	}
	for name, p := range lock.Packages {
		if name != "" && (p.Version == "" || !strings.HasPrefix(p.Integrity, "sha512-")) {
			t.Errorf("%s is not pinned", name)
		}
	}
}
