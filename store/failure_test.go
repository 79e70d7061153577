package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

const dir = "data"

func opened(t *testing.T, fs vfs.FS) *DB {
	t.Helper()
	db, err := Open(dir, Options{fs: fs, memTable: 256 << 10, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// filler is a value that does not compress to nothing and follows from n.
func filler(n uint64, size int) []byte {
	out := make([]byte, 0, size+8)
	for x := n*0x9e3779b97f4a7c15 + 1; len(out) < size; x = x*6364136223846793005 + 1442695040888963407 {
		out = binary.BigEndian.AppendUint64(out, x)
	}
	return out[:size]
}

func key(n uint64) []byte { return fmt.Appendf(nil, "k%08d", n) }

func put(db *DB, n uint64, d Durability) error {
	var b Batch
	b.Put(key(n), filler(n, 1500))
	b.Raise(append(key(n), 'r'), n, key(n))
	return db.Apply(context.Background(), &b, d)
}

// there complains of every acknowledged write below n that is not.
func there(t *testing.T, db *DB, acked []uint64) {
	t.Helper()
	for _, n := range acked {
		e, err := db.Get(key(n))
		if err != nil || !bytes.Equal(e.Value, filler(n, 1500)) {
			t.Fatalf("%s was acknowledged: %v, %d bytes", key(n), err, len(e.Value))
		}
		if e, err = db.Get(append(key(n), 'r')); err != nil || e.Version != n {
			t.Fatalf("%s was raised: %v, %d", key(n), err, e.Version)
		}
	}
}

// faulty is errorfs without its gap: a file that is used again stays under its injector.
type faulty struct{ *errorfs.FS }

func (f faulty) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.Remove(old); err != nil {
		return nil, err
	}
	return f.Create(name, c)
}

func TestAFailedWriteFailsTheStoreAndNothingElse(t *testing.T) {
	is := func(end string, kinds ...errorfs.OpKind) func(errorfs.Op) bool {
		return func(op errorfs.Op) bool {
			name := filepath.Base(op.Path)
			if end == "MANIFEST" && !strings.HasPrefix(name, end) || end != "MANIFEST" && !strings.HasSuffix(name, end) {
				return false
			}
			for _, k := range kinds {
				if op.Kind == k {
					return true
				}
			}
			return false
		}
	}
	for _, c := range []struct {
		name  string
		fails func(errorfs.Op) bool
	}{
		{"log, write", is(".log", errorfs.OpFileWrite)},
		{"log, sync", is(".log", errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo)},
		{"log, create", is(".log", errorfs.OpCreate, errorfs.OpReuseForWrite)},
		{"table, create", is(".sst", errorfs.OpCreate)},
		{"table, write", is(".sst", errorfs.OpFileWrite)},
		{"table, sync", is(".sst", errorfs.OpFileSync, errorfs.OpFileSyncData)},
		{"manifest, write", is("MANIFEST", errorfs.OpFileWrite)},
		{"manifest, sync", is("MANIFEST", errorfs.OpFileSync, errorfs.OpFileSyncData)},
		{"directory, sync", is(dir, errorfs.OpFileSync, errorfs.OpFileSyncData)},
		{"everything", func(op errorfs.Op) bool { return op.Kind.ReadOrWrite() == errorfs.OpIsWrite }},
	} {
		for _, d := range []Durability{Soon, Durable} {
			t.Run(fmt.Sprint(c.name, ", ", map[Durability]string{Soon: "soon", Durable: "durable"}[d]), func(t *testing.T) {
				var full atomic.Bool
				mem := vfs.NewCrashableMem()
				fs := faulty{errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
					if full.Load() && c.fails(op) {
						return fmt.Errorf("injected: %w", syscall.ENOSPC)
					}
					return nil
				}))}
				db := opened(t, fs)
				var next atomic.Uint64
				var mu sync.Mutex // guards acked
				var acked []uint64
				var wg sync.WaitGroup
				for range 4 {
					wg.Go(func() {
						for {
							n := next.Add(1)
							err := put(db, n, d)
							if err != nil {
								if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.ENOSPC) {
									t.Error(err)
								}
								return
							}
							mu.Lock()
							acked = append(acked, n)
							mu.Unlock()
							if n == 300 {
								full.Store(true)
							}
						}
					})
				}
				wg.Wait() // ends only because every write fails at last, and none hangs
				if !errors.Is(db.Failed(), ErrFailed) {
					t.Fatal(db.Failed())
				}
				for _, d := range []Durability{Soon, Durable} {
					if err := put(db, next.Add(1), d); !errors.Is(err, ErrFailed) {
						t.Fatal(err)
					}
				}
				if _, err := db.Claim(t.Context(), []byte("claim"), time.Now().Add(time.Hour)); !errors.Is(err, ErrFailed) {
					t.Fatal(err)
				}
				there(t, db, acked)
				if err := db.Close(); !errors.Is(err, ErrFailed) {
					t.Fatal(err)
				}

				// There is room again. Another process would find the same.
				full.Store(false)
				again := opened(t, mem)
				if d == Durable {
					there(t, again, acked)
				}
				if err := put(again, next.Add(1), Durable); err != nil {
					t.Fatal(err)
				}
				if err := again.Close(); err != nil {
					t.Fatal(err)
				}

				// And neither is a durable write lost where the power goes too.
				if d == Durable {
					after := opened(t, mem.CrashClone(vfs.CrashCloneCfg{}))
					there(t, after, acked)
					if err := after.Close(); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

func TestDurableSurvivesPowerLoss(t *testing.T) {
	mem := vfs.NewCrashableMem()
	db := opened(t, mem)
	var acked []uint64
	for n := range uint64(50) {
		if err := put(db, n, Durable); err != nil {
			t.Fatal(err)
		}
		acked = append(acked, n)
		if n%10 == 0 {
			after := opened(t, mem.CrashClone(vfs.CrashCloneCfg{}))
			there(t, after, acked)
			if err := after.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSoonBecomesDurableByItself(t *testing.T) {
	mem := vfs.NewCrashableMem()
	db := opened(t, mem)
	for n := range uint64(3) {
		if err := put(db, n, Soon); err != nil {
			t.Fatal(err)
		}
		// The promise is tens of milliseconds; the test waits longer than any machine stalls, and ends as soon as it is kept.
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(soonDelay) {
			after := opened(t, mem.CrashClone(vfs.CrashCloneCfg{}))
			_, err := after.Get(key(n))
			if err := after.Close(); err != nil {
				t.Fatal(err)
			}
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("it never did")
			}
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCloseKeepsWhatWasWrittenSoon(t *testing.T) {
	mem := vfs.NewCrashableMem()
	db := opened(t, mem)
	if err := put(db, 1, Soon); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	after := opened(t, mem.CrashClone(vfs.CrashCloneCfg{}))
	there(t, after, []uint64{1})
	if err := after.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name  string
		fails error
		want  error
		says  string
	}{
		{"full disk", syscall.ENOSPC, ErrFull, "make room"},
		{"quota", syscall.EDQUOT, ErrFull, "make room"},
		{"read-only disk", syscall.EROFS, syscall.EROFS, "must be able to write"},
	} {
		t.Run(c.name, func(t *testing.T) {
			writes := 0
			mem := vfs.NewMem()
			count := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
					writes++
				}
				return nil
			}))
			if err := opened(t, count).Close(); err != nil {
				t.Fatal(err)
			}
			for after := range writes { // the disk fills at every step of the way
				var done atomic.Int32
				fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
					if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && int(done.Add(1)) > after {
						return c.fails
					}
					return nil
				}))
				db, err := Open(dir, Options{fs: fs})
				if err == nil { // it was open before the disk was full: then it fails at the first write
					for n := range uint64(50) {
						if err = put(db, n, Durable); err != nil {
							break
						}
					}
					if !errors.Is(err, ErrFailed) {
						t.Fatalf("after %d writes: %v", after, err)
					}
					_ = db.Close()
					continue
				}
				if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("after %d writes: %v", after, err)
				}
			}
		})
	}
	t.Run("in use", func(t *testing.T) {
		at := t.TempDir()
		db, err := Open(at, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(at, Options{}); !errors.Is(err, ErrInUse) {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
