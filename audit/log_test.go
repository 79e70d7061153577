package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func openLog(t testing.TB, dir string, o Options) *Log {
	t.Helper()
	l, err := o.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func entry(id string, at time.Time) Entry {
	return Entry{
		Time: at, ID: id, Tenant: "acme", Issuer: "https://id.example/realms/a", Flow: "oauth2/refresh_token", Client: "web",
		Subject: "2f6a4c1e-5b0d-4c43-9d3a-7f6c1e2b3a4d", Session: "0b7c", Address: "192.0.2.7", Trigger: "refused",
		TokenIssuerType: "backup", Decision: "issued", Rule: "no_policy", Key: "bk-a bk-b", Approved: at.Add(-time.Hour), Latency: 0.75,
	}
}

func write(t testing.TB, l *Log, es ...Entry) {
	t.Helper()
	for _, e := range es {
		if err := l.Write(e); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t testing.TB, dir string, f Filter) []Entry {
	t.Helper()
	var out []Entry
	err := Read(context.Background(), dir, f, false, func(e Entry) error { out = append(out, e); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func ids(es []Entry) string {
	var out []string
	for _, e := range es {
		out = append(out, e.ID)
	}
	return strings.Join(out, " ")
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	names, err := list(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range names {
		out = append(out, n.String())
	}
	return out
}

func TestLineIsWhatTheEncoderWouldWrite(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 0, 0, 123456789, time.FixedZone("", 3600))
	for _, e := range []Entry{entry("1", now), {Time: now}, {Time: now, Latency: 12345678.5, Client: "Müller & Söhne <x>"}} {
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		utc := e
		utc.Time, utc.Approved = e.Time.UTC(), e.Approved.UTC()
		if err := enc.Encode(utc); err != nil {
			t.Fatal(err)
		}
		got := string(e.append(nil))
		if got != want.String() {
			t.Errorf("got  %swant %s", got, want.String())
		}
		var back Entry
		if err := json.Unmarshal([]byte(got), &back); err != nil || !back.Time.Equal(e.Time) || back.Latency != e.Latency || back.Client != e.Client {
			t.Errorf("%+v came back as %+v, %v", e, back, err)
		}
	}
}

var hostile = []string{
	"a\",\"decision\":\"issued", "line\nbreak\r\n{\"time\":", "\x00\x1b[2J\x7f", "\xff\xfe\xc0\x80", "\u009b31m", "\u2028\u2029", "\u202egnp.exe",
	"\u2066x\u2069", "\\u0022", "é\U0001f600", strings.Repeat("A", 100000), strings.Repeat("€", 400), "x" + strings.Repeat("\xff", 600), "",
}

func checkLine(t *testing.T, s string) {
	e := Entry{
		Time: time.Unix(1, 0), ID: s, Tenant: s, Issuer: s, Flow: s, Client: s, Subject: s, Session: s, Address: s, Trigger: s,
		TokenIssuerType: s, Decision: "refused", Rule: s, Key: s,
	}
	line := e.append(nil)
	if !json.Valid(line) || bytes.Count(line, []byte("\n")) != 1 || len(line) > maxLine {
		t.Fatalf("%q gives %q", s, line)
	}
	for _, r := range string(bytes.TrimSuffix(line, []byte("\n"))) {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			t.Fatalf("%q gives %q, with %U in the clear", s, line, r)
		}
	}
	back, ok := parse(bytes.TrimSuffix(line, []byte("\n")))
	if !ok || back.Decision != "refused" || back.ID != strings.ToValidUTF8(bound(s), "\ufffd") && len([]rune(back.ID)) != len([]rune(bound(s))) {
		t.Fatalf("%q came back as %q", s, back.ID)
	}
	if f := (Filter{Client: s}); len(s) > 0 && strings.ToValidUTF8(s, "") == s && !f.wants(&back) {
		t.Fatalf("%q is not found by its own name", s)
	}
}

func TestNoTextBreaksOutOfItsLine(t *testing.T) {
	for _, s := range hostile {
		checkLine(t, s)
	}
	for _, ms := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, math.MaxFloat64} {
		if line := (&Entry{Latency: ms}).append(nil); !json.Valid(line) {
			t.Errorf("%v gives %s", ms, line)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(checkLine)
}

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

func TestRunSyncsInGroups(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := openLog(t, dir, Options{})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		write(t, l, entry("1", time.Now()))
		if len(files(t, dir)) != 0 {
			t.Error("written one by one")
		}
		time.Sleep(interval)
		synctest.Wait()
		if got := ids(read(t, dir, Filter{})); got != "1" {
			t.Errorf("after 100 ms there is %q", got)
		}
		write(t, l, entry("2", time.Now()))
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := ids(read(t, dir, Filter{})); got != "1 2" {
			t.Errorf("at the end there is %q", got)
		}
	})
	st, err := os.Stat(filepath.Join(dir, files(t, dir)[0]))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now() // 2000-01-01
		var want []string
		l := openLog(t, dir, Options{MaxFileBytes: 1000})
		for i := range 12 {
			id := strconv.Itoa(i)
			want = append(want, id)
			write(t, l, entry(id, time.Now()))
			if err := l.Sync(); err != nil {
				t.Fatal(err)
			}
			if i == 5 {
				time.Sleep(24 * time.Hour)
			}
			if i == 7 { // goes on where it was
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				l = openLog(t, dir, Options{MaxFileBytes: 1000})
			}
		}
		if got := fmt.Sprint(files(t, dir)); got != "[sign-ins-2000-01-01.0001.jsonl sign-ins-2000-01-01.0002.jsonl sign-ins-2000-01-02.0001.jsonl sign-ins-2000-01-02.0002.jsonl]" {
			t.Errorf("files %s", got)
		}
		if got := ids(read(t, dir, Filter{})); got != strings.Join(want, " ") {
			t.Errorf("read %q", got)
		}
		if got := ids(read(t, dir, Filter{Since: start.Add(24 * time.Hour)})); got != "6 7 8 9 10 11" {
			t.Errorf("since the second day: %q", got)
		}
		if got := ids(read(t, dir, Filter{Until: start.Add(time.Hour)})); got != "0 1 2 3 4 5" {
			t.Errorf("until the first hour: %q", got)
		}
	})
}

func TestRetention(t *testing.T) {
	for keep, want := range map[int]int{2: 3, 0: 5, -1: 6} { // days kept → files left
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			now := time.Now().UTC()
			for _, ago := range []int{0, 1, 2, 3, 90, 91} {
				n := fileName{now.AddDate(0, 0, -ago).Format(dayFormat), 3}
				if err := os.WriteFile(filepath.Join(dir, n.String()), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			foreign := filepath.Join(dir, "sign-ins-1999-01-01.jsonl.gz")
			if err := os.WriteFile(foreign, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			l := openLog(t, dir, Options{KeepDays: keep})
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- l.Run(ctx) }()
			synctest.Wait()
			stop()
			<-done
			if got := files(t, dir); len(got) != want {
				t.Errorf("keep %d days: %v", keep, got)
			}
			if _, err := os.Stat(foreign); err != nil {
				t.Errorf("removed what is not the log's: %v", err)
			}
		})
	}
}

// A full disk: the device says ENOSPC as one does.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileName{time.Now().UTC().Format(dayFormat), 1}.String())
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, dir, Options{})
	write(t, l, entry("1", time.Now()), entry("2", time.Now())) // accepted: these must not be lost
	if err := l.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Sync: %v", err)
	}
	if err := l.Write(entry("3", time.Now())); !errors.Is(err, syscall.ENOSPC) || !errors.Is(l.Err(), syscall.ENOSPC) {
		t.Errorf("Write on a full disk: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for l.Write(entry("4", time.Now())) != nil { // until the next attempt is due
		time.Sleep(interval / 10)
	}
	if err := l.Close(); err != nil || l.Err() != nil {
		t.Fatal(err)
	}
	if got := ids(read(t, dir, Filter{})); got != "1 2 4" {
		t.Errorf("the log has %q: accepted lines 1, 2 and 4, refused line 3", got)
	}
	if err := l.Write(entry("5", time.Now())); err == nil {
		t.Error("wrote to a closed log")
	}
}

