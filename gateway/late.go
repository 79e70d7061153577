package gateway

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"time"

	"understudy/session"
)

// late owns what outlives a client's request: exchanges whose reply may still come, locks on artifacts, and which
// grants have used their one doubt.
type late struct {
	g *Gateway

	mu     sync.Mutex // guards what follows
	locks  map[session.ID]*turn
	flying map[session.ID]int // exchanges under way, by the presented artifact
	doubts map[string]time.Time
	wg     sync.WaitGroup
}

type turn struct {
	free    chan struct{} // holds one token while nobody has the turn
	waiting int
}

func newLate(g *Gateway) *late {
	return &late{g: g, locks: map[session.ID]*turn{}, flying: map[session.ID]int{}, doubts: map[string]time.Time{}}
}

// run waits for ctx, and then a moment for the replies that are still under way.
func (l *late) run(ctx context.Context) error {
	<-ctx.Done()
	done := make(chan struct{})
	go func() { l.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
	}
	return nil
}

// lock serialises the uses of one artifact. It returns nil when ctx ends first.
func (l *late) lock(ctx context.Context, id session.ID) (unlock func()) {
	l.mu.Lock()
	t := l.locks[id]
	if t == nil {
		t = &turn{free: make(chan struct{}, 1)}
		t.free <- struct{}{}
		l.locks[id] = t
	}
	t.waiting++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		if t.waiting--; t.waiting == 0 {
			delete(l.locks, id)
		}
		l.mu.Unlock()
	}
	select {
	case <-t.free:
	case <-ctx.Done():
		leave()
		return nil
	}
	return func() {
		t.free <- struct{}{}
		leave()
	}
}

// begin notes that an exchange with an artifact is under way.
func (l *late) begin(id session.ID) (finish func()) {
	l.mu.Lock()
	l.flying[id]++
	l.mu.Unlock()
	l.wg.Add(1)
	return sync.OnceFunc(func() {
		l.mu.Lock()
		if l.flying[id]--; l.flying[id] <= 0 {
			delete(l.flying, id)
		}
		l.mu.Unlock()
		l.wg.Done()
	})
}

// inFlight says whether the reply to an exchange that is kept as pending may still come: it is under way here, or it
// is young enough to be so at another gateway.
func (l *late) inFlight(id session.ID, s *session.Successor) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flying[id] > 0
}

// doubtLifetime is how long a grant's one doubt stays used.
const doubtLifetime = time.Hour

// firstDoubt is true once for a grant: the one time that a failure which could be the requester's doing is answered
// without anybody else's failing.
func (l *late) firstDoubt(grant string) bool {
	now := l.g.c.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if t, ok := l.doubts[grant]; ok && now.Sub(t) < doubtLifetime {
		return false
	}
	if len(l.doubts) >= 100_000 {
		for k, t := range l.doubts {
			if now.Sub(t) >= doubtLifetime {
				delete(l.doubts, k)
			}
		}
		if len(l.doubts) >= 100_000 {
			return false
		}
	}
	l.doubts[grant] = now
	return true
}

func (t *trip) successorKey(token string) []byte {
	return t.g.c.Seal.ArtifactKey("successor", t.v.tenant.Name, t.v.issuer.ID, t.ask.Client.ID, token, nil)
}

func (t *trip) step(ctx context.Context, v session.Successor) {
	if err := t.g.c.Backup.Step(context.WithoutCancel(ctx), t.v.tenant.Name, t.place, t.g.c.Now().UnixNano(), v); err != nil {
		t.g.c.Log.Error("what is known of an exchange without a reply is not kept", "tenant", t.v.tenant.Name, "state", v.State, "error", err)
	}
}

// keepPending notes, before the client is answered, that a reply of the primary may still come.
func (t *trip) keepPending(sent time.Time) {
	t.step(t.out.Context(), session.Successor{State: session.Pending, At: sent.UnixNano()})
}

// ambiguous notes that the primary may have rotated the token and the reply is lost.
func (t *trip) ambiguous(ctx context.Context, sent time.Time) {
	t.g.Counts.Ambiguous(t.v.tenant.Name)
	t.step(ctx, session.Successor{State: session.Ambiguous, At: sent.UnixNano()})
}

// late takes a reply that came when its client was no longer waiting.
func (t *trip) late(ctx context.Context, o *outcome, sent time.Time) {
	rule := classify(t.g.rules, o)
	t.tell(rule, o)
	switch {
	case rule != nil && o.sent && o.err != nil:
		t.ambiguous(ctx, sent)
		return
	case rule != nil || o.status != http.StatusOK:
		t.step(ctx, session.Successor{State: session.Delivered, At: sent.UnixNano()})
		if rule == nil {
			t.answered(ctx, o, nil, sent)
		}
		return
	}
	successor := o.object.Text("refresh_token")
	if successor == "" || successor == t.presented {
		t.step(ctx, session.Successor{State: session.Delivered, At: sent.UnixNano()})
		t.g.learner.offer(t, o)
		return
	}
	// The client holds the old token: the successor is kept under it, and both open the new record.
	held := t.ask.Artifact.Value
	sealed := session.SealUnder(t.successorKey(held), session.SuccessorPlace(t.v.tenant.Name, t.place), []byte(successor))
	t.step(ctx, session.Successor{State: session.Kept, Sealed: sealed, At: sent.UnixNano()})
	t.g.Counts.Late(t.v.tenant.Name)
	t.g.learner.offerLate(t, o, held)
}

// substitute puts the kept successor into the request in place of the old token.
func (t *trip) substitute(s *session.Successor) ([]byte, error) {
	old := t.ask.Artifact.Value
	b, err := session.OpenUnder(t.successorKey(old), session.SuccessorPlace(t.v.tenant.Name, t.place), s.Sealed)
	if err != nil {
		return nil, err
	}
	form := url.Values{}
	for k, v := range t.v.request.Form {
		form[k] = v
	}
	form.Set("refresh_token", string(b))
	t.presented = string(b)
	t.lookup = t.g.c.Seal.Lookup(t.ask.Artifact.Kind, t.v.tenant.Name, t.v.issuer.ID, string(b))
	return []byte(form.Encode()), nil
}
