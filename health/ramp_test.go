package health

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// away opens the breaker with a failing probe and keeps it so for a minute.
func away(t *testing.T, m *Monitor, p *primary) {
	t.Helper()
	p.set(errAway, false)
	m.FailureBy("first", "192.0.2.1", Beyond)
	time.Sleep(time.Minute)
	want(t, m, "open")
}

// until waits for a state, at most two minutes.
func until(t *testing.T, m *Monitor, breaker string) time.Duration {
	t.Helper()
	began := time.Now()
	for m.State().Breaker != breaker {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("not %s after two minutes: %+v", breaker, m.State())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

func TestRampBack(t *testing.T) {
	t.Run("full share within 15 s of the primary's return, step by step; who went back stays", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			away(t, m, p)
			p.set(nil, false)
			began := time.Now()
			var shares []int
			back := map[uint32]bool{}
			for len(shares) == 0 || shares[len(shares)-1] != 100 {
				if s := m.State().Share; len(shares) == 0 || shares[len(shares)-1] != s {
					shares = append(shares, s)
				}
				for h := range uint32(200) {
					now := m.Serving(h)
					if back[h] && !now {
						t.Fatalf("session %d went back to the backup", h)
					}
					back[h] = now
				}
				time.Sleep(10 * time.Millisecond)
			}
			if !slices.Equal(shares, []int{0, 10, 25, 50, 100}) {
				t.Errorf("shares %v", shares)
			}
			if d := time.Since(began); d < 10*time.Second || d > 15*time.Second {
				t.Errorf("full share after %v", d)
			}
			want(t, m, "closed")
		})
	})
	t.Run("of a black hole too", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			p.set(nil, true)
			time.Sleep(time.Minute)
			want(t, m, "open")
			p.set(nil, false)
			if d := until(t, m, "closed"); d > 18*time.Second {
				t.Errorf("full share after %v", d)
			}
		})
	})
	t.Run("two good probes are not enough", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			away(t, m, p)
			for range 5 {
				n := p.count()
				p.set(nil, false)
				for p.count() < n+2 {
					time.Sleep(time.Millisecond)
				}
				p.set(errAway, false)
				time.Sleep(2 * time.Second)
				want(t, m, "open")
			}
			if m.State().Opens != 1 {
				t.Errorf("%d openings", m.State().Opens)
			}
		})
	})
	t.Run("what waits for the opening hears of the next one", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			away(t, m, p)
			select {
			case <-m.Opened():
			default:
				t.Error("open, and the channel is not closed")
			}
			p.set(nil, false)
			until(t, m, "ramp")
			opened := m.Opened()
			select {
			case <-opened:
				t.Error("a ramp, and the channel is closed")
			default:
			}
			p.set(errAway, false)
			time.Sleep(time.Second)
			select {
			case <-opened:
			default:
				t.Error("open again, and the channel is not closed")
			}
		})
	})
	t.Run("a failing probe ends a ramp at once, sign-ins answered beside it or not", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			away(t, m, p)
			p.set(nil, false)
			until(t, m, "ramp")
			p.set(errAway, false)
			for range 1000 {
				m.Success("somebody", time.Millisecond)
				time.Sleep(time.Millisecond)
			}
			want(t, m, "open")
			if m.Serving(0) {
				t.Error("still serving")
			}
		})
	})
	t.Run("failing sessions end a ramp although the probe is good; each time it holds longer, and never 30 s", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			away(t, m, p)
			p.set(nil, false)
			var waits []time.Duration
			for range 6 {
				waits = append(waits, until(t, m, "ramp"))
				for i := range 3 {
					m.FailureBy(fmt.Sprint(i), fmt.Sprintf("192.0.2.%d", i), Doubt)
				}
				want(t, m, "open")
			}
			if waits[1] < waits[0]+time.Second || waits[2] <= waits[1] || waits[3] <= waits[2] {
				t.Errorf("waits %v", waits)
			}
			if d := until(t, m, "closed"); d > 30*time.Second {
				t.Errorf("after six openings full share comes after %v", d)
			}
			time.Sleep(2 * time.Minute)
			away(t, m, p)
			p.set(nil, false)
			if d := until(t, m, "ramp"); d > 3*time.Second {
				t.Errorf("an opening after quiet minutes holds for %v", d)
			}
			p.set(errAway, false)
			time.Sleep(time.Second)
			want(t, m, "open")
			p.set(nil, false)
			if d := until(t, m, "ramp"); d > 5*time.Second {
				t.Errorf("the first failed ramp after quiet minutes holds for %v", d)
			}
		})
	})
	t.Run("an opening soon after full share is the same trouble", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			away(t, m, p)
			p.set(nil, false)
			until(t, m, "closed")
			for i := range 3 {
				m.FailureBy(fmt.Sprint(i), fmt.Sprintf("192.0.2.%d", i), Doubt)
			}
			if d := until(t, m, "ramp"); d < 2*time.Second {
				t.Errorf("a ramp after %v", d)
			}
		})
	})
	t.Run("a ramp that ends below 100 gives the rest at its end", func(t *testing.T) {
		with(t, Config{Ramp: []int{50}}, func(t *testing.T, m *Monitor, p *primary) {
			away(t, m, p)
			p.set(nil, false)
			until(t, m, "closed")
			if !m.Serving(99) {
				t.Error("not the full share")
			}
		})
	})
	t.Run("without a probe time alone brings it back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := New(Config{})
			go m.Run(t.Context())
			for i := range 3 {
				m.FailureBy(fmt.Sprint(i), "192.0.2.1", Beyond)
			}
			want(t, m, "open")
			until(t, m, "closed")
		})
	})
}

