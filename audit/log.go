// Package audit is the sign-in log: one JSON line for every answer and every refusal.
//
// It owns the format of the lines (docs/audit.md), the files and how long they are kept. It refuses to lose a line
// silently: where lines cannot be written, Write says so, and whoever answers sign-ins stops answering. It never holds
// a token or a secret. It is a leaf and imports no other package of the project.
package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Options of a log. The zero value works.
type Options struct {
	// KeepDays is for how many days files are kept beside today's; zero: 90, negative: for ever.
	KeepDays int
	// MaxFileBytes is the size at which a new file is begun; zero: 256 MiB.
	MaxFileBytes int64
}

const (
	interval = 100 * time.Millisecond // between syncs, at most
	maxSpare = 1 << 20                // bytes of a buffer that is kept for the next lines
)

// Log appends entries to files by day and size and syncs them in groups. It is safe for concurrent use. One process
// writes a directory at a time.
type Log struct {
	dir  string
	keep int
	max  int64

	mu       sync.Mutex // guards the next; never held during a call to the disk
	buf      []byte     // whole lines that wait for a write; their writers wait, too
	gather   *group     // of those lines; never nil
	spare    []byte     // becomes buf
	idle     []*group   // become gather
	err      error      // of the last write
	unsynced error      // of the last sync
	tried    time.Time  // when a write or a sync last failed
	closed   bool

	disk  sync.Mutex // serialises writes and guards the next; never held during a sync; taken before mu
	file  *logFile   // nil: none is open
	name  fileName   // of file
	from  time.Time  // when the name's day begins
	until time.Time  // and ends
	size  int64
	ended []*logFile // are written no more; the next sync closes them
	begun bool       // a file was begun whose name is not synced

	syncing sync.Mutex // serialises syncs and the closing of files; taken before disk
}

// logFile is an open file.
type logFile struct {
	*os.File
	dirty bool // it has lines that are not synced; guarded by Log.disk
}

// group is the writers whose lines go out in one write. Its first leads: it waits for the writes before, while others
// join, and then writes for all.
type group struct {
	over    sync.Cond // done is set; with Log.mu, which guards the next
	writers int       // who do not know yet what became of it
	done    bool
	whole   int // bytes of the lines that are in the file
	err     error
}

// Open opens the log in dir with the default options.
func Open(dir string) (*Log, error) { return Options{}.Open(dir) }

// Open opens the log in dir. [Log.Run] syncs it, [Log.Close] ends it.
func (o Options) Open(dir string) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the sign-in log's directory: %w", err)
	}
	l := &Log{dir: dir, keep: o.KeepDays, max: o.MaxFileBytes}
	if l.keep == 0 {
		l.keep = 90
	}
	if l.max == 0 {
		l.max = 256 << 20
	}
	l.gather = l.newGroup()
	return l, nil
}

var errClosed = errors.New("the sign-in log is closed")

// Write appends an entry. When it returns, the line is the operating system's: it outlives this process, and it is on
// disk after the next sync, 100 ms later at most where Run runs. An error means that the entry is not in the log:
// nothing may then be answered. After a failure it goes on failing for 100 ms, or until Run could write again.
func (l *Log) Write(e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	if err := cmp.Or(l.err, l.unsynced); err != nil && time.Since(l.tried) < interval {
		return err
	}
	l.buf = e.append(l.buf)
	g, end := l.gather, len(l.buf)
	g.writers++
	if g.writers == 1 {
		l.mu.Unlock()
		l.disk.Lock()
		l.mu.Lock()
		if !g.done { // Close may have written it
			l.flush()
		}
		l.disk.Unlock()
	}
	for !g.done {
		g.over.Wait()
	}
	err := g.err
	if end <= g.whole {
		err = nil
	}
	if g.writers--; g.writers == 0 {
		g.done, g.whole, g.err = false, 0, nil
		l.idle = append(l.idle, g)
	}
	return err
}

// newGroup returns a group that nobody is in. l.mu is held.
func (l *Log) newGroup() *group {
	if n := len(l.idle) - 1; n >= 0 {
		g := l.idle[n]
		l.idle = l.idle[:n]
		return g
	}
	return &group{over: sync.Cond{L: &l.mu}}
}

// flush writes the lines that wait and tells their writers. l.disk and l.mu are held; l.mu not during the write.
func (l *Log) flush() {
	if len(l.buf) == 0 {
		return
	}
	g, b := l.gather, l.buf
	l.gather, l.buf, l.spare = l.newGroup(), l.spare[:0], nil
	l.mu.Unlock()
	n, err := l.write(b, time.Now())
	l.mu.Lock()
	if cap(b) <= maxSpare {
		l.spare = b
	}
	if l.err = err; err != nil {
		l.tried = time.Now()
	}
	g.done, g.whole, g.err = true, n, err
	g.over.Broadcast()
}

// Err returns why lines cannot be written at the moment, or nil.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return cmp.Or(l.err, l.unsynced)
}

