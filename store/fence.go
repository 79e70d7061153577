package store

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fence stands between Pebble and the disk and freezes it at the first write that fails.
//
// Pebble ends the process where its log or its manifest can't be written, and retries a failed flush or compaction at
// once and for ever. Here a full disk may cost what this store remembers, never the sign-ins that pass through the
// process. So behind the fence Pebble sees no failed write:
//
//   - Nothing changes on the disk any more. What the next start finds is what a crash at this moment would have left.
//   - Writes to the log and syncs "succeed", so that no committing goroutine panics or waits for ever. DB has failed
//     before the disk is frozen, and Apply asks for that after the commit: no caller is told that such a write is kept.
//   - A background job that wants to write anything else (a table, the manifest) sleeps until the process ends.
//   - Reads go on.
type fence struct {
	vfs.FS
	fail func(error) // called once, before anything is withheld

	// armed is false while Pebble opens: there, errors are for the caller of Open.
	armed  atomic.Bool
	once   sync.Once
	frozen chan struct{} // closed by the first write that fails

	synced syncedTo

	mu   sync.Mutex // guards lock
	lock io.Closer  // of the directory; the fence closes it where Pebble can't any more
}

func newFence(under vfs.FS, fail func(error)) *fence {
	return &fence{FS: under, fail: fail, frozen: make(chan struct{})}
}

// freeze stops all writes.
func (f *fence) freeze(cause error) {
	f.once.Do(func() {
		f.fail(cause)
		close(f.frozen)
	})
}

func (f *fence) isFrozen() bool {
	select {
	case <-f.frozen:
		return true
	default:
		return false
	}
}

// abandon gives the directory free for the next one who opens it; nothing behind this fence writes there any more.
func (f *fence) abandon() error {
	f.synced.close()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lock == nil {
		return nil
	}
	return f.lock.Close()
}

// write does something that changes the disk. Where quiet is set it "succeeds" on a frozen disk, else it does not return.
func (f *fence) write(quiet bool, act func() error) error {
	if !f.isFrozen() {
		err := act()
		if err == nil || !f.armed.Load() {
			return err
		}
		f.freeze(err)
	}
	if !quiet {
		select {} // an error would be fatal to Pebble, or retried at once; Goexit upsets its deferred calls
	}
	return nil
}

func isLog(name string) bool { return strings.HasSuffix(name, ".log") }

func (f *fence) file(name string, act func() (vfs.File, error)) (vfs.File, error) {
	var file vfs.File
	err := f.write(isLog(name), func() (err error) {
		file, err = act()
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case file == nil: // frozen
		file = sink{}
	}
	out := &fenced{File: file, fence: f, quiet: isLog(name)}
	out.log, _ = logNumber(name)
	if strings.HasSuffix(name, ".sst") {
		out.table = bufio.NewWriterSize(direct{out}, tableBuffer)
	}
	return out, nil
}

func (f *fence) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file(name, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f *fence) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return f.file(name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, o...) })
}

func (f *fence) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file(name, func() (vfs.File, error) { return f.FS.ReuseForWrite(old, name, c) })
}

// OpenDir is for syncing a directory, which creating a log does.
func (f *fence) OpenDir(name string) (vfs.File, error) {
	d, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &fenced{File: d, fence: f, quiet: true}, nil
}

func (f *fence) Link(old, name string) error {
	return f.write(false, func() error { return f.FS.Link(old, name) })
}

func (f *fence) Rename(old, name string) error {
	return f.write(false, func() error { return f.FS.Rename(old, name) })
}

func (f *fence) MkdirAll(dir string, perm os.FileMode) error {
	return f.write(false, func() error { return f.FS.MkdirAll(dir, perm) })
}

// Remove is for files that are not needed any more: a failure wastes room and breaks nothing.
func (f *fence) Remove(name string) error {
	if f.isFrozen() {
		return nil
	}
	return f.FS.Remove(name)
}

func (f *fence) RemoveAll(name string) error {
	if f.isFrozen() {
		return nil
	}
	return f.FS.RemoveAll(name)
}

