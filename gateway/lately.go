package gateway

import (
	"sync"
	"time"

	"understudy/session"
)

// lately remembers what was done a short while ago, so that it is not done for every request. It is bounded: where it is full
// it forgets, and things are done once more.
type lately struct {
	every time.Duration
	mu    sync.Mutex // guards done
	done  map[session.ID]time.Time
}

// maxLately bounds what is remembered.
const maxLately = 10_000

func newLately(every time.Duration) *lately {
	return &lately{every: every, done: map[session.ID]time.Time{}}
}

// due says whether something is to be done now, and takes it for done.
func (l *lately) due(id session.ID, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.done[id]; ok && now.Sub(at) < l.every {
		return false
	}
	if len(l.done) >= maxLately {
		clear(l.done)
	}
	l.done[id] = now
	return true
}

// note takes it for done now.
func (l *lately) note(id session.ID, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.done) >= maxLately {
		clear(l.done)
	}
	l.done[id] = now
}

// recent says whether it was done a short while ago.
func (l *lately) recent(id session.ID, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.done[id]
	return ok && now.Sub(at) < l.every
}

// forget takes it for not done.
func (l *lately) forget(id session.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.done, id)
}
