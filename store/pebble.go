package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Stored values begin with a tag byte: versioned values carry their version so that the merge needs no read.
const (
	tagPut       = 'p' // tagPut || value
	tagVersioned = 'v' // tagVersioned || version (8 bytes, big endian) || holds || value
)

// What a versioned value holds. What is forgotten up to a version is written as nothing at the next one: greater than all
// that the version can hold, less than anything at the next.
const (
	holdsNothing = 0
	holdsValue   = 1
)

// DB is a KV on one directory. One goroutine of its own syncs and sweeps until Close.
type DB struct {
	p      *pebble.DB
	fence  *fence
	failed atomic.Pointer[error]
	now    func() time.Time

	claims claims
	dirty  chan struct{} // holds one: something was written since the last sync
	stop   context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended
}

// Options of a DB; zero values are defaults.
type Options struct {
	// CacheBytes bounds the block cache; 0: 64 MiB.
	CacheBytes int64
	// Now is the clock that claims end by; nil: time.Now.
	Now func() time.Time

	fs       vfs.FS // nil: the disk
	memTable uint64 // bytes; 0: 64 MiB
}

// What is wrong with a directory that does not open; errors of Open wrap them and say what an operator can do.
var (
	ErrInUse   = errors.New("the store is in use")
	ErrFull    = errors.New("the disk is full")
	ErrDamaged = errors.New("the store is damaged")
)

// Open opens or creates the database in dir, which no other process may have open.
func Open(dir string, o Options) (*DB, error) {
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.memTable == 0 {
		o.memTable = 64 << 20
	}
	if o.fs == nil {
		o.fs = vfs.Default
	}
	d := &DB{now: o.Now, dirty: make(chan struct{}, 1), done: make(chan struct{})}
	d.fence = newFence(o.fs, func(err error) { d.setFailed(err) })
	if err := o.fs.MkdirAll(dir, 0o700); err != nil {
		return nil, explain(dir, err)
	}
	cache := pebble.NewCache(o.CacheBytes)
	defer cache.Unref()
	var err error
	// In a goroutine of its own, because that is all that a fatal complaint of Pebble may end.
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		defer func() {
			if p := recover(); p != nil {
				cause, _ := p.(error)
				err = complaint{fmt.Sprint(p), cause}
			}
		}()
		if err = checkManifest(o.fs, dir); err != nil {
			return
		}
		if err = checkSynced(o.fs, dir); err != nil {
			return
		}
		d.fence.synced.open(o.fs, dir)
		d.p, err = pebble.Open(dir, d.pebble(cache, o.memTable))
	}()
	<-opened
	if err == nil && d.p == nil {
		err = d.Failed()
	}
	if err != nil {
		_ = d.fence.abandon()
		return nil, explain(dir, err)
	}
	d.fence.armed.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	go d.run(ctx)
	return d, nil
}

// pebble returns Pebble's options. Its file format is pinned: an older program of ours must not find a newer one.
func (d *DB) pebble(cache *pebble.Cache, memTable uint64) *pebble.Options {
	opts := &pebble.Options{
		FS:    d.fence,
		Cache: cache,
		// Checksums in table footers, and log records that tell a damaged log from one that ends in a torn write.
		FormatMajorVersion: pebble.FormatTableFormatV6,
		MemTableSize:       memTable,
		Merger:             &pebble.Merger{Name: "understudy.greatest.1", Merge: newGreatest},
		Logger:             quiet{d},
		EventListener: &pebble.EventListener{
			BackgroundError: d.background,
			DataCorruption:  func(i pebble.DataCorruptionInfo) { d.fail(fmt.Errorf("%w: table %s", ErrDamaged, i.Path)) },
		},
		CompactionConcurrencyRange: func() (int, int) { return 1, max(1, runtime.GOMAXPROCS(0)/2) },
	}
	// Sign-ins lie at random places, so every compaction rewrites all that it meets: fewer and larger ones cost less, and a look-up, which
	// asks the filters of a few more tables, hardly more.
	opts.L0CompactionThreshold, opts.LBaseMaxBytes = 8, 256<<20
	// What is stored is sealed and does not compress.
	opts.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return opts
}