func (f *fence) Lock(name string) (io.Closer, error) {
	l, err := f.FS.Lock(name)
	if err != nil {
		return nil, err
	}
	l = &onceCloser{Closer: l}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lock = l
	return l, nil
}

func (f *fence) Unwrap() vfs.FS { return f.FS }

type onceCloser struct {
	io.Closer
	once sync.Once
}

func (c *onceCloser) Close() (err error) {
	c.once.Do(func() { err = c.Closer.Close() })
	return err
}

// tableBuffer is how much of a table is written at a time. Pebble writes a block of 4 KiB at a time, and a table counts
// only once it has been synced.
const tableBuffer = 128 << 10

// fenced is a file behind the fence.
type fenced struct {
	vfs.File
	fence *fence
	quiet bool
	table *bufio.Writer // of a table; nil: it is none

	log     uint64 // number of a log; 0: it is none
	written atomic.Int64
}

// direct writes past the buffer.
type direct struct{ f *fenced }

func (d direct) Write(p []byte) (int, error) { return d.f.write(p) }

func (f *fenced) Write(p []byte) (int, error) {
	if f.table != nil {
		return f.table.Write(p)
	}
	return f.write(p)
}

// flush writes what the buffer of a table holds.
func (f *fenced) flush() error {
	if f.table == nil {
		return nil
	}
	return f.table.Flush()
}

func (f *fenced) write(p []byte) (n int, err error) {
	n = len(p)
	err = f.fence.write(f.quiet, func() (err error) {
		n, err = f.File.Write(p)
		return err
	})
	f.written.Add(int64(n))
	return n, err
}

func (f *fenced) WriteAt(p []byte, at int64) (n int, err error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	n = len(p)
	return n, f.fence.write(f.quiet, func() (err error) {
		n, err = f.File.WriteAt(p, at)
		return err
	})
}

func (f *fenced) Sync() error { return f.sync(f.File.Sync) }

func (f *fenced) SyncData() error { return f.sync(f.File.SyncData) }

func (f *fenced) sync(act func() error) error {
	if err := f.flush(); err != nil {
		return err
	}
	written := f.written.Load()
	return f.fence.write(f.quiet, func() error {
		if err := act(); err != nil {
			return err
		}
		if f.log != 0 {
			f.fence.synced.note(f.log, written)
		}
		return nil
	})
}

func (f *fenced) SyncTo(length int64) (full bool, err error) {
	if err := f.flush(); err != nil {
		return false, err
	}
	err = f.fence.write(f.quiet, func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

// Preallocate fails early on a disk that is about to be full; not all file systems can.
func (f *fenced) Preallocate(offset, length int64) error {
	if f.fence.isFrozen() {
		return nil
	}
	return f.File.Preallocate(offset, length)
}

// Close never fails the store: what had to be kept was synced before.
func (f *fenced) Close() error {
	err := errors.Join(f.flush(), f.File.Close())
	if f.fence.isFrozen() {
		return nil
	}
	return err
}

// sink is a log that is created on a frozen disk.
type sink struct{}

var errFrozen = errors.New("the disk is frozen")

func (sink) Close() error                       { return nil }
func (sink) Read([]byte) (int, error)           { return 0, io.EOF }
func (sink) ReadAt([]byte, int64) (int, error)  { return 0, io.EOF }
func (sink) Write(p []byte) (int, error)        { return len(p), nil }
func (sink) WriteAt([]byte, int64) (int, error) { return 0, errFrozen }
func (sink) Preallocate(int64, int64) error     { return nil }
func (sink) Stat() (vfs.FileInfo, error)        { return sinkInfo{}, nil }
func (sink) Sync() error                        { return nil }
func (sink) SyncTo(int64) (bool, error)         { return true, nil }
func (sink) SyncData() error                    { return nil }
func (sink) Prefetch(int64, int64) error        { return nil }
func (sink) Fd() uintptr                        { return vfs.InvalidFd }

type sinkInfo struct{ fs.FileInfo }

func (sinkInfo) Size() int64            { return 0 }
func (sinkInfo) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }
