package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"

	"sync/atomic"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/health"
	"understudy/session"
)

var errEOF = io.EOF

const (
	maxRequestBody = 64 << 10
	maxReplyBody   = 1 << 20
	// lateBound is how long an exchange whose client has been answered may still go on.
	lateBound = 60 * time.Second
)

// read buffers the body of a request at a protocol endpoint and finds its flow. It is false where it has answered.
func (g *Gateway) read(w http.ResponseWriter, r *http.Request, v *visit) bool {
	if r.Method != http.MethodPost && v.endpoint != flow.UserInfo {
		return true
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBody))
	if err != nil {
		var large *http.MaxBytesError
		no := flow.No("body_not_received", http.StatusBadRequest, "invalid_request")
		if errors.As(err, &large) {
			no = flow.No("body_too_large", http.StatusRequestEntityTooLarge, "invalid_request")
		}
		writeRefusal(w.Header(), w, no, nil)
		return false
	}
	v.id = requestID()
	v.request = &flow.Request{
		HTTP: r, Body: body, Tenant: v.tenant.Name, Issuer: v.issuer.ID, Endpoint: v.endpoint, Address: v.address,
	}
	if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.EqualFold(strings.TrimSpace(t), "application/x-www-form-urlencoded") {
		v.request.Form, v.request.FormErr = url.ParseQuery(string(body))
		if v.request.FormErr != nil {
			v.request.Form = nil
		}
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.TransferEncoding = nil
	for _, f := range g.c.Flows {
		if f.Endpoint() != v.endpoint {
			continue
		}
		if x := f.Match(v.request); x != nil {
			v.flow, v.exchange = f, x
			break
		}
	}
	return true
}

// trip is one exchange at a protocol endpoint.
type trip struct {
	g       *Gateway
	v       *visit
	out     *http.Request
	ask     *flow.Ask
	monitor *health.Monitor
	lookup  session.ID // of the presented artifact; zero: none
	place   session.ID // of the artifact that the client holds; another than lookup where a successor stands in
	proof   flow.Proof
	key     []byte // of the client's secret
	st      backup.Standing
	grant   string
	// presented is the artifact that is sent to the primary: the client's, or its kept successor.
	presented string
}

// exchange sends a buffered request to the primary, or to the backup, and returns the reply for the client.
func (g *Gateway) exchange(out *http.Request, v *visit) (*http.Response, error) {
	t := &trip{g: g, v: v, out: out, ask: &flow.Ask{Unplayable: "no_flow"}, monitor: v.tenant.monitors[flow.Token]}
	if v.exchange != nil {
		t.ask = v.exchange.Ask()
	}
	ctx := out.Context()
	if t.ask.Artifact.Value == "" || t.ask.Unplayable != "" {
		return t.plain(ctx)
	}
	t.lookup = g.c.Seal.Lookup(t.ask.Artifact.Kind, v.tenant.Name, v.issuer.ID, t.ask.Artifact.Value)
	t.place, t.presented = t.lookup, t.ask.Artifact.Value
	unlock := g.late.lock(ctx, t.lookup)
	if unlock == nil {
		return nil, ctx.Err()
	}
	defer unlock()
	return t.run(ctx)
}

// plain is the way of a request that the backup could not answer.
func (t *trip) plain(ctx context.Context) (*http.Response, error) {
	t.grant = "plain " + t.v.address
	o, resp := t.send(ctx, t.v.request.Body)
	rule := classify(t.g.rules, o)
	t.tell(rule, o)
	if rule != nil && o.err != nil {
		return nil, o.err
	}
	if rule == nil && t.v.exchange != nil {
		t.g.learner.offer(t, o)
	}
	t.revocation(ctx, o)
	return resp, nil
}

// tell tells the monitor what became of a request.
func (t *trip) tell(rule *Rule, o *outcome) {
	if rule == nil {
		t.monitor.Success(t.grant, t.g.c.Now().Sub(t.v.began))
		return
	}
	t.g.Counts.Rule(t.v.tenant.Name, string(t.v.endpoint), rule.Name)
	if t.ask.Odd == "" && !rule.Probe {
		t.monitor.Failure(t.grant, rule.Origin)
	} else if rule.Origin == health.Beyond {
		t.monitor.Failure(t.grant, rule.Origin)
	}
}

