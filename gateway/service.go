package gateway

import (
	"context"
	"net/http"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/health"
	"understudy/session"
)

// byItself says whether an artifact is what a client asks for by itself.
func byItself(k session.Kind) bool { return k == session.ClientSecret || k == session.ClientKey }

// at is where the door of an artifact lies. What a client asks for by itself is no secret: its place depends on the
// client's secret too, so that only who holds that finds it.
func (t *trip) at(a flow.Artifact) session.ID {
	value := a.Value
	switch a.Kind {
	case session.RefreshToken, session.AccessToken:
		value = oauth.Canonical(value)
	case session.ClientSecret:
		value = session.Joined(string(t.proof.SecretID[:]), value)
	}
	return t.g.c.Seal.Lookup(a.Kind, t.v.tenant.Name, t.v.issuer.ID, value)
}

// name is where the door of the client's name lies.
func (t *trip) name() session.ID {
	return t.g.c.Seal.Lookup(session.Client, t.v.tenant.Name, t.v.issuer.ID, t.ask.Client.ID)
}

// stand finds the place of a request whose artifact is the client's secret. Where the secret was not derived before, that
// is work, and done only if it must be and the client is one that the primary is known to have approved.
func (t *trip) stand(ctx context.Context, work bool) bool {
	if t.ask.Artifact.Kind == session.ClientSecret && !t.proven() {
		t.place = t.name()
		if !work || t.v.refusal != nil || !t.owns(ctx) {
			return false
		}
		if !t.prove(ctx) {
			t.v.refusal = t.limited("").no
			return false
		}
	}
	t.lookup = t.at(t.ask.Artifact)
	t.place = t.lookup
	return true
}

// service is the way of a request that a client makes for itself.
func (t *trip) service(ctx context.Context) (*http.Response, error) {
	if t.ask.Unplayable != "" {
		return t.plain(ctx)
	}
	if t.stand(ctx, t.monitor.Share() == 0) {
		return t.run(ctx)
	}
	// The secret was not seen since this process began. The primary is asked first; that is the work's time only where it
	// fails.
	t.sent = t.g.c.Now()
	o, resp := t.send(ctx, t.v.request.Body)
	rule := classify(t.g.rules, o)
	if rule == nil || rule.Origin == health.Ours || !t.stand(ctx, true) {
		t.tell(rule, o)
		if rule != nil && t.v.refusal != nil {
			return t.refuse(t.v.refusal), nil
		}
		return t.delivered(ctx, rule, o, resp)
	}
	st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.lookup)
	if err == nil && st.Known {
		t.st, t.grant = st, st.Grant.String()
	}
	return t.decide(ctx, o, resp)
}
