package gateway

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"net/url"

	"understudy/flow"
	"understudy/health"
	"understudy/session"
)

// introspect answers a caller who asks about a token that the backup issued, until it expires. While the primary serves it
// authenticates the caller: it is asked about a token that never was, and its refusal of the caller passes.
func (t *trip) introspect(ctx context.Context) *http.Response {
	t.place = t.g.c.Seal.Lookup(session.AccessToken, t.v.tenant.Name, t.v.issuer.ID, t.ask.Artifact.Value)
	if t.ask.Unplayable != "" {
		t.g.note(t.v, "refused", "own_token", t.ask.Unplayable)
		return t.refuse(flow.NotNow("own_token"))
	}
	if t.monitor.Share() > 0 {
		t.sent = t.g.c.Now()
		o, resp := t.send(ctx, withAnotherToken(t.v.request.Form))
		rule := classify(t.g.rules, o)
		t.tell(rule, o)
		switch {
		case rule == nil && o.status != http.StatusOK: // the caller is none that the primary takes
			if !t.refused(ctx, o) {
				return t.notKept()
			}
			return resp
		case rule == nil:
			t.vouched = true
		case rule.Origin != health.Beyond && !t.monitor.Suspect(ctx): // the caller may have brought it about (design, law 1)
			t.g.note(t.v, "refused", "primary_failed", rule.Name)
			return t.refuse(flow.NotNow("primary_failed"))
		}
	}
	if !t.proven() { // work that is worth it only for a token that is known
		if st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.place); err == nil && st.Known && !t.prove(ctx) {
			return t.limited("own_token").resp
		}
	}
	p := t.play(ctx, "own_token")
	if p.no != nil && p.no.Error == "invalid_grant" { // it is over; the caller is authenticated
		return t.reply(http.StatusOK, http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}, []byte(`{"active":false}`))
	}
	return p.resp
}

// withAnotherToken is a form about a token that nobody issued.
func withAnotherToken(form url.Values) []byte {
	b := make([]byte, 32)
	rand.Read(b)
	out := url.Values{}
	for name, vs := range form {
		out[name] = vs
	}
	out["token"] = []string{base64.RawURLEncoding.EncodeToString(b)}
	return []byte(out.Encode())
}