// run is the way of a request that the backup could answer.
func (t *trip) run(ctx context.Context) (*http.Response, error) {
	st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.lookup)
	if err != nil {
		t.g.c.Log.Warn("the standing of an artifact is not known; the primary decides", "tenant", t.v.tenant.Name, "error", err)
	}
	t.st, t.grant = st, st.Grant.String()
	if !st.Known {
		t.grant = t.lookup.String()
	}
	body := t.v.request.Body
	switch {
	case st.Revoked:
		// The primary could not have heard of it: the refusal, and its line in the log, come from the backup.
		return t.play(ctx, "revoked_here").orNotNow()
	case st.Successor != nil && st.Successor.State == session.Pending && t.g.late.inFlight(t.lookup, st.Successor):
		return t.play(ctx, "in_flight").orNotNow()
	case st.Successor != nil && st.Successor.State == session.Kept && t.monitor.Serving(st.Hash):
		body, err = t.substitute(st.Successor)
		if err != nil {
			t.g.c.Log.Error("a kept successor does not open", "tenant", t.v.tenant.Name, "error", err)
			return t.play(ctx, "successor").orNotNow()
		}
	case st.Known && !t.monitor.Serving(st.Hash):
		a := t.play(ctx, "breaker")
		if a.resp != nil && !a.notNow() {
			return a.resp, nil
		}
		// What the backup does not know may still be asked of the primary.
		return t.plain(ctx)
	}
	return t.forward(ctx, body)
}

// forward asks the primary, and the backup where it does not answer.
func (t *trip) forward(ctx context.Context, body []byte) (*http.Response, error) {
	// Read before sending: a breaker that opens meanwhile closes this channel.
	opened := t.monitor.Opened()
	type result struct {
		o    *outcome
		resp *http.Response
	}
	done := make(chan result, 1)
	sent := t.g.c.Now()
	// The exchange goes on when the client has been answered or is gone: its reply matters (design, "sent, but no reply").
	up, cancel := context.WithTimeout(context.WithoutCancel(ctx), lateBound)
	finish := t.g.late.begin(t.lookup)
	go func() {
		o, resp := t.send(up, body)
		done <- result{o, resp}
	}()
	leave := func() { // the client waits no longer: the reply, if it comes, comes late
		go func() {
			defer cancel()
			defer finish()
			r := <-done
			t.late(context.WithoutCancel(ctx), r.o, sent)
		}()
	}
	var timer <-chan time.Time
	if t.st.Known {
		tm := time.NewTimer(t.monitor.Deadline())
		defer tm.Stop()
		timer = tm.C
	} else {
		opened = nil
	}
	for {
		select {
		case r := <-done:
			cancel()
			finish()
			return t.decide(ctx, r.o, r.resp, sent)
		case <-ctx.Done():
			t.keepPending(sent)
			leave()
			return nil, ctx.Err()
		case <-timer:
			timer = nil
			t.monitor.Failure(t.grant, health.Doubt)
			if !t.may(ctx, &Rule{Name: "deadline", Origin: health.Doubt}) {
				continue
			}
		case <-opened:
			opened = nil
		}
		if a := t.play(ctx, "deadline"); a.resp != nil && !a.notNow() {
			t.keepPending(sent)
			leave()
			return a.resp, nil
		}
	}
}

// decide delivers the primary's answer, or the backup's where the primary failed.
func (t *trip) decide(ctx context.Context, o *outcome, resp *http.Response, sent time.Time) (*http.Response, error) {
	rule := classify(t.g.rules, o)
	if rule == nil && o.status == http.StatusOK && !t.g.vouched(ctx, t.v, o) {
		rule = &Rule{Name: "unknown_key", Origin: health.Doubt}
		t.late(ctx, o, sent) // its refresh token is kept like a late reply's
	}
	t.tell(rule, o)
	if rule == nil {
		return t.answered(ctx, o, resp, sent)
	}
	lost := rule.Name == "no_reply" && o.sent
	if lost {
		t.ambiguous(ctx, sent)
	}
	if t.st.Known && t.may(ctx, rule) {
		if a := t.play(ctx, rule.Name); a.resp != nil && (!a.notNow() || o.err != nil) {
			return a.resp, nil
		}
	}
	if o.err != nil {
		return nil, o.err
	}
	if o.status >= 500 {
		return t.refuse(flow.NotNow("primary_failed")), nil
	}
	return resp, nil
}

// may says whether the backup may answer in place of a failure (design, law 1).
func (t *trip) may(ctx context.Context, rule *Rule) bool {
	switch {
	case rule.Origin == health.Ours:
		return false
	case rule.Origin == health.Beyond:
		return true
	case rule.Probe || t.ask.Odd != "":
		return t.monitor.Suspect(ctx)
	case t.monitor.Elsewhere(t.grant) || t.g.late.firstDoubt(t.grant):
		return true
	}
	return t.monitor.Suspect(ctx)
}

