package gateway

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/backup"
	"understudy/flow"
	"understudy/session"
)

// learner seals what the primary approved and gives it to the backup, behind the clients' backs: a full queue drops
// and counts, and no sign-in waits.
type learner struct {
	g       *Gateway
	queue   chan *lesson
	made    *lately      // keys for responses
	asked   *lately      // callers of the introspection endpoint, tokens at the UserInfo endpoint
	waiting atomic.Int64 // exchanges that are not yet kept: queued, being sealed, or on their way to the backup
}

// lesson is one approved exchange on its way to the backup.
type lesson struct {
	t    *trip
	o    *outcome
	sent time.Time
	held string // for a late reply: the artifact that the client still holds
	// front is an authorization response without a code, to a visit; then nothing else is set.
	front *tied
	v     *visit
	ready *backup.Learned // a message; then nothing else is set
}

const (
	learnQueue = 4096
	learnBatch = 256
	// learnPace is how soon after one batch the next one may begin: what comes meanwhile shares one write. An exchange that
	// comes alone is learned at once.
	learnPace = 5 * time.Millisecond
)

func newLearner(g *Gateway) *learner {
	return &learner{g: g, queue: make(chan *lesson, learnQueue), asked: newLately(dueEvery), made: newLately(madeEvery)}
}

// offer takes an approved exchange. held is, for a late reply, the artifact that the client still holds.
func (l *learner) offer(t *trip, o *outcome, held string) {
	if !gave(t.v.endpoint, o.status) {
		return
	}
	mine := *t // the request goes on with its own
	l.waiting.Add(1)
	select {
	case l.queue <- &lesson{t: &mine, o: o, sent: t.sent, held: held}:
	default:
		l.waiting.Add(-1)
		l.g.Counts.Unlearned(t.v.tenant.Name, "queue_full")
	}
}

// add takes what needs no exchange to be understood.
func (l *learner) add(tenant string, x *lesson) {
	l.waiting.Add(1)
	select {
	case l.queue <- x:
	default:
		l.waiting.Add(-1)
		l.g.Counts.Unlearned(tenant, "queue_full")
	}
}

// sealFront makes of an authorization response without a code the message for the backup.
func (l *learner) sealFront(ctx context.Context, x *tied, v *visit) []sealed {
	le := x.answer.Lesson(x.request, x.ask)
	if le.Record == nil {
		l.g.Counts.Unlearned(v.tenant.Name, le.Unlearned)
		l.g.missed(v, x, le.Unlearned)
		return nil
	}
	why, s := "", l.g.c.Seal
	if v.issuer.problem != "" {
		why = "keys_not_mergeable"
	}
	m := &backup.Learned{
		Tenant: v.tenant.Name, Issuer: v.issuer.ID, Sent: v.began.UnixNano(), Interactive: le.Interactive, AuthTime: le.AuthTime, Unlearned: why,
		Client:  s.Pseudonym("client", v.tenant.Name, v.issuer.ID, x.ask.Client.ID),
		Subject: s.Pseudonym("subject", v.tenant.Name, v.issuer.ID, le.Record.Subject),
		Session: s.Pseudonym("session", v.tenant.Name, v.issuer.ID, le.Record.SID), ClientAuth: "none", HabitKey: s.HabitKey(le.Record),
	}
	m.Notify = v.notify(x.ask.Client.ID, le.Record.IDToken)
	if b := x.learned(ctx, l, v, le, m); b != nil {
		return []sealed{{Learned: b, seen: l.g.seenBrowser(v, x, le)}}
	}
	return nil
}

// madeEvery is how often it is looked again whether the keys for responses are published.
const madeEvery = time.Hour

// dueEvery is how often it is learned anew what a caller of the introspection endpoint, or the bearer of a token, is told: it may ask
// for every request that it serves.
const dueEvery = 10 * time.Second

