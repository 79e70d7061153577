package health

import "time"

// State is what a person wants to see. It names nobody.
type State struct {
	Breaker string `json:"breaker"` // "closed", "open", "half-open", "ramp", "halted"
	Share   int    `json:"primarySharePercent"`
	// Since is when the outage began; it stays until the primary has its full share again.
	Since      time.Time `json:"outageSince,omitzero"`
	Cause      string    `json:"cause,omitempty"`     // of the last opening: "probe", "failures", "silence"
	Opens      int       `json:"opens"`               // since the start
	LastServed time.Time `json:"lastServed,omitzero"` // as Monitor.LastServed
	DeadlineMS int64     `json:"deadlineMilliseconds"`
	Failing    int       `json:"failingGrants"` // since the last answer to anybody
	// ProbeError is the last probe's, "" where it was good.
	ProbeError string    `json:"probeError,omitempty"`
	Probed     time.Time `json:"probed,omitzero"`
	// Refused and Returned count the returning sessions of a ramp.
	Refused  int `json:"refused"`
	Returned int `json:"returned"`
	// Alarm is what an operator must see: "returning_sessions_refused" (the ramp is halted; Resume lets it go on) or
	// "probe_disagrees" (probes fail while sign-ins are answered: the probe is wrong).
	Alarm string `json:"alarm,omitempty"`
}

// State returns the state now.
func (m *Monitor) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.ramp
	m.failures.expire(m.c.Now())
	s := State{
		Breaker: m.breaker.State().String(), Share: int(m.share.Load()), Since: m.began, Cause: m.cause, Opens: m.opens,
		LastServed: m.lastServed(), DeadlineMS: m.deadline().Milliseconds(), Failing: len(m.failures.list), Probed: m.probing.ended,
		Refused: len(r.refused), Returned: len(r.refused) + len(r.accepted),
	}
	if m.probing.err != nil {
		s.ProbeError = m.probing.err.Error()
		s.ProbeError = s.ProbeError[:min(len(s.ProbeError), 256)]
	}
	switch {
	case r.halted:
		s.Breaker, s.Alarm = "halted", "returning_sessions_refused"
	case r.on:
		s.Breaker = "ramp"
	case m.probing.disagree >= disagreements:
		s.Alarm = "probe_disagrees"
	}
	return s
}

// Share is the percentage of sessions that the primary gets; 0 while the breaker is open.
func (m *Monitor) Share() int { return int(m.share.Load()) }
