package backup

import (
	"sync"
	"time"

	"understudy/session"
)

// absent remembers for a short while what is not kept, so that it is not looked for at every exchange. Where another process keeps it
// meanwhile, that is seen when the while is over. The zero value is ready.
type absent struct {
	mu         sync.Mutex // guards what follows
	young, old map[session.ID]struct{}
	turned     time.Time
}

const (
	absentFor = 15 * time.Second // and twice that at most
	maxAbsent = 16_384           // of each generation
)

func (a *absent) has(id session.ID, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn(now)
	if _, ok := a.young[id]; ok {
		return true
	}
	_, ok := a.old[id]
	return ok
}

func (a *absent) add(id session.ID, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn(now)
	if a.young == nil {
		a.young = map[session.ID]struct{}{}
	}
	if len(a.young) < maxAbsent {
		a.young[id] = struct{}{}
	}
}

func (a *absent) remove(id session.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.young, id)
	delete(a.old, id)
}

// turn lets what is old go. a.mu is held.
func (a *absent) turn(now time.Time) {
	switch since := now.Sub(a.turned); {
	case since < absentFor && since >= 0:
	case since < 2*absentFor && since >= 0:
		a.old, a.young, a.turned = a.young, nil, now
	default:
		a.old, a.young, a.turned = nil, nil, now
	}
}
