package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// ends says whether a reply of the primary tells that it has carried a revocation or a logout out. A page may only ask the
// person; where it is the last word, it clears the session's cookies.
func ends(e flow.Endpoint, status int, h http.Header) bool {
	switch {
	case e == flow.Revocation:
		return status >= 200 && status < 300
	case e != flow.EndSession:
		return false
	case status == http.StatusNoContent, status >= 300 && status < 400:
		return true
	case status != http.StatusOK:
		return false
	}
	long := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // over, by any clock
	return slices.ContainsFunc(h["Set-Cookie"], func(line string) bool {
		c := readSetCookie(line, long)
		return c.gone && !c.ends.IsZero()
	})
}

// ended keeps durably what a revocation (RFC 7009) or a logout ends, before the client is told. form holds the request's
// parameters, of the body or, for a logout by link, of the query; at is when it ended; told says that the primary knows, asked that it may only have asked the person. It is false where
// nothing is known of what the request names. An error means that it is not kept: the client must not be told that it is.
func (g *Gateway) ended(ctx context.Context, v *visit, form url.Values, at time.Time, told, asked bool) (known bool, err error) {
	ctx = context.WithoutCancel(ctx) // a client that goes away does not undo its logout
	m := &backup.GrantMark{Tenant: v.tenant.Name, At: at.UnixNano(), Told: told, Session: true}
	client := form.Get("client_id")
	if v.request != nil {
		client = oauth.ClientID(v.request)
	}
	// Another client's token is none that this one can revoke, whatever the primary says to it (RFC 7009, section 2.1). Who
	// asks is not always to be seen: then what is over is only inferred.
	m.Client = g.c.Seal.Pseudonym("client", v.tenant.Name, v.issuer.ID, client)
	m.Inferred = asked || m.Client.Zero()
	token, hint := form.Get("refresh_token"), form.Get("id_token_hint")
	switch {
	case v.endpoint == flow.Revocation:
		// A revocation ends the grant. That the session is over too is only inferred: some primaries end it.
		token, m.Cause = form.Get("token"), "revocation"
	case v.endpoint == flow.EndSession && token != "":
		m.Cause = "logout"
	case v.endpoint == flow.EndSession && hint != "":
		known, err = g.loggedOut(ctx, v, hint, m.At, told, asked)
	}
	if m.Cause != "" && token != "" {
		kind := session.RefreshToken
		if oauth.Issued(token, g.c.Seal.Look) {
			kind = session.AccessToken
		}
		m.Lookup = g.c.Seal.Lookup(kind, v.tenant.Name, v.issuer.ID, oauth.Canonical(token))
		known, err = g.c.Backup.MarkGrant(ctx, m)
		if err == nil && !known && v.endpoint == flow.Revocation {
			known, err = g.revoked(ctx, v, oauth.Canonical(token), m)
		}
	}
	if err != nil {
		g.c.Log.Error("a revocation is not kept", "tenant", v.tenant.Name, "endpoint", v.endpoint, "error", err)
	}
	if errors.Is(err, backup.ErrStopped) && told {
		err = nil // it holds all the same: nothing that it could end is played
	}
	return known, err
}

// revoked marks an access token of the primary's: nothing hangs on it, but whoever asks about it is told (RFC 7009, section 2). It
// is false where the token is none, or not known to be this client's.
func (g *Gateway) revoked(ctx context.Context, v *visit, token string, m *backup.GrantMark) (known bool, err error) {
	at, client := g.c.Seal.Lookup(session.AccessToken, v.tenant.Name, v.issuer.ID, token), session.ID{}
	if tok, e := oauth.ParseJWT(token); e == nil {
		if !v.issuer.signed(token, tok) {
			return false, nil
		}
		client = g.c.Seal.Pseudonym("client", v.tenant.Name, v.issuer.ID, oauth.ClientOf(tok))
	} else {
		st, err := g.c.Backup.Standing(ctx, v.tenant.Name, at)
		if err != nil || !st.Known {
			return false, err
		}
		client = st.Client
	}
	if client != m.Client && !(m.Told && m.Client.Zero()) {
		return false, nil
	}
	return true, g.c.Backup.Mark(ctx, v.tenant.Name, session.Mark{Of: session.OfGrant, ID: at, Final: !m.Inferred, At: m.At, Cause: m.Cause, Told: m.Told})
}

