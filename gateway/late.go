package gateway

import (
	"context"
	"net/http"
	"sync"
	"time"

	"understudy/health"
	"understudy/session"
)

// late owns what outlives a client's request: exchanges whose reply may still come, the turns on artifacts, and which
// grants have used their one doubt.
type late struct {
	id  session.ID // of this process: whose pending exchange it is
	now func() time.Time

	mu     sync.Mutex // guards what follows
	turns  map[session.ID]*turn
	flying map[session.ID]*flight // exchanges under way, by the artifact that the client holds
	doubts map[string]time.Time
	codes  map[session.ID]*unseen // replies to codes whose clients left
	wg     sync.WaitGroup         // exchanges under way

	ended context.Context // over when nothing may go on any more
	end   context.CancelFunc
}

// flight is the exchanges with one artifact that are under way.
type flight struct {
	n      int
	landed chan struct{} // closed when none is any more
	shared *shared       // what their client was answered by the backup; nil: nothing
}

type turn struct {
	free    chan struct{} // holds one token while nobody has the turn
	waiting int
}

func newLate(now func() time.Time) *late {
	l := &late{id: session.NewID(), now: now, turns: map[session.ID]*turn{}, flying: map[session.ID]*flight{}, doubts: map[string]time.Time{}, codes: map[session.ID]*unseen{}}
	l.ended, l.end = context.WithCancel(context.Background())
	return l
}

// outlive is the context of an exchange that goes on without its client.
func (l *late) outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	up, cancel := context.WithTimeout(context.WithoutCancel(ctx), lateBound)
	stop := context.AfterFunc(l.ended, cancel)
	return up, func() { stop(); cancel() }
}

// run waits for ctx, and then a moment for the replies that are still under way. When it returns none is any more.
func (l *late) run(ctx context.Context) error {
	<-ctx.Done()
	done := make(chan struct{})
	go func() { l.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		l.end()
		<-done
	}
	return nil
}

// lock serialises the uses of one artifact. It returns nil when ctx ends first.
func (l *late) lock(ctx context.Context, id session.ID) (unlock func()) {
	l.mu.Lock()
	t := l.turns[id]
	if t == nil {
		t = &turn{free: make(chan struct{}, 1)}
		t.free <- struct{}{}
		l.turns[id] = t
	}
	t.waiting++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.waiting--; t.waiting == 0 {
			delete(l.turns, id)
		}
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
	f := l.flying[id]
	if f == nil {
		f = &flight{landed: make(chan struct{})}
		l.flying[id] = f
	}
	f.n++
	l.mu.Unlock()
	l.wg.Add(1)
	return sync.OnceFunc(func() {
		l.mu.Lock()
		if f.n--; f.n == 0 {
			delete(l.flying, id)
			close(f.landed)
		}
		l.mu.Unlock()
		l.wg.Done()
	})
}

// track notes that an exchange is under way that no artifact is held back for.
func (l *late) track() (finish func()) {
	l.wg.Add(1)
	return sync.OnceFunc(l.wg.Done)
}

// landed is closed when the exchanges with an artifact that are under way here have ended; nil where none is.
func (l *late) landed(id session.ID) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.flying[id]; f != nil {
		return f.landed
	}
	return nil
}

