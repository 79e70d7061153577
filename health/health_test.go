package health

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errAway = errors.New("away")

// primary is what the probes of a test meet.
type primary struct {
	t *testing.T

	mu    sync.Mutex // guards what follows
	err   error
	hangs bool
	asked []time.Time
	busy  bool
}

func (p *primary) set(err error, hangs bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.hangs = err, hangs
}

func (p *primary) probe(ctx context.Context) error {
	p.mu.Lock()
	if p.busy {
		p.t.Error("two probes at once")
	}
	p.busy = true
	p.asked = append(p.asked, time.Now())
	err, hangs := p.err, p.hangs
	p.mu.Unlock()
	if hangs {
		<-ctx.Done()
		err = ctx.Err()
	} else {
		sleep(ctx, 5*time.Millisecond)
	}
	p.mu.Lock()
	p.busy = false
	p.mu.Unlock()
	return err
}

func (p *primary) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked)
}

// with runs f in a bubble of time with a running monitor; every goroutine of the monitor must have ended afterwards.
func with(t *testing.T, c Config, f func(*testing.T, *Monitor, *primary)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &primary{t: t}
		c.Probe = p.probe
		m := New(c)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}()
		time.Sleep(time.Second) // the first probe is good
		f(t, m, p)
	})
}

func want(t *testing.T, m *Monitor, breaker string) {
	t.Helper()
	synctest.Wait()
	got := m.State().Breaker
	if got == "half-open" {
		got = "open" // nothing is let through in either
	}
	if got != breaker {
		t.Fatalf("the breaker is %s, want %s: %+v", got, breaker, m.State())
	}
}

// step is something that the monitor is told.
type step struct {
	grant, requester string
	origin           Origin
	answer           bool          // not a failure, an answer to grant
	after            time.Duration // later than the step before
}

func TestWhatOpens(t *testing.T) {
	fail := func(grant, requester string) step { return step{grant: grant, requester: requester, origin: Doubt} }
	gone := func(grant, requester string) step { return step{grant: grant, requester: requester, origin: Beyond} }
	for _, c := range []struct {
		rule  string
		probe error
		steps []step
		want  string
	}{
		{"three grants of three requesters fail: open", nil, []step{fail("a", "192.0.2.1"), fail("b", "192.0.2.2"), fail("c", "192.0.2.3")}, "open"},
		{"two grants of two requesters fail: closed", nil, []step{fail("a", "192.0.2.1"), fail("b", "192.0.2.2")}, "closed"},
		{"one grant from three addresses: closed", nil, []step{fail("a", "192.0.2.1"), fail("a", "192.0.2.2"), fail("a", "192.0.2.3")}, "closed"},
		{"an answer to anybody in between: closed", nil, []step{fail("a", "192.0.2.1"), fail("b", "192.0.2.2"), {grant: "d", answer: true}, fail("c", "192.0.2.3")}, "closed"},
		{"an answer that anybody can provoke in between: open", nil, []step{fail("a", "192.0.2.1"), fail("b", "192.0.2.2"), {answer: true}, fail("c", "192.0.2.3")}, "open"},
		{"the first is older than the window: closed", nil, []step{fail("a", "192.0.2.1"), fail("b", "192.0.2.2"), {grant: "c", requester: "192.0.2.3", origin: Doubt, after: 61 * time.Second}}, "closed"},
		{"ours never counts", errAway, []step{{grant: "a", requester: "192.0.2.1"}, {grant: "b", requester: "192.0.2.2"}, {grant: "c", requester: "192.0.2.3"}}, "closed"},
		{"an origin that is none never counts", errAway, []step{{"a", "192.0.2.1", -1, false, 0}, {"b", "192.0.2.2", -1, false, 0}, {"c", "192.0.2.3", -1, false, 0}}, "closed"},

		{"three grants of one address, the probe is answered: closed", nil, []step{fail("a", "192.0.2.1"), fail("b", "192.0.2.1"), fail("c", "192.0.2.1"), fail("d", "192.0.2.1")}, "closed"},
		{"three grants of one address, the probe fails too: open", errAway, []step{fail("a", "192.0.2.1"), fail("b", "192.0.2.1"), fail("c", "192.0.2.1")}, "open"},
		{"two grants of one address, the probe would fail: not asked yet", errAway, []step{fail("a", "192.0.2.1"), fail("b", "192.0.2.1")}, "closed"},
		{"addresses of one IPv6 network are one requester", nil, []step{fail("a", "2001:db8:1::1"), fail("b", "2001:db8:1:2::2"), fail("c", "2001:db8:1:ffff::3")}, "closed"},
		{"three IPv6 networks are three", nil, []step{fail("a", "2001:db8:1::1"), fail("b", "2001:db8:2::1"), fail("c", "2001:db8:3::1")}, "open"},
		{"an IPv4 address written as IPv6 is the same", nil, []step{fail("a", "192.0.2.1"), fail("b", "::ffff:192.0.2.1"), fail("c", "192.0.2.2")}, "closed"},
		{"a client with IPv4 and IPv6 opens nothing", nil, []step{fail("a", "192.0.2.1"), fail("b", "2001:db8::1"), fail("c", "192.0.2.1"), fail("d", "2001:db8::2")}, "closed"},
		{"requesters that are not known are one", nil, []step{fail("a", ""), fail("b", ""), fail("c", ""), fail("d", "")}, "closed"},
		{"one requester's flood leaves room for the others", nil, append(flood(1000), step{"a", "192.0.2.2", Doubt, false, 0}, step{"b", "192.0.2.3", Doubt, false, 0}), "open"},

		{"beyond doubt, three grants of one address: open", nil, []step{gone("a", "192.0.2.1"), gone("b", "192.0.2.1"), gone("c", "192.0.2.1")}, "open"},
		{"beyond doubt once, the probe is answered: closed", nil, []step{gone("a", "192.0.2.1")}, "closed"},
		{"beyond doubt once, the probe fails too: open", errAway, []step{gone("a", "192.0.2.1")}, "open"},
		{"doubtful first and then beyond doubt: the later counts", nil, []step{fail("a", ""), fail("b", ""), fail("c", ""), gone("a", ""), gone("b", ""), gone("c", "")}, "open"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, p *primary) {
				p.set(c.probe, false)
				for _, s := range c.steps {
					time.Sleep(s.after)
					if s.answer {
						m.Success(s.grant, time.Millisecond)
					} else {
						m.FailureBy(s.grant, s.requester, s.origin)
					}
				}
				time.Sleep(10 * time.Millisecond) // the probe takes 5
				want(t, m, c.want)
				if open := c.want == "open"; open == m.Serving(0) {
					t.Errorf("Serving = %v", m.Serving(0))
				}
			})
		})
	}
}

