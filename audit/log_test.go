package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
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
		var path string
		var st os.FileInfo
		for _, name := range files(t, dir) {
			at := filepath.Join(dir, name)
			of, err := os.Stat(at)
			if err != nil {
				t.Fatal(err)
			}
			if of.Size() > 0 { // the newest may have been begun by what was killed, and hold nothing
				path, st = at, of
			}
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