// due says whether an answer about a token is to be learned from: one in a while for each caller of the introspection endpoint, and
// for each token at the UserInfo endpoint; and each that uses up an assertion.
func (l *learner) due(t *trip) bool {
	of := t.client()
	if t.v.endpoint == flow.UserInfo {
		of = t.at(t.ask.Artifact)
	}
	return l.asked.due(of, l.g.c.Now()) || t.ask.Client.Assertion != ""
}

// run seals in the order in which the exchanges ended, while what was sealed before is being kept. What is queued when
// ctx ends is learned still: a restart must not forget who has just signed in.
func (l *learner) run(ctx context.Context) error {
	batches := make(chan []sealed, 1)
	var eg errgroup.Group
	eg.Go(func() error {
		for ms := range batches {
			l.keep(context.WithoutCancel(ctx), ms)
		}
		return nil
	})
	began := time.Time{} // the batch before
	for {
		var x *lesson
		select {
		case x = <-l.queue:
		case <-ctx.Done():
			select {
			case x = <-l.queue:
			default:
				close(batches)
				return eg.Wait()
			}
		}
		select {
		case <-time.After(time.Until(began.Add(learnPace))):
		case <-ctx.Done():
		}
		began = time.Now()
		batches <- l.batch(context.WithoutCancel(ctx), x)
	}
}

// batch seals an exchange and what has gathered behind it.
func (l *learner) batch(ctx context.Context, x *lesson) (ms []sealed) {
	for {
		of := l.seal(ctx, x)
		l.waiting.Add(int64(len(of)) - 1)
		ms = append(ms, of...)
		if len(ms) >= learnBatch {
			return ms
		}
		select {
		case x = <-l.queue:
		default:
			return ms
		}
	}
}

// keep gives what was sealed to the backup, and then what goes with it: an application asks UserInfo as soon as it has its token,
// before that is kept.
func (l *learner) keep(ctx context.Context, ms []sealed) {
	defer l.waiting.Add(-int64(len(ms)))
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var told []*lesson
	l.give(ctx, slices.DeleteFunc(ms, func(m sealed) bool {
		if m.userInfo != nil {
			told = append(told, m.userInfo)
		}
		return m.userInfo != nil
	}))
	var then []sealed
	for _, x := range told {
		then = append(then, l.sealUserInfo(ctx, x)...)
	}
	l.give(ctx, then)
}

func (l *learner) give(ctx context.Context, ms []sealed) {
	if len(ms) == 0 {
		return
	}
	outs, err := l.g.c.Backup.Learn(ctx, messages(ms))
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
		l.g.cover(ms[i], o)
		l.signs(ms[i].Learned)
		if o.Alarm != "" {
			l.g.c.Log.Error("the primary approved what should be over", "tenant", ms[i].Tenant, "alarm", o.Alarm)
		}
	}
}

// signs has the keys published that the backup made beside those of tokens, when the first use of them is seen.
func (l *learner) signs(m *backup.Learned) {
	for class, alg := range m.Classes() {
		if !l.made.due(l.g.c.Seal.Pseudonym("made", m.Tenant, m.Issuer, session.Joined(class, alg)), l.g.c.Now()) {
			continue
		}
		for _, t := range l.g.c.Tenants {
			if t.Name == m.Tenant {
				t.meta.renew(m.Issuer)
			}
		}
	}
}

// lesson is what the reply teaches.
func (x *lesson) lesson() *flow.Lesson {
	return x.t.v.exchange.Learn(&flow.Response{Status: x.o.status, Header: x.o.header, Body: x.o.body, Object: x.o.object, Token: x.o.token, Sent: x.sent})
}