// answered learns from the primary's answer, keeps a refusal durably, and passes it on.
func (t *trip) answered(ctx context.Context, o *outcome, resp *http.Response, sent time.Time) (*http.Response, error) {
	if o.status == http.StatusOK {
		t.g.learner.offer(t, o)
		if t.place != t.lookup {
			// The successor's reply is on its way to the client: the old token goes its own way again.
			if err := t.g.c.Backup.Step(ctx, t.v.tenant.Name, t.place, t.g.c.Now().UnixNano(), session.Successor{State: session.Delivered, At: sent.UnixNano()}); err != nil {
				t.g.c.Log.Error("a delivered successor is not noted", "tenant", t.v.tenant.Name, "error", err)
			}
		}
		return resp, nil
	}
	if e := o.object.Text("error"); o.status >= 400 && refuses(e) {
		t.prove()
		r := &backup.Refused{
			Tenant: t.v.tenant.Name, Lookup: t.lookup, SecretID: t.proof.SecretID, Error: e, Sent: sent.UnixNano(),
			Client: t.g.c.Seal.Pseudonym("client", t.v.tenant.Name, t.v.issuer.ID, t.ask.Client.ID),
		}
		if err := t.g.c.Backup.Refused(ctx, r); err != nil {
			t.g.c.Log.Error("the primary's refusal is not kept", "tenant", t.v.tenant.Name, "error", err)
		}
	}
	return resp, nil
}

// refuses says whether an error is about the artifact or the client, not about the request.
func refuses(e string) bool {
	switch e {
	case "invalid_grant", "invalid_client", "unauthorized_client", "access_denied":
		return true
	}
	return false
}

// send sends one request to the primary and buffers the reply.
func (t *trip) send(ctx context.Context, body []byte) (*outcome, *http.Response) {
	o := &outcome{endpoint: t.v.endpoint}
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
		WroteRequest: func(httptrace.WroteRequestInfo) { sent.Store(true) },
	})
	out := t.out.Clone(ctx)
	out.Body = io.NopCloser(bytes.NewReader(body))
	out.ContentLength = int64(len(body))
	if len(body) == 0 {
		out.Body, out.ContentLength = once{}, 0
	}
	out.GetBody = nil
	resp, err := t.v.tenant.transport.RoundTrip(out)
	if err != nil {
		o.err, o.sent = err, sent.Load()
		return o, nil
	}
	defer resp.Body.Close()
	o.sent, o.status, o.header = true, resp.StatusCode, resp.Header
	o.body, err = io.ReadAll(io.LimitReader(resp.Body, maxReplyBody+1))
	switch {
	case err != nil:
		o.err = err
		return o, nil
	case len(o.body) > maxReplyBody:
		o.err = errTooLarge
		return o, nil
	}
	resp.Body = io.NopCloser(bytes.NewReader(o.body))
	return o, resp
}

// prove derives the client's proof from its secret; the derivation is slow where it was not done before.
func (t *trip) prove() bool {
	t.proof = flow.Proof{ID: t.ask.Client.ID, Method: t.ask.Client.Method}
	if t.ask.Client.Secret == "" {
		return true
	}
	key, ok := t.g.secrets.key(t.v.tenant.Name, t.v.issuer.ID, t.ask.Client.ID, t.ask.Client.Secret, t.v.address)
	if !ok {
		return false
	}
	t.key, t.proof.SecretID = key, t.g.c.Seal.SecretID(key)
	return true
}

// played is what the backup said.
type played struct {
	resp *http.Response
	no   *flow.Refusal
	err  error
}

func (p played) notNow() bool { return p.no != nil && !p.no.Definite }

func (p played) orNotNow() (*http.Response, error) {
	if p.resp == nil {
		return nil, p.err
	}
	return p.resp, nil
}

// play asks the backup.
func (t *trip) play(ctx context.Context, trigger string) played {
	if !t.prove() {
		no := flow.NotNow("limited")
		return played{resp: t.refuse(no), no: no}
	}
	p := t.message(trigger)
	reply, no, err := t.g.c.Backup.Play(ctx, p)
	if err != nil {
		t.g.c.Log.Error("the backup failed", "tenant", p.Tenant, "error", err)
		no = flow.NotNow("backup_failed")
	}
	if no != nil {
		t.g.Counts.Refused(p.Tenant, p.Flow, no.Code)
		return played{resp: t.refuse(no), no: no}
	}
	t.g.Counts.Answered(p.Tenant, p.Flow, trigger)
	if reply.Fill != "" {
		quoted := session.Quote(t.ask.Artifact.Value)
		reply.Body = bytes.Replace(reply.Body, []byte(reply.Fill), quoted[1:len(quoted)-1], 1)
	}
	return played{resp: t.reply(reply.Status, reply.Header, reply.Body)}
}