func TestRefusalsHaltTheRamp(t *testing.T) {
	grants := func(name string, n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprint(name, i))
		}
		return out
	}
	for _, c := range []struct {
		rule              string
		accepted, refused []string
		person            string // whose the refused are; "": each is another's
		want              string
	}{
		{"three of three refused: halted", nil, grants("r", 3), "", "halted"},
		{"two of two refused: too few to say", nil, grants("r", 2), "", "ramp"},
		{"one grant refused three times is one", nil, []string{"r", "r", "r"}, "", "ramp"},
		{"three of fifteen, a fifth: halted", grants("a", 12), grants("r", 3), "", "halted"},
		{"three of sixteen: on", grants("a", 13), grants("r", 3), "", "ramp"},
		{"all accepted: on", grants("a", 100), nil, "", "ramp"},
		{"one accepted many times is one", slices.Repeat([]string{"a"}, 100), grants("r", 3), "", "halted"},
		{"accepted and then refused is refused", grants("g", 13), grants("g", 3), "", "halted"},
		{"of one person: on", nil, grants("r", 50), "alice", "ramp"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
				away(t, m, p)
				p.set(nil, false)
				until(t, m, "ramp")
				for _, g := range c.accepted {
					m.Accepted(g)
				}
				for _, g := range c.refused {
					m.Refused(g, cmp.Or(c.person, g))
				}
				want(t, m, c.want)
			})
		})
	}
	halted := func(t *testing.T, m *Monitor, p *primary) {
		away(t, m, p)
		p.set(nil, false)
		until(t, m, "ramp")
		for _, g := range grants("r", 3) {
			m.Refused(g, g)
		}
	}
	t.Run("halted: the share stays, and it is an alarm", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			halted(t, m, p)
			for range 29 {
				time.Sleep(time.Second)
				if s := m.State(); s.Breaker != "halted" || s.Share != 10 || s.Alarm != "returning_sessions_refused" || s.Refused != 3 {
					t.Fatalf("state %+v", s)
				}
			}
			if !m.Serving(9) || m.Serving(10) {
				t.Error("the share is not kept")
			}
		})
	})
	t.Run("refusals that go on keep it halted; when they cease it goes on by itself", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			halted(t, m, p)
			for i := range 10 {
				time.Sleep(20 * time.Second)
				m.Refused(fmt.Sprint("more", i), fmt.Sprint("person", i))
			}
			want(t, m, "halted")
			if d := until(t, m, "ramp"); d < 29*time.Second || d > 32*time.Second {
				t.Errorf("on after %v", d)
			}
			until(t, m, "closed")
		})
	})
	t.Run("the same refusals again do not keep it halted", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			halted(t, m, p)
			for range 3 {
				time.Sleep(9 * time.Second)
				for _, g := range grants("r", 3) {
					m.Refused(g, g)
				}
			}
			want(t, m, "halted")
			if d := until(t, m, "ramp"); d > 5*time.Second {
				t.Errorf("on after %v more", d)
			}
			for _, g := range grants("r", 3) {
				m.Refused(g, g)
			}
			want(t, m, "ramp")
		})
	})
	t.Run("enough that are accepted let it go on", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			halted(t, m, p)
			for _, g := range grants("a", 12) {
				m.Accepted(g)
			}
			want(t, m, "halted")
			m.Accepted("one more")
			want(t, m, "ramp")
		})
	})
	t.Run("an operator lets it go on, and refusals halt it again", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			if m.Resume() {
				t.Error("resumed what was not halted")
			}
			halted(t, m, p)
			if !m.Resume() {
				t.Error("not resumed")
			}
			want(t, m, "ramp")
			m.Refused("s0", "a")
			m.Refused("s1", "b")
			want(t, m, "ramp")
			m.Refused("s2", "c")
			want(t, m, "halted")
		})
	})
	t.Run("a failing primary opens a halted ramp", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			halted(t, m, p)
			p.set(errAway, false)
			time.Sleep(time.Second)
			want(t, m, "open")
			if s := m.State(); s.Alarm != "" {
				t.Errorf("alarm %q", s.Alarm)
			}
		})
	})
	t.Run("outside a ramp refusals are daily business", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			for _, g := range grants("r", 100) {
				m.Refused(g, g)
			}
			want(t, m, "closed")
			away(t, m, p)
			for _, g := range grants("r", 100) {
				m.Refused(g, g)
			}
			p.set(nil, false)
			until(t, m, "ramp")
			want(t, m, "ramp")
		})
	})
}