func flood(n int) (out []step) {
	for i := range n {
		out = append(out, step{grant: fmt.Sprint("flood", i), requester: "192.0.2.1", origin: Doubt})
	}
	return out
}

func TestSilence(t *testing.T) {
	three := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}
	// Twenty answers of 100 ms: the deadline is 3 × 112 ms, and so the least one.
	warm := func(m *Monitor) {
		for range 20 {
			m.Success("warm", 100*time.Millisecond)
		}
	}
	t.Run("overdue requests of three grants open it, and those in flight hear of it at that moment", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, _ *primary) {
			warm(m)
			began := time.Now()
			opened := m.Opened()
			for i, r := range three {
				m.Sent(fmt.Sprint(i), r)
			}
			<-opened
			if d := time.Since(began); d != 500*time.Millisecond {
				t.Errorf("opened after %v, want the deadline of 500ms", d)
			}
			want(t, m, "open")
			if c := m.State().Cause; c != "silence" {
				t.Errorf("cause %q", c)
			}
		})
	})
	t.Run("a primary that was slow to some a moment ago is silent as soon as any other", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, _ *primary) {
			warm(m)
			for range 4 {
				m.Success("slow", 4*time.Second)
			}
			if d := m.Deadline(); d != 5*time.Second {
				t.Fatalf("one request may take %v, want 5s", d)
			}
			began := time.Now()
			opened := m.Opened()
			for i, r := range three {
				m.Sent(fmt.Sprint(i), r)
			}
			<-opened
			if d := time.Since(began); d < 500*time.Millisecond || d > 750*time.Millisecond {
				t.Errorf("opened after %v, want five times the 112ms of most", d)
			}
		})
	})
	t.Run("an answer to somebody meanwhile: they are slow, not silent", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, p *primary) {
			warm(m)
			for i, r := range three {
				m.Sent(fmt.Sprint(i), r)
			}
			time.Sleep(499 * time.Millisecond)
			m.Success("somebody", 10*time.Millisecond)
			n := p.count()
			time.Sleep(time.Minute)
			want(t, m, "closed")
			if p.count() != n {
				t.Error("a probe was asked for")
			}
		})
	})
	t.Run("those that ended do not count", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, _ *primary) {
			warm(m)
			var dones []func() time.Duration
			for i, r := range three {
				dones = append(dones, m.Sent(fmt.Sprint(i), r))
			}
			time.Sleep(300 * time.Millisecond)
			for _, i := range []int{1, 0, 2, 1} { // any order, and twice
				if d := dones[i](); d != 300*time.Millisecond {
					t.Errorf("took %v", d)
				}
			}
			time.Sleep(time.Minute)
			want(t, m, "closed")
		})
	})
	t.Run("three grants of one requester are silent, the probe is answered: closed", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, p *primary) {
			warm(m)
			n := p.count()
			for i := range 10 {
				m.Sent(fmt.Sprint(i), "192.0.2.1")
			}
			time.Sleep(time.Minute)
			want(t, m, "closed")
			if p.count() == n {
				t.Error("no probe was asked for")
			}
		})
	})
	t.Run("a black hole with one requester: the probe is silent too, open 1.25 s after the first request", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, p *primary) {
			warm(m)
			p.set(nil, true)
			began := time.Now()
			opened := m.Opened()
			m.Sent("a", "127.0.0.1")
			<-opened
			if d := time.Since(began); d != 1250*time.Millisecond {
				t.Errorf("opened after %v, want silence for 500ms and a probe for 750ms", d)
			}
		})
	})
	t.Run("one and then two more, staggered: the third decides", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, _ *primary) {
			warm(m)
			began := time.Now()
			opened := m.Opened()
			for i, r := range three {
				m.Sent(fmt.Sprint(i), r)
				time.Sleep(100 * time.Millisecond)
			}
			<-opened
			if d := time.Since(began); d != 700*time.Millisecond {
				t.Errorf("opened after %v, want 700ms", d)
			}
		})
	})
	t.Run("silence of two and failure of one add up", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, _ *primary) {
			warm(m)
			m.Sent("a", three[0])
			m.Sent("b", three[1])
			m.FailureBy("c", three[2], Doubt)
			time.Sleep(600 * time.Millisecond)
			want(t, m, "open")
		})
	})
}

