package gateway

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/flow/proof"
	"understudy/health"
	"understudy/session"
)

// lateBound is how long an exchange whose client has been answered may still go on.
const lateBound = 60 * time.Second

// trip is one exchange at a protocol endpoint.
type trip struct {
	g       *Gateway
	v       *visit
	out     *http.Request
	ask     *flow.Ask
	monitor *health.Monitor
	lookup  session.ID // of the artifact that is sent to the primary; zero: none
	place   session.ID // of the artifact that the client holds; another than lookup where a successor stands in
	// presented is the artifact that is sent to the primary: the client's, or its kept successor.
	presented  string
	proof      flow.Proof
	key        []byte // of the client's secret
	st         backup.Standing
	grant      string // stands for the grant where failures are counted; "" where anybody could have provoked the answer
	sent       time.Time
	vouched    bool              // the primary has just authenticated the client
	inside     bool              // it has a place among the exchanges in flight
	over       time.Time         // when what it names was ended here; zero: it was not
	flying     bool              // it was sent, and its reply may still come
	parties    parties           // who is told of a logout that was carried out here
	doubt      bool              // the primary failed for this request, which its browser might have brought about
	closed     bool              // the browser that asked was its own, and is closed
	took       []string          // applications that the person was let into with it
	heard      bool              // the primary carried it out
	possession *proof.Possession // of the key that the client proved; nil: it did not, or was not asked yet
	token      *session.Token    // an access token of the primary's that is asked about, verified
	behalf     *flow.Behalf      // on whose behalf the client asks, verified; nil: on nobody's, or it was not asked yet
	doubted    bool              // this request took its grant's one doubt
	owed       string            // where it is kept that the primary has yet to hear of it; "": nowhere
}

func (g *Gateway) trip(r *http.Request, v *visit) *trip {
	t := &trip{g: g, v: v, out: r, ask: &flow.Ask{Unplayable: "no_flow"}, monitor: v.tenant.monitors[flow.Token]}
	if v.exchange != nil {
		t.ask = v.exchange.Ask()
	}
	return t
}

// away answers from the backup without a thought of the primary where the breaker is open. It returns nil where the
// ordinary way must decide.
func (g *Gateway) away(r *http.Request, v *visit) *http.Response {
	if v.exchange == nil || v.tenant.monitors[flow.Token].Share() > 0 {
		return nil
	}
	t := g.trip(r, v)
	switch {
	case t.ask.Unplayable != "" || len(v.spellings()) > 1:
		return nil
	case t.ask.Artifact.Kind == session.RefreshToken:
		t.lookup = g.lookup(v, t.ask.Artifact.Value)
		t.place = t.lookup
	case !byItself(t.ask.Artifact.Kind):
		return nil
	case !t.stand(r.Context(), true):
		if v.refusal != nil {
			return t.refuse(v.refusal)
		}
		return nil
	}
	if p := t.play(r.Context(), "breaker"); p.settles() {
		return p.resp
	}
	return nil
}

// exchange sends a buffered request to the primary, or to the backup, and returns the reply for the client.
func (g *Gateway) exchange(out *http.Request, v *visit) (*http.Response, error) {
	t := g.trip(out, v)
	ctx := out.Context()
	if t.ask.Artifact.Kind != session.RefreshToken || t.ask.Unplayable != "" {
		leave := t.enter(false)
		if leave == nil {
			return nil, fmt.Errorf("%w: %d exchanges in flight", errOurs, v.tenant.InFlight)
		}
		defer leave()
	}
	if resp := t.ownToken(ctx); resp != nil {
		return resp, nil
	}
	if no := t.forbidden(ctx); no != nil {
		return no, nil
	}
	if (v.endpoint == flow.Introspection || v.endpoint == flow.UserInfo) && v.exchange != nil {
		return t.question(ctx)
	}
	switch t.ask.Artifact.Kind {
	case session.RefreshToken:
	case session.Code:
		t.lookup = g.c.Seal.Lookup(session.Code, v.tenant.Name, v.issuer.ID, t.ask.Artifact.Value)
		return t.plain(ctx)
	case session.ClientSecret, session.ClientKey:
		return t.service(ctx)
	default:
		return t.plain(ctx)
	}
	if t.ask.Unplayable != "" {
		return t.plain(ctx)
	}
	t.lookup = g.lookup(v, t.ask.Artifact.Value)
	t.place, t.presented = t.lookup, t.ask.Artifact.Value
	unlock := g.late.lock(ctx, t.lookup)
	if unlock == nil {
		return nil, ctx.Err()
	}
	defer unlock()
	return t.run(ctx)
}

