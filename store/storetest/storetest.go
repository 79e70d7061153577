// Package storetest is the contract of store.KV as tests. Every backend passes Run.
//
// It owns nothing and knows no backend: what a backend promises beyond the contract is tested beside it.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/store"
)

// Opener opens the backend that lies in dir and belongs to the test; now is its clock. Closing it and opening it again
// in the same directory must find what was kept.
type Opener func(t testing.TB, dir string, now func() time.Time) (kv store.KV, close func() error)

// Run checks a backend against the contract.
func Run(t *testing.T, open Opener) {
	t.Run("a batch is all there when Apply returns", func(t *testing.T) { applied(t, open) })
	t.Run("the caller owns what Get returns", func(t *testing.T) { owned(t, open) })
	t.Run("batches commute and may come twice", func(t *testing.T) { commute(t, open) })
	t.Run("a scan is in order and within its bounds", func(t *testing.T) { scan(t, open) })
	t.Run("a scan ends with the error of its function", func(t *testing.T) { scanError(t, open) })
	t.Run("a claim is granted once", func(t *testing.T) { claimOnce(t, open) })
	t.Run("a claim is granted once to many at a time", func(t *testing.T) { claimConcurrently(t, open) })
	t.Run("a claim ends at its time", func(t *testing.T) { claimEnds(t, open) })
	t.Run("claims and keys don't meet", func(t *testing.T) { claimSpace(t, open) })
	t.Run("what is acknowledged survives SIGKILL", func(t *testing.T) { killed(t, open) })
	t.Run("a cancelled context writes nothing", func(t *testing.T) { cancelled(t, open) })
}

// Clock is a clock that stands still until it is moved. The zero value stands at the epoch.
type Clock struct{ at atomic.Int64 }

// Now is the clock's time.
func (c *Clock) Now() time.Time { return time.Unix(0, c.at.Load()) }

// Set moves the clock.
func (c *Clock) Set(t time.Time) { c.at.Store(t.UnixNano()) }

// Add moves the clock forward.
func (c *Clock) Add(d time.Duration) { c.at.Add(int64(d)) }

var start = time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)

func fresh(t testing.TB, open Opener) store.KV {
	kv, closeKV := open(t, t.TempDir(), func() time.Time { return start })
	t.Cleanup(func() {
		if err := closeKV(); err != nil {
			t.Error("close:", err)
		}
	})
	return kv
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func applied(t *testing.T, open Opener) {
	kv := fresh(t, open)
	for _, d := range []store.Durability{store.Soon, store.Durable} {
		var b store.Batch
		put, raised := fmt.Appendf(nil, "put %d", d), fmt.Appendf(nil, "raised %d", d)
		b.Put(put, []byte("p"))
		b.Raise(raised, 7, []byte("r"))
		b.Put(fmt.Appendf(nil, "empty %d", d), nil)
		must(t, kv.Apply(t.Context(), &b, d))
		for _, c := range []struct {
			key   []byte
			entry store.Entry
		}{{put, store.Entry{Value: []byte("p")}}, {raised, store.Entry{Version: 7, Value: []byte("r")}}, {fmt.Appendf(nil, "empty %d", d), store.Entry{}}} {
			e, err := kv.Get(c.key)
			must(t, err)
			if e.Version != c.entry.Version || !bytes.Equal(e.Value, c.entry.Value) {
				t.Errorf("%s: %v, want %v", c.key, e, c.entry)
			}
		}
		var drop store.Batch
		drop.Delete(put)
		drop.DropRange([]byte("raised"), []byte("raisee"))
		must(t, kv.Apply(t.Context(), &drop, d))
		for _, k := range [][]byte{put, raised} {
			if _, err := kv.Get(k); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s after it was dropped: %v", k, err)
			}
		}
	}
	if _, err := kv.Get([]byte("never")); !errors.Is(err, store.ErrNotFound) {
		t.Error("a key that was never written:", err)
	}
	must(t, kv.Apply(t.Context(), &store.Batch{}, store.Durable))
}

func owned(t *testing.T, open Opener) {
	kv := fresh(t, open)
	key, value := []byte("key"), []byte("value")
	var b store.Batch
	b.Put(key, value)
	must(t, kv.Apply(t.Context(), &b, store.Durable))
	value[0] = 'X' // the batch may be changed once Apply has returned
	e, err := kv.Get(key)
	must(t, err)
	if string(e.Value) != "value" {
		t.Fatalf("%q", e.Value)
	}
	e.Value[0] = 'Y'
	if e, err = kv.Get(key); err != nil || string(e.Value) != "value" {
		t.Fatalf("%q, %v", e.Value, err)
	}
}

