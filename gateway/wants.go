package gateway

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// Parameters with which a request may be refused although the session goes on: it asks for a newer or a stronger sign-in, or for
// somebody else's.
var demanding = []string{"max_age", "acr_values", "claims", "id_token_hint", "login_hint"}

// unanswered keeps of a reply to an authorization request, which is no answer to it, that the primary wants the person.
func (g *Gateway) unanswered(ctx context.Context, v *visit, resp *http.Response, before holding) {
	if ask := v.begun.ask; ask != nil && asksPerson(ask, v.navigation, resp) {
		g.wantsPerson(ctx, v, v.begun, "interaction_required", before)
	}
}

// asksPerson says whether a reply to an authorization request is none to the application: a page of the primary's on which somebody is
// asked something or refused, or the way to one. A page that sets no cookie may be anybody's who stands before a primary that is dead:
// whoever signs in is told apart by one. What is said of bytes that a primary does not take says nothing of the person whom another site's link
// had send them (design, law 1): and to whatever they do not like a 400 is said by many.
func asksPerson(ask *flow.Ask, r *flow.Request, resp *http.Response) bool {
	if silent(ask) || ask.Unplayable != "" || !oauth.Spelled(r) {
		return false
	}
	switch location := resp.Header.Get("Location"); {
	case resp.StatusCode/100 == 3: // but for an answer that cannot be read
		return location != "" && !strings.HasPrefix(location, ask.Params["redirect_uri"])
	case resp.StatusCode == http.StatusOK:
		return isHTML(resp.Header) && len(resp.Header["Set-Cookie"]) > 0
	}
	return resp.StatusCode == http.StatusBadRequest && oauth.OddNavigation(r) == ""
}

// wantsPerson keeps that the primary refused what the browser was let in to before, or wants the person first (OpenID Connect Core,
// section 3.1.2.6; RFC 6749, section 4.1.2.1): until it approves that again, nobody is let in there in an outage either. Where it said
// that nobody is signed in, that holds for all that this browser may open. What the browser was never let in to shows nothing: an
// application may have a stricter sign-in of its own.
func (g *Gateway) wantsPerson(ctx context.Context, v *visit, x *begun, why string, before holding) {
	if x.ask.Door == nil || slices.ContainsFunc(demanding, func(name string) bool { return x.ask.Params[name] != "" }) {
		return
	}
	switch why {
	case "login_required", "interaction_required", "consent_required", "account_selection_required", "access_denied", "unauthorized_client":
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
	doors := [][]string{x.ask.Door}
	if x.ask.AnyPort != nil {
		doors = append(doors, x.ask.AnyPort)
	}
	for _, door := range doors {
		at := g.application(of, x.ask, k.Application(door...)).Lookup
		if st, err := g.c.Backup.Standing(ctx, v.tenant.Name, at); err == nil && (!st.Known || st.Doubted) {
			continue
		}
		var err error
		if why == "login_required" { // of the browser: what an application holds by itself may outlive that
			m := session.Mark{Of: session.OfDevice, ID: g.c.Seal.Device(v.tenant.Name, x.issuer.ID, k), At: v.began.UnixNano(), Cause: "refused", Told: true}
			err = g.c.Backup.Mark(context.WithoutCancel(ctx), v.tenant.Name, m)
		} else {
			err = g.c.Backup.Refused(context.WithoutCancel(ctx), &backup.Refused{
				Tenant: v.tenant.Name, Lookup: at, Error: why, Sent: v.began.UnixNano(),
				Client: g.c.Seal.Pseudonym("client", v.tenant.Name, x.issuer.ID, x.ask.Client.ID),
			})
		}
		if err != nil { // the backup plays no more then
			g.c.Log.Error("that the primary wants the person is not kept", "tenant", v.tenant.Name, "error", err)
		}
	}
}
