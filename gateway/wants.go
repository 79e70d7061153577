package gateway

import (
	"context"
	"slices"

	"understudy/backup"
	"understudy/flow/oauth"
	"understudy/session"
)

// Parameters with which a request may be refused although the session goes on: it asks for a newer or a stronger sign-in, or for
// somebody else's.
var demanding = []string{"max_age", "acr_values", "claims", "id_token_hint", "login_hint"}

// wantsPerson keeps that the primary refused to answer without a person (OpenID Connect Core, section 3.1.2.6) what the browser was
// let in to before: until it approves that again, nobody is let in there in an outage either. Where it said that nobody is signed in,
// that holds for all that this browser may open.
func (g *Gateway) wantsPerson(ctx context.Context, v *visit, x *begun, r *oauth.Redirected, before holding) {
	if !silent(x.ask) || x.ask.Door == nil || slices.ContainsFunc(demanding, func(name string) bool { return x.ask.Params[name] != "" }) {
		return
	}
	switch r.Error {
	case "login_required", "interaction_required", "consent_required", "account_selection_required":
	default:
		return
	}
	primary := before.text(v.tenant.SessionCookies)
	if v.browser == "" || primary == "" {
		return
	}
	of := &visit{tenant: v.tenant, issuer: x.issuer}
	k := g.opened(ctx, of, g.browserKeys(v.tenant.Name, x.issuer.ID, v.browser, primary))
	if k == nil {
		return
	}
	if r.Error == "login_required" { // of the browser: what an application holds by itself may outlive that
		m := session.Mark{Of: session.OfDevice, ID: g.c.Seal.Device(v.tenant.Name, x.issuer.ID, k), At: v.began.UnixNano(), Cause: "refused", Told: true}
		if err := g.c.Backup.Mark(context.WithoutCancel(ctx), v.tenant.Name, m); err != nil {
			g.c.Log.Error("that the primary wants the person is not kept", "tenant", v.tenant.Name, "error", err)
		}
		return
	}
	doors := [][]string{x.ask.Door}
	if x.ask.AnyPort != nil {
		doors = append(doors, x.ask.AnyPort)
	}
	for _, door := range doors {
		at := g.application(of, x.ask, k.Application(door...)).Lookup
		if st, err := g.c.Backup.Standing(ctx, v.tenant.Name, at); err == nil && (!st.Known || st.Doubted) {
			continue
		}
		err := g.c.Backup.Refused(context.WithoutCancel(ctx), &backup.Refused{
			Tenant: v.tenant.Name, Lookup: at, Error: r.Error, Sent: v.began.UnixNano(),
			Client: g.c.Seal.Pseudonym("client", v.tenant.Name, x.issuer.ID, x.ask.Client.ID),
		})
		if err != nil { // the backup plays no more then
			g.c.Log.Error("that the primary wants the person is not kept", "tenant", v.tenant.Name, "error", err)
		}
	}
}