// write is one change of a model batch; puts carry a value that follows from the key.
type write struct {
	key     string
	version uint64 // 0: a put
	value   string
	forget  bool
}

// beats says whether w stays where both are written.
func (w write) beats(old write) bool {
	switch {
	case w.forget:
		return w.version >= old.version
	case old.forget:
		return w.version > old.version
	}
	return w.version > old.version || w.version == old.version && w.value > old.value
}

func commute(t *testing.T, open Opener) {
	kv := fresh(t, open)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		writes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) write {
			n := rapid.IntRange(0, 5).Draw(t, "key")
			if rapid.Bool().Draw(t, "put") {
				return write{key: fmt.Sprintf("%06d/p%d", run, n), value: fmt.Sprintf("content of %d", n)}
			}
			if rapid.IntRange(0, 4).Draw(t, "forget") == 0 {
				return write{key: fmt.Sprintf("%06d/r%d", run, n), version: rapid.Uint64Range(1, 4).Draw(t, "version"), forget: true}
			}
			return write{
				key: fmt.Sprintf("%06d/r%d", run, n), version: rapid.Uint64Range(1, 4).Draw(t, "version"),
				value: rapid.StringN(0, 3, 8).Draw(t, "value"),
			}
		}), 1, 24).Draw(t, "writes")

		want := map[string]write{}
		for _, w := range writes {
			old, ok := want[w.key]
			if !ok || w.beats(old) {
				want[w.key] = w
			}
		}
		forgotten := map[string]bool{}
		maps.DeleteFunc(want, func(k string, w write) bool {
			forgotten[k] = w.forget
			return w.forget
		})
		// Cut into batches, some of them twice, in any order.
		var batches [][]write
		for rest := writes; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "cut")
			batches = append(batches, rest[:n])
			if rapid.Bool().Draw(t, "twice") {
				batches = append(batches, rest[:n])
			}
			rest = rest[n:]
		}
		for _, ws := range rapid.Permutation(batches).Draw(t, "order") {
			var b store.Batch
			for _, w := range ws {
				if w.forget {
					b.Forget([]byte(w.key), w.version)
				} else if w.version == 0 {
					b.Put([]byte(w.key), []byte(w.value))
				} else {
					b.Raise([]byte(w.key), w.version, []byte(w.value))
				}
			}
			if err := kv.Apply(context.Background(), &b, store.Soon); err != nil {
				t.Fatal(err)
			}
		}
		got := map[string]write{}
		from, to := fmt.Appendf(nil, "%06d/", run), fmt.Appendf(nil, "%06d0", run)
		err := kv.Scan(context.Background(), from, to, func(k []byte, e store.Entry) error {
			got[string(k)] = write{key: string(k), version: e.Version, value: string(e.Value)}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		for k, gone := range forgotten {
			if _, err := kv.Get([]byte(k)); gone && !errors.Is(err, store.ErrNotFound) {
				t.Fatalf("get %s, which is forgotten: %v", k, err)
			}
		}
		for k, w := range want {
			e, err := kv.Get([]byte(k))
			if err != nil || e.Version != w.version || string(e.Value) != w.value {
				t.Fatalf("get %s: %v, %v; want %v", k, e, err, w)
			}
		}
	})
}