func TestFlightsStayInOrder(t *testing.T) {
	l := flights{row: 1}
	fs := make([]*flight, 5)
	for i := range fs {
		fs[i] = &flight{grant: fmt.Sprint(i)}
		l.add(fs[i])
	}
	order := func() (s string) {
		for f := l.first; f != nil; f = f.next {
			s += f.grant
		}
		back := ""
		for f := l.last; f != nil; f = f.prev {
			back = f.grant + back
		}
		if s != back {
			t.Errorf("forwards %s, backwards %s", s, back)
		}
		return s
	}
	for _, c := range []struct {
		remove int
		want   string
	}{{2, "0134"}, {0, "134"}, {4, "13"}, {4, "13"}, {1, "3"}, {3, ""}} {
		if l.remove(fs[c.remove]); order() != c.want {
			t.Errorf("without %d: %s, want %s", c.remove, order(), c.want)
		}
	}
	l.add(fs[0])
	l.forget()
	l.add(fs[1])
	l.remove(fs[0])
	if order() != "1" {
		t.Errorf("a forgotten one took another along: %q", order())
	}
}

func TestProbes(t *testing.T) {
	t.Run("one at once, then every 5 s; every half second while away; jittered", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			if p.count() != 1 {
				t.Errorf("%d probes in the first second", p.count())
			}
			time.Sleep(100 * time.Second)
			if n := p.count(); n < 17 || n > 26 {
				t.Errorf("%d probes in 100 s", n)
			}
			p.set(errAway, false)
			time.Sleep(7 * time.Second)
			want(t, m, "open")
			n := p.count()
			time.Sleep(10 * time.Second)
			if n = p.count() - n; n < 16 || n > 26 {
				t.Errorf("%d probes in 10 s away", n)
			}
			gaps := map[time.Duration]bool{}
			for i := 1; i < len(p.asked); i++ {
				gaps[p.asked[i].Sub(p.asked[i-1])] = true
			}
			if len(gaps) < 10 {
				t.Errorf("%d different gaps", len(gaps))
			}
		})
	})
	t.Run("one that hangs has failed after 2 s", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Second}, func(t *testing.T, m *Monitor, p *primary) {
			p.set(nil, true)
			time.Sleep(3*time.Second + 300*time.Millisecond)
			want(t, m, "open")
		})
	})
	t.Run("one requester's failures cause at most five a second", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, p *primary) {
			n := p.count()
			for i := range 1000 {
				m.FailureBy(fmt.Sprint(i), "192.0.2.1", Beyond)
				m.Success("somebody", time.Millisecond)
				time.Sleep(time.Millisecond)
			}
			if n = p.count() - n; n < 2 || n > 6 {
				t.Errorf("%d probes in a second", n)
			}
			want(t, m, "closed")
		})
	})
	t.Run("a failing probe beside answered sign-ins opens nothing and is an alarm", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			p.set(errAway, false)
			for range 10_000 {
				m.Success("somebody", time.Millisecond)
				time.Sleep(time.Millisecond)
			}
			want(t, m, "closed")
			if s := m.State(); s.Alarm != "probe_disagrees" || s.ProbeError != "away" {
				t.Errorf("state %+v", s)
			}
			if m.Suspect(t.Context()) {
				// Nobody is answered while this probe runs, so this time it is believed.
				want(t, m, "open")
			} else {
				t.Error("the primary is not suspected when sign-ins have stopped")
			}
		})
	})
	t.Run("a primary killed while its probe runs is asked again at once", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, p *primary) {
			p.set(errAway, false)
			go func() {
				time.Sleep(2 * time.Millisecond)
				m.Success("the last one", time.Millisecond)
			}()
			began := time.Now()
			if !m.Suspect(t.Context()) {
				t.Error("not suspected")
			}
			if d := time.Since(began); d != 10*time.Millisecond {
				t.Errorf("two probes took %v", d)
			}
			want(t, m, "open")
		})
	})
}