func TestWhenTheOutageBegan(t *testing.T) {
	t.Run("while the primary serves it is now", func(t *testing.T) {
		with(t, Config{}, func(t *testing.T, m *Monitor, p *primary) {
			m.FailureBy("a", "192.0.2.1", Doubt)
			time.Sleep(time.Second)
			if !m.Outage().Equal(time.Now()) {
				t.Errorf("it began at %v", m.Outage())
			}
		})
	})
	t.Run("at the first failure of the row, not at the last success, and it stays until full share", func(t *testing.T) {
		with(t, Config{ProbeServing: time.Hour}, func(t *testing.T, m *Monitor, p *primary) {
			m.FailureBy("before an answer", "192.0.2.1", Doubt)
			time.Sleep(time.Second)
			m.Success("somebody", time.Millisecond)
			time.Sleep(10 * time.Second)
			first := time.Now()
			m.FailureBy("a", "192.0.2.1", Doubt)
			time.Sleep(10 * time.Second)
			m.FailureBy("b", "192.0.2.2", Doubt)
			time.Sleep(10 * time.Second)
			p.set(errAway, false)
			m.FailureBy("c", "192.0.2.3", Doubt)
			want(t, m, "open")
			began := func() {
				t.Helper()
				if !m.Outage().Equal(first) || !m.LastServed().Equal(first) || !m.State().LastServed.Equal(first) {
					t.Errorf("it began %v after the first failure", m.Outage().Sub(first))
				}
			}
			began()
			time.Sleep(time.Hour)
			began()
			p.set(nil, false)
			until(t, m, "ramp")
			began()
			p.set(errAway, false)
			time.Sleep(time.Second)
			want(t, m, "open")
			began()
			p.set(nil, false)
			until(t, m, "closed")
			if !m.Outage().Equal(time.Now()) || !m.State().Since.IsZero() {
				t.Error("it has not ended")
			}
		})
	})
	for _, c := range []struct {
		rule           string
		served, noted  time.Duration // before the start; 0: unknown
		answer, probed bool          // the primary is heard of before it fails
		believed       bool
	}{
		{"nothing is known from before: the first failure", 0, 0, false, false, false},
		{"a restart into an outage: it goes on", time.Hour, time.Second, false, false, true},
		{"a restart at an outage's beginning", time.Second, time.Second, false, false, true},
		{"this process was away too long: not believed", 3 * time.Hour, 61 * time.Minute, false, false, false},
		{"when it was noted is not known: not believed", time.Hour, 0, false, false, false},
		{"from the future: not believed", -time.Hour, time.Second, false, false, false},
		{"somebody was answered since: another outage", time.Hour, time.Second, true, false, false},
		{"a probe was answered since: another outage", time.Hour, time.Second, false, true, false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(24 * time.Hour)
				start := time.Now()
				cfg := Config{ProbeServing: time.Hour}
				if c.served != 0 {
					cfg.LastServed = start.Add(-c.served)
				}
				if c.noted != 0 {
					cfg.LastNoted = start.Add(-c.noted)
				}
				p := &primary{t: t}
				cfg.Probe = p.probe
				m := New(cfg)
				if !m.Serving(99) {
					t.Error("a start without evidence is not serving")
				}
				if c.probed {
					go m.Run(t.Context())
					time.Sleep(time.Second)
				}
				if c.answer {
					m.Success("somebody", time.Millisecond)
					time.Sleep(time.Second)
				}
				failed := time.Now()
				for i := range 3 {
					m.FailureBy(fmt.Sprint(i), "192.0.2.1", Beyond)
				}
				want := failed
				if c.believed {
					want = cfg.LastServed
				}
				if !m.Outage().Equal(want) {
					t.Errorf("it began %v after the start, want %v", m.Outage().Sub(start), want.Sub(start))
				}
			})
		})
	}
}

