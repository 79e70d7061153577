package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"understudy/flow"
	"understudy/session"
)

// prove derives the client authentication. It is false where too many were tried.
func (t *trip) prove(ctx context.Context) bool {
	if t.ask.Client.Assertion != "" {
		return t.assert(ctx)
	}
	if t.ask.Client.Certified() {
		return t.certify()
	}
	id := t.proof.SecretID
	t.proof = flow.Proof{ID: t.ask.Client.ID, Method: t.ask.Client.Method, Vouched: t.vouched}
	if t.ask.Client.Secret == "" || t.vouched {
		return true
	}
	if t.key == nil {
		key, ok := t.g.secrets.key(ctx, t.v.tenant.Name, t.v.issuer.ID, t.ask.Client.ID, t.ask.Client.Secret, t.v.address)
		if !ok {
			return false
		}
		t.key = key
	}
	if t.proof.SecretID = id; id.Zero() {
		t.proof.SecretID = t.g.c.Seal.SecretID(t.key)
	}
	return true
}

// proven derives the client authentication where that costs nothing because it was done before.
func (t *trip) proven() bool {
	if t.ask.Client.Secret != "" && t.key == nil && !t.vouched {
		t.key, _ = t.g.secrets.kept(t.v.tenant.Name, t.v.issuer.ID, t.ask.Client.ID, t.ask.Client.Secret)
		if t.key == nil {
			t.proof = flow.Proof{ID: t.ask.Client.ID, Method: t.ask.Client.Method}
			return false
		}
	}
	return t.prove(context.Background())
}

// owns says whether the presented artifact is known to be the client's.
func (t *trip) owns(ctx context.Context) bool {
	if t.st.Known {
		return t.st.Client == t.client()
	}
	st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.place)
	return err == nil && st.Known && st.Client == t.client()
}

// played is what the backup said, as a reply for the client.
type played struct {
	resp *http.Response
	no   *flow.Refusal // nil: it answered
}

// settles says whether the primary need not be asked, or waited for, any more.
func (p played) settles() bool { return p.no == nil || p.no.Definite }

// play asks the backup, once: what it has refused it refuses again for as long as the request lasts.
func (t *trip) play(ctx context.Context, trigger string) played {
	if no := t.v.refusal; no != nil {
		return played{t.refuse(no), no}
	}
	p := t.playNow(ctx, trigger)
	t.v.refusal = p.no
	return p
}

func (t *trip) playNow(ctx context.Context, trigger string) played {
	if t.ask.Client.DPoP && !t.possess() {
		no := flow.No("dpop_refused", http.StatusBadRequest, "invalid_dpop_proof") // RFC 9449, section 5
		t.g.note(t.v, "refused", no.Code, trigger)
		return played{t.refuse(no), no}
	}
	if t.ask.Subject != "" && !t.subject() {
		no := flow.No("subject_token_refused", http.StatusBadRequest, t.ask.SubjectRefused)
		t.g.note(t.v, "refused", no.Code, trigger)
		return played{t.refuse(no), no}
	}
	// A stranger's secret is not worth the work: the backup refuses for the artifact.
	if !t.proven() && t.ask.Client.Secret != "" && t.owns(ctx) && !t.prove(ctx) {
		return t.limited(trigger)
	}
	p := t.message(trigger)
	reply, no, err := t.g.c.Backup.Play(ctx, p)
	if err != nil {
		t.g.c.Log.Error("the backup failed", "tenant", p.Tenant, "error", err)
		no = flow.NotNow("backup_failed")
		t.g.note(t.v, "refused", no.Code, trigger)
		return played{t.refuse(no), no}
	}
	switch {
	case no != nil && no.Demands():
		t.g.Counts.Demanded(p.Tenant, p.Flow)
		t.undoubt()
		return played{t.refuse(no), no}
	case no != nil:
		t.g.Counts.Refused(p.Tenant, p.Flow, no.Code)
		return played{t.refuse(no), no}
	case p.Client.Fresh:
		t.renew(reply.Header)
	}
	t.g.Counts.Answered(p.Tenant, p.Flow, trigger)
	if reply.Post != nil {
		rec := &recorder{h: http.Header{"Cache-Control": {"no-store"}}}
		if err := t.g.showPost(rec, t.v.navigation.HTTP, t.v, reply.Post); err != nil {
			no := flow.NotNow("backup_failed")
			return played{t.refuse(no), no}
		}
		return played{t.reply(rec.status, rec.h, rec.body), nil}
	}
	return played{t.reply(reply.Status, reply.Header, t.fill(reply)), nil}
}