// forbidden refuses a request that could be taken to present, in whatever spelling, a refresh token whose grant was
// ended here and of which the primary could not have heard (design, law 3).
func (t *trip) forbidden(ctx context.Context) *http.Response {
	all := t.v.spellings()
	if t.v.endpoint != flow.Token || len(all) <= 1 && t.ask.Unplayable == "" && t.ask.Artifact.Kind == session.RefreshToken {
		return nil // the ordinary way asks
	}
	if len(all) > maxSpellings {
		t.g.note(t.v, "refused", "too_many_tokens", "")
		return t.refuse(flow.No("too_many_tokens", http.StatusBadRequest, "invalid_request"))
	}
	for _, token := range all {
		st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.g.lookup(t.v, token))
		if err == nil && (st.Revoked || st.Told && t.v.tenant.RefuseRevoked) {
			t.g.note(t.v, "refused", "revoked", "revoked_here")
			return t.refuse(flow.No("revoked", http.StatusBadRequest, "invalid_grant"))
		}
	}
	return nil
}

// maxSpellings bounds the refresh tokens in one request; more than one is no request of anybody's.
const maxSpellings = 16

// plain is the way of a request that the backup cannot answer: it waits as long as its client does.
func (t *trip) plain(ctx context.Context) (*http.Response, error) {
	if t.v.ends() || t.ask.Artifact.Kind == session.Code {
		return t.ending(ctx)
	}
	t.sent = t.g.c.Now()
	o, resp := t.send(ctx, t.v.request.Body)
	return t.settle(ctx, o, resp)
}

// settle makes of what became of a request what its client gets.
func (t *trip) settle(ctx context.Context, o *outcome, resp *http.Response) (*http.Response, error) {
	rule := classify(t.g.rules, o)
	t.tell(rule, o)
	return t.delivered(ctx, rule, o, resp)
}

// delivered learns from the primary's reply and passes it, or what stands in for it where the backup has no part.
func (t *trip) delivered(ctx context.Context, rule *Rule, o *outcome, resp *http.Response) (*http.Response, error) {
	if rule == nil {
		t.g.crossed(t.v, t.v.request.HTTP, o.status, o.header)
		t.push(o)
		if t.v.exchange != nil && (t.v.endpoint == flow.Token || t.v.endpoint == flow.Pushed || t.answers(o) && t.g.learner.due(t)) {
			t.g.learner.offer(t, o, "")
		}
		if t.v.endpoint == flow.Token && o.status == http.StatusOK && t.barred(ctx, o) {
			t.g.note(t.v, "refused", "revoked", "revoked_here")
			return t.refuse(flow.No("revoked", http.StatusBadRequest, "invalid_grant")), nil
		}
		if ends(t.v.endpoint, o.status, o.header) {
			at := t.over
			if at.IsZero() {
				at = t.g.c.Now()
			}
			if _, err := t.g.ended(ctx, t.v, t.v.request.Form, at, true, false); err != nil {
				return t.notKept(), nil
			}
			t.g.returned(t.v, o.header.Get("Location"))
			t.heard = true
		} else if t.v.endpoint == flow.EndSession && o.status/100 == 2 {
			// A page: that it is over, or whether it is to be. The next approval tells.
			t.g.asksPerson(t.v)
			if _, err := t.g.ended(ctx, t.v, t.v.request.Form, t.g.c.Now(), true, true); err != nil {
				return t.notKept(), nil
			}
		}
		if !t.refused(ctx, o) {
			return t.notKept(), nil
		}
	} else if rule.Origin != health.Ours {
		t.codeAgain(ctx)
		if t.over.IsZero() {
			if resp := t.endHere(ctx); resp != nil {
				return resp, nil
			}
		}
	}
	return t.pass(rule, o, resp)
}

