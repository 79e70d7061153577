package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
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

// takes says whether an entry that the log's own filter chose is chosen.
func (f *LogFilter) takes(e *audit.Entry) bool {
	for _, c := range [][2]string{{f.Issuer, e.Issuer}, {f.Flow, e.Flow}, {f.Address, e.Address}} {
		if c[0] != "" && c[0] != c[1] {
			return false
		}
	}
	return f.Key == "" || slices.Contains(strings.Fields(e.Key), f.Key)
}

// ReadLog calls out with every chosen line of the sign-in log in dir, and where the filter follows with every later one
// until ctx ends.
func ReadLog(ctx context.Context, dir string, f *LogFilter, out func(line []byte) error) error {
	af := audit.Filter{
		Tenant: f.Tenant, Client: f.Client, Subject: f.Subject, Session: f.Session, Decision: f.Decision, Rule: f.Rule, Since: f.From, Until: f.To,
	}
	send := func(e audit.Entry) error {
		b, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("read the sign-in log: %w", err)
		}
		return out(b)
	}
	skip := 0
	if f.Last > 0 {
		var last []audit.Entry // the newest f.Last; the oldest of them stands at skip % f.Last
		err := audit.Read(ctx, dir, af, false, func(e audit.Entry) error {
			switch {
			case !f.takes(&e):
				return nil
			case len(last) < f.Last:
				last = append(last, e)
			default:
				last[skip%f.Last] = e
			}
			skip++
			return nil
		})
		for i := range last {
			if err == nil {
				err = send(last[(skip+i)%len(last)])
			}
		}
		if err != nil || !f.Follow {
			return err
		}
	}
	err := audit.Read(ctx, dir, af, f.Follow, func(e audit.Entry) error {
		if !f.takes(&e) {
			return nil
		}
		if skip--; skip >= 0 {
			return nil // seen above
		}
		return send(e)
	})
	if f.Follow && ctx.Err() != nil {
		return nil
	}
	return err
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
	if s.p.Audit != nil {
		err = s.p.Audit.Sync() // what was written before this question is in the answer
	}
	if err == nil {
		err = s.stream(r.Context(), w, rc, f)
	}
	if err != nil && r.Context().Err() == nil {
		s.p.Log.Error("the sign-in log cannot be read", "error", err)
		panic(http.ErrAbortHandler) // the reader must not take a part for the whole
	}
}

func (s *Server) stream(ctx context.Context, w http.ResponseWriter, rc *http.ResponseController, f *LogFilter) error {
	return ReadLog(ctx, s.p.AuditDir, f, func(line []byte) error {
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
		if f.Follow {
			return rc.Flush()
		}
		return nil
	})
}