// endHere ends, without the primary, what a revocation or a logout names, or returns nil where nothing is known of it, or
// the request ends nothing. The gateway holds the mark against what it ended also when the primary is back.
func (t *trip) endHere(ctx context.Context) *http.Response {
	if !t.v.ends() {
		return nil
	}
	us, err := t.hinted(ctx)
	if err != nil {
		return t.notKept()
	}
	t.took = t.partsOf(ctx, us)
	now := t.g.c.Now()
	known, err := t.g.ended(ctx, t.v, t.v.request.Form, now, false, false)
	switch {
	case err != nil:
		return t.notKept()
	case !known:
		return nil
	}
	t.over = now
	if t.v.endpoint == flow.EndSession {
		if t.closed, err = t.closeBrowser(ctx, us, now); err != nil {
			return t.notKept()
		}
	}
	t.owe()
	t.tellParties(ctx)
	t.g.note(t.v, "revoked", "ended_here", "")
	if t.v.endpoint == flow.EndSession {
		return t.signedOut()
	}
	return t.reply(http.StatusOK, http.Header{"Cache-Control": {"no-store"}}, nil)
}

func (g *Gateway) lookup(v *visit, refreshToken string) session.ID {
	return g.c.Seal.Lookup(session.RefreshToken, v.tenant.Name, v.issuer.ID, oauth.Canonical(refreshToken))
}

// loggedOut marks the session of an ID token that stood in an approved logout request (OpenID Connect RP-Initiated
// Logout, section 2). A hint that the primary did not sign says nothing; an expired one still says whose session it was.
func (g *Gateway) loggedOut(ctx context.Context, v *visit, hint string, now int64, told, asked bool) (known bool, err error) {
	hint = oauth.Canonical(hint)
	t, err := oauth.ParseJWT(hint)
	if err != nil || t.Claims.Text("iss") != v.issuer.ID {
		return false, nil
	}
	if !v.issuer.signed(hint, t) {
		return false, nil
	}
	m := session.Mark{At: now, Cause: "logout", Told: told}
	if sid := t.Claims.Text("sid"); sid != "" {
		m.Of, m.ID, m.Final = session.OfSession, g.c.Seal.Pseudonym("session", v.tenant.Name, v.issuer.ID, sid), !asked
	} else if !asked {
		// No session is named: whatever this person had may be over, until the primary approves it again.
		m.Of, m.ID = session.OfSubject, g.c.Seal.Pseudonym("subject", v.tenant.Name, v.issuer.ID, t.Claims.Text("sub"))
	}
	if m.ID.Zero() {
		return false, nil
	}
	return true, g.c.Backup.Mark(ctx, v.tenant.Name, m)
}

// namesSession says whether an ID token says of which session it is.
func namesSession(idToken string) bool {
	t, err := oauth.ParseJWT(idToken)
	return err == nil && t.Claims.Text("sid") != ""
}

// ownToken returns the reply to a request that presents a token of the backup's, or nil where it presents none. The
// primary cannot know such a token; what the backup does not answer yet is "not now".
func (t *trip) ownToken(ctx context.Context) *http.Response {
	v := t.v
	switch v.endpoint {
	case flow.Token:
		if t.ask.Artifact.Kind == session.Code && oauth.Ours(t.ask.Artifact.Value, t.g.c.Seal.Look) {
			return t.ownCode(ctx)
		}
		// Nobody but the backup knows its tokens as somebody's.
		if t.ask.Subject != "" && t.ask.Unplayable == "" && oauth.Issued(t.ask.Subject, t.g.c.Seal.Look) {
			if !t.stand(ctx, true) && t.v.refusal == nil {
				t.g.note(v, "refused", "no_record", "own_token")
				return t.refuse(flow.NotNow("no_record"))
			}
			return t.play(ctx, "own_token").resp
		}
		if t.ask.Subject != "" && oauth.Issued(t.ask.Subject, t.g.c.Seal.Look) {
			t.g.note(v, "refused", "own_token", t.ask.Unplayable)
			return t.refuse(flow.NotNow("own_token"))
		}
	case flow.UserInfo:
		if t.ask.Artifact.Kind == session.AccessToken && t.ask.Unplayable == "" && oauth.Issued(t.ask.Artifact.Value, t.g.c.Seal.Look) {
			t.place = t.g.c.Seal.Lookup(session.AccessToken, v.tenant.Name, v.issuer.ID, t.ask.Artifact.Value)
			return t.play(ctx, "own_token").resp
		}
	case flow.Introspection:
		if t.ask.Artifact.Value != "" && oauth.Issued(t.ask.Artifact.Value, t.g.c.Seal.Look) {
			return t.introspect(ctx)
		}
	case flow.Revocation, flow.EndSession:
		for _, name := range []string{"token", "id_token_hint"} {
			if x := v.request.Form.Get(name); x != "" && oauth.Issued(x, t.g.c.Seal.Look) {
				// Once the primary serves it would have to hear of it too, and it does not know the token. A person who signs
				// out has no other: where it names the session, the mark holds against what the primary goes on to approve.
				if t.monitor.Share() == 0 || v.endpoint == flow.EndSession && namesSession(x) {
					if resp := t.endHere(ctx); resp != nil {
						return resp
					}
				}
				t.g.note(v, "refused", "own_token", "")
				return t.refuse(flow.NotNow("own_token"))
			}
		}
	}
	return nil
}
