package health

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// Origin is whose doing a failure is (design, law 1).
type Origin int

const (
	Ours   Origin = iota // never counts
	Beyond               // the primary's, beyond doubt
	Doubt                // could be the requester's doing
)

// Config of a Monitor. Zero values are defaults.
type Config struct {
	// Probe does a real protocol exchange with the primary and returns when its context ends. An error means that the
	// primary does not serve; its text is shown to operators. nil: there is no probe, and time alone closes the breaker.
	Probe func(context.Context) error
	// DeadlineMin and DeadlineMax bound the wait for a reply where the backup could answer; 0: 500 ms and 5 s.
	DeadlineMin, DeadlineMax time.Duration
	// ProbeServing and ProbeAway are the intervals of probes, ± 20 % each time; 0: 5 s and 500 ms.
	ProbeServing, ProbeAway time.Duration
	// ProbeDeadline is when a probe has failed; 0: 2 s. One that is asked for in doubt gets less (see probeWait).
	ProbeDeadline time.Duration
	// Grants is how many distinct grants must fail for the breaker to open without a probe; 0: 3.
	Grants int
	// Requesters is how many distinct requesters they must come from; 0: 3.
	Requesters int
	// Window is how long a failure counts; 0: 1 min.
	Window time.Duration
	// GoodProbes is how many probes in a row must be good before traffic returns; 0: 3.
	GoodProbes int
	// Ramp are the shares of traffic, in percent, that go back step by step; nil: 10, 25, 50, 100.
	Ramp []int
	// RampStep is how long a step lasts; 0: 3.5 s.
	RampStep time.Duration
	// RefusedShare is the share of returning sessions, in percent, whose refusal halts the ramp; 0: 20.
	RefusedShare int
	// HaltWindow is how long there must be no such refusal for a halted ramp to go on by itself; 0: 30 s.
	HaltWindow time.Duration
	// LastServed and LastNoted are what [Monitor.LastServed] said before a restart and when it was asked; zero: unknown.
	LastServed, LastNoted time.Time
	// MaxAbsence is how much later than LastNoted a start may be for LastServed to be believed; 0: 1 h.
	MaxAbsence time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	set(&c.DeadlineMin, 500*time.Millisecond)
	set(&c.DeadlineMax, 5*time.Second)
	set(&c.ProbeServing, 5*time.Second)
	set(&c.ProbeAway, 500*time.Millisecond)
	set(&c.ProbeDeadline, 2*time.Second)
	set(&c.Grants, 3)
	set(&c.Requesters, 3)
	set(&c.Window, time.Minute)
	set(&c.GoodProbes, 3)
	set(&c.RampStep, 3500*time.Millisecond)
	set(&c.RefusedShare, 20)
	set(&c.HaltWindow, 30*time.Second)
	set(&c.MaxAbsence, time.Hour)
	if len(c.Ramp) == 0 {
		c.Ramp = []int{10, 25, 50, 100}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func set[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Monitor watches one tenant's class of endpoints. Its methods may be called at any time from anywhere; Run must be
// running for probes and silence to count.
type Monitor struct {
	c     Config
	share atomic.Int32 // percent of sessions that the primary gets
	kick  chan struct{}
	watch chan struct{}
	ended chan struct{} // closed when Run has ended

	mu       sync.Mutex // guards what follows
	breaker  circuitbreaker.CircuitBreaker[any]
	opened   chan struct{} // closed when the breaker opens; another one when it closes
	began    time.Time     // of the outage; zero: there is none
	served   time.Time     // when the primary was last seen serving
	cause    string        // of the last opening
	opens    int
	failures evidence
	flights  flights
	latency  latencies
	probing  probing
	ramp     ramp
}

// New returns a monitor that believes that the primary serves.
func New(c Config) *Monitor {
	c = c.withDefaults()
	m := &Monitor{
		c: c, kick: make(chan struct{}, 1), watch: make(chan struct{}, 1), ended: make(chan struct{}), opened: make(chan struct{}),
		breaker:  circuitbreaker.NewBuilder[any]().WithSuccessThreshold(uint(c.GoodProbes)).Build(),
		failures: evidence{perRequester: c.Grants, window: c.Window},
		flights:  flights{row: 1},
		ramp:     ramp{refused: map[string]string{}, accepted: map[string]struct{}{}, counted: map[string]struct{}{}},
	}
	if now := c.Now(); !c.LastServed.IsZero() && !c.LastServed.After(now) && now.Sub(c.LastNoted) <= c.MaxAbsence {
		m.served = c.LastServed
	}
	m.failures.resumed = m.served
	m.share.Store(100)
	return m
}

// Serving says whether a session goes to the primary. hash is stable for the session.
func (m *Monitor) Serving(hash uint32) bool { return int32(hash%100) < m.share.Load() }

// Outage is when the outage began; while the primary serves, it is now. An artifact that ended before is not extended.
func (m *Monitor) Outage() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.began.IsZero() {
		return m.c.Now()
	}
	return m.began
}

// LastServed is when the primary was last seen serving, or, in an outage, when that began. Whoever keeps it across a
// restart gives it back in Config with the time at which it was asked.
func (m *Monitor) LastServed() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lastServed()
}

func (m *Monitor) lastServed() time.Time {
	if !m.began.IsZero() {
		return m.began
	}
	return m.served
}

// Deadline is how long to wait for the first byte where the backup could answer: three times what 99 of 100 recent
// answers took, within the bounds.
func (m *Monitor) Deadline() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.deadline()
}