func scan(t *testing.T, open Opener) {
	kv := fresh(t, open)
	rapid.Check(t, func(t *rapid.T) {
		var drop store.Batch
		drop.DropRange([]byte{0}, []byte{0xf0})
		keys := rapid.SliceOfNDistinct(rapid.SliceOfN(rapid.ByteRange(1, 4), 1, 4), 0, 20, func(b []byte) string { return string(b) }).Draw(t, "keys")
		for _, k := range keys {
			drop.Put(k, k)
		}
		if err := kv.Apply(context.Background(), &drop, store.Soon); err != nil {
			t.Fatal(err)
		}
		from := rapid.SliceOfN(rapid.ByteRange(1, 4), 1, 3).Draw(t, "from")
		to := rapid.SliceOfN(rapid.ByteRange(1, 5), 1, 3).Draw(t, "to")
		if bytes.Compare(from, to) > 0 {
			from, to = to, from
		}
		var want, got []string
		for _, k := range keys {
			if bytes.Compare(k, from) >= 0 && bytes.Compare(k, to) < 0 {
				want = append(want, string(k))
			}
		}
		slices.Sort(want)
		err := kv.Scan(context.Background(), from, to, func(k []byte, e store.Entry) error {
			if !bytes.Equal(k, e.Value) {
				t.Fatalf("key %x has the value of %x", k, e.Value)
			}
			got = append(got, string(k))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("[%x, %x): got %x, want %x", from, to, got, want)
		}
	})
}

func scanError(t *testing.T, open Opener) {
	kv := fresh(t, open)
	var b store.Batch
	for i := range 10 {
		b.Put([]byte{'k', byte(i)}, nil)
	}
	must(t, kv.Apply(t.Context(), &b, store.Soon))
	mine := errors.New("mine")
	seen := 0
	err := kv.Scan(t.Context(), []byte("k"), []byte("l"), func([]byte, store.Entry) error {
		if seen++; seen == 3 {
			return mine
		}
		return nil
	})
	if !errors.Is(err, mine) || seen != 3 {
		t.Errorf("%v after %d", err, seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen = 0
	err = kv.Scan(ctx, []byte("k"), []byte("l"), func([]byte, store.Entry) error {
		if seen++; seen == 3 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || seen != 3 {
		t.Errorf("cancelled: %v after %d", err, seen)
	}
	must(t, kv.Apply(t.Context(), &b, store.Durable)) // neither is a failure of the store
}

func claimOnce(t *testing.T, open Opener) {
	dir, clock := t.TempDir(), &Clock{}
	clock.Set(start)
	for opened := range 3 {
		kv, closeKV := open(t, dir, clock.Now)
		for again := range 2 {
			first, err := kv.Claim(t.Context(), []byte("code"), start.Add(time.Hour))
			must(t, err)
			if first != (opened == 0 && again == 0) {
				t.Fatalf("opened %d times, claimed %d times: %v", opened+1, again+1, first)
			}
		}
		other, err := kv.Claim(t.Context(), fmt.Appendf(nil, "code %d", opened), start.Add(time.Hour))
		must(t, err)
		if !other {
			t.Fatal("another key was not granted")
		}
		must(t, closeKV())
	}
}

func claimConcurrently(t *testing.T, open Opener) {
	kv := fresh(t, open)
	for round := range 20 {
		var granted atomic.Int32
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				first, err := kv.Claim(t.Context(), fmt.Appendf(nil, "jti %d", round), start.Add(time.Hour))
				if err != nil {
					t.Error(err)
				}
				if first {
					granted.Add(1)
				}
			})
		}
		wg.Wait()
		if n := granted.Load(); n != 1 {
			t.Fatalf("granted %d times", n)
		}
	}
}

func claimEnds(t *testing.T, open Opener) {
	clock := &Clock{}
	clock.Set(start)
	kv, closeKV := open(t, t.TempDir(), clock.Now)
	t.Cleanup(func() { must(t, closeKV()) })
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {time.Minute - 1, false}, {1, true}, {time.Minute - 1, false}, {1, true}} {
		clock.Add(c.after)
		got, err := kv.Claim(t.Context(), []byte("key"), clock.Now().Add(time.Minute))
		must(t, err)
		if got != c.want {
			t.Fatalf("at %v: %v", clock.Now().Sub(start), got)
		}
	}
}

func claimSpace(t *testing.T, open Opener) {
	kv := fresh(t, open)
	var b store.Batch
	b.Put([]byte("k"), []byte("value"))
	must(t, kv.Apply(t.Context(), &b, store.Soon))
	first, err := kv.Claim(t.Context(), []byte("k"), start.Add(time.Hour))
	must(t, err)
	e, err := kv.Get([]byte("k"))
	must(t, err)
	if !first || string(e.Value) != "value" {
		t.Fatalf("claimed %v, then read %q", first, e.Value)
	}
	n := 0
	must(t, kv.Scan(t.Context(), []byte{0}, []byte{0xff}, func([]byte, store.Entry) error { n++; return nil }))
	if n != 1 {
		t.Fatalf("%d keys below 0xff", n)
	}
}

func cancelled(t *testing.T, open Opener) {
	kv := fresh(t, open)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var b store.Batch
	b.Put([]byte("k"), nil)
	if err := kv.Apply(ctx, &b, store.Soon); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := kv.Get([]byte("k")); !errors.Is(err, store.ErrNotFound) {
		t.Error("it was written:", err)
	}
}
