package gateway

import (
	"context"
	"fmt"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// learner seals what the primary approved and gives it to the backup, behind the clients' backs: a full queue drops
// and counts, and no sign-in waits.
type learner struct {
	g     *Gateway
	queue chan *lesson
}

// lesson is one approved exchange on its way to the backup.
type lesson struct {
	t    *trip
	o    *outcome
	sent time.Time
	held string // for a late reply: the artifact that the client still holds
	done chan<- struct{}
}

const (
	learnQueue = 4096
	learnBatch = 256
)

func newLearner(g *Gateway) *learner {
	return &learner{g: g, queue: make(chan *lesson, learnQueue)}
}

func (l *learner) offer(t *trip, o *outcome) { l.put(&lesson{t: t, o: o, sent: t.v.began}) }

func (l *learner) offerLate(t *trip, o *outcome, held string) {
	l.put(&lesson{t: t, o: o, sent: t.v.began, held: held})
}

func (l *learner) put(x *lesson) {
	if x.o.status != 200 {
		return
	}
	select {
	case l.queue <- x:
	default:
		l.g.Counts.Unlearned(x.t.v.tenant.Name, "queue_full")
	}
}

// flush waits until everything that was offered before has been learned.
func (l *learner) flush(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case l.queue <- &lesson{done: done}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run seals and sends in the order in which the exchanges ended, in batches of what has gathered.
func (l *learner) run(ctx context.Context) error {
	for {
		var first *lesson
		select {
		case <-ctx.Done():
			// What is queued is learned still: a restart must not forget who has just signed in.
			select {
			case first = <-l.queue:
			default:
				return nil
			}
		case first = <-l.queue:
		}
		l.batch(context.WithoutCancel(ctx), first)
	}
}

func (l *learner) batch(ctx context.Context, first *lesson) {
	var ms []*backup.Learned
	var done []chan<- struct{}
	for x := first; x != nil; {
		if x.done != nil {
			done = append(done, x.done)
		} else if m := l.seal(ctx, x); m != nil {
			ms = append(ms, m)
		}
		x = nil
		if len(ms) < learnBatch {
			select {
			case x = <-l.queue:
			default:
			}
		}
	}
	defer func() {
		for _, d := range done {
			close(d)
		}
	}()
	if len(ms) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	outs, err := l.g.c.Backup.Learn(ctx, ms)
	if err != nil {
		for _, m := range ms {
			l.g.Counts.Unlearned(m.Tenant, "backup_failed")
		}
		l.g.c.Log.Error("what was learned cannot be kept", "count", len(ms), "error", err)
		return
	}
	for i, o := range outs {
		if o.Unlearned != "" {
			l.g.Counts.Unlearned(ms[i].Tenant, o.Unlearned)
		} else {
			l.g.Counts.Learned(ms[i].Tenant, ms[i].Flow)
		}
		if o.Alarm != "" {
			l.g.c.Log.Error("the primary approved what should be over", "tenant", ms[i].Tenant, "alarm", o.Alarm)
		}
	}
}

// seal makes of an approved exchange the message for the backup, or nil where there is nothing to keep.
func (l *learner) seal(ctx context.Context, x *lesson) *backup.Learned {
	t := x.t
	v, s := t.v, l.g.c.Seal
	le := v.exchange.Learn(&flow.Response{Status: x.o.status, Header: x.o.header, Body: x.o.body, Sent: x.sent})
	if le == nil {
		return nil
	}
	if le.Record == nil {
		l.g.Counts.Unlearned(v.tenant.Name, le.Unlearned)
		return nil
	}
	why := le.Unlearned
	if why == "" && v.issuer.problem != "" {
		why = "keys_not_mergeable"
	}
	client := t.ask.Client
	if why == "" && client.Secret != "" && !t.prove() {
		why = "client_proof"
	}
	if why == "" {
		if err := l.algorithms(ctx, v, le.Record); err != nil {
			l.g.c.Log.Warn("no backup key for what the primary signs", "tenant", v.tenant.Name, "error", err)
			why = "algorithm"
		}
	}
	m := &backup.Learned{
		Tenant: v.tenant.Name, Issuer: v.issuer.ID, Flow: v.flow.Name(), Sent: x.sent.UnixNano(), Interactive: le.Interactive,
		Client:  s.Pseudonym("client", v.tenant.Name, v.issuer.ID, client.ID),
		Subject: s.Pseudonym("subject", v.tenant.Name, v.issuer.ID, le.Record.Subject),
		Session: s.Pseudonym("session", v.tenant.Name, v.issuer.ID, le.Record.SID),

		ClientAuth: client.Method, SecretID: t.proof.SecretID, Unlearned: why,
		HabitKey: s.HabitKey(le.Record), Shape: le.Shape,
	}
	if le.Presented != nil {
		m.Presented = t.lookup
		if t.place != t.lookup {
			m.Replaced = append(m.Replaced, t.place)
		}
	}
	artifacts := le.Artifacts
	if x.held != "" {
		// The client holds the old token until it has seen a reply: it opens the new record too.
		artifacts = append(artifacts, flow.Artifact{Kind: session.RefreshToken, Value: x.held, Ends: artifacts[0].Ends})
		m.Presented, m.Replaced = t.place, nil
	}
	if why != "" {
		// Only that this family exists, and why it is not played: a refresh keeps the origin of its family.
		m.Sealed.Record = session.NewID()
		for _, a := range artifacts {
			m.Sealed.Doors = append(m.Sealed.Doors, session.SealedDoor{Kind: a.Kind, Lookup: s.Lookup(a.Kind, v.tenant.Name, v.issuer.ID, a.Value)})
		}
		return m
	}
	var ks []session.ArtifactKeys
	for _, a := range artifacts {
		k := session.ArtifactKeys{
			Kind: a.Kind, Lookup: s.Lookup(a.Kind, v.tenant.Name, v.issuer.ID, a.Value),
			Key: s.ArtifactKey(a.Kind, v.tenant.Name, v.issuer.ID, client.ID, a.Value, t.key),
		}
		if !a.Ends.IsZero() {
			k.Ends = a.Ends.UnixNano()
		}
		ks = append(ks, k)
	}
	sealed, err := session.Seal(le.Record, ks...)
	if err != nil {
		l.g.Counts.Unlearned(v.tenant.Name, "seal")
		return nil
	}
	m.Sealed = *sealed
	return m
}

// algorithms makes sure that there is a backup key for what the primary signs for this client.
func (l *learner) algorithms(ctx context.Context, v *visit, r *session.Record) error {
	for _, tok := range []*session.Token{r.AccessToken, r.IDToken} {
		if tok == nil {
			continue
		}
		alg := tok.Header.Text("alg")
		k, ok := v.issuer.keys[tok.Header.Text("kid")]
		if !ok {
			if k, ok = v.tenant.meta.key(ctx, v.issuer, tok.Header.Text("kid")); !ok {
				return fmt.Errorf("key id %.64q is not in the primary's key set", tok.Header.Text("kid"))
			}
		}
		if !algFits(alg, k.pub) {
			return fmt.Errorf("algorithm %.16q does not fit the primary's key", alg)
		}
	}
	return nil
}

// vouched says whether the ID token of a reply is signed by a key that the primary publishes.
func (g *Gateway) vouched(ctx context.Context, v *visit, o *outcome) bool {
	id := o.object.Text("id_token")
	if id == "" || v.issuer == nil || v.issuer.problem != "" {
		return true
	}
	t, err := oauth.ParseJWT(id)
	if err != nil {
		return true // encrypted: not ours to read
	}
	alg, kid := t.Header.Text("alg"), t.Header.Text("kid")
	if kid == "" || alg == "" || alg == "none" || alg[:2] == "HS" {
		return true // nothing to compare with; not learned either
	}
	k, ok := v.tenant.meta.key(ctx, v.issuer, kid)
	return ok && verify(id, alg, k)
}
