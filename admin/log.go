package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"understudy/audit"
)

// LogFilter chooses lines of the sign-in log; empty members choose all.
type LogFilter struct {
	Tenant, Issuer, Flow, Client, Subject, Session, Decision, Rule, Address, Key string

	From, To time.Time
	Last     int // only the last so many of what is there; 0: all
	Follow   bool
}

// Query is the filter as the log endpoint takes it.
func (f *LogFilter) Query() url.Values {
	q := url.Values{}
	for k, v := range f.texts() {
		if *v != "" {
			q.Set(k, *v)
		}
	}
	if !f.From.IsZero() {
		q.Set("from", f.From.Format(time.RFC3339Nano))
	}
	if !f.To.IsZero() {
		q.Set("to", f.To.Format(time.RFC3339Nano))
	}
	if f.Last > 0 {
		q.Set("last", strconv.Itoa(f.Last))
	}
	if f.Follow {
		q.Set("follow", "true")
	}
	return q
}

func (f *LogFilter) texts() map[string]*string {
	return map[string]*string{
		"tenant": &f.Tenant, "issuer": &f.Issuer, "flow": &f.Flow, "client": &f.Client, "subject": &f.Subject, "session": &f.Session,
		"decision": &f.Decision, "rule": &f.Rule, "address": &f.Address, "key": &f.Key,
	}
}

func parseLogFilter(q url.Values) (*LogFilter, error) {
	f := &LogFilter{}
	texts := f.texts()
	for k, vs := range q {
		v := vs[0]
		var err error
		switch k {
		case "from":
			f.From, err = time.Parse(time.RFC3339Nano, v)
		case "to":
			f.To, err = time.Parse(time.RFC3339Nano, v)
		case "last":
			f.Last, err = strconv.Atoi(v)
			if err == nil && (f.Last < 0 || f.Last > 1_000_000) {
				err = errors.New("over a million")
			}
		case "follow":
			f.Follow, err = strconv.ParseBool(v)
		default:
			p, ok := texts[k]
			if !ok {
				return nil, bad("there is no filter %.32q", k)
			}
			*p = v
		}
		if err != nil {
			return nil, bad("the filter %s is not understood: times are written as 2006-01-02T15:04:05Z", k)
		}
	}
	return f, nil
}

// takes says whether a line is chosen.
func (f *LogFilter) takes(line []byte) bool {
	var e audit.Entry
	if json.Unmarshal(line, &e) != nil {
		return false // cut by a crash
	}
	for _, c := range [][2]string{
		{f.Tenant, e.Tenant}, {f.Issuer, e.Issuer}, {f.Flow, e.Flow}, {f.Client, e.Client}, {f.Subject, e.Subject}, {f.Session, e.Session},
		{f.Decision, e.Decision}, {f.Rule, e.Rule}, {f.Address, e.Address}, {f.Key, e.Key},
	} {
		if c[0] != "" && c[0] != c[1] {
			return false
		}
	}
	return (f.From.IsZero() || !e.Time.Before(f.From)) && (f.To.IsZero() || !e.Time.After(f.To))
}

// reader reads a sign-in log's directory from the oldest file on. It remembers how far it came.
type reader struct {
	dir  string
	from string           // files of days before it are left out
	at   map[string]int64 // bytes read of each file
}

const logPattern = "sign-ins-*.jsonl"

// more calls f with every complete line that was not read yet.
func (r *reader) more(ctx context.Context, f func(line []byte) error) error {
	files, err := filepath.Glob(filepath.Join(r.dir, logPattern))
	if err != nil {
		return err
	}
	slices.Sort(files)
	for _, name := range files {
		if len(r.from) > 0 && strings.TrimPrefix(filepath.Base(name), "sign-ins-") < r.from {
			continue
		}
		if err := r.file(ctx, name, f); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) file(ctx context.Context, name string, f func([]byte) error) error {
	file, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil // removed for its age
	}
	if err != nil {
		return fmt.Errorf("read the sign-in log: %w", err)
	}
	defer file.Close()
	if _, err := file.Seek(r.at[name], io.SeekStart); err != nil {
		return fmt.Errorf("read the sign-in log: %w", err)
	}
	b := bufio.NewReaderSize(file, 1<<16)
	for {
		line, err := b.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // what has no end yet is read when it has
		}
		if err != nil {
			return fmt.Errorf("read the sign-in log: %w", err)
		}
		r.at[name] += int64(len(line))
		if err := f(bytes.TrimSpace(line)); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

const followEvery = 250 * time.Millisecond

// ReadLog calls out with every chosen line of the sign-in log in dir, and where the filter follows with every later one
// until ctx ends. sync, where it is given, is called before each look.
func ReadLog(ctx context.Context, dir string, f *LogFilter, sync func() error, out func(line []byte) error) error {
	r := &reader{dir: dir, at: map[string]int64{}}
	if !f.From.IsZero() {
		r.from = f.From.UTC().Format(time.DateOnly)
	}
	if sync != nil {
		if err := sync(); err != nil {
			return err
		}
	}
	var last [][]byte // the newest f.Last lines; the oldest of them stands at n % f.Last
	n := 0
	err := r.more(ctx, func(line []byte) error {
		switch {
		case !f.takes(line):
			return nil
		case f.Last == 0:
			return out(line)
		case len(last) < f.Last:
			last = append(last, bytes.Clone(line))
		default:
			last[n%f.Last] = bytes.Clone(line)
		}
		n++
		return nil
	})
	for i := range last {
		if err == nil {
			err = out(last[(n+i)%len(last)])
		}
	}
	if err != nil || !f.Follow {
		return err
	}
	t := time.NewTicker(followEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if sync != nil {
			if err := sync(); err != nil {
				return err
			}
		}
		err := r.more(ctx, func(line []byte) error {
			if f.takes(line) {
				return out(line)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// log streams the chosen lines as JSON lines.
func (s *Server) log(w http.ResponseWriter, r *http.Request) {
	f, err := parseLogFilter(r.URL.Query())
	if err == nil && s.p.AuditDir == "" {
		err = unavailable("this process keeps no sign-in log: ask the backup's process")
	}
	if err != nil {
		s.json(func(*http.Request) (any, error) { return nil, err }).ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	w.Header().Set("Cache-Control", "no-store")
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Time{}) // a follower stays for hours
	rc.Flush()
	var sync func() error
	if s.p.Audit != nil {
		sync = s.p.Audit.Sync
	}
	err = ReadLog(r.Context(), s.p.AuditDir, f, sync, func(line []byte) error {
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
		if f.Follow {
			return rc.Flush()
		}
		return nil
	})
	if err != nil && r.Context().Err() == nil {
		s.p.Log.Error("the sign-in log cannot be read", "error", err)
		panic(http.ErrAbortHandler) // the reader must not take a part for the whole
	}
}