func TestDeadlineFollowsThePrimary(t *testing.T) {
	for _, c := range []struct {
		rule     string
		answers  map[time.Duration]int
		min, max time.Duration
	}{
		{"nothing known: about a second", nil, 900 * time.Millisecond, 1100 * time.Millisecond},
		{"four answers say nothing", map[time.Duration]int{time.Minute: 4}, 900 * time.Millisecond, 1100 * time.Millisecond},
		{"a quick primary: the least", map[time.Duration]int{time.Millisecond: 1000}, 500 * time.Millisecond, 500 * time.Millisecond},
		{"400 ms: three times that", map[time.Duration]int{400 * time.Millisecond: 100}, 1200 * time.Millisecond, 1500 * time.Millisecond},
		{"one slow answer of a hundred does not count", map[time.Duration]int{10 * time.Millisecond: 99, 4 * time.Second: 1}, 500 * time.Millisecond, 500 * time.Millisecond},
		{"two of a hundred do", map[time.Duration]int{10 * time.Millisecond: 98, time.Second: 2}, 3 * time.Second, 3750 * time.Millisecond},
		{"a very slow one: the most", map[time.Duration]int{time.Hour: 100}, 5 * time.Second, 5 * time.Second},
		{"clocks that go backwards", map[time.Duration]int{-time.Hour: 100}, 500 * time.Millisecond, 500 * time.Millisecond},
	} {
		t.Run(c.rule, func(t *testing.T) {
			m := New(Config{})
			for d, n := range c.answers {
				for range n {
					m.Success("", d)
				}
			}
			if d := m.Deadline(); d < c.min || d > c.max {
				t.Errorf("%v, want %v to %v", d, c.min, c.max)
			}
		})
	}
	t.Run("it forgets after two spans, and keeps what it has over a quiet night", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := New(Config{})
			for range 100 {
				m.Success("", time.Second)
			}
			time.Sleep(8 * time.Hour)
			m.Success("", time.Millisecond)
			if d := m.Deadline(); d < 3*time.Second {
				t.Errorf("after the night %v", d)
			}
			for range 100 {
				m.Success("", time.Millisecond)
				time.Sleep(time.Second)
			}
			if d := m.Deadline(); d != 500*time.Millisecond {
				t.Errorf("after 100 quick seconds %v", d)
			}
		})
	})
	t.Run("every duration lies below the upper end of its bucket, by a quarter at most", func(t *testing.T) {
		for d := time.Duration(0); d < time.Hour; d += d/97 + 100*time.Microsecond {
			up := upper(bucket(d))
			if up <= d || d > time.Millisecond && up > d*5/4+time.Millisecond/4 {
				t.Fatalf("%v lies in the bucket up to %v", d, up)
			}
		}
	})
}

// BenchmarkRequest is what a request costs: deadline, sent, done, success.
func BenchmarkRequest(b *testing.B) {
	m := New(Config{})
	b.ReportAllocs()
	for b.Loop() {
		m.Serving(7)
		m.Deadline()
		done := m.Sent("grant", "192.0.2.1")
		m.Success("grant", done())
	}
}