// A disk that becomes full in the middle of a line: RLIMIT_FSIZE in a process of its own.
func TestDiskFullInTheMiddleOfALine(t *testing.T) {
	const limit = 1000
	if dir := os.Getenv("UNDERSTUDY_AUDIT_LIMIT"); dir != "" {
		old := syscall.Rlimit{}
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
		signal.Ignore(syscall.SIGXFSZ)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		l, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		write(t, l, entry("1", time.Now()), entry("2", time.Now()), entry("3", time.Now()), entry("4", time.Now()))
		if err := l.Sync(); !errors.Is(err, syscall.EFBIG) {
			t.Fatalf("Sync: %v", err)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestDiskFullInTheMiddleOfALine$")
	cmd.Env = append(os.Environ(), "UNDERSTUDY_AUDIT_LIMIT="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, files(t, dir)[0]))
	if err != nil {
		t.Fatal(err)
	}
	if len(b) <= limit || b[limit-1] == '\n' || b[limit] != '\n' {
		t.Fatalf("no line was torn at %d:\n%s", limit, b)
	}
	if got := ids(read(t, dir, Filter{})); got != "1 2 3 4" {
		t.Errorf("the log has %q", got)
	}
}

// A process that is killed loses no line that was synced, and its torn line harms no other.
func TestKill(t *testing.T) {
	if dir := os.Getenv("UNDERSTUDY_AUDIT_KILL"); dir != "" {
		l, err := Options{MaxFileBytes: 5000}.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			write(t, l, entry(strconv.Itoa(i), time.Now()))
			if i%3 == 0 {
				if err := l.Sync(); err != nil {
					t.Fatal(err)
				}
				fmt.Printf("synced %d\n", i)
			}
		}
	}
	dir := t.TempDir()
	for round := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "UNDERSTUDY_AUDIT_KILL="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		synced, n := -1, 0
		for sc := bufio.NewScanner(out); sc.Scan(); {
			fmt.Sscanf(sc.Text(), "synced %d", &synced)
			if n++; n == 10+7*round {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		es := read(t, dir, Filter{})
		if len(es) < synced+1 || synced < 0 {
			t.Fatalf("%d lines were synced, %d are there", synced+1, len(es))
		}
		for i := range synced + 1 {
			if es[i].ID != strconv.Itoa(i) {
				t.Fatalf("line %d is %q", i, es[i].ID)
			}
		}
		// Tear the last line as a kill in the middle of a write does, then go on.
		name := files(t, dir)[len(files(t, dir))-1]
		path := filepath.Join(dir, name)
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, st.Size()-int64(20+round)); err != nil {
			t.Fatal(err)
		}
		if got := len(read(t, dir, Filter{})); got != len(es)-1 {
			t.Fatalf("with a torn line %d of %d are read", got, len(es))
		}
		l := openLog(t, dir, Options{})
		write(t, l, entry("after", time.Now()))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if got := read(t, dir, Filter{}); len(got) != len(es) || got[len(got)-1].ID != "after" {
			t.Fatalf("the line after a torn one: %s", ids(got))
		}
		for _, n := range files(t, dir) {
			os.Remove(filepath.Join(dir, n))
		}
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

func TestWritersAtOnce(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Options{MaxFileBytes: 20000})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				if err := l.Write(entry(fmt.Sprintf("%d-%d", g, i), time.Now())); err != nil {
					t.Error(err)
				}
				if i%100 == 0 {
					l.Sync()
				}
			}
		})
	}
	wg.Wait()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	next := map[string]int{}
	for _, e := range read(t, dir, Filter{}) {
		g, i, _ := strings.Cut(e.ID, "-")
		if strconv.Itoa(next[g]) != i {
			t.Fatalf("writer %s: line %s after %d", g, i, next[g]-1)
		}
		next[g]++
	}
	for g := range 8 {
		if next[strconv.Itoa(g)] != 500 {
			t.Errorf("writer %d: %d lines", g, next[strconv.Itoa(g)])
		}
	}
}

// Without Run, and where Run is behind, memory stays bounded.
func TestBufferIsBounded(t *testing.T) {
	l := openLog(t, t.TempDir(), Options{})
	for range 5 * maxBuffered / 400 {
		write(t, l, entry("x", time.Now()))
		if len(l.buf) > maxBuffered+maxLine {
			t.Fatalf("%d bytes wait", len(l.buf))
		}
	}
}

func TestOpenMakesFilesPrivate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileName{time.Now().UTC().Format(dayFormat), 1}.String())
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, dir, Options{})
	write(t, l, entry("1", time.Now()))
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
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

func BenchmarkWrite(b *testing.B) {
	l := openLog(b, b.TempDir(), Options{})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	e := entry("0b7c1e2b3a4d5e6f", time.Now())
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Write(e); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	stop()
	<-done
}