// seal makes of an approved exchange the messages for the backup.
func (l *learner) seal(ctx context.Context, x *lesson) (ms []sealed) {
	switch {
	case x.ready != nil:
		return []sealed{{Learned: x.ready}}
	case x.front != nil:
		return l.sealFront(ctx, x.front, x.v)
	}
	t := x.t
	if x.held == "" {
		l.g.shadow(ctx, t, x.o)
	}
	var browser *tied
	if t.ask.Artifact.Kind == session.Code {
		browser = l.g.browsers.take(t.lookup)
	}
	if t.v.endpoint == flow.UserInfo {
		return []sealed{{userInfo: x}}
	}
	le := x.lesson()
	if le == nil {
		l.g.unlearned(t, x.o, nil, "no_refresh_token")
		return nil
	}
	if le.Record == nil {
		l.g.Counts.Unlearned(t.v.tenant.Name, le.Unlearned)
		l.g.unlearned(t, x.o, nil, le.Unlearned)
		return nil
	}
	key := t.userInfoKey(ctx, le)
	m := l.message(ctx, x, le, key)
	if m == nil {
		return nil
	}
	if len(le.Artifacts) > 0 || t.ask.Artifact.Kind != session.Code {
		ms = append(ms, sealed{Learned: m, seen: l.g.seen(t, le, m)})
	}
	if le.Beside != nil {
		if b := l.message(ctx, x, le.Beside, key); b != nil {
			of := sealed{Learned: b}
			if le.Beside.Artifacts[0].Kind == session.RefreshToken {
				of.seen = l.g.seen(t, le.Beside, b)
			}
			ms = append(ms, of)
		}
	}
	if browser != nil && browser.redeemedBy(t) {
		browser.userInfo = key
		if b := browser.learned(ctx, l, t.v, le, m); b != nil {
			ms = append(ms, sealed{Learned: b, seen: l.g.seenBrowser(t.v, browser, le)})
		}
	} else if t.ask.Artifact.Kind == session.Code {
		l.g.untied(t, x.o, le)
		if len(ms) == 0 {
			l.g.unlearned(t, x.o, le, cmp.Or(m.Unlearned, "no_refresh_token"))
		}
	}
	return ms
}

