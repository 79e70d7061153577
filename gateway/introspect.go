package gateway

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"net/url"

	"understudy/flow"
	"understudy/flow/oauth"
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
	return t.told(t.play(ctx, "own_token"))
}

// told is the reply to who asked about a token: of one that is over, that it is not active. The caller is authenticated then.
func (t *trip) told(p played) *http.Response {
	if p.no != nil && p.no.Error == "invalid_grant" {
		return t.reply(http.StatusOK, http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}, []byte(`{"active":false}`))
	}
	return p.resp
}

// introspectPrimarys is the way of a question about a token that is not the backup's: the primary's to answer. Where it does not,
// and the token is a JWT that it signed, the backup says what the token says of itself.
func (t *trip) introspectPrimarys(ctx context.Context) (*http.Response, error) {
	if t.monitor.Share() == 0 {
		if p, ok := t.itself(ctx, "breaker"); ok {
			return t.told(p), nil
		}
	}
	t.sent = t.g.c.Now()
	o, resp := t.send(ctx, t.v.request.Body)
	rule := classify(t.g.rules, o)
	t.tell(rule, o)
	if rule != nil && (rule.Origin == health.Beyond || rule.Origin == health.Doubt && t.monitor.Suspect(ctx)) {
		if p, ok := t.itself(ctx, rule.Name); ok {
			return t.told(p), nil
		}
	}
	return t.delivered(ctx, rule, o, resp)
}

// itself answers about an access token of the primary's by what it says. It is false where that cannot be done.
func (t *trip) itself(ctx context.Context, trigger string) (played, bool) {
	tok, err := oauth.ParseJWT(t.ask.Artifact.Value)
	if err != nil || t.ask.Unplayable != "" || !isAccessToken(tok) || !t.v.issuer.signed(t.ask.Artifact.Value, tok) {
		return played{}, false
	}
	if nbf, ok := tok.Claims.Number("nbf"); ok && nbf > t.g.c.Now().Unix() {
		return played{}, false
	}
	if !t.proven() && !t.prove(ctx) {
		return t.limited(trigger), true
	}
	t.token = tok
	t.place = t.g.c.Seal.Lookup(session.AccessToken, t.v.tenant.Name, t.v.issuer.ID, oauth.Canonical(t.ask.Artifact.Value))
	p := t.play(ctx, trigger)
	t.token = nil
	return p, p.settles()
}

// isAccessToken says whether a JWT is none of the other tokens that a primary signs with the same keys.
func isAccessToken(t *session.Token) bool {
	switch t.Claims.Text("typ") { // Keycloak's
	case "", "Bearer":
	default:
		return false
	}
	for _, name := range []string{"nonce", "at_hash", "c_hash", "events"} { // ID tokens, logout tokens
		if t.Claims.Has(name) {
			return false
		}
	}
	switch t.Header.Text("typ") {
	case "", "JWT", "jwt", "at+jwt", "application/at+jwt":
		return true
	}
	return false
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