// limited refuses a client whose secrets were guessed at too fast.
func (t *trip) limited(trigger string) played {
	no := flow.NotNow("limited")
	no.Definite = true // the primary is not asked in its place
	t.g.note(t.v, "refused", no.Code, trigger)
	return played{t.refuse(no), no}
}

// fill puts the presented artifact, which the backup never sees, into its place in the reply.
func (t *trip) fill(r *flow.Reply) []byte {
	if r.Fill == "" {
		return r.Body
	}
	quoted := session.Quote(t.ask.Artifact.Value)
	return bytes.Replace(r.Body, []byte(r.Fill), quoted[1:len(quoted)-1], 1)
}

func (t *trip) message(trigger string) *flow.Play {
	v, client := t.v, t.proof
	if p := t.possession; p != nil {
		client.JKT, client.Possessed, client.PossessedUntil = p.Thumbprint, p.Once.Key, p.Once.Until.UnixNano()
		client.Fresh = t.fresh()
	}
	client.Certificate = v.certificate.asked().Thumbprint
	return &flow.Play{
		ID: v.id, Tenant: v.tenant.Name, Issuer: v.issuer.ID, Flow: v.flow.Name(), Client: client,
		Artifact: session.ArtifactKeys{
			Kind: t.ask.Artifact.Kind, Lookup: t.place,
			Key: t.opens(t.ask.Artifact),
		},
		Scope: t.ask.Scope, Resource: t.ask.Resource, Presented: t.ask.Presented, Params: t.ask.Params,
		Token: t.token, Behalf: t.behalf, Doubt: t.doubt,
		Facts: session.Facts{
			Address: v.address, UserAgent: clip(t.header("User-Agent"), 256), Origin: clip(t.header("Origin"), 256),
		},
		Received: v.began.UnixNano(), Outage: t.monitor.Outage().UnixNano(), Trigger: trigger,
	}
}

// header is a header field of the client's request.
func (t *trip) header(name string) string {
	if t.v.navigation != nil {
		return t.v.navigation.HTTP.Header.Get(name)
	}
	return t.v.request.HTTP.Header.Get(name)
}

// opens is the key of an artifact's door.
func (t *trip) opens(a flow.Artifact) []byte {
	client, secret := t.ask.Client.ID, t.key
	switch a.Kind {
	case session.AccessToken:
		client, secret = "", nil // any bearer presents it
	case session.OwnCode:
		secret = nil // it was made without; the client is authenticated all the same
	}
	return t.g.c.Seal.ArtifactKey(a.Kind, t.v.tenant.Name, t.v.issuer.ID, client, a.Value, secret)
}

func clip(s string, n int) string { return s[:min(len(s), n)] }

func (t *trip) refuse(no *flow.Refusal) *http.Response {
	rec := &recorder{h: http.Header{}}
	if no.Demands() {
		rec.h.Set("DPoP-Nonce", t.nonce(t.g.c.Now()))
	}
	writeRefusal(rec.h, rec, no, t.v.request)
	return t.reply(rec.status, rec.h, rec.body)
}

func (t *trip) reply(status int, h http.Header, body []byte) *http.Response {
	return replyTo(t.out, status, h, body)
}

func replyTo(to *http.Request, status int, h http.Header, body []byte) *http.Response {
	h.Set("Content-Length", strconv.Itoa(len(body)))
	return &http.Response{
		StatusCode: status, Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: to,
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
