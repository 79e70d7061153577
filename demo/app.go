package demo

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	refreshEvery = 4 * time.Second // far more often than an application would: there is something to see
	maxVisitors  = 64
	maxNotes     = 200
	shownNotes   = 8
)

// app is the small application: it keeps its visitors' tokens fresh, and does not know that there is a backup.
type app struct {
	s *stage
	c *client

	wg sync.WaitGroup // refreshes under way

	mu       sync.Mutex // guards what follows, and what visitors hold
	visitors map[string]*visitor
	notes    []note
}

// visitor is one browser. id is what its cookie holds.
type visitor struct {
	id      string
	came    time.Time
	signIn  *signIn // under way
	tokens  *tokens // nil: not signed in
	since   time.Time
	ended   string // why the last session is over
	next    time.Time
	busy    bool
	primary int // refreshes answered by the primary
	backup  int
	failed  int
	slowest time.Duration
}

// note is one line of the page's log. visitor is "" where it concerns everybody.
type note struct {
	at      time.Time
	visitor string
	text    string
}

// note adds a line; mu is held.
func (a *app) note(visitor, format string, args ...any) {
	a.notes = append(a.notes, note{time.Now(), visitor, fmt.Sprintf(format, args...)})
	if len(a.notes) > maxNotes {
		a.notes = a.notes[len(a.notes)-maxNotes:]
	}
}

func (a *app) tell(visitor, format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.note(visitor, format, args...)
}

// visitor returns the browser with this cookie, or a new one.
func (a *app) visitor(id string) (v *visitor, isNew bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if v := a.visitors[id]; v != nil && id != "" {
		return v, false
	}
	if len(a.visitors) >= maxVisitors {
		var oldest *visitor
		for _, v := range a.visitors {
			if oldest == nil || v.came.Before(oldest.came) {
				oldest = v
			}
		}
		delete(a.visitors, oldest.id)
	}
	v = &visitor{id: randomText(), came: time.Now()}
	a.visitors[v.id] = v
	return v, true
}

// run refreshes what is due until ctx ends.
func (a *app) run(ctx context.Context) error {
	defer a.wg.Wait()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		a.mu.Lock()
		for _, v := range a.visitors {
			if v.tokens != nil && !v.busy && time.Now().After(v.next) {
				v.busy = true
				token := v.tokens.refresh
				a.wg.Go(func() { a.refresh(ctx, v, token) })
			}
		}
		a.mu.Unlock()
	}
}

// refresh does one refresh and verifies what came.
func (a *app) refresh(ctx context.Context, v *visitor, token string) {
	t, err := a.c.refreshed(ctx, token)
	if err == nil {
		err = a.c.verify(ctx, t)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	v.busy = false
	v.next = time.Now().Add(refreshEvery)
	if v.tokens == nil || v.tokens.refresh != token {
		return // signed out meanwhile
	}
	switch {
	case ctx.Err() != nil:
	case refused(err):
		v.tokens, v.ended = nil, "The session was revoked: the refresh token was refused (invalid_grant)."
		a.note(v.id, "The refresh was refused: this session is over.")
	case err != nil:
		v.failed++
		a.note(v.id, "A refresh failed, and will be tried again.")
	default:
		who := "the primary"
		if t.byBackup() {
			who = "the backup"
			v.backup++
		} else {
			v.primary++
		}
		v.slowest = max(v.slowest, t.latency)
		if t.byBackup() != v.tokens.byBackup() {
			a.note(v.id, "From now on %s answers; this refresh took %d ms.", who, t.latency.Milliseconds())
		}
		v.tokens = t
	}
}

// soon makes a visitor's next refresh due.
func (a *app) soon(v *visitor) {
	a.mu.Lock()
	v.next = time.Time{}
	a.mu.Unlock()
}

// hold puts a sign-in's tokens into a visitor's session.
func (a *app) hold(v *visitor, t *tokens) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v.tokens, v.since, v.ended, v.signIn = t, time.Now(), "", nil
	v.next = time.Now().Add(refreshEvery)
	v.primary, v.backup, v.failed, v.slowest = 0, 0, 0, 0
	a.note(v.id, "%s signed in at %s.", t.person(), a.s.primary.name)
}

// person is how the page calls the person.
func (t *tokens) person() string {
	for _, n := range []string{t.claims.Name, t.claims.Username, t.id.Subject} {
		if n != "" {
			return n
		}
	}
	return "somebody"
}
