// Package audit is the sign-in log: one JSON line for every answer and every refusal.
//
// It owns the format of the lines (docs/audit.md), the files and how long they are kept. It refuses to lose a line
// silently: where lines cannot be written, Write says so, and whoever answers sign-ins stops answering. It never holds
// a token or a secret. It is a leaf and imports no other package of the project.
package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	interval    = 100 * time.Millisecond // between syncs, at most
	maxBuffered = 1 << 20                // bytes that wait for the disk; more are written at once by whoever brings them
)

// Log appends entries to files by day and size and syncs them in groups. It is safe for concurrent use. One process
// writes a directory at a time.
type Log struct {
	dir  string
	keep int
	max  int64

	mu     sync.Mutex // guards the next; never held during a call to the disk
	buf    []byte     // whole lines that wait
	err    error      // of the last attempt to write them
	tried  time.Time
	closed bool

	disk  sync.Mutex // serialises work on files and guards the next; taken before mu
	spare []byte     // becomes buf
	file  *os.File
	name  fileName
	size  int64
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
	return l, nil
}

var errClosed = errors.New("the sign-in log is closed")

// Write appends an entry. It is on disk after the next sync, 100 ms later at most where Run runs. An error means that
// the entry will not be in the log: nothing may then be answered. After a failure it goes on failing until the lines
// that wait could be written.
func (l *Log) Write(e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	if l.err != nil && time.Since(l.tried) < interval {
		return l.err
	}
	if l.err != nil || len(l.buf) >= maxBuffered {
		l.mu.Unlock()
		err := l.flush(false)
		l.mu.Lock()
		if err != nil {
			return err
		}
		if l.closed {
			return errClosed
		}
	}
	l.buf = e.append(l.buf)
	return nil
}

// Err returns why lines cannot be written at the moment, or nil.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Sync writes what waits to disk and returns when it is there.
func (l *Log) Sync() error { return l.flush(true) }

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
			if l.waiting() {
				l.Sync() // kept, and told by Write
			}
		}
	}
}

func (l *Log) waiting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.buf) > 0
}

// Close syncs and closes. It may be called twice.
func (l *Log) Close() error {
	l.mu.Lock()
	was := l.closed
	l.closed = true
	l.mu.Unlock()
	if was {
		return nil
	}
	err := l.flush(true)
	l.disk.Lock()
	defer l.disk.Unlock()
	return errors.Join(err, l.closeFile())
}

// flush writes the lines that wait. What could not be written waits on, before what came meanwhile.
func (l *Log) flush(sync bool) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	l.mu.Lock()
	b := l.buf
	l.buf, l.spare = l.spare[:0], nil
	l.mu.Unlock()
	rest, err := l.write(b, time.Now())
	if err == nil && sync && l.file != nil {
		if err = l.file.Sync(); err != nil {
			err = fmt.Errorf("sync the sign-in log: %w", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(rest) > 0 {
		l.buf = append(slices.Clone(rest), l.buf...)
	} else if cap(b) <= 2*maxBuffered {
		l.spare = b[:0]
	}
	l.err, l.tried = err, time.Now()
	return err
}

// write appends whole lines to the file that is due and returns those that are not in it. l.disk is held.
func (l *Log) write(b []byte, now time.Time) (rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	if err := l.due(now); err != nil {
		return b, err
	}
	n, err := l.file.Write(b)
	l.size += int64(n)
	if err != nil {
		// The next attempt begins a new line in a file opened afresh, and repeats the line that was torn.
		l.closeFile()
		return b[bytes.LastIndexByte(b[:n], '\n')+1:], fmt.Errorf("write the sign-in log: %w", err)
	}
	return nil, nil
}

// due opens the file into which lines go now.
func (l *Log) due(now time.Time) error {
	day := now.UTC().Format(dayFormat)
	if l.file != nil && day < l.name.day && dayBefore(l.name.day) == day {
		day = l.name.day // a clock that steps back over midnight
	}
	if l.file != nil && l.name.day == day && l.size < l.max {
		return nil
	}
	if err := l.closeFile(); err != nil {
		return fmt.Errorf("close a file of the sign-in log: %w", err)
	}
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
	if err := syncDir(l.dir); err != nil {
		f.Close()
		return err
	}
	l.file, l.name, l.size = f, n, size
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

func (l *Log) closeFile() error {
	if l.file == nil {
		return nil
	}
	err := errors.Join(l.file.Sync(), l.file.Close())
	l.file = nil
	return err
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
