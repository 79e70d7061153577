package health

import (
	"context"
	"time"
)

// flight is a request that has no answer yet.
type flight struct {
	grant, requester string
	sent             time.Time
	prev, next       *flight
	row              uint64 // of flights when it was added; 0: it is in none
}

// flights are the requests that were sent since the last answer to anybody, oldest first. One that was sent before that
// answer is slow, which is no silence.
type flights struct {
	first, last *flight
	row         uint64
	watched     bool // the watcher knows that there is something to wait for
}

// forget begins a new row.
func (l *flights) forget() {
	l.first, l.last = nil, nil
	l.row++
}

func (l *flights) add(f *flight) {
	f.row, f.prev = l.row, l.last
	if l.last == nil {
		l.first = f
	} else {
		l.last.next = f
	}
	l.last = f
}

func (l *flights) remove(f *flight) {
	if f.row != l.row {
		return
	}
	if f.prev == nil {
		l.first = f.next
	} else {
		f.prev.next = f.next
	}
	if f.next == nil {
		l.last = f.prev
	} else {
		f.next.prev = f.prev
	}
	f.row, f.prev, f.next = 0, nil, nil
}

// overdue makes failures of the requests that wait too long, and returns how long to wait for the next; ok is false
// where there is none. m.mu is held.
func (m *Monitor) overdue(now time.Time) (wait time.Duration, ok bool) {
	limit, found := m.pace(), false
	for f := m.flights.first; f != nil; f = m.flights.first {
		if left := limit - now.Sub(f.sent); left > 0 {
			wait, ok = left, true
			break
		}
		m.flights.remove(f)
		m.failures.add(failure{grant: f.grant, requester: Network(f.requester), at: now})
		found = true
	}
	if found {
		m.weigh("silence")
		m.suspect()
	}
	return wait, ok
}

// listen watches for silence until ctx ends.
func (m *Monitor) listen(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.watch:
		}
		for {
			m.mu.Lock()
			wait, ok := m.overdue(m.c.Now())
			m.flights.watched = ok
			m.mu.Unlock()
			if !ok {
				break
			}
			if !sleep(ctx, wait) {
				return
			}
		}
	}
}

// sleep is false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
