package health

import "time"

// maxHold is the longest that a primary which keeps failing in its ramp must wait for the next; with GoodProbes and the
// ramp itself it stays below 30 s.
const maxHold = 12 * time.Second

// maxReturned bounds what a ramp remembers.
const maxReturned = 1 << 14

// ramp is the way back.
type ramp struct {
	on      bool
	step    int // index in Config.Ramp
	stepped time.Time
	ended   time.Time // when the last one reached full share
	failed  int       // ramps in a row that ended in another opening
	hold    time.Time // no good probe counts before

	halted      bool
	lastRefused time.Time
	accepted    map[string]struct{} // grants that came back, since the ramp began or went on
	refused     map[string]string   // the same, and whose they are
	counted     map[string]struct{} // grants whose refusal was counted in this ramp
}

func (r *ramp) begin(now time.Time) {
	r.on, r.halted, r.step, r.stepped = true, false, 0, now
	r.forget()
	clear(r.counted)
}

func (r *ramp) forget() {
	clear(r.refused)
	clear(r.accepted)
}

func (r *ramp) end(now time.Time) {
	r.on, r.halted, r.ended = false, false, now
	r.forget()
}

// reopened notes that the breaker has opened. Where that ended a ramp, or came soon after one, the next must wait, twice
// as long each time.
func (r *ramp) reopened(now time.Time, c Config) {
	if r.on || !r.ended.IsZero() && now.Sub(r.ended) < c.Window {
		r.failed++
		r.hold = now.Add(min(maxHold, time.Second<<min(r.failed, 8)))
	} else {
		r.failed, r.hold = 0, now
	}
	r.on, r.halted = false, false
	r.forget()
}

// climb takes the next step where it is time; m.mu is held, and the last probe was good.
func (m *Monitor) climb(now time.Time) {
	r := &m.ramp
	if r.halted && now.Sub(r.lastRefused) >= m.c.HaltWindow {
		r.resume(now)
	}
	if r.on && !r.halted && now.Sub(r.stepped) >= m.c.RampStep {
		r.step++
		r.stepped = now
		m.step(now)
	}
}

func (r *ramp) resume(now time.Time) {
	r.halted, r.stepped = false, now
	r.forget()
}

// Accepted tells that the primary went on with a returning session that the backup knows.
func (m *Monitor) Accepted(grant string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.ramp
	if !r.on {
		return
	}
	if _, ok := r.refused[grant]; ok {
		return
	}
	if len(r.accepted) >= maxReturned {
		r.forget()
	}
	r.accepted[grant] = struct{}{}
	if r.halted && !r.doubtful(m.c) { // they were a few among many
		r.halted, r.stepped = false, m.c.Now()
	}
}

// Refused tells that the primary refused a returning session that it approved before, of a person (a stable name; "": not known).
// Where enough of the returning are refused the ramp halts: a primary that was restored from an old copy, or came back with
// other keys, must not end everybody's session. Nobody halts it alone: a session counts once, and those of one person are one.
func (m *Monitor) Refused(grant, person string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.ramp
	if !r.on {
		return
	}
	if _, ok := r.counted[grant]; ok {
		return
	}
	if len(r.counted) >= maxReturned {
		clear(r.counted)
		r.forget()
	}
	delete(r.accepted, grant)
	r.counted[grant], r.refused[grant] = struct{}{}, person
	r.lastRefused = m.c.Now()
	r.halted = r.halted || r.doubtful(m.c)
}

// doubtful says whether too many of the returning were refused.
func (r *ramp) doubtful(c Config) bool {
	n := len(r.refused)
	if n < c.Grants || n*100 < c.RefusedShare*(n+len(r.accepted)) {
		return false
	}
	persons := map[string]struct{}{}
	for _, p := range r.refused {
		persons[p] = struct{}{}
		if len(persons) >= c.Grants {
			return true
		}
	}
	return false
}

// Resume lets a halted ramp go on: an operator says that the refusals are right. It is false where none is halted.
func (m *Monitor) Resume() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ramp.halted {
		return false
	}
	m.ramp.resume(m.c.Now())
	return true
}
