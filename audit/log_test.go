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

func synced(l *Log) bool {
	l.disk.Lock()
	defer l.disk.Unlock()
	return !l.file.dirty && !l.begun
}

// A line is there for every reader once Write has returned; it is synced with others.
func TestWrittenAtOnceSyncedInGroups(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := openLog(t, dir, Options{})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		write(t, l, entry("1", time.Now()))
		write(t, l, entry("2", time.Now()))
		if got := ids(read(t, dir, Filter{})); got != "1 2" {
			t.Errorf("when Write has returned there is %q", got)
		}
		if synced(l) {
			t.Error("synced one by one")
		}
		time.Sleep(interval)
		synctest.Wait()
		if !synced(l) {
			t.Error("not synced after 100 ms")
		}
		write(t, l, entry("3", time.Now()))
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if !synced(l) {
			t.Error("not synced at the end")
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

// fullDisk puts a device in the log's place that says ENOSPC, as a full disk does. What it returns makes space.
func fullDisk(t *testing.T, dir string) (space func()) {
	t.Helper()
	path := filepath.Join(dir, fileName{time.Now().UTC().Format(dayFormat), 1}.String())
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		space := fullDisk(t, dir)
		l := openLog(t, dir, Options{})
		for range 2 { // the second one does not even try
			if err := l.Write(entry("1", time.Now())); !errors.Is(err, syscall.ENOSPC) || !errors.Is(l.Err(), syscall.ENOSPC) {
				t.Errorf("Write on a full disk: %v, %v", err, l.Err())
			}
		}
		space()
		if err := l.Write(entry("2", time.Now())); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Write before the next attempt is due: %v", err)
		}
		time.Sleep(interval)
		write(t, l, entry("3", time.Now()))
		if err := l.Close(); err != nil || l.Err() != nil {
			t.Fatal(err, l.Err())
		}
		if err := l.Write(entry("4", time.Now())); err == nil {
			t.Error("wrote to a closed log")
		}
	})
	if got := ids(read(t, dir, Filter{})); got != "3" {
		t.Errorf("the log has %q: accepted line 3", got)
	}
}

// Where nobody signs in, Err tells all the same when there is space again.
func TestRunFindsSpace(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		space := fullDisk(t, dir)
		l := openLog(t, dir, Options{})
		go l.Run(t.Context())
		if l.Write(entry("1", time.Now())) == nil {
			t.Fatal("the disk is not full")
		}
		time.Sleep(time.Second)
		if !errors.Is(l.Err(), syscall.ENOSPC) {
			t.Errorf("on a full disk: %v", l.Err())
		}
		space()
		time.Sleep(2 * interval)
		if l.Err() != nil {
			t.Errorf("with space: %v", l.Err())
		}
		write(t, l, entry("2", time.Now()))
	})
	if got := ids(read(t, dir, Filter{})); got != "2" {
		t.Errorf("the log has %q", got)
	}
}

// gathered writes entries at once while the disk is busy, so that they are one group, and returns what Write said of
// them in the order of the lines.
func gathered(t *testing.T, l *Log, n int) []error {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	l.disk.Lock()
	for i := range n {
		l.mu.Lock()
		before := len(l.buf)
		l.mu.Unlock()
		wg.Go(func() { errs[i] = l.Write(entry(strconv.Itoa(i), time.Now())) })
		for waits := before; waits == before; {
			time.Sleep(time.Millisecond / 10)
			l.mu.Lock()
			waits = len(l.buf)
			l.mu.Unlock()
		}
	}
	l.mu.Lock()
	if l.gather.writers != n {
		t.Errorf("%d of %d writers wait for one write", l.gather.writers, n)
	}
	l.mu.Unlock()
	l.disk.Unlock()
	wg.Wait()
	return errs
}

func TestAWriteThatFailsFailsForAll(t *testing.T) {
	dir := t.TempDir()
	space := fullDisk(t, dir)
	l := openLog(t, dir, Options{})
	for i, err := range gathered(t, l, 5) {
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("writer %d: %v", i, err)
		}
	}
	if err := l.Write(entry("after", time.Now())); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a later writer: %v", err)
	}
	space()
	time.Sleep(interval)
	for i, err := range gathered(t, l, 5) { // and the next group knows nothing of it
		if err != nil {
			t.Errorf("writer %d: %v", i, err)
		}
	}
	if got := ids(read(t, dir, Filter{})); got != "0 1 2 3 4" {
		t.Errorf("the log has %q", got)
	}
}

