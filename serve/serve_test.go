package serve

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"understudy/backup"
	"understudy/gateway"
	"understudy/session"
)

// pipes is a listener whose connections are pipes in memory, so that time is the test's.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }
func (p *pipes) dial() net.Conn {
	a, b := net.Pipe()
	p.conns <- b
	return a
}

// upload sends a request whose body should have more bytes than n pieces of size bytes, one each pause, and returns the
// status of the reply.
func upload(t *testing.T, n, size, more int, pause time.Duration) (status int, took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		srv := &http.Server{Handler: bodyDeadlines(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				http.Error(w, "cut", http.StatusRequestTimeout)
				return
			}
			// What comes after the body has no deadline: a reply may take as long as it likes.
			r.Body.Read(make([]byte, 1))
			time.Sleep(10 * time.Minute)
			if r.Context().Err() != nil {
				t.Error("the request ended although its client waits")
			}
			fmt.Fprint(w, len(b))
		})), ReadHeaderTimeout: headerTime}
		go srv.Serve(ln)
		defer srv.Close()
		c := ln.dial()
		began := time.Now()
		var writer sync.WaitGroup
		defer writer.Wait()
		defer c.Close()
		writer.Go(func() {
			fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", n*size+more)
			for range n {
				if _, err := c.Write(make([]byte, size)); err != nil {
					return
				}
				time.Sleep(pause)
			}
		})
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		status, took = resp.StatusCode, time.Since(began)
	})
	return status, took
}

func TestBodies(t *testing.T) {
	for _, c := range []struct {
		name          string
		n, size, more int
		pause         time.Duration
		want          int
	}{
		{"an upload of an hour", 3600, 1000, 0, time.Second, 200},
		{"one byte a second", 3600, 1, 0, time.Second, 408},
		{"nothing at all", 0, 1, 1, 0, 408},
		{"a lot, and then nothing for a long time", 1, 1 << 20, 1, 0, 408},
		{"short pauses", 20, 10_000, 0, 15 * time.Second, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, took := upload(t, c.n, c.size, c.more, c.pause); got != c.want || got == 408 && took > 2*time.Minute {
				t.Errorf("%d after %v, want %d", got, took, c.want)
			}
		})
	}
}

func TestSlowHeadersAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := newListeners(http.NotFoundHandler(), newCrowd(), slog.New(slog.DiscardHandler))
		ln := newPipes()
		ls.inherited["x"] = ln
		if err := ls.apply([]Listener{{Address: "x"}}); err != nil {
			t.Fatal(err)
		}
		c := ln.dial()
		began := time.Now()
		var writing sync.WaitGroup
		defer func() { c.Close(); writing.Wait() }()
		writing.Go(func() {
			for _, b := range []byte("GET / HTTP/1.1\r\nX-Slow: " + strings.Repeat("s", 1000)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		io.Copy(io.Discard, c)
		if took := time.Since(began); took > headerTime+time.Second {
			t.Errorf("cut after %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := ls.run(ctx); err != nil {
			t.Error(err)
		}
	})
}

// Where there are too many connections, the one that has been idle for longest goes, and none that is in use.
func TestCrowd(t *testing.T) {
	c := newCrowd()
	c.max = 3
	conns := make([]net.Conn, 5)
	for i := range conns {
		var peer net.Conn
		conns[i], peer = net.Pipe()
		defer peer.Close()
	}
	closed := func(i int) bool {
		err := conns[i].SetDeadline(time.Time{})
		return err != nil
	}
	for i := range 3 {
		c.state(conns[i], http.StateNew)
		c.state(conns[i], http.StateActive)
	}
	c.state(conns[1], http.StateIdle)
	c.state(conns[2], http.StateIdle)
	c.state(conns[3], http.StateNew)
	if closed(0) || !closed(1) || closed(2) || closed(3) {
		t.Error("not the longest idle one was closed")
	}
	c.state(conns[1], http.StateClosed)
	c.state(conns[2], http.StateActive)
	c.state(conns[3], http.StateActive)
	c.state(conns[4], http.StateNew)
	if closed(0) || closed(2) || closed(3) {
		t.Error("one that is in use was closed")
	}
	if open, shed := c.numbers(); open != 4 || shed != 2 {
		t.Errorf("%d open, %d shed", open, shed)
	}
}

func TestListenersChangeTogetherOrNotAtAll(t *testing.T) {
	taken, err := nettest.NewLocalListener("tcp")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free := func() string {
		l, err := nettest.NewLocalListener("tcp")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	a, b := free(), free()
	ls := newListeners(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "here") }), newCrowd(), slog.New(slog.DiscardHandler))
	serves := func(addr string) bool {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := c.Get("http://" + addr)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	}
	if err := ls.apply([]Listener{{Address: a}}); err != nil {
		t.Fatal(err)
	}
	if err := ls.apply([]Listener{{Address: b}, {Address: taken.Addr().String()}}); err == nil {
		t.Error("an address that is taken was taken")
	}
	if !serves(a) || serves(b) {
		t.Error("a change that failed has changed something")
	}
	if err := ls.apply([]Listener{{Address: a, CertFile: "x", KeyFile: "x"}}); err == nil || !strings.Contains(err.Error(), "needs a restart") {
		t.Errorf("plain to TLS: %v", err)
	}
	if err := ls.apply([]Listener{{Address: b}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	defer ls.run(ctx)
	if !serves(b) {
		t.Error("the new address does not serve")
	}
}

// A gateway that is replaced goes on with what it has begun, and its counters are not lost.
func TestFront(t *testing.T) {
	seal, err := session.NewSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	begun, release := make(chan struct{}), make(chan struct{})
	old, err := nettest.NewLocalListener("tcp")
	if err != nil {
		t.Fatal(err)
	}
	slow := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(begun)
			<-release
			fmt.Fprint(w, "from the old")
			return
		}
		http.NotFound(w, r)
	})}
	go slow.Serve(old)
	defer slow.Close()
	make1 := func(primary string) *gateway.Gateway {
		u, err := gateway.ParseUpstream("http://" + primary)
		if err != nil {
			t.Fatal(err)
		}
		g, err := gateway.New(gateway.Config{
			Tenants: []*gateway.Tenant{{Name: "t", Hosts: []string{"x"}, Scheme: "http", Upstream: u}}, Flows: Flows(), Backup: &unable{code: "store_failed"},
			Seal: seal, DataDir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	f := newFront()
	f.use(make1(old.Addr().String()))
	ln, err := nettest.NewLocalListener("tcp")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: f}
	go srv.Serve(ln)
	defer srv.Close()
	get := func(path string) string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ln.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "x"
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	got := make(chan string, 1)
	go func() { got <- get("/slow") }()
	<-begun
	f.gateway().Counts.Ambiguous("t")
	f.use(make1("127.0.0.1:1"))
	f.gateway().Counts.Ambiguous("t")
	if s := get("/other"); !strings.Contains(s, "not available") {
		t.Errorf("the new gateway's primary is away: %q", s)
	}
	close(release)
	if s := <-got; s != "from the old" {
		t.Errorf("what the old one had begun: %q", s)
	}
	if n := f.counts()["ambiguous\x00t"]; n != 2 {
		t.Errorf("%d counted, want 2", n)
	}
	f.stop()
	if n := f.counts()["ambiguous\x00t"]; n != 2 {
		t.Errorf("%d counted after the end, want 2", n)
	}
}

// Nothing is acknowledged that cannot be kept.
func TestUnable(t *testing.T) {
	u := &unable{code: "store_failed", cause: io.ErrUnexpectedEOF}
	if err := u.Mark(t.Context(), "t", session.Mark{}); err == nil {
		t.Error("a mark was acknowledged")
	}
	if _, err := u.MarkGrant(t.Context(), &backup.GrantMark{}); err == nil {
		t.Error("a grant's mark was acknowledged")
	}
	if err := u.Refused(t.Context(), &backup.Refused{}); err == nil {
		t.Error("a refusal was acknowledged")
	}
	if err := u.Step(t.Context(), "t", session.ID{}, 0, session.Successor{}); err == nil {
		t.Error("a successor was acknowledged")
	}
	if reply, no, err := u.Play(t.Context(), nil); reply != nil || no == nil || no.Definite || err != nil {
		t.Errorf("it plays: %v %v %v", reply, no, err)
	}
}