// overMeanwhile says whether what the primary gives was ended here, of which it could not have heard: before it was asked, or while
// it answered.
func (t *trip) overMeanwhile(ctx context.Context, o *outcome) bool {
	if t.st.Known && t.ask.Subject == "" {
		st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.place)
		return err == nil && st.Revoked
	}
	return t.barred(ctx, o)
}

// barred says whether what the primary gives comes of a session that was ended here, of which it could not have heard (design,
// law 3). That is asked before a client has it; where it cannot be, the primary decides.
func (t *trip) barred(ctx context.Context, o *outcome) bool {
	in := t.g.signIn(t.v.tenant, t.v.issuer, t.ask.Client.ID, o.object, t.sent)
	if t.ask.Subject != "" && t.subject() {
		in.Behalf = t.behalf
	}
	return t.g.barred(ctx, in)
}

// signIn reads from what was given to a client (id_token, access_token, …) whose sign-in it is.
func (g *Gateway) signIn(t *Tenant, is *issuer, client string, given session.Object, sent time.Time) *backup.SignIn {
	sub, sid, at := oauth.Whose(given)
	stands := func(what, value string) session.ID { return g.c.Seal.Pseudonym(what, t.Name, is.ID, value) }
	return &backup.SignIn{
		Tenant: t.Name, Issuer: is.ID, Client: stands("client", client), Subject: stands("subject", sub), Session: stands("session", sid),
		AuthTime: at, Sent: sent.UnixNano(),
	}
}

func (g *Gateway) barred(ctx context.Context, in *backup.SignIn) bool {
	barred, err := g.c.Backup.Barred(ctx, in)
	if err != nil {
		g.c.Log.Warn("it is not known whether a session was ended here; the primary decides", "tenant", in.Tenant, "error", err)
	}
	return barred
}

// pass gives the client what the primary sent; where that is no protocol reply, the protocol's "not now" (design, law 7).
func (t *trip) pass(rule *Rule, o *outcome, resp *http.Response) (*http.Response, error) {
	switch {
	case o.err != nil:
		return nil, o.err
	case t.v.endpoint == flow.EndSession && t.v.request.HTTP.Method == http.MethodGet:
		return resp, nil // a person sees it
	case rule == nil || rule.Probe || rule.Origin == health.Ours || o.object.Text("error") != "":
		if rule != nil && o.status >= 500 && resp.Header.Get("Retry-After") == "" {
			resp.Header.Set("Retry-After", notNowSeconds) // without which some clients ask nothing for a minute
		}
		return resp, nil
	}
	t.g.Counts.Failed(t.v.tenant.Name, string(t.v.endpoint))
	t.g.note(t.v, "refused", "primary_failed", rule.Name)
	return t.refuse(flow.NotNow("primary_failed")), nil
}

// tell tells the monitor what became of a request.
func (t *trip) tell(rule *Rule, o *outcome) {
	if rule != nil {
		t.g.Counts.Rule(t.v.tenant.Name, string(t.v.endpoint), rule.Name)
	}
	if t.v.endpoint != flow.Token {
		return // the breaker is the token endpoint's; what another one does says nothing of it
	}
	if rule == nil {
		t.v.tenant.answeredBy(t.v.issuer)
		grant := t.grant
		if grant == "" && o.status == http.StatusOK {
			grant = "new" // somebody signed in
		}
		t.monitor.Success(grant, t.g.c.Now().Sub(t.sent))
		return
	}
	// What a requester may have brought about counts only for plain requests with a token that was approved before, and
	// a 4xx never (design, law 1).
	if rule.Origin == health.Beyond || rule.Origin == health.Doubt && !rule.Probe && t.odd() == "" && t.st.Known {
		t.monitor.FailureBy(t.grant, t.v.address, rule.Origin)
	}
}

// odd says why the request is not a plain one, or "".
func (t *trip) odd() string {
	if t.v.odd != "" {
		return t.v.odd
	}
	if t.v.navigation != nil {
		return oauth.OddNavigation(t.v.navigation)
	}
	return t.ask.Odd
}

