package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestReadFilters(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Options{})
	at := time.Now()
	var es []Entry
	for i := range 8 {
		es = append(es, entry(strconv.Itoa(i), at.Add(time.Duration(i)*time.Second)))
	}
	es[1].Tenant, es[2].Client, es[3].Subject, es[4].Session = "other", "app", "bob", "s9"
	es[5].Decision, es[5].Rule, es[5].TokenIssuerType = "refused", "revoked", "none"
	write(t, l, es...)
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	for want, f := range map[string]Filter{
		"0 1 2 3 4 5 6 7": {},
		"0 2 3 4 5 6 7":   {Tenant: "acme"},
		"2":               {Client: "app"},
		"3":               {Subject: "bob"},
		"4":               {Session: "s9"},
		"5":               {Decision: "refused", Rule: "revoked"},
		"":                {Decision: "issued", Rule: "revoked"},
		"6 7":             {Since: es[6].Time},
		"0 1":             {Until: es[2].Time},
		"3 4":             {Since: es[3].Time, Until: es[5].Time, Tenant: "acme"},
	} {
		if got := ids(read(t, dir, f)); got != want {
			t.Errorf("%+v: %q, want %q", f, got, want)
		}
	}
	if got := read(t, dir, Filter{})[0]; !reflect.DeepEqual(got.append(nil), es[0].append(nil)) {
		t.Errorf("came back as %+v", got)
	}
	stop := errors.New("enough")
	if err := Read(context.Background(), dir, Filter{}, false, func(Entry) error { return stop }); err != stop {
		t.Errorf("yield's error became %v", err)
	}
	if err := Read(context.Background(), dir+"-none", Filter{}, false, nil); err == nil {
		t.Error("no directory, no error")
	}
}

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(24*time.Hour - 3*time.Second)         // midnight comes while it follows
		l := openLog(t, dir, Options{MaxFileBytes: 700}) // two lines a file
		ctx, stop := context.WithCancel(t.Context())
		go l.Run(ctx)
		write(t, l, entry("0", time.Now()))
		time.Sleep(time.Second)
		var mu sync.Mutex
		var got []Entry
		done := make(chan error)
		go func() {
			done <- Read(ctx, dir, Filter{Tenant: "acme"}, true, func(e Entry) error {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, e)
				return nil
			})
		}()
		want := []string{"0"}
		for i := 1; i < 12; i++ {
			id := strconv.Itoa(i)
			other := entry("not", time.Now())
			other.Tenant = "other"
			write(t, l, entry(id, time.Now()), other)
			want = append(want, id)
			if i%3 == 0 {
				time.Sleep(2*interval + followEvery)
			}
			if i == 6 {
				time.Sleep(5 * time.Second)
			}
		}
		time.Sleep(2 * time.Second)
		mu.Lock()
		if s := ids(got); s != strings.Join(want, " ") {
			t.Errorf("followed %q", s)
		}
		mu.Unlock()
		if names := files(t, dir); len(names) < 4 || names[0][:19] == names[len(names)-1][:19] {
			t.Errorf("only %v: neither rotated by size and by day", names)
		}
		// A line that comes in pieces is yielded once it is whole.
		half := entry("half", time.Now())
		line := half.append(nil)
		names := files(t, dir)
		f, err := os.OpenFile(filepath.Join(dir, names[len(names)-1]), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, piece := range [][]byte{line[:40], line[40:]} {
			if _, err := f.Write(piece); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		if got[len(got)-1].ID != "half" {
			t.Errorf("the last is %q", got[len(got)-1].ID)
		}
	})
}

// oddFiles are contents that a crash, a disk or a stranger may leave.
func oddFiles() [][]byte {
	e := entry("1", time.Now())
	line := e.append(nil)
	return [][]byte{
		line, line[:len(line)-1], line[20:], {}, []byte("\n\n{}\n[]\nnull\n"), bytes.Repeat([]byte("x"), maxLine+1),
		append(bytes.Repeat([]byte("x"), maxLine+9), append([]byte("\n"), line...)...), []byte(`{"time":"x","decision":1}`),
	}
}

// Whatever is in a file: a line that is written after it is read after it.
func TestAnyFileIsContinued(t *testing.T) {
	for i, b := range oddFiles() {
		dir := t.TempDir()
		path := filepath.Join(dir, fileName{time.Now().UTC().Format(dayFormat), 1}.String())
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		before := read(t, dir, Filter{})
		l := openLog(t, dir, Options{})
		write(t, l, entry("written", time.Now()))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		after := read(t, dir, Filter{})
		if len(after) != len(before)+1 || after[len(after)-1].ID != "written" {
			t.Errorf("file %d: %d entries, then %d", i, len(before), len(after))
		}
	}
}

// The two ends of a line that is too long make no entry together.
func TestLongLineIsPassedOverWhole(t *testing.T) {
	e := entry("1", time.Unix(1, 0))
	line := e.append(nil)
	r := reader{yield: func(e Entry) error { return fmt.Errorf("yielded %q", e.ID) }}
	for _, piece := range [][]byte{line[:40], bytes.Repeat([]byte("x"), maxLine), line[40:]} {
		if err := r.take(piece); err != nil {
			t.Error(err)
		}
	}
}

func FuzzRead(f *testing.F) {
	for i, b := range oddFiles() {
		f.Add(b, i*7)
	}
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		// entriesOf reads the pieces as they come from a file.
		entriesOf := func(pieces ...[]byte) (out []Entry) {
			r := reader{yield: func(e Entry) error { out = append(out, e); return nil }}
			for _, p := range pieces {
				if err := r.take(p); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			if len(r.line) > maxLine {
				t.Fatalf("%d bytes are kept", len(r.line))
			}
			return out
		}
		whole := entriesOf(b)
		if cut = max(0, min(cut, len(b))); !reflect.DeepEqual(whole, entriesOf(b[:cut], b[cut:])) {
			t.Fatal("other entries when read in pieces")
		}
		e := entry("written", time.Unix(1, 0))
		after := entriesOf(b, []byte("\n"), e.append(nil))
		if len(after) != len(whole)+1 || after[len(whole)].ID != "written" {
			t.Fatalf("%d entries, then %d", len(whole), len(after))
		}
	})
}
