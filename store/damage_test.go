package store

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// flip returns a copy of a disk on which one bit of a file differs.
func flip(t *testing.T, from vfs.FS, name string, at int64, bit int) vfs.FS {
	t.Helper()
	to := vfs.NewMem()
	if _, err := vfs.Clone(from, to, dir, dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	f, err := to.OpenReadWrite(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << bit
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return to
}

// files returns the files whose name contains part, with their sizes.
func files(t *testing.T, fs vfs.FS, part string) map[string]int64 {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, n := range names {
		if i, err := fs.Stat(filepath.Join(dir, n)); err == nil && strings.Contains(n, part) {
			out[n] = i.Size()
		}
	}
	return out
}

// disk returns a disk with a store of n acknowledged writes, all of them in tables or all in the log.
func disk(t *testing.T, n uint64, tables bool) (*vfs.MemFS, []uint64) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	db := opened(t, mem)
	var acked []uint64
	for i := range n {
		if err := put(db, i, Durable); err != nil {
			t.Fatal(err)
		}
		acked = append(acked, i)
	}
	if tables {
		if err := db.p.Flush(); err != nil {
			t.Fatal(err)
		}
	} else {
		// The record that follows a durable write, without waiting for it.
		if err := db.p.LogData(nil, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	clone := vfs.NewMem() // what a killed process leaves
	if _, err := vfs.Clone(mem, clone, dir, dir); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return clone, acked
}

// honest complains where a store on a damaged disk says that something acknowledged is not there, or shows it changed.
// It returns whether the damage was noticed.
func honest(t *testing.T, fs vfs.FS, acked []uint64, what string) (noticed bool) {
	t.Helper()
	db, err := Open(dir, Options{fs: fs, memTable: 256 << 10, CacheBytes: 1 << 20})
	if err != nil {
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", what, err)
		}
		return true
	}
	for _, n := range acked {
		for _, raised := range []bool{false, true} {
			k, want := key(n), Entry{Value: filler(n, 1500)}
			if raised {
				k, want = append(k, 'r'), Entry{Version: n, Value: key(n)}
			}
			e, err := db.Get(k)
			switch {
			case errors.Is(err, ErrFailed):
				noticed = true
			case err != nil || e.Version != want.Version || !bytes.Equal(e.Value, want.Value):
				t.Errorf("%s: %s reads as %d bytes, %v", what, k, len(e.Value), err)
			}
		}
	}
	seen := 0
	err = db.Scan(context.Background(), []byte("k"), []byte("l"), func([]byte, Entry) error { seen++; return nil })
	if err == nil && seen != 2*len(acked) {
		t.Errorf("%s: a scan sees %d of %d", what, seen, 2*len(acked))
	}
	if noticed {
		if err := put(db, 1, Durable); !errors.Is(err, ErrFailed) {
			t.Errorf("%s: a write after the damage was noticed: %v", what, err)
		}
	}
	if err := db.Close(); err != nil && !noticed && !errors.Is(err, ErrFailed) {
		t.Errorf("%s: %v", what, err)
	}
	return noticed || err != nil
}

// sample calls f with some places in every one of the files: all of the first and last bytes, and random ones.
func sample(t *testing.T, all map[string]int64, random int, f func(name string, at int64, bit int)) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	if len(all) == 0 {
		t.Fatal("there is no such file")
	}
	const edge = 30
	for name, size := range all {
		if size == 0 {
			continue
		}
		for at := range min(size, edge) {
			f(name, at, r.IntN(8))
			f(name, size-1-at, r.IntN(8))
		}
		for range random {
			f(name, r.Int64N(size), r.IntN(8))
		}
	}
}

func TestAFlippedBitInATableIsNeverNotFound(t *testing.T) {
	fs, acked := disk(t, 8, true)
	tried, noticed := 0, 0
	sample(t, files(t, fs, ".sst"), 40, func(name string, at int64, bit int) {
		tried++
		if honest(t, flip(t, fs, name, at, bit), acked, name) {
			noticed++
		}
	})
	t.Logf("%d of %d flips were noticed, the others are in bytes that no reader needs", noticed, tried)
	if noticed < tried*9/10 {
		t.Error("too few")
	}
}

func TestAFlippedBitInTheLogLosesNothingSilently(t *testing.T) {
	fs, acked := disk(t, 8, false)
	sample(t, files(t, fs, ".log"), 80, func(name string, at int64, bit int) {
		honest(t, flip(t, fs, name, at, bit), acked, name)
	})
}

func TestAFlippedBitInTheManifestLosesNothingSilently(t *testing.T) {
	fs, acked := disk(t, 8, true)
	sample(t, files(t, fs, "MANIFEST"), 40, func(name string, at int64, bit int) {
		honest(t, flip(t, fs, name, at, bit), acked, name)
	})
}

func TestAMissingFileIsNoticed(t *testing.T) {
	for _, part := range []string{".sst", "MANIFEST", "marker.manifest", ".log"} {
		fs, acked := disk(t, 8, part != ".log")
		gone := files(t, fs, part)
		if len(gone) == 0 {
			t.Fatalf("there is no %s", part)
		}
		for name := range gone {
			if err := fs.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if !honest(t, fs, acked, part) {
			t.Errorf("without %s nothing was noticed", part)
		}
	}
}

func TestClaimsAreSweptWhenOver(t *testing.T) {
	now := time.Unix(1_900_000_000, 0)
	db, err := Open(t.TempDir(), Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	claim := func(n uint64, until time.Duration) bool {
		first, err := db.Claim(t.Context(), key(n), now.Add(until))
		if err != nil {
			t.Fatal(err)
		}
		return first
	}
	keys := func() (n int) {
		if err := db.Scan(t.Context(), []byte{claimSpace}, nil, func([]byte, Entry) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	sweep := func(want int) {
		t.Helper()
		n, err := db.sweepClaims(t.Context())
		if err != nil || n != want {
			t.Fatalf("swept %d, %v; want %d", n, err, want)
		}
	}
	for n := range uint64(600) {
		claim(n, time.Minute)
	}
	claim(1000, time.Hour)
	sweep(0)
	now = now.Add(59 * time.Second)
	sweep(0)
	if claim(0, time.Minute) {
		t.Fatal("granted before its end")
	}
	now = now.Add(time.Second)
	if !claim(0, time.Hour) { // over, and claimed anew: the sweep must leave it
		t.Fatal("not granted after its end")
	}
	now = now.Add(2 * time.Minute)
	sweep(599)
	sweep(0)
	if claim(0, time.Hour) || claim(1000, time.Hour) {
		t.Fatal("a claim that is not over was swept")
	}
	if n := keys(); n != 4 {
		t.Fatalf("%d keys are left, want 4: two claims and their places in the queue", n)
	}
	now = now.Add(2 * time.Hour)
	sweep(2)
	if n := keys(); n != 0 {
		t.Fatalf("%d keys are left", n)
	}
}