// message makes of a lesson the message for the backup, or nil where there is nothing to keep. key goes with what it opens.
func (l *learner) message(ctx context.Context, x *lesson, le *flow.Lesson, key session.UserInfoKey) *backup.Learned {
	t := x.t
	v, s := t.v, l.g.c.Seal
	why := le.Unlearned
	if why == "" && v.issuer.problem != "" {
		why = "keys_not_mergeable"
	}
	client := t.ask.Client
	switch {
	case client.Assertion != "" && !t.prove(ctx) && why == "":
		why = "client_assertion"
	case client.Certified() && !t.prove(ctx) && why == "":
		why = "client_certificate"
	case client.Secret != "" && !t.prove(ctx) && why == "":
		why = "client_proof"
	}
	if le.DPoP {
		jkt, unbound := t.boundTo(le.Record)
		if le.Record.JKT = jkt; unbound != "" && why == "" {
			why = unbound
		}
	}
	le.Record.Nonced = t.nonced()
	if byItself(t.ask.Artifact.Kind) {
		t.lookup = t.at(t.ask.Artifact)
		t.place = t.lookup
	}
	if why == "" {
		why = l.unsigned(ctx, v, le.Record.AccessToken, le.Record.IDToken, le.Signed)
	}
	if why == "" && le.Signed != nil && !v.issuer.signed(string(x.o.body), le.Signed) {
		why = "unknown_key"
	}
	if why != "" && byItself(t.ask.Artifact.Kind) {
		l.g.Counts.Unlearned(v.tenant.Name, why) // nothing follows from it that would have to be told apart
		l.g.unlearned(t, x.o, le, why)
		return nil
	}
	habit := s.HabitKey(le.Record)
	if le.Habit != "" {
		habit = s.HabitOf(v.tenant.Name, v.issuer.ID, le.Habit)
	}
	m := &backup.Learned{
		Tenant: v.tenant.Name, Issuer: v.issuer.ID, Flow: v.flow.Name(), Sent: x.sent.UnixNano(), Interactive: le.Interactive,
		Client:  s.Pseudonym("client", v.tenant.Name, v.issuer.ID, client.ID),
		Subject: s.Pseudonym("subject", v.tenant.Name, v.issuer.ID, le.Record.Subject),
		Session: s.Pseudonym("session", v.tenant.Name, v.issuer.ID, le.Record.SID),

		ClientAuth: client.Method, SecretID: t.proof.SecretID, Unlearned: why,
		HabitKey: habit, Shape: le.Shape, NotBefore: le.NotBefore, AuthTime: le.AuthTime,
		Once: t.proof.Once, Until: t.proof.Until,
	}
	m.Notify = v.notify(client.ID, le.Record.IDToken)
	if le.Signed != nil && why == "" {
		m.Signs = map[string]string{le.Class: le.Signed.Header.Text("alg")}
	}
	if le.Presented != nil {
		m.Presented = t.lookup
		if t.place != t.lookup {
			m.Replaced = append(m.Replaced, t.place)
		}
	}
	// A redeemed code opens nothing; it leads to its grant, should it be presented again.
	var code []session.SealedDoor
	switch t.ask.Artifact.Kind {
	case session.Code:
		code = append(code, session.SealedDoor{Kind: session.Code, Lookup: t.lookup})
	case session.ClientSecret:
		code = append(code, session.SealedDoor{Kind: session.Client, Lookup: t.name()})
	}
	artifacts := le.Artifacts
	if x.held != "" {
		// The client holds the old token until it has seen a reply: it opens the new record too.
		artifacts = append(artifacts, flow.Artifact{Kind: session.RefreshToken, Value: x.held, Ends: artifacts[0].Ends})
		m.Presented, m.Replaced = t.place, nil
	}
	if why != "" {
		// Only that this family exists, and why it is not played: a refresh keeps the origin of its family.
		m.Sealed.Record, m.Sealed.Doors = session.NewID(), code
		for _, a := range artifacts {
			if a.Kind != session.AccessToken {
				m.Sealed.Doors = append(m.Sealed.Doors, session.SealedDoor{Kind: a.Kind, Lookup: t.at(a)})
			}
		}
		return m
	}
	if len(artifacts) == 0 {
		return m // only about the client
	}
	var ks []session.ArtifactKeys
	for _, a := range artifacts {
		k := session.ArtifactKeys{Kind: a.Kind, Lookup: t.at(a), Key: t.opens(a)}
		if !a.Ends.IsZero() {
			k.Ends = a.Ends.UnixNano()
		}
		ks = append(ks, k)
	}
	sealed, err := session.Seal(le.Record, key, ks...)
	if err != nil {
		l.g.Counts.Unlearned(v.tenant.Name, "seal")
		return nil
	}
	m.Sealed = *sealed
	m.Sealed.Doors = append(m.Sealed.Doors, code...)
	return m
}

// unsigned says why tokens are not signed by keys that the primary publishes, "" where they are: the backup signs with no
// algorithm that the primary does not use.
func (l *learner) unsigned(ctx context.Context, v *visit, ts ...*session.Token) string {
	switch err := l.signedHere(ctx, v, ts...); {
	case err == nil:
		return ""
	case errors.Is(err, errOtherIssuer):
		return "other_issuer"
	case errors.Is(err, errWrongAlg):
		return "wrong_algorithm"
	}
	return "unknown_key"
}

func (l *learner) signedHere(ctx context.Context, v *visit, ts ...*session.Token) error {
	for _, tok := range ts {
		if tok == nil {
			continue
		}
		if tok.Claims.Text("iss") != v.issuer.ID {
			return errOtherIssuer
		}
		k, err := v.tenant.meta.key(ctx, v.issuer.at, tok.Header.Text("kid"))
		if err != nil {
			return err
		}
		if !algFits(tok.Header.Text("alg"), k.pub) || k.alg != "" && k.alg != tok.Header.Text("alg") {
			return errWrongAlg
		}
	}
	return nil
}

var errOtherIssuer = errors.New("issued by another issuer than the endpoint's")

var errWrongAlg = errors.New("signed with an algorithm that is not its key's")
