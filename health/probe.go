package health

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// probeGap is the least time between the beginnings of two probes: what one requester can cause.
	probeGap = 200 * time.Millisecond
	// hastyDeadline is the least deadline of a probe that was asked for in doubt.
	hastyDeadline = 750 * time.Millisecond
	// disagreements is how many probes in a row must fail beside answered sign-ins for an alarm.
	disagreements = 3
)

// ErrOurs is wrapped by a probe that failed for want of something of this machine's: it says nothing about the primary.
var ErrOurs = errors.New("the probe could not be sent")

// probing is what is known from probes.
type probing struct {
	hasty        bool // the next one was asked for in doubt
	begun, ended time.Time
	err          error
	failing      bool          // the last one says that the primary does not serve
	disagree     int           // probes in a row that failed while somebody was answered
	next         chan struct{} // closed when the next one ends
}

// wait is closed when the next probe ends; m.mu is held.
func (p *probing) wait() <-chan struct{} {
	if p.next == nil {
		p.next = make(chan struct{})
	}
	return p.next
}

// suspect asks for a probe as soon as one may be; m.mu is held.
func (m *Monitor) suspect() {
	m.probing.hasty = true
	poke(m.kick)
}

// Suspect asks the primary now, or joins the question that is under way, and says whether it fails. It is false where
// ctx or Run ends first, and where somebody was answered while the probe failed.
func (m *Monitor) Suspect(ctx context.Context) bool {
	m.mu.Lock()
	if !m.breaker.IsClosed() {
		m.mu.Unlock()
		return true
	}
	if p := &m.probing; p.failing && m.c.Now().Sub(p.ended) < probeGap {
		m.mu.Unlock()
		return true
	}
	m.suspect()
	opened, ended := m.opened, m.probing.wait()
	m.mu.Unlock()
	select {
	case <-opened:
		return true
	case <-ended:
	case <-ctx.Done():
		return false
	case <-m.ended:
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.probing.failing || !m.breaker.IsClosed()
}

// Run probes and watches until ctx ends, and returns when all that it started has ended. It is called once.
func (m *Monitor) Run(ctx context.Context) error {
	defer close(m.ended)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.listen(ctx) })
	next := time.NewTimer(0) // a start into an outage is noticed at once
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		case <-m.kick:
		}
		m.mu.Lock()
		gap := m.probing.begun.Add(probeGap).Sub(m.c.Now())
		m.mu.Unlock()
		if gap > 0 && !sleep(ctx, gap) {
			return nil
		}
		m.probe(ctx)
		next.Reset(m.interval())
	}
}

// interval is the time to the next probe, jittered so that many monitors of one primary do not ask together.
func (m *Monitor) interval() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.c.ProbeServing
	if !m.breaker.IsClosed() || m.ramp.on || m.probing.err != nil {
		d = m.c.ProbeAway
	}
	return d*4/5 + rand.N(d*2/5+1)
}

// probe asks the primary, and once more where somebody was answered while the question failed: the primary may have died
// in between. Only Run calls it, so that probes never overlap.
func (m *Monitor) probe(ctx context.Context) {
	err := m.ask(ctx)
	if err != nil && ctx.Err() == nil && m.answered() {
		err = m.ask(ctx)
	}
	if ctx.Err() != nil {
		return // the end of this process says nothing about the primary
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.probed(err)
	if m.probing.next != nil {
		close(m.probing.next)
		m.probing.next = nil
	}
}

func (m *Monitor) ask(ctx context.Context) error {
	m.mu.Lock()
	limit := m.c.ProbeDeadline
	if m.probing.hasty {
		limit = min(limit, max(m.pace(), hastyDeadline))
	}
	m.probing.hasty = false
	m.probing.begun = m.c.Now()
	m.mu.Unlock()
	if m.c.Probe == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return m.c.Probe(ctx)
}

// answered says whether somebody was answered since the last probe began. In a ramp it does not matter: a waking primary
// that fails a probe is not pressed.
func (m *Monitor) answered() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sinceProbe()
}

func (m *Monitor) sinceProbe() bool {
	return m.breaker.IsClosed() && !m.ramp.on && m.served.After(m.probing.begun)
}

// probed draws the consequences of a probe; m.mu is held.
func (m *Monitor) probed(err error) {
	now := m.c.Now()
	p := &m.probing
	if errors.Is(err, ErrOurs) {
		p.ended, p.err, p.failing = now, err, false
		return
	}
	answered := m.sinceProbe()
	p.ended, p.err, p.failing = now, err, err != nil && !answered
	if err == nil || !answered {
		p.disagree = 0
	}
	switch {
	case m.breaker.IsClosed() && p.failing:
		m.open("probe")
	case m.breaker.IsClosed() && err != nil:
		p.disagree++
	case m.breaker.IsClosed():
		m.served = now
		m.failures.resumed = time.Time{}
		m.climb(now)
	case err != nil:
		m.breaker.RecordFailure()
	case !now.Before(m.ramp.hold):
		if m.breaker.IsOpen() {
			m.breaker.HalfOpen()
		}
		m.breaker.RecordSuccess()
		if m.breaker.IsClosed() {
			m.returning()
		}
	}
}