func (t *trip) message(trigger string) *flow.Play {
	seal, v := t.g.c.Seal, t.v
	return &flow.Play{
		ID: v.id, Tenant: v.tenant.Name, Issuer: v.issuer.ID, Flow: v.flow.Name(), Client: t.proof,
		Artifact: session.ArtifactKeys{
			Kind: t.ask.Artifact.Kind, Lookup: t.place,
			Key: seal.ArtifactKey(t.ask.Artifact.Kind, v.tenant.Name, v.issuer.ID, t.doorClient(), t.ask.Artifact.Value, t.key),
		},
		Scope: t.ask.Scope, Resource: t.ask.Resource,
		Facts: session.Facts{
			Address: v.address, UserAgent: clip(v.request.HTTP.UserAgent(), 256), Origin: clip(v.request.HTTP.Header.Get("Origin"), 256),
		},
		Received: v.began.UnixNano(), Outage: t.monitor.Outage().UnixNano(), Trigger: trigger,
	}
}

// doorClient is the client that a door is bound to: none for access tokens, which bearers present.
func (t *trip) doorClient() string {
	if t.ask.Artifact.Kind == session.AccessToken {
		return ""
	}
	return t.ask.Client.ID
}

func clip(s string, n int) string { return s[:min(len(s), n)] }

func (t *trip) refuse(no *flow.Refusal) *http.Response {
	rec := &recorder{h: http.Header{}}
	writeRefusal(rec.h, rec, no, t.v.request)
	return t.reply(rec.status, rec.h, rec.body)
}

func (t *trip) reply(status int, h http.Header, body []byte) *http.Response {
	h.Set("Content-Length", strconv.Itoa(len(body)))
	return &http.Response{
		StatusCode: status, Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: t.out,
	}
}

// recorder is the http.ResponseWriter of a reply that is not written yet.
type recorder struct {
	h      http.Header
	status int
	body   []byte
}

func (r *recorder) Header() http.Header         { return r.h }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { r.body = append(r.body, b...); return len(b), nil }

// releasing gives a slot back when a body has been read or left.
type releasing struct {
	io.ReadCloser
	release func()
}

func (r *releasing) Close() error {
	if r.release != nil {
		r.release()
		r.release = nil
	}
	return r.ReadCloser.Close()
}

// probeToken asks the token endpoint for a grant type that nobody supports.
func (t *Tenant) probeToken(ctx context.Context, path string) error {
	body := "grant_type=urn%3Aunderstudy%3Aprobe&client_id=understudy-probe"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.Upstream.String()+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.GetBody = nil
	req.Host = t.Hosts[0]
	t.forwarded(req, "", t.Scheme)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	resp, err := t.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReplyBody))
	if err != nil {
		return err
	}
	o := &outcome{endpoint: flow.Token, status: resp.StatusCode, header: resp.Header, body: b, sent: true}
	if rule := classify(Rules(), o); rule != nil {
		return fmt.Errorf("the probe failed: %s (status %d)", rule.Name, resp.StatusCode)
	}
	return nil
}

// revocation keeps durably what an approved revocation (RFC 7009) or logout ended, before the client is told.
func (t *trip) revocation(ctx context.Context, o *outcome) {
	v := t.v
	if v.request.Form == nil || o.err != nil || o.status >= 400 {
		return
	}
	var token, cause string
	switch v.endpoint {
	case flow.Revocation:
		token, cause = v.request.Form.Get("token"), "revocation"
	case flow.EndSession:
		token, cause = v.request.Form.Get("refresh_token"), "logout"
	}
	if token == "" {
		return
	}
	look := t.g.c.Seal.Lookup(session.RefreshToken, v.tenant.Name, v.issuer.ID, token)
	if _, err := t.g.c.Backup.MarkGrant(ctx, v.tenant.Name, look, t.g.c.Now().UnixNano(), cause, true, true); err != nil {
		t.g.c.Log.Error("a revocation is not kept", "tenant", v.tenant.Name, "error", err)
	}
}