// run is the way of a request that the backup could answer.
func (t *trip) run(ctx context.Context) (*http.Response, error) {
	st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.lookup)
	leave := t.enter(err != nil || st.Known || st.Successor != nil)
	if leave == nil {
		return nil, fmt.Errorf("%w: %d exchanges in flight", errOurs, t.v.tenant.InFlight)
	}
	defer leave()
	if err != nil {
		t.g.c.Log.Warn("the standing of an artifact is not known; the primary decides", "tenant", t.v.tenant.Name, "error", err)
	}
	t.st = st
	if st.Known {
		t.grant = st.Grant.String()
	}
	body := t.v.request.Body
	switch {
	case (st.Revoked || st.Told && t.v.tenant.RefuseRevoked) && t.ask.Artifact.Kind == session.RefreshToken:
		// The primary could not have heard of it: the refusal, and its line in the log, come from the backup.
		return t.play(ctx, "revoked_here").resp, nil
	case t.g.late.inFlight(t.lookup, st.Successor):
		return t.join(ctx)
	case st.Known && !t.monitor.Serving(st.Hash):
		if p := t.play(ctx, "breaker"); p.settles() {
			return p.resp, nil
		}
		// What the backup does not answer may still be asked of the primary.
	case st.Successor != nil && st.Successor.State == session.Pending:
		// Its reply can no longer come (this or another gateway ended meanwhile): what the primary did is not known.
		t.ambiguous(ctx)
	}
	if st.Successor != nil && st.Successor.State == session.Kept {
		if body, err = t.substitute(st.Successor); err != nil {
			t.g.c.Log.Error("a kept successor does not open", "tenant", t.v.tenant.Name, "error", err)
			return t.play(ctx, "successor").resp, nil
		}
	}
	return t.forward(ctx, body)
}

// enter takes a place among the exchanges in flight, or returns nil where there is none. Who sends artifacts at random must
// not take the places of those whose sessions are known.
func (t *trip) enter(known bool) (leave func()) {
	if t.inside {
		return func() {}
	}
	slots := t.v.tenant.others
	if known {
		slots = t.v.tenant.exchanges
	}
	select {
	case slots <- struct{}{}:
	default:
		return nil
	}
	t.inside = true
	return func() { <-slots; t.inside = false }
}

// join waits for the exchange with the same artifact that is still under way: the artifact must not be presented again
// meanwhile (design, law 11), and that exchange's silence proves no more than the silence of a request of one's own. Whoever
// repeats the very request that was answered in its place gets that answer again where it proves no more.
func (t *trip) join(ctx context.Context) (*http.Response, error) {
	opened := t.monitor.Opened()
	deadline := time.NewTimer(t.monitor.Deadline())
	defer deadline.Stop()
	look := time.NewTicker(joinLook)
	defer look.Stop()
	landed := t.g.late.landed(t.place)
	for {
		trigger := "in_flight"
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-landed:
			return t.run(ctx)
		case <-look.C:
			if landed != nil {
				continue
			}
			// Another gateway waits for the reply, or one that ended did.
			st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.lookup)
			if err == nil && !t.g.late.inFlight(t.lookup, st.Successor) {
				return t.run(ctx)
			}
			continue
		case <-deadline.C:
			if !t.may(ctx, health.Doubt, false) {
				if resp := t.repeated(ctx); resp != nil {
					return resp, nil
				}
				continue
			}
		case <-opened:
			opened, trigger = nil, "breaker"
		}
		if p := t.play(ctx, trigger); p.settles() {
			t.share(p)
			return p.resp, nil
		}
	}
}

// joinLook is how often it is asked whether another gateway's exchange has ended.
const joinLook = 250 * time.Millisecond

type result struct {
	o    *outcome
	resp *http.Response
}