// inFlight says whether the reply to an exchange that is kept as pending may still come: it is under way here, or young
// enough to be so at another gateway.
func (l *late) inFlight(id session.ID, s *session.Successor) bool {
	if s == nil || s.State != session.Pending {
		return false
	}
	if s.By != l.id {
		return l.now().UnixNano() < s.At+int64(lateBound)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flying[id] != nil
}

const (
	// doubtLifetime is how long a grant's one doubt stays used: for as long as the grant could be played.
	doubtLifetime = session.Lifetime
	maxDoubts     = 100_000
)

// firstDoubt is true once for a grant: the one time that a failure which could be the requester's doing is answered
// without anybody else's failing.
func (l *late) firstDoubt(grant string) bool {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if t, ok := l.doubts[grant]; ok && now.Sub(t) < doubtLifetime {
		return false
	}
	if len(l.doubts) >= maxDoubts {
		for k, t := range l.doubts {
			if now.Sub(t) >= doubtLifetime {
				delete(l.doubts, k)
			}
		}
		if len(l.doubts) >= maxDoubts {
			return false
		}
	}
	l.doubts[grant] = now
	return true
}

// firstDoubt takes the grant's one doubt.
func (t *trip) firstDoubt() bool {
	first := t.g.late.firstDoubt(t.grant)
	t.doubted = t.doubted || first
	return first
}

// undoubt gives the grant's one doubt back where this request took it and got nothing.
func (t *trip) undoubt() {
	if t.doubted {
		t.g.late.mu.Lock()
		delete(t.g.late.doubts, t.grant)
		t.g.late.mu.Unlock()
		t.doubted = false
	}
}

// step moves what is kept of an exchange without a reply. Only refresh tokens have successors.
func (t *trip) step(ctx context.Context, v session.Successor) {
	if t.ask.Artifact.Kind != session.RefreshToken {
		return
	}
	err := t.g.c.Backup.Step(context.WithoutCancel(ctx), t.v.tenant.Name, t.place, t.g.c.Now().UnixNano(), v)
	if err != nil {
		t.g.c.Log.Error("what is known of an exchange without a reply is not kept", "tenant", t.v.tenant.Name, "state", v.State, "error", err)
	}
}

// ambiguous notes that the primary may have rotated the token and that its reply is lost.
func (t *trip) ambiguous(ctx context.Context) {
	if t.ask.Artifact.Kind != session.RefreshToken {
		return // there is nothing that could have been rotated
	}
	t.g.Counts.Ambiguous(t.v.tenant.Name)
	at := t.sent
	if at.IsZero() {
		at = t.g.c.Now()
	}
	t.step(ctx, session.Successor{State: session.Ambiguous, At: at.UnixNano()})
}

// late takes a reply that came when its client was no longer waiting.
func (t *trip) late(ctx context.Context, o *outcome) {
	rule := classify(t.g.rules, o)
	t.tell(rule, o)
	switch {
	case rule != nil && rule.Origin == health.Ours: // this process ends; whoever comes next finds it pending
	case rule != nil && rule.Lost && o.sent:
		t.ambiguous(ctx)
	case rule != nil:
		t.step(ctx, session.Successor{State: session.Delivered, At: t.sent.UnixNano()}) // it was not carried out
	case o.status != http.StatusOK:
		t.step(ctx, session.Successor{State: session.Delivered, At: t.sent.UnixNano()})
		t.answered(ctx, o, nil)
	default:
		t.keep(ctx, o)
	}
}

// keep keeps the refresh token of a reply that the client has not seen, under the one that the client holds; both open
// the new record from now on.
func (t *trip) keep(ctx context.Context, o *outcome) {
	successor := o.object.Text("refresh_token")
	if successor == "" || successor == t.presented || t.ask.Artifact.Kind != session.RefreshToken {
		t.step(ctx, session.Successor{State: session.Delivered, At: t.sent.UnixNano()})
		t.g.learner.offer(t, o, "")
		return
	}
	held := t.ask.Artifact.Value
	sealed := session.SealUnder(t.successorKey(held), session.SuccessorPlace(t.v.tenant.Name, t.place), []byte(successor))
	t.step(ctx, session.Successor{State: session.Kept, Sealed: sealed, At: t.sent.UnixNano()})
	t.g.Counts.Late(t.v.tenant.Name)
	t.g.learner.offer(t, o, held)
}

func (t *trip) successorKey(token string) []byte {
	return t.g.c.Seal.ArtifactKey("successor", t.v.tenant.Name, t.v.issuer.ID, t.ask.Client.ID, token, nil)
}

// substitute puts the kept successor into the request in place of the token that the client holds.
func (t *trip) substitute(s *session.Successor) ([]byte, error) {
	b, err := session.OpenUnder(t.successorKey(t.ask.Artifact.Value), session.SuccessorPlace(t.v.tenant.Name, t.place), s.Sealed)
	if err != nil {
		return nil, err
	}
	t.presented = string(b)
	t.lookup = t.g.lookup(t.v, t.presented)
	return t.v.withToken(t.presented)
}
