package idptest

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestFaults: each fault does what its name says, commits or not, hits what it is for, and is counted.
func TestFaults(t *testing.T) {
	var committed atomic.Int32
	const whole = `{"access_token":"token"}`
	primary := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		committed.Add(1)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, whole)
	}))
	defer primary.Close()
	f, err := StartFaultProxy(primary.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	post := func(path, grant string) (status int, body string, err error) {
		resp, err := client.PostForm(f.URL()+path, url.Values{"grant_type": {grant}})
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}
	isReset := func(_ int, _ string, err error) bool {
		return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)
	}
	for _, c := range []struct {
		fault   Fault
		commits int32
		holds   func(status int, body string, err error) bool
	}{
		{Fault{Kind: Pass}, 1, func(s int, b string, err error) bool { return s == 200 && b == whole }},
		{Fault{Kind: Refuse}, 0, func(_ int, _ string, err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }},
		{Fault{Kind: ResetBefore}, 0, isReset},
		{Fault{Kind: ResetAfter}, 0, isReset},
		{Fault{Kind: SlowFirstByte, Delay: time.Millisecond}, 1, func(s int, b string, err error) bool { return s == 200 && b == whole }},
		{Fault{Kind: SlowBody, Delay: time.Millisecond}, 1, func(s int, b string, err error) bool { return s == 200 && b == whole }},
		{Fault{Kind: Truncate}, 1, func(s int, b string, err error) bool {
			return s == 200 && errors.Is(err, io.ErrUnexpectedEOF) && strings.HasPrefix(whole, b)
		}},
		{Fault{Kind: ServerError}, 0, func(s int, b string, err error) bool { return s == 500 }},
		{Fault{Kind: ServerError, Status: 503}, 0, func(s int, b string, err error) bool { return s == 503 }},
		{Fault{Kind: HTMLPage}, 0, func(s int, b string, err error) bool { return s == 200 && strings.Contains(b, "<title>") }},
		{Fault{Kind: WrongContent}, 0, func(s int, b string, err error) bool {
			return s == 200 && b != whole && strings.HasPrefix(b, "{")
		}},
		{Fault{Kind: Redirect}, 0, func(s int, b string, err error) bool { return s == 302 }},
		{Fault{Kind: LoseReply}, 1, isReset},
		{Fault{Kind: CommitError}, 1, func(s int, b string, err error) bool { return s == 502 && b == "no\n" && err == nil }},
		{Fault{Kind: CommitError, Status: 504}, 1, func(s int, b string, err error) bool { return s == 504 && b == "no\n" && err == nil }},
	} {
		t.Run(string(c.fault.Kind), func(t *testing.T) {
			before, done := committed.Load(), f.Done(c.fault.Kind)
			if err := f.Set(c.fault); err != nil {
				t.Fatal(err)
			}
			if s, b, err := post("/token", "refresh_token"); !c.holds(s, b, err) {
				t.Errorf("status %d, body %q, error %v", s, b, err)
			}
			if n := committed.Load() - before; n != c.commits {
				t.Errorf("%d committed, want %d", n, c.commits)
			}
			if n := f.Done(c.fault.Kind) - done; c.fault.Kind != Pass && c.fault.Kind != Refuse && n != 1 {
				t.Errorf("counted %d times", n)
			}
			if c.fault.Kind == Refuse {
				return
			}
			if s, b, err := post("/other", ""); s != 200 || b != whole {
				t.Errorf("another path: status %d, body %q, error %v", s, b, err)
			}
		})
	}
	t.Run("once, and one grant only", func(t *testing.T) {
		if err := f.Set(Fault{Kind: ServerError, Grant: "refresh_token", Times: 1}); err != nil {
			t.Fatal(err)
		}
		for i, want := range []struct {
			grant  string
			status int
		}{{"probe", 200}, {"refresh_token", 500}, {"refresh_token", 200}} {
			if s, _, err := post("/token", want.grant); s != want.status {
				t.Errorf("request %d: status %d, error %v", i, s, err)
			}
		}
	})
	t.Run("late reply", func(t *testing.T) {
		if err := f.Set(Fault{Kind: LateReply, Times: 1}); err != nil {
			t.Fatal(err)
		}
		before := committed.Load()
		got := make(chan string, 1)
		go func() {
			_, b, _ := post("/token", "refresh_token")
			got <- b
		}()
		for committed.Load() == before || f.Done(LateReply) == 0 {
			time.Sleep(time.Millisecond)
		}
		select {
		case <-got:
			t.Error("the reply was not held")
		default:
		}
		f.Release()
		if b := <-got; b != whole {
			t.Errorf("body %q", b)
		}
	})
	t.Run("black hole", func(t *testing.T) {
		if err := f.Set(Fault{Kind: BlackHole}); err != nil {
			t.Fatal(err)
		}
		before := committed.Load()
		got := make(chan error, 1)
		go func() {
			_, _, err := post("/token", "refresh_token")
			got <- err
		}()
		for f.Done(BlackHole) == 0 {
			time.Sleep(time.Millisecond)
		}
		if err := f.Set(Fault{}); err != nil {
			t.Fatal(err)
		}
		if err := <-got; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
			t.Errorf("error %v", err)
		}
		if committed.Load() != before {
			t.Error("committed")
		}
	})
}