func (m *Monitor) deadline() time.Duration {
	return min(max(3*m.latency.high(), m.c.DeadlineMin), m.c.DeadlineMax)
}

// pace is how long the primary may answer nobody at all before that is silence: five times what half of the recent answers
// took. Unlike the deadline it says nothing about the one request that is slow. m.mu is held.
func (m *Monitor) pace() time.Duration {
	return min(max(5*m.latency.middle(), m.c.DeadlineMin), m.deadline())
}

// Opened is closed when the breaker opens: what waits for the primary then need not wait longer. While it is open, the
// channel stays closed.
func (m *Monitor) Opened() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opened
}

// Sent tells that a request of a grant goes to the primary. done must be called once, when that exchange has ended in
// whatever way, and returns how long it took; until then the request's silence counts once it is overdue. requester is the
// client's IP address, as honest as it is known.
func (m *Monitor) Sent(grant, requester string) (done func() time.Duration) {
	now := m.c.Now()
	f := &flight{grant: grant, requester: requester, sent: now}
	m.mu.Lock()
	if m.breaker.IsClosed() {
		m.flights.add(f)
		if !m.flights.watched {
			m.flights.watched = true
			poke(m.watch)
		}
	}
	m.mu.Unlock()
	return func() time.Duration {
		m.mu.Lock()
		m.flights.remove(f)
		m.mu.Unlock()
		return m.c.Now().Sub(now)
	}
}

// Success tells of an answer of the primary, which a refusal is too. latency is from sending to answer, without what the
// client took to send. An empty grant counts for the latency alone: an answer that anybody can provoke (an error reply to
// an artifact that is not known) must not hide that those who signed in are failed.
func (m *Monitor) Success(grant string, latency time.Duration) {
	now := m.c.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.latency.add(now, latency)
	if m.breaker.IsClosed() && grant != "" {
		m.served = now
		m.failures.clear()
		m.flights.forget()
	}
}

// Failure is FailureBy where the requester is not known; all such failures together are one requester's.
func (m *Monitor) Failure(grant string, o Origin) { m.FailureBy(grant, "", o) }

// FailureBy tells of an unexpected failure. Of one grant only one counts.
func (m *Monitor) FailureBy(grant, requester string, o Origin) {
	if o != Beyond && o != Doubt {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.breaker.IsClosed() {
		return
	}
	m.failures.add(failure{grant: grant, requester: Network(requester), at: m.c.Now(), beyond: o == Beyond})
	m.weigh("failures")
	if o == Beyond && m.breaker.IsClosed() {
		m.suspect()
	}
}

// Elsewhere is ElsewhereBy for the requester whose failure of this grant was told.
func (m *Monitor) Elsewhere(grant string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.elsewhere(grant, m.failures.requester(grant))
}

// ElsewhereBy says whether a request of another grant and another requester failed since the last answer to anybody, or
// the breaker is open.
func (m *Monitor) ElsewhereBy(grant, requester string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.elsewhere(grant, Network(requester))
}

func (m *Monitor) elsewhere(grant, requester string) bool {
	if !m.breaker.IsClosed() {
		return true
	}
	m.failures.expire(m.c.Now())
	return slices.ContainsFunc(m.failures.list, func(f failure) bool { return f.grant != grant && f.requester != requester })
}

// weigh opens the breaker where the evidence is enough, and asks the probe where only the requesters are too few; m.mu
// is held.
func (m *Monitor) weigh(cause string) {
	grants, requesters, beyond := m.failures.count(m.c.Now())
	switch {
	case beyond >= m.c.Grants, grants >= m.c.Grants && requesters >= m.c.Requesters:
		m.open(cause)
	case grants >= m.c.Grants:
		m.suspect()
	}
}

// open opens the breaker; m.mu is held.
func (m *Monitor) open(cause string) {
	if !m.breaker.IsClosed() {
		return
	}
	m.breaker.Open()
	now := m.c.Now()
	if m.began.IsZero() {
		m.began = m.failures.first(now)
	}
	m.cause = cause
	m.opens++
	m.ramp.reopened(now, m.c)
	m.share.Store(0)
	m.failures.clear()
	m.flights.forget()
	close(m.opened)
	poke(m.kick) // the interval of probes is another one now
}

// returning begins the ramp when the breaker has closed; m.mu is held.
func (m *Monitor) returning() {
	now := m.c.Now()
	m.opened = make(chan struct{})
	m.failures.clear()
	m.flights.forget()
	m.ramp.begin(now)
	m.step(now)
}

// step sets the share of the ramp's present step, or ends the ramp; m.mu is held.
func (m *Monitor) step(now time.Time) {
	share := m.c.Ramp[min(m.ramp.step, len(m.c.Ramp)-1)]
	if m.ramp.step >= len(m.c.Ramp)-1 || share >= 100 {
		share = 100
		m.ramp.end(now)
		m.began, m.served = time.Time{}, now
	}
	m.share.Store(int32(share))
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