// explain says what an operator can do about a directory that does not open.
func explain(dir string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("open the store in %s: %w: make room and start again: %w", dir, ErrFull, err)
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES) && strings.Contains(err.Error(), "LOCK"),
		strings.Contains(err.Error(), "lock held"):
		return fmt.Errorf("open the store in %s: %w: another process has it open, end that one first: %w", dir, ErrInUse, err)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("open the store in %s: this user must be able to write there: %w", dir, err)
	case pebble.IsCorruptionError(err), errors.Is(err, ErrDamaged), errors.Is(err, os.ErrNotExist), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("open the store in %s: %w: check the disk; put back a copy of the whole directory, or move it away and start with an empty one"+
			" (sign-ins are learned again as users come; repeat the revocations that only this node knew): %w", dir, ErrDamaged, err)
	}
	return fmt.Errorf("open the store in %s: %w", dir, err)
}

// Close syncs and closes. Every other method must have returned. A store that has failed is left as a crash would leave
// it, and Close returns why it failed.
func (d *DB) Close() error {
	d.stop()
	<-d.done
	if err := d.Failed(); err != nil {
		return errors.Join(err, d.fence.abandon())
	}
	closed := make(chan error, 1)
	go func() { closed <- errors.Join(d.p.LogData(nil, pebble.Sync), d.p.Close()) }()
	select {
	case err := <-closed:
		d.fence.synced.close()
		if err == nil {
			err = d.Failed()
		}
		if err != nil {
			return fmt.Errorf("close the store: %w", err)
		}
		return nil
	case <-d.fence.frozen:
		return errors.Join(d.Failed(), d.fence.abandon())
	}
}

// Failed is nil while the store can be trusted, else an error that wraps ErrFailed.
func (d *DB) Failed() error {
	if e := d.failed.Load(); e != nil {
		return *e
	}
	return nil
}

// setFailed keeps the first cause.
func (d *DB) setFailed(cause error) error {
	err := error(failure{cause})
	d.failed.CompareAndSwap(nil, &err)
	return err
}

// background hears of errors in Pebble's own jobs. The one that collects statistics of tables tries a damaged table again
// at once and for ever; it holds no lock here, and is kept for as long as the process lives.
func (d *DB) background(err error) {
	d.fail(err)
	pc := make([]uintptr, 16)
	frames := runtime.CallersFrames(pc[:runtime.Callers(1, pc)])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, ".collectTableStats") {
			select {}
		}
		if !more {
			return
		}
	}
}

// failure is ErrFailed and its cause. The text is made only where it is read: Pebble's errors carry stacks, and a
// damaged table makes one for every look-up.
type failure struct{ cause error }

func (f failure) Error() string   { return ErrFailed.Error() + ": " + f.cause.Error() }
func (f failure) Unwrap() []error { return []error{ErrFailed, f.cause} }

// fail ends all writing.
func (d *DB) fail(cause error) error {
	err := d.setFailed(cause)
	if d.fence.armed.Load() {
		d.fence.freeze(cause)
	}
	return err
}

// Get implements KV.
func (d *DB) Get(key []byte) (Entry, error) {
	v, c, err := d.p.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return Entry{}, ErrNotFound
	}
	if err != nil {
		return Entry{}, d.fail(err)
	}
	defer c.Close()
	e, err := d.decode(v)
	e.Value = bytes.Clone(e.Value)
	return e, err
}