func TestSuspect(t *testing.T) {
	t.Run("asks, and the probe decides", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, p *primary) {
			if m.Suspect(t.Context()) {
				t.Error("suspected although the probe is answered")
			}
			p.set(errAway, false)
			if !m.Suspect(t.Context()) {
				t.Error("not suspected although the probe fails")
			}
			want(t, m, "open")
		})
	})
	t.Run("many ask one question", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, p *primary) {
			n := p.count()
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					if m.Suspect(t.Context()) {
						t.Error("suspected")
					}
				})
			}
			wg.Wait()
			if n = p.count() - n; n != 1 {
				t.Errorf("%d probes", n)
			}
		})
	})
	t.Run("no longer than its caller", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, p *primary) {
			p.set(nil, true)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if m.Suspect(ctx) {
				t.Error("suspected without an answer")
			}
		})
	})
	t.Run("the probe that it asked for ends with Run, and so does the wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &primary{t: t, hangs: true}
			m := New(Config{Probe: p.probe, ProbeDeadline: time.Hour})
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(500*time.Millisecond, cancel)
			go m.Run(ctx)
			if m.Suspect(t.Context()) {
				t.Error("suspected by a probe that did not end")
			}
			synctest.Wait()
			if p.busy || m.State().Breaker != "closed" {
				t.Error("the probe outlived Run, or its end counted")
			}
		})
	})
}

func TestElsewhere(t *testing.T) {
	with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, p *primary) {
		m.FailureBy("a", "192.0.2.1", Doubt)
		for _, c := range []struct {
			rule             string
			grant, requester string
			want             bool
		}{
			{"the grant's own failure: no", "a", "192.0.2.2", false},
			{"another grant of the same requester: no", "b", "192.0.2.1", false},
			{"another grant of another requester: yes", "b", "192.0.2.2", true},
		} {
			if got := m.ElsewhereBy(c.grant, c.requester); got != c.want {
				t.Errorf("%s: %v", c.rule, got)
			}
		}
		m.FailureBy("b", "192.0.2.1", Doubt)
		if m.Elsewhere("a") || m.Elsewhere("b") {
			t.Error("two grants of one requester vouch for each other")
		}
		m.FailureBy("c", "192.0.2.3", Doubt)
		if !m.Elsewhere("a") || !m.Elsewhere("c") {
			t.Error("grants of two requesters do not")
		}
		m.Success("d", time.Millisecond)
		if m.ElsewhereBy("z", "192.0.2.9") {
			t.Error("a failure before the last answer counts")
		}
		m.FailureBy("a", "192.0.2.1", Doubt)
		time.Sleep(61 * time.Second)
		if m.ElsewhereBy("z", "192.0.2.9") {
			t.Error("a failure older than the window counts")
		}
	})
}
