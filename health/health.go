// Package health says whether the primary serves: a breaker for each tenant and class of endpoints, probes that watch
// for its death and its return, and a ramp back.
//
// It decides from what it is told and from its own probe. It refuses to let one requester's doing count as the
// primary's failure (design, law 1).
package health

import (
	"context"
	"sync"
	"time"
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
	// Probe does a real protocol exchange with the primary. An error means that it does not serve.
	Probe func(context.Context) error
	// DeadlineMin and DeadlineMax bound the wait for a reply where the backup could answer; 0: 500 ms and 5 s.
	DeadlineMin, DeadlineMax time.Duration
	// ProbeServing and ProbeAway are the intervals of probes; 0: 5 s and 500 ms.
	ProbeServing, ProbeAway time.Duration
	// Grants is how many distinct grants must fail for the breaker to open without a probe; 0: 3.
	Grants int
	// Ramp are the shares of traffic, in percent, that go back step by step; nil: 10, 25, 50, 100.
	Ramp []int
	// RampStep is how long a step lasts; 0: 3 s.
	RampStep time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Monitor watches one tenant's class of endpoints.
type Monitor struct {
	c Config

	mu       sync.Mutex // guards what follows
	open     bool
	since    time.Time           // the beginning of the outage
	share    int                 // percent of traffic that the primary gets while not open
	step     int                 // index in Ramp while ramping, len(Ramp) otherwise
	stepped  time.Time           // when the step began
	failing  map[string]struct{} // distinct grants that failed since the last success
	latency  time.Duration       // smoothed
	opened   chan struct{}       // closed when the breaker opens
	probing  chan struct{}       // non-nil while a probe is under way
	probeErr error
	probed   time.Time
}

// New returns a monitor that believes that the primary serves.
func New(c Config) *Monitor {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.DeadlineMin, 500*time.Millisecond)
	def(&c.DeadlineMax, 5*time.Second)
	def(&c.ProbeServing, 5*time.Second)
	def(&c.ProbeAway, 500*time.Millisecond)
	def(&c.RampStep, 3*time.Second)
	if c.Grants == 0 {
		c.Grants = 3
	}
	if c.Ramp == nil {
		c.Ramp = []int{10, 25, 50, 100}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Monitor{c: c, share: 100, step: len(c.Ramp), failing: map[string]struct{}{}, opened: make(chan struct{}), latency: 50 * time.Millisecond}
}

// Serving says whether a session goes to the primary. hash is stable for the session.
func (m *Monitor) Serving(hash uint32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open {
		return false
	}
	return int(hash%100) < m.share
}

// Outage is when the outage began; while the primary serves, it is now.
func (m *Monitor) Outage() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since.IsZero() {
		return m.c.Now()
	}
	return m.since
}

// Deadline is how long to wait for the first byte where the backup could answer.
func (m *Monitor) Deadline() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return min(max(8*m.latency, m.c.DeadlineMin), m.c.DeadlineMax)
}

// Opened is closed when the breaker opens: what waits for the primary then need not wait longer.
func (m *Monitor) Opened() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opened
}

// Success tells of an answer of the primary.
func (m *Monitor) Success(grant string, latency time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.latency += (latency - m.latency) / 8
	if !m.open {
		clear(m.failing)
	}
}

// Failure tells of an unexpected failure that is not ours. Of one grant only one counts.
func (m *Monitor) Failure(grant string, o Origin) {
	if o == Ours {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failing[grant] = struct{}{}
	if len(m.failing) >= m.c.Grants {
		m.trip()
	}
}

// Elsewhere says whether another grant's request failed since the last success, or the breaker is open.
func (m *Monitor) Elsewhere(grant string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, mine := m.failing[grant]
	return m.open || len(m.failing) > 1 || len(m.failing) == 1 && !mine
}

// trip opens the breaker; m.mu is held.
func (m *Monitor) trip() {
	if m.open {
		return
	}
	m.open = true
	if m.since.IsZero() {
		m.since = m.c.Now()
	}
	m.step, m.share = 0, 0
	close(m.opened)
}

// Suspect asks the primary now, or joins the question that is under way, and says whether it fails.
func (m *Monitor) Suspect(ctx context.Context) bool {
	m.mu.Lock()
	if m.open {
		m.mu.Unlock()
		return true
	}
	if m.probing == nil && m.c.Now().Sub(m.probed) < 200*time.Millisecond {
		defer m.mu.Unlock()
		return m.probeErr != nil
	}
	done := m.probe()
	m.mu.Unlock()
	select {
	case <-ctx.Done():
		return false
	case <-done:
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.probeErr != nil
}

// probe starts a probe where none is under way; m.mu is held. The channel closes when it has ended.
func (m *Monitor) probe() <-chan struct{} {
	if m.probing != nil {
		return m.probing
	}
	done := make(chan struct{})
	m.probing = done
	go func() {
		// Bounded, so that it ends by itself.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		err := m.c.Probe(ctx)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.probing, m.probeErr, m.probed = nil, err, m.c.Now()
		m.probeEnded(err)
		close(done)
	}()
	return done
}

func (m *Monitor) probeEnded(err error) {
	switch {
	case err != nil:
		m.trip()
	case m.open:
		m.open = false
		m.opened = make(chan struct{})
		clear(m.failing)
		m.step, m.share, m.stepped = 0, m.c.Ramp[0], m.c.Now()
	case m.step < len(m.c.Ramp):
		if m.c.Now().Sub(m.stepped) >= m.c.RampStep {
			m.step++
			m.stepped = m.c.Now()
			if m.step < len(m.c.Ramp) {
				m.share = m.c.Ramp[m.step]
			}
			if m.share == 100 {
				m.step, m.since = len(m.c.Ramp), time.Time{}
			}
		}
	}
}

// Run probes until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	for {
		m.mu.Lock()
		d := m.c.ProbeServing
		if m.open || m.step < len(m.c.Ramp) {
			d = m.c.ProbeAway
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(d):
		}
		m.mu.Lock()
		done := m.probe()
		m.mu.Unlock()
		<-done
	}
}

// State is what a person wants to see.
type State struct {
	Breaker string    `json:"breaker"` // "closed", "open", "ramp"
	Share   int       `json:"primarySharePercent"`
	Since   time.Time `json:"outageSince,omitzero"`
}

// State returns the state now.
func (m *Monitor) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := State{Breaker: "closed", Share: m.share, Since: m.since}
	switch {
	case m.open:
		s.Breaker = "open"
	case m.step < len(m.c.Ramp):
		s.Breaker = "ramp"
	}
	return s
}
