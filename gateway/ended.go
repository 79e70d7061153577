package gateway

import (
	"context"
	"net/http"
	"net/url"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// ended keeps durably what a revocation (RFC 7009) or a logout that the primary approved has ended, before the client is
// told. form holds the request's parameters, of the body or, for a logout by link, of the query.
func (g *Gateway) ended(ctx context.Context, v *visit, form url.Values, status int) {
	if status >= 400 {
		return
	}
	ctx = context.WithoutCancel(ctx) // a client that goes away does not undo its logout
	now := g.c.Now().UnixNano()
	var err error
	switch v.endpoint {
	case flow.Revocation:
		// A revocation ends the grant. That the session is over too is only inferred: some primaries end it.
		if token := form.Get("token"); token != "" {
			_, err = g.c.Backup.MarkGrant(ctx, v.tenant.Name, g.lookup(v, token), now, "revocation", true, true)
		}
	case flow.EndSession:
		if token := form.Get("refresh_token"); token != "" {
			_, err = g.c.Backup.MarkGrant(ctx, v.tenant.Name, g.lookup(v, token), now, "logout", true, true)
		} else if hint := form.Get("id_token_hint"); hint != "" {
			err = g.loggedOut(ctx, v, hint, now)
		}
	}
	if err != nil {
		g.c.Log.Error("a revocation that the primary approved is not kept", "tenant", v.tenant.Name, "endpoint", v.endpoint, "error", err)
	}
}

func (g *Gateway) lookup(v *visit, refreshToken string) session.ID {
	return g.c.Seal.Lookup(session.RefreshToken, v.tenant.Name, v.issuer.ID, refreshToken)
}

// loggedOut marks the session of an ID token that stood in an approved logout request (OpenID Connect RP-Initiated
// Logout, section 2). A hint that the primary did not sign says nothing; an expired one still says whose session it was.
func (g *Gateway) loggedOut(ctx context.Context, v *visit, hint string, now int64) error {
	t, err := oauth.ParseJWT(hint)
	if err != nil || t.Claims.Text("iss") != v.issuer.ID {
		return nil
	}
	k, ok := v.issuer.keys[t.Header.Text("kid")]
	if !ok || !verify(hint, t.Header.Text("alg"), k) {
		return nil
	}
	m := session.Mark{At: now, Cause: "logout", Told: true}
	if sid := t.Claims.Text("sid"); sid != "" {
		m.Of, m.ID, m.Final = session.OfSession, g.c.Seal.Pseudonym("session", v.tenant.Name, v.issuer.ID, sid), true
	} else {
		// No session is named: whatever this person had may be over, until the primary approves it again.
		m.Of, m.ID = session.OfSubject, g.c.Seal.Pseudonym("subject", v.tenant.Name, v.issuer.ID, t.Claims.Text("sub"))
	}
	if m.ID.Zero() {
		return nil
	}
	return g.c.Backup.Mark(ctx, v.tenant.Name, m)
}

// ownToken returns the reply to a request that presents a token of the backup's, or nil where it presents none. The
// primary cannot know such a token; what the backup does not answer yet is "not now".
func (t *trip) ownToken(ctx context.Context) *http.Response {
	v := t.v
	switch v.endpoint {
	case flow.UserInfo:
		if t.ask.Artifact.Kind == session.AccessToken && t.ask.Unplayable == "" && oauth.Issued(t.ask.Artifact.Value, t.g.c.Seal.Look) {
			t.place = t.g.c.Seal.Lookup(session.AccessToken, v.tenant.Name, v.issuer.ID, t.ask.Artifact.Value)
			return t.play(ctx, "own_token").resp
		}
	case flow.Introspection, flow.Revocation, flow.EndSession:
		for _, name := range []string{"token", "id_token_hint"} {
			if x := v.request.Form.Get(name); x != "" && oauth.Issued(x, t.g.c.Seal.Look) {
				t.g.Counts.Refused(v.tenant.Name, string(v.endpoint), "own_token")
				return t.refuse(flow.NotNow("own_token"))
			}
		}
	}
	return nil
}