// Sync returns when every line whose Write has returned is on disk.
func (l *Log) Sync() error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	l.disk.Lock()
	file, ended, begun := l.file, l.ended, l.begun
	l.ended, l.begun = nil, false
	l.disk.Unlock()
	var err error
	for _, f := range ended {
		e := l.syncFile(f)
		if e == nil {
			e = f.Close()
		} else { // its lines are not durable yet: the next sync tries again
			l.disk.Lock()
			l.ended = append(l.ended, f)
			l.disk.Unlock()
		}
		err = errors.Join(err, e)
	}
	if file != nil {
		err = errors.Join(err, l.syncFile(file))
	}
	if begun {
		if e := syncDir(l.dir); e != nil {
			err = errors.Join(err, e)
			l.disk.Lock()
			l.begun = true
			l.disk.Unlock()
		}
	}
	if err != nil {
		err = fmt.Errorf("sync the sign-in log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unsynced = err; err != nil {
		l.tried = time.Now()
	}
	return err
}

func (l *Log) syncFile(f *logFile) error {
	l.disk.Lock()
	dirty := f.dirty
	f.dirty = false
	l.disk.Unlock()
	if !dirty {
		return nil
	}
	err := f.Sync()
	if err != nil {
		l.disk.Lock()
		f.dirty = true
		l.disk.Unlock()
	}
	return err
}

// Run syncs every 100 ms and removes files that are kept no longer, until ctx ends; then it syncs once more. What
// cannot be written is told to the callers of Write.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var swept time.Time
	for {
		if time.Since(swept) > time.Hour {
			swept = time.Now()
			l.sweep(swept)
		}
		select {
		case <-ctx.Done():
			return l.Sync()
		case <-tick.C:
			l.retry()
			l.Sync() // kept, and told by Write
		}
	}
}

// retry looks whether lines can be written again after a failure, with an empty one, which readers pass over: Write
// need not risk a sign-in for that, and Err is right where nobody signs in.
func (l *Log) retry() {
	l.disk.Lock()
	defer l.disk.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil && !l.closed {
		l.buf = append(l.buf, '\n')
		l.flush()
	}
}

// Close syncs and closes. It may be called twice.
func (l *Log) Close() error {
	l.disk.Lock()
	l.mu.Lock()
	was := l.closed
	l.closed = true
	l.flush()
	l.mu.Unlock()
	l.endFile()
	l.disk.Unlock()
	if was {
		return nil
	}
	return l.Sync()
}

// write appends whole lines to the file that is due and returns how many bytes of whole lines are in it. l.disk is held.
func (l *Log) write(b []byte, now time.Time) (int, error) {
	if err := l.due(now); err != nil {
		return 0, err
	}
	n, err := l.file.Write(b)
	l.size += int64(n)
	l.file.dirty = l.file.dirty || n > 0
	if err != nil {
		l.endFile() // the next attempt begins a new line in a file opened afresh
		return bytes.LastIndexByte(b[:n], '\n') + 1, fmt.Errorf("write the sign-in log: %w", err)
	}
	return n, nil
}

// due opens the file into which lines go now. l.disk is held.
func (l *Log) due(now time.Time) error {
	if l.file != nil && l.size < l.max && !now.Before(l.from) && now.Before(l.until) {
		return nil
	}
	day := now.UTC().Format(dayFormat)
	if l.file != nil && day < l.name.day && dayBefore(l.name.day) == day {
		day = l.name.day // a clock that steps back over midnight
	}
	if l.file != nil && l.name.day == day && l.size < l.max {
		return nil
	}
	l.endFile()
	names, err := list(l.dir)
	if err != nil {
		return err
	}
	next := fileName{day, 1}
	for _, n := range names {
		if n.day == day {
			next = n
		}
	}
	if st, err := os.Stat(filepath.Join(l.dir, next.String())); err == nil && st.Size() >= l.max {
		next.seq++
	}
	if err := l.openFile(next); err != nil {
		return fmt.Errorf("open the sign-in log: %w", err)
	}
	return nil
}

func (l *Log) openFile(n fileName) error {
	f, err := os.OpenFile(filepath.Join(l.dir, n.String()), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	size, err := begin(f)
	if err != nil {
		f.Close()
		return err
	}
	from, err := time.Parse(dayFormat, n.day)
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.name, l.from, l.until, l.size = &logFile{File: f, dirty: size > 0}, n, from, from.AddDate(0, 0, 1), size
	l.begun = true
	return nil
}

// begin makes a file one to append lines to: nobody else's to read, and with no torn line at its end.
func begin(f *os.File) (size int64, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if st.Mode().IsRegular() && st.Mode().Perm() != 0o600 {
		if err := f.Chmod(0o600); err != nil {
			return 0, err
		}
	}
	size = st.Size()
	if size == 0 {
		return 0, nil
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], size-1); err != nil {
		return 0, err
	}
	if last[0] != '\n' {
		if _, err := f.Write([]byte{'\n'}); err != nil {
			return 0, err
		}
		size++
	}
	return size, nil
}

// endFile leaves the file to the next sync. l.disk is held.
func (l *Log) endFile() {
	if l.file != nil {
		l.ended = append(l.ended, l.file)
		l.file = nil
	}
}

// sweep removes the files of days that are kept no longer. What cannot be removed is tried again an hour later.
func (l *Log) sweep(now time.Time) {
	if l.keep < 0 {
		return
	}
	names, err := list(l.dir)
	if err != nil {
		return
	}
	first := now.UTC().AddDate(0, 0, -l.keep).Format(dayFormat)
	for _, n := range names {
		if n.day < first {
			os.Remove(filepath.Join(l.dir, n.String()))
		}
	}
}