// Close writes what waits, and its writers are told so.
func TestCloseWritesWhatWaits(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, Options{})
	var wg sync.WaitGroup
	refused := 0
	var mu sync.Mutex // guards refused
	for i := range 50 {
		wg.Go(func() {
			if err := l.Write(entry(strconv.Itoa(i), time.Now())); err != nil {
				mu.Lock()
				defer mu.Unlock()
				refused++
			}
		})
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if got := len(read(t, dir, Filter{})); got != 50-refused {
		t.Errorf("%d lines were accepted, %d are there", 50-refused, got)
	}
	if l.file != nil || len(l.ended) > 0 {
		t.Error("a file is left open")
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
		for i, err := range gathered(t, l, 5) { // two lines and a part of the third: who has a line there may answer
			if i < 2 && err != nil || i >= 2 && !errors.Is(err, syscall.EFBIG) {
				t.Fatalf("Write %d: %v", i, err)
			}
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
		time.Sleep(interval)
		write(t, l, entry("5", time.Now()))
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
	if got := ids(read(t, dir, Filter{})); got != "0 1 5" {
		t.Errorf("the log has %q", got)
	}
}

// A process that is killed loses no line of a Write that has returned, and its torn line harms no other.
func TestKill(t *testing.T) {
	if dir := os.Getenv("UNDERSTUDY_AUDIT_KILL"); dir != "" {
		l, err := Options{MaxFileBytes: 5000}.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			write(t, l, entry(strconv.Itoa(i), time.Now()))
			fmt.Printf("written %d\n", i)
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
		written, n := -1, 0
		for sc := bufio.NewScanner(out); sc.Scan(); {
			fmt.Sscanf(sc.Text(), "written %d", &written)
			if n++; n == 10+7*round {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		es := read(t, dir, Filter{})
		if len(es) < written+1 || written < 0 {
			t.Fatalf("%d lines were written, %d are there", written+1, len(es))
		}
		for i := range written + 1 {
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

// acknowledged is what writers of a process that is killed print, with one write, once Write has returned.
const acknowledged = "written %d-%d\n"

// Whoever was answered has a line, whenever the process is killed: Run has not synced it, and other writers are under way.
func TestKillAmongManyWriters(t *testing.T) {
	if dir := os.Getenv("UNDERSTUDY_AUDIT_KILL_MANY"); dir != "" {
		l, err := Options{MaxFileBytes: 50000}.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		go l.Run(t.Context())
		for g := range 8 {
			go func() {
				for i := 0; ; i++ {
					if err := l.Write(entry(fmt.Sprintf("%d-%d", g, i), time.Now())); err != nil {
						panic(err)
					}
					fmt.Fprintf(os.Stdout, acknowledged, g, i)
				}
			}()
		}
		select {}
	}
	for round := range 3 {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestKillAmongManyWriters$")
		cmd.Env = append(os.Environ(), "UNDERSTUDY_AUDIT_KILL_MANY="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var told []string
		for sc := bufio.NewScanner(out); sc.Scan(); {
			var g, i int
			if n, _ := fmt.Sscanf(sc.Text()+"\n", acknowledged, &g, &i); n == 2 {
				told = append(told, fmt.Sprintf("%d-%d", g, i))
			}
			if len(told) == 100+500*round {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		if len(told) < 100 {
			t.Fatalf("only %d lines were written", len(told))
		}
		there := map[string]int{}
		for _, e := range read(t, dir, Filter{}) {
			there[e.ID]++
		}
		for _, id := range told {
			if there[id] != 1 {
				t.Errorf("line %s was acknowledged and is there %d times", id, there[id])
			}
		}
	}
}

// Nothing is kept that waits for nobody.
func TestNothingPilesUp(t *testing.T) {
	l := openLog(t, t.TempDir(), Options{MaxFileBytes: 100000})
	for range 100 {
		gathered(t, l, 3)
		if len(l.buf) > 0 || len(l.idle) > 2 {
			t.Fatalf("%d bytes and %d groups wait", len(l.buf), len(l.idle))
		}
	}
	if err := l.Sync(); err != nil || len(l.ended) > 0 {
		t.Errorf("%d full files are open, %v", len(l.ended), err)
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

// As the backup writes: many at once.
func BenchmarkWriteAtOnce(b *testing.B) {
	l := openLog(b, b.TempDir(), Options{})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	e := entry("0b7c1e2b3a4d5e6f", time.Now())
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Write(e); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	stop()
	<-done
}
