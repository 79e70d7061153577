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
	known := t.ours(ctx)
	if !t.proven() && t.ask.Client.Secret != "" && known && !t.prove(ctx) { // work that is worth it only for a token that is known
		return t.limited("own_token").resp
	}
	return t.told(t.play(ctx, "own_token"))
}

// ours says whether the backup knows the token as one that it issued. One without a door is answered by what it says of itself.
func (t *trip) ours(ctx context.Context) bool {
	if st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.place); err != nil || st.Known {
		return err == nil
	}
	tok, err := oauth.ParseJWT(t.ask.Artifact.Value)
	if err != nil || !t.says(tok) {
		return false
	}
	t.token = tok
	return true
}

// told is the reply to who asked about a token: of one that is over, that it is not active. The caller is authenticated then. In a
// JWT (RFC 9701) that would need a signature, and is "not now".
func (t *trip) told(p played) *http.Response {
	if p.no != nil && p.no.Error == "invalid_grant" && t.ask.Params["accept"] != "" {
		t.g.note(t.v, "refused", "introspection_unsigned", p.no.Code)
		return t.refuse(flow.NotNow("introspection_unsigned"))
	}
	if p.no != nil && p.no.Error == "invalid_grant" {
		return t.reply(http.StatusOK, http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}, []byte(`{"active":false}`))
	}
	return p.resp
}

// aboutToken answers about an access token of the primary's: by what was learned with it or, of a JWT that the primary signed, by
// what it says of itself. It is false where that cannot be done.
func (t *trip) aboutToken(ctx context.Context, trigger string) (*http.Response, bool) {
	if t.ask.Artifact.Kind != session.AccessToken || t.ask.Unplayable != "" || t.v.refusal != nil {
		return nil, false
	}
	t.place = t.at(t.ask.Artifact)
	tok, err := oauth.ParseJWT(t.ask.Artifact.Value)
	if jwt := err == nil; jwt && !t.says(tok) {
		return nil, false
	} else if !jwt || t.v.endpoint == flow.UserInfo {
		if st, err := t.g.c.Backup.Standing(ctx, t.v.tenant.Name, t.place); err != nil || !st.Known {
			return nil, false
		}
		tok = nil
	}
	if !t.proven() && t.ask.Client.Secret != "" && !t.prove(ctx) {
		return t.limited(trigger).resp, true
	}
	t.token = tok
	defer func() { t.token = nil }()
	p := t.play(ctx, trigger)
	if t.v.endpoint == flow.Introspection {
		return t.told(p), p.settles()
	}
	return p.resp, p.settles()
}

// says says whether an access token is one that the primary signed, and whose time has begun.
func (t *trip) says(tok *session.Token) bool {
	if !isAccessToken(tok) || !t.v.issuer.signed(t.ask.Artifact.Value, tok) {
		return false
	}
	nbf, ok := tok.Claims.Number("nbf")
	return !ok || nbf <= t.g.c.Now().Unix()
}

// isAccessToken says whether a JWT is none of the other tokens that a primary signs with the same keys.
func isAccessToken(t *session.Token) bool {
	switch t.Claims.Text("typ") { // Keycloak's
	case "", "Bearer", "DPoP":
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
