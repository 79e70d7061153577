package notice_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"understudy/backup/notice"
	"understudy/session"
)

// rig is an outbox whose tokens are the names of their clients.
type rig struct {
	*notice.Outbox
	dir string
	now atomic.Int64 // offset of the clock, nanoseconds

	mu   sync.Mutex
	over map[string]bool // by client: told, or given up
}

func newRig(t *testing.T) *rig {
	seal, err := session.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{dir: t.TempDir(), over: map[string]bool{}}
	r.Outbox = &notice.Outbox{
		Dir: r.dir, Seal: seal, Sign: func(n *notice.Notice) (string, string, error) { return n.Client, "bk-1", nil },
		Over: func(n *notice.Notice, told bool, _ string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.over[n.Client] = told
		},
		Warn: func(string, ...any) {}, Now: func() time.Time { return time.Now().Add(time.Duration(r.now.Load())) },
	}
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) put(t *testing.T, client string) {
	t.Helper()
	err := r.Put(&notice.Notice{Tenant: "acme", Issuer: "https://id.example", Client: client, Subject: "alice-sub", SID: "s", At: r.Now().UnixNano()})
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) became(t *testing.T, client string, told bool) {
	t.Helper()
	for range 300 {
		r.mu.Lock()
		got, ok := r.over[client]
		r.mu.Unlock()
		if ok {
			if got != told {
				t.Errorf("%s: told %v", client, got)
			}
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%s: nothing became of it", client)
}

// One that hangs holds up nobody, one that is away is told later, and what cannot be told in an hour, or is configured no more, is
// given up. Nothing lies in the clear.
func TestEveryPartyByItself(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	var asked atomic.Int32
	hang := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked.Add(1)
		switch q.PostFormValue("logout_token") {
		case "hangs":
			<-hang
		case "away":
			if down.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		case "never":
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer srv.Close()
	defer close(hang)
	r := newRig(t)
	all := map[string]notice.Client{}
	for _, c := range []string{"hangs", "away", "never", "well"} {
		all[c] = notice.Client{URI: srv.URL}
	}
	r.Use(notice.Clients{"acme": all})
	for _, c := range []string{"hangs", "away", "never", "gone", "well"} {
		r.put(t, c)
	}
	for _, f := range files(t, r.dir) {
		b, err := os.ReadFile(f)
		if err != nil || bytes.Contains(b, []byte("alice-sub")) {
			t.Errorf("%s lies in the clear: %v", f, err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(t.Context()) }()
	r.became(t, "well", true)
	r.became(t, "gone", false)
	down.Store(false)
	r.became(t, "away", true)
	r.put(t, "well") // told a moment ago
	r.now.Store(int64(61 * time.Minute))
	r.became(t, "never", false)
	n := asked.Load()
	if left := files(t, r.dir); len(left) > 1 { // the one that hangs
		t.Errorf("%d wait", len(left))
	}
	time.Sleep(1200 * time.Millisecond)
	if asked.Load() != n {
		t.Error("they are asked after their hour")
	}
}

// What waits is bounded.
func TestOutboxIsBounded(t *testing.T) {
	r := newRig(t)
	for i := range 10_000 {
		if err := os.WriteFile(filepath.Join(r.dir, fmt.Sprintf("%d.notice", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Put(&notice.Notice{Tenant: "acme", Client: "app"}); !errors.Is(err, notice.ErrFull) {
		t.Error(err)
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	fs, err := filepath.Glob(filepath.Join(dir, "*.notice"))
	if err != nil {
		t.Fatal(err)
	}
	return fs
}
