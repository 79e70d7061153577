package store

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A compaction may drop what is forgotten, and only that.
func TestForgottenSurvivesCompactions(t *testing.T) {
	db := opened(t, vfs.NewMem())
	defer db.Close()
	step := func(f func(b *Batch)) {
		t.Helper()
		var b Batch
		f(&b)
		if err := db.Apply(t.Context(), &b, Durable); err != nil {
			t.Fatal(err)
		}
		if err := db.p.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want bool) {
		t.Helper()
		for range 2 {
			if e, err := db.Get([]byte("k")); (err == nil) != want || err != nil && !errors.Is(err, ErrNotFound) {
				t.Fatalf("%v, %v", e, err)
			}
			if err := db.p.Compact(t.Context(), []byte("a"), []byte("z"), false); err != nil {
				t.Fatal(err)
			}
		}
	}
	step(func(b *Batch) { b.Raise([]byte("k"), 5, []byte("old")); b.Put([]byte("x"), nil) })
	check(true)
	step(func(b *Batch) { b.Forget([]byte("k"), 5) })
	check(false)
	step(func(b *Batch) { b.Raise([]byte("k"), 6, nil) })
	check(true)
	step(func(b *Batch) { b.Forget([]byte("k"), 5) })
	check(true)
}
