package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Filter says which entries are wanted; a zero member asks for nothing.
type Filter struct {
	Tenant, Client, Subject, Session, Decision, Rule string

	Since time.Time // not before
	Until time.Time // before
}

func (f *Filter) wants(e *Entry) bool {
	for _, p := range [...]struct{ want, is string }{
		{f.Tenant, e.Tenant}, {f.Client, e.Client}, {f.Subject, e.Subject}, {f.Session, e.Session},
		{f.Decision, e.Decision}, {f.Rule, e.Rule},
	} {
		if p.want != "" && bound(p.want) != p.is {
			return false
		}
	}
	return (f.Since.IsZero() || !e.Time.Before(f.Since)) && (f.Until.IsZero() || e.Time.Before(f.Until))
}

// days says whether a file can hold what is wanted; a line may be written on the day after its request came.
func (f *Filter) day(n fileName) bool {
	return (f.Since.IsZero() || n.day >= f.Since.UTC().Format(dayFormat)) &&
		(f.Until.IsZero() || dayBefore(n.day) <= f.Until.UTC().Format(dayFormat))
}

// maxLine bounds a line, in bytes. Write makes none that is longer than a tenth of it.
const maxLine = 64 << 10

// followEvery is how often a follower looks for new lines.
const followEvery = 100 * time.Millisecond

// Read yields the wanted entries of all files in dir in the order in which they were written; with follow it then
// waits for more, from file to file, until ctx ends. What is no entry (a line torn by a crash, something foreign) is
// passed over. It ends early with yield's error, or ctx's. It may run while another process writes.
func Read(ctx context.Context, dir string, f Filter, follow bool, yield func(Entry) error) error {
	r := reader{f: f, yield: yield}
	var done fileName
	for {
		names, err := list(dir)
		if err != nil {
			return err
		}
		for i, n := range names {
			if n.compare(done) <= 0 {
				continue
			}
			last := i == len(names)-1
			if !f.day(n) && !(follow && last) {
				continue
			}
			if err := r.file(ctx, dir, n, follow && last); err != nil {
				return err
			}
			done = n
		}
		if !follow {
			return ctx.Err()
		}
		if err := wait(ctx); err != nil {
			return err
		}
	}
}

func wait(ctx context.Context) error {
	t := time.NewTimer(followEvery)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// reader reads one file after the other.
type reader struct {
	f     Filter
	yield func(Entry) error
	line  []byte // begun, not ended
	long  bool   // it is longer than any entry: passed over
}

// file reads a file to its end; with follow, until another one has taken its place.
func (r *reader) file(ctx context.Context, dir string, n fileName, follow bool) error {
	f, err := os.Open(filepath.Join(dir, n.String()))
	if errors.Is(err, os.ErrNotExist) {
		return nil // kept no longer
	}
	if err != nil {
		return fmt.Errorf("read the sign-in log: %w", err)
	}
	defer f.Close()
	r.line, r.long = r.line[:0], false
	for {
		over := !follow
		if follow { // asked before reading to the end: what was written before the next file began is then read
			names, err := list(dir)
			if err != nil {
				return err
			}
			over = len(names) == 0 || names[len(names)-1].compare(n) > 0
		}
		if err := r.drain(ctx, f); err != nil {
			return err
		}
		if over {
			return r.end()
		}
		if err := wait(ctx); err != nil {
			return err
		}
	}
}

// drain reads what is there now.
func (r *reader) drain(ctx context.Context, f io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		if e := r.take(buf[:n]); e != nil {
			return e
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the sign-in log: %w", err)
		}
	}
}

// take splits bytes into lines.
func (r *reader) take(b []byte) error {
	for {
		i := bytes.IndexByte(b, '\n')
		piece := b
		if i >= 0 {
			piece = b[:i]
		}
		if r.long = r.long || len(r.line)+len(piece) > maxLine; !r.long {
			r.line = append(r.line, piece...)
		}
		if i < 0 {
			return nil
		}
		b = b[i+1:]
		if err := r.end(); err != nil {
			return err
		}
	}
}

// end ends a line.
func (r *reader) end() error {
	line, long := r.line, r.long
	r.line, r.long = r.line[:0], false
	if e, ok := parse(line); ok && !long && r.f.wants(&e) {
		return r.yield(e)
	}
	return nil
}

func parse(line []byte) (Entry, bool) {
	var e Entry
	if len(line) == 0 || json.Unmarshal(line, &e) != nil || e.Time.IsZero() || e.Decision == "" {
		return Entry{}, false
	}
	return e, true
}
