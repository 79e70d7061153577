package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

// Stored values begin with a tag byte: versioned values carry their version so that the merge needs no read.
const (
	tagPut       = 'p' // tagPut || value
	tagVersioned = 'v' // tagVersioned || version (8 bytes, big endian) || value
)

// claimSpace is the key space that Claim keeps for itself; no other key begins with this byte.
const claimSpace = 0xff

// DB is a KV on one directory.
type DB struct {
	p      *pebble.DB
	failed atomic.Pointer[error]

	claims sync.Mutex // held while one claim is read and written
}

// Options of a DB; zero values are defaults.
type Options struct {
	// CacheBytes bounds the block cache; 0: 64 MiB.
	CacheBytes int64
}

// Open opens or creates the database in dir, which no other process may have open.
func Open(dir string, o Options) (*DB, error) {
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the store's directory: %w", err)
	}
	cache := pebble.NewCache(o.CacheBytes)
	defer cache.Unref()
	d := &DB{}
	opts := &pebble.Options{
		Cache:        cache,
		MemTableSize: 64 << 20,
		Merger:       &pebble.Merger{Name: "understudy.greatest.1", Merge: newGreatest},
		Logger:       quiet{},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { d.fail(err) },
			DataCorruption:  func(i pebble.DataCorruptionInfo) { d.fail(fmt.Errorf("corrupt table %s", i.Path)) },
		},
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	p, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("open the store in %s: %w", dir, err)
	}
	d.p = p
	return d, nil
}

// Close flushes and closes. Every other method must have returned.
func (d *DB) Close() error { return d.p.Close() }

// Failed is nil while the store can be trusted, else an error that wraps ErrFailed.
func (d *DB) Failed() error {
	if e := d.failed.Load(); e != nil {
		return *e
	}
	return nil
}

func (d *DB) fail(cause error) error {
	err := fmt.Errorf("%w: %w", ErrFailed, cause)
	d.failed.CompareAndSwap(nil, &err)
	return err
}

// Get implements KV.
func (d *DB) Get(key []byte) (Entry, error) {
	v, c, err := d.p.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return Entry{}, ErrNotFound
	}
	if err != nil {
		return Entry{}, d.fail(fmt.Errorf("read: %w", err))
	}
	e, err := decode(v)
	e.Value = bytes.Clone(e.Value)
	c.Close()
	return e, err
}

func decode(v []byte) (Entry, error) {
	switch {
	case len(v) >= 1 && v[0] == tagPut:
		return Entry{Value: v[1:]}, nil
	case len(v) >= 9 && v[0] == tagVersioned:
		return Entry{Version: binary.BigEndian.Uint64(v[1:]), Value: v[9:]}, nil
	}
	return Entry{}, fmt.Errorf("%w: a value of %d bytes without a known tag", ErrFailed, len(v))
}

// Apply implements KV.
func (d *DB) Apply(ctx context.Context, b *Batch, dur Durability) error {
	if err := d.Failed(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.Len() == 0 {
		return nil
	}
	pb := d.p.NewBatch()
	defer pb.Close()
	var buf []byte
	for _, o := range b.ops {
		var err error
		switch o.kind {
		case opPut:
			buf = append(append(buf[:0], tagPut), o.value...)
			err = pb.Set(o.key, buf, nil)
		case opRaise:
			buf = binary.BigEndian.AppendUint64(append(buf[:0], tagVersioned), o.version)
			buf = append(buf, o.value...)
			err = pb.Merge(o.key, buf, nil)
		case opDelete:
			err = pb.Delete(o.key, nil)
		case opDropRange:
			err = pb.DeleteRange(o.key, o.value, nil)
		}
		if err != nil {
			return fmt.Errorf("build a batch: %w", err)
		}
	}
	w := pebble.NoSync
	if dur == Durable {
		w = pebble.Sync
	}
	if err := pb.Commit(w); err != nil {
		return d.fail(fmt.Errorf("commit: %w", err))
	}
	return nil
}

// Claim implements KV.
func (d *DB) Claim(ctx context.Context, key []byte, until time.Time) (bool, error) {
	k := append([]byte{claimSpace}, key...)
	d.claims.Lock()
	defer d.claims.Unlock()
	e, err := d.Get(k)
	switch {
	case err == nil && int64(e.Version) > time.Now().UnixNano():
		return false, nil
	case err != nil && !errors.Is(err, ErrNotFound):
		return false, err
	}
	var b Batch
	b.Raise(k, uint64(until.UnixNano()), nil)
	if err := d.Apply(ctx, &b, Durable); err != nil {
		return false, err
	}
	return true, nil
}

// Scan implements KV.
func (d *DB) Scan(ctx context.Context, from, to []byte, f func([]byte, Entry) error) error {
	it, err := d.p.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return d.fail(fmt.Errorf("scan: %w", err))
		}
		e, err := decode(v)
		if err != nil {
			return err
		}
		if err := f(it.Key(), e); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return d.fail(fmt.Errorf("scan: %w", err))
	}
	return nil
}

// greatest is the merge of versioned values: versions are big endian behind the same tag, so the greatest bytes win.
type greatest struct{ best []byte }

func newGreatest(_, value []byte) (pebble.ValueMerger, error) {
	return &greatest{best: bytes.Clone(value)}, nil
}

func (g *greatest) MergeNewer(v []byte) error {
	if bytes.Compare(v, g.best) > 0 {
		g.best = append(g.best[:0], v...)
	}
	return nil
}

func (g *greatest) MergeOlder(v []byte) error { return g.MergeNewer(v) }

func (g *greatest) Finish(bool) ([]byte, io.Closer, error) { return g.best, nil, nil }

// quiet drops Pebble's own lines; what matters arrives as events and errors.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}

// Fatalf must not return by Pebble's contract: a store in an unknown state ends the process, and the next start
// recovers from the log.
func (quiet) Fatalf(f string, a ...any) { panic(fmt.Sprintf("store: "+f, a...)) }
