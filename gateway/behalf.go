package gateway

import (
	"context"
	"errors"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// subject verifies the token on whose behalf a client asks, by the keys of the primary and of the backup, and that it is valid now.
func (t *trip) subject() bool {
	if t.behalf != nil {
		return oauth.Lives(t.behalf.Token, t.g.c.Now())
	}
	tok, err := oauth.ParseJWT(t.ask.Subject)
	if err != nil || tok.Claims.Text("iss") != t.v.issuer.ID || !oauth.Lives(tok, t.g.c.Now()) || !t.v.issuer.signed(t.ask.Subject, tok) {
		return false
	}
	t.behalf = &flow.Behalf{
		Token: tok, Lookup: t.g.c.Seal.Lookup(session.AccessToken, t.v.tenant.Name, t.v.issuer.ID, oauth.Canonical(t.ask.Subject)),
	}
	return true
}

// subjectOver keeps durably, before the client is told, that the primary took from it no longer a token that is valid by itself: it
// knows more. It is false where that cannot be kept.
func (t *trip) subjectOver(ctx context.Context) bool {
	m := session.Mark{
		Of: session.OfGrant, ID: t.g.c.Seal.Told(t.v.tenant.Name, t.v.issuer.ID, t.behalf.Lookup, t.ask.Client.ID), At: t.sent.UnixNano(), Cause: "refused", Told: true,
	}
	err := t.g.c.Backup.Mark(ctx, t.v.tenant.Name, m)
	if err != nil {
		t.g.c.Log.Error("the primary's refusal is not kept", "tenant", t.v.tenant.Name, "error", err)
	}
	return err == nil || errors.Is(err, backup.ErrStopped)
}