func (d *DB) decode(v []byte) (Entry, error) {
	switch {
	case len(v) >= 1 && v[0] == tagPut:
		return Entry{Value: v[1:]}, nil
	case len(v) >= 10 && v[0] == tagVersioned && v[9] == holdsValue:
		return Entry{Version: binary.BigEndian.Uint64(v[1:]), Value: v[10:]}, nil
	case len(v) == 10 && v[0] == tagVersioned && v[9] == holdsNothing:
		return Entry{}, ErrNotFound
	}
	return Entry{}, d.fail(fmt.Errorf("%w: a value of %d bytes without a known tag", ErrDamaged, len(v)))
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
	size := 0
	for _, o := range b.ops {
		size += len(o.key) + len(o.value) + 32
	}
	pb := d.p.NewBatchWithSize(size)
	for _, o := range b.ops {
		var err error
		switch o.kind {
		case opPut:
			op := pb.SetDeferred(len(o.key), 1+len(o.value))
			copy(op.Key, o.key)
			op.Value[0] = tagPut
			copy(op.Value[1:], o.value)
			err = op.Finish()
		case opRaise:
			op := pb.MergeDeferred(len(o.key), 10+len(o.value))
			copy(op.Key, o.key)
			op.Value[0], op.Value[9] = tagVersioned, holdsValue
			binary.BigEndian.PutUint64(op.Value[1:], o.version)
			copy(op.Value[10:], o.value)
			err = op.Finish()
		case opForget:
			op := pb.MergeDeferred(len(o.key), 10)
			copy(op.Key, o.key)
			op.Value[0], op.Value[9] = tagVersioned, holdsNothing
			binary.BigEndian.PutUint64(op.Value[1:], o.version+1)
			err = op.Finish()
		case opDelete:
			err = pb.Delete(o.key, nil)
		case opDropRange:
			err = pb.DeleteRange(o.key, o.value, nil)
		}
		if err != nil {
			_ = pb.Close()
			return fmt.Errorf("build a batch: %w", err)
		}
	}
	w := pebble.NoSync
	if dur == Durable {
		w = pebble.Sync
	}
	err := d.commit(ctx, func() error {
		if err := pb.Commit(w); err != nil {
			return err
		}
		return pb.Close()
	})
	if err != nil {
		return err
	}
	select {
	case d.dirty <- struct{}{}:
	default:
	}
	return nil
}

// commit runs one commit in a goroutine of its own, because where tables can't be flushed any more it waits for ever.
func (d *DB) commit(ctx context.Context, act func() error) error {
	committed := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				committed <- fmt.Errorf("%v", p)
			}
		}()
		committed <- act()
	}()
	select {
	case err := <-committed:
		if err != nil {
			return d.fail(fmt.Errorf("commit: %w", err))
		}
	case <-d.fence.frozen:
	case <-ctx.Done():
		return ctx.Err()
	}
	// Behind the fence a commit "succeeds" whose log could not be written; the store has failed before that.
	return d.Failed()
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
		e, err := d.decode(v)
		if errors.Is(err, ErrNotFound) {
			continue
		}
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

// DeletableFinish lets a compaction drop the key where nothing is left of it.
func (g *greatest) DeletableFinish(includesBase bool) ([]byte, bool, io.Closer, error) {
	nothing := len(g.best) == 10 && g.best[0] == tagVersioned && g.best[9] == holdsNothing
	return g.best, includesBase && nothing, nil, nil
}

func (g *greatest) Finish(bool) ([]byte, io.Closer, error) { return g.best, nil, nil }

// quiet drops Pebble's own lines; what matters arrives as events and errors.
type quiet struct{ d *DB }

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}

// Fatalf must not return by Pebble's contract, and must not end the process by ours: it ends the goroutine. Behind the
// fence no failed write comes here; what is left is the opening of a directory, and Pebble's complaints about itself.
func (q quiet) Fatalf(f string, a ...any) {
	c := complaint{text: fmt.Sprintf(f, a...)}
	for _, x := range a {
		if err, ok := x.(error); ok {
			c.cause = err
		}
	}
	q.d.fail(c)
	runtime.Goexit()
}

// complaint is a fatal line of Pebble's and the error in it.
type complaint struct {
	text  string
	cause error
}

func (c complaint) Error() string { return c.text }
func (c complaint) Unwrap() error { return c.cause }
