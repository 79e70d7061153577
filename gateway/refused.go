package gateway

import (
	"context"
	"errors"
	"net/http"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// refused keeps durably, before the client is told, that the primary refused the artifact or the client. Where that
// cannot be kept, the client is not told yet.
func (t *trip) refused(ctx context.Context, o *outcome) (kept bool) {
	e := o.object.Text("error")
	if o.status < 400 || t.v.exchange == nil {
		return true
	}
	lookup := t.lookup
	if e != "" && e == t.ask.SubjectRefused {
		if !t.subject() {
			lookup = session.ID{} // it would be refused here too, and says nothing about what was approved for others
		} else if !t.subjectOver(ctx) {
			return false
		}
	}
	if !refuses(e, o.status) {
		return true
	}
	if !t.proven() && t.owns(ctx) { // of a service that was not seen since this process began, its name's door is at place
		t.prove(ctx)
	}
	r := &backup.Refused{
		Tenant: t.v.tenant.Name, Lookup: lookup, SecretID: t.proof.SecretID, Error: e, Sent: t.sent.UnixNano(), Client: t.client(),
		Over: oauth.Over(o.object.Text("error_description")), Reused: oauth.Reused(o.object.Text("error_description")), Once: t.proof.Once, Until: t.proof.Until,
	}
	err := t.g.c.Backup.Refused(context.WithoutCancel(ctx), r)
	if err != nil {
		t.g.c.Log.Error("the primary's refusal is not kept", "tenant", t.v.tenant.Name, "error", err)
	}
	return err == nil || errors.Is(err, backup.ErrStopped) // nothing of this tenant is played any more
}

// notKept is the reply where the primary's own must not go out yet.
func (t *trip) notKept() *http.Response {
	t.g.note(t.v, "refused", "mark_not_kept", "")
	return t.refuse(flow.NotNow("mark_not_kept"))
}

// codeAgain ends the grant of a redeemed code that is presented again while the primary cannot see it (RFC 6749,
// section 4.1.2).
func (t *trip) codeAgain(ctx context.Context) {
	if t.ask.Artifact.Kind != session.Code {
		return
	}
	st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.lookup)
	if err != nil || !st.Known || st.Client != t.client() {
		return
	}
	m := &backup.GrantMark{Tenant: t.v.tenant.Name, Lookup: t.lookup, At: t.g.c.Now().UnixNano(), Cause: "reuse"}
	if _, err := t.g.c.Backup.MarkGrant(context.WithoutCancel(ctx), m); err != nil {
		t.g.c.Log.Error("the replay of a code is not kept", "tenant", t.v.tenant.Name, "error", err)
	}
}

// refuses says whether an error is about the artifact or the client, not about the request. unauthorized_client is both:
// a wrong secret at one provider (401), and at others a grant that the client may not use.
func refuses(e string, status int) bool {
	switch e {
	case "invalid_grant", "invalid_client", "access_denied":
		return true
	case "unauthorized_client":
		return status == http.StatusUnauthorized
	}
	return false
}