// forward asks the primary, and the backup where it does not answer in time.
func (t *trip) forward(ctx context.Context, body []byte) (*http.Response, error) {
	opened := t.monitor.Opened() // taken before sending, so that a breaker that opens meanwhile closes it
	landed := func() time.Duration { return 0 }
	if t.st.Known && t.odd() == "" {
		landed = t.monitor.Sent(t.grant, t.v.address) // its silence counts once it is overdue
	}
	done := make(chan result, 1)
	t.sent = t.g.c.Now()
	// The exchange goes on when the client has been answered or is gone, because its reply matters.
	up, cancel := t.g.late.outlive(ctx)
	finish := t.g.late.begin(t.place)
	go func() {
		o, resp := t.send(up, body)
		landed()
		done <- result{o, resp}
	}()
	leave := func() {
		t.step(ctx, session.Successor{State: session.Pending, At: t.sent.UnixNano(), By: t.g.late.id})
		left := func() {}
		if !t.st.Known { // of one that is known there is one exchange at a time
			left = t.v.tenant.leave(cancel)
		}
		go func() {
			defer cancel()
			defer finish()
			defer left()
			r := <-done
			t.late(context.WithoutCancel(ctx), r.o)
		}()
	}
	var timer <-chan time.Time
	if t.st.Known {
		tm := time.NewTimer(t.monitor.Deadline())
		defer tm.Stop()
		timer = tm.C
	} else {
		opened = nil // the backup could not answer: no deadline
	}
	for {
		trigger := "deadline"
		select {
		case r := <-done:
			cancel()
			finish()
			return t.decide(ctx, r.o, r.resp)
		case <-ctx.Done():
			leave()
			return nil, ctx.Err()
		case <-timer:
			timer = nil
			if !t.may(ctx, health.Doubt, false) {
				continue
			}
		case <-opened:
			opened, trigger = nil, "breaker"
		}
		if p := t.play(ctx, trigger); p.settles() {
			t.share(p)
			leave()
			return p.resp, nil
		}
	}
}

// decide delivers the primary's answer, or the backup's where the primary failed.
func (t *trip) decide(ctx context.Context, o *outcome, resp *http.Response) (*http.Response, error) {
	rule := classify(t.g.rules, o)
	if rule == nil && !t.g.vouched(ctx, t.v, o) {
		rule = unknownKey()
	}
	t.tell(rule, o)
	if rule == nil {
		return t.answered(ctx, o, resp)
	}
	switch {
	case rule.Lost && o.sent:
		t.ambiguous(ctx)
	case rule.Name == unknownKey().Name:
		t.keep(ctx, o) // its refresh token is kept like a late reply's
	}
	if t.st.Known && t.may(ctx, rule.Origin, rule.Probe) {
		if p := t.play(ctx, rule.Name); p.settles() {
			return p.resp, nil
		}
	}
	return t.pass(rule, o, resp)
}

// may says whether the backup may answer in place of a failure (design, law 1).
func (t *trip) may(ctx context.Context, origin health.Origin, probe bool) bool {
	switch {
	case origin == health.Beyond:
		return true
	case origin != health.Doubt:
		return false
	case probe || t.odd() != "":
		return t.monitor.Suspect(ctx)
	}
	return t.monitor.ElsewhereBy(t.grant, t.v.address) || t.firstDoubt() || t.monitor.Suspect(ctx)
}

// answered learns from the primary's answer, keeps a refusal durably, and passes it on.
func (t *trip) answered(ctx context.Context, o *outcome, resp *http.Response) (*http.Response, error) {
	if o.status == http.StatusOK && t.v.endpoint == flow.Token && t.overMeanwhile(ctx, o) {
		t.g.note(t.v, "refused", "revoked", "revoked_here")
		return t.refuse(flow.No("revoked", http.StatusBadRequest, "invalid_grant")), nil
	}
	if gave(t.v.endpoint, o.status) {
		t.push(o)
		t.g.crossed(t.v, t.v.request.HTTP, o.status, o.header)
		if t.st.Known {
			t.monitor.Accepted(t.grant)
		}
		t.g.learner.offer(t, o, "")
		if t.place != t.lookup && resp != nil {
			// The successor's reply is on its way to the client: the old token goes its own way again.
			t.step(ctx, session.Successor{State: session.Delivered, At: t.sent.UnixNano()})
		}
		return resp, nil
	}
	if t.st.Known && o.object.Text("error") == "invalid_grant" && !t.st.Told && !t.st.Doubted {
		t.monitor.Refused(t.grant, t.st.Subject.String())
	}
	if !t.refused(ctx, o) && resp != nil {
		return t.notKept(), nil
	}
	return resp, nil
}

func (t *trip) client() session.ID {
	return t.g.c.Seal.Pseudonym("client", t.v.tenant.Name, t.v.issuer.ID, t.ask.Client.ID)
}
