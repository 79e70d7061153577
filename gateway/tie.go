package gateway

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// browserID stands for a browser at a tenant.
func (g *Gateway) browserID(v *visit) session.ID {
	if v.browserID.of != v.browser {
		v.browserID.of, v.browserID.id = v.browser, g.c.Seal.Pseudonym("browser", v.tenant.Name, "", v.browser)
	}
	return v.browserID.id
}

// errBarred is for a reply of the primary's with tokens of a session that was ended here.
var errBarred = errors.New("the session was ended here")

// endedHere says whether tokens that a reply carries to an application are of a session that was ended here, and of which the primary
// could not have heard (design, law 3): whoever asked for them, and in whatever way.
func (g *Gateway) endedHere(ctx context.Context, v *visit, carried []string) bool {
	for _, token := range carried {
		tok, err := oauth.ParseJWT(token)
		if err != nil {
			continue
		}
		clients := tok.Claims.Texts("aud")
		if client := oauth.ClientOf(tok); client != "" {
			clients = []string{client}
		}
		given := session.Object{{Name: "id_token", Value: session.Quote(token)}}
		for _, is := range v.tenant.meta.issuers() { // the reply may come of a page that lies anywhere
			if is.ID != tok.Claims.Text("iss") {
				continue
			}
			if slices.ContainsFunc(clients, func(client string) bool { return g.barred(ctx, g.signIn(v.tenant, is, client, given, v.began)) }) {
				g.note(v, "refused", "revoked", "revoked_here")
				return true
			}
		}
	}
	return false
}

// signedOutHere says whether the session that a browser was last seen to have was ended here, and the primary could not have heard.
func (g *Gateway) signedOutHere(ctx context.Context, v *visit, is *issuer) bool {
	st, err := g.c.Backup.Standing(ctx, v.tenant.Name, g.browserKeys(v.tenant.Name, is.ID, v.browser, "").Lookup)
	if err != nil || !st.Revoked {
		return false
	}
	g.note(v, "refused", "revoked", "revoked_here")
	return true
}

// given notes an authorization response, which is false where it must not go out.
func (g *Gateway) given(ctx context.Context, v *visit, x *begun, r *oauth.Redirected, before, after holding, status int) bool {
	// Of whose session it is shows in nothing that it carries.
	unnamed := oauth.AsksNothing(x.ask) || v.endpoint == flow.Authorization && r.IDToken == "" && r.AccessToken != "" && strings.Count(r.AccessToken, ".") != 2
	if r.Error == "" && unnamed && g.signedOutHere(ctx, v, x.issuer) {
		return false
	}
	if r.Error != "" {
		g.wantsPerson(ctx, v, x, r.Error, before)
		return true
	}
	g.answered(v, x, r, before, after, status)
	return true
}

// answered notes that an authorization request of the browser's was answered.
func (g *Gateway) answered(v *visit, x *begun, r *oauth.Redirected, before, after holding, status int) {
	names := v.tenant.SessionCookies
	if why := r.Unlearned(); why != "" {
		g.Counts.Unlearned(v.tenant.Name, why)
		return
	}
	if after.text(names) == "" {
		g.Counts.Unlearned(v.tenant.Name, "no_session_cookie")
		g.missed(v, &tied{begun: x, browser: v.browser}, "no_session_cookie")
		return
	}
	var was session.ArtifactKeys
	if a, b := after.text(names), before.text(names); b != "" && a != b {
		was = g.browserKeys(v.tenant.Name, x.issuer.ID, v.browser, b)
		g.browsers.replaced(g.browserKeys(v.tenant.Name, x.issuer.ID, v.browser, a).Lookup, was)
	}
	t := &tied{begun: x, browser: v.browser, was: was.Lookup, after: after, answer: r, status: status, received: g.c.Now(), direct: v.endpoint == flow.Authorization}
	if r.Code == "" {
		g.learner.add(v.tenant.Name, &lesson{front: t, v: &visit{tenant: v.tenant, issuer: x.issuer, began: v.began}})
	} else {
		g.browsers.put(g.c.Seal.Lookup(session.Code, v.tenant.Name, x.issuer.ID, r.Code), t)
	}
}

// unknownSession is how long a session is taken to be alive where the primary says nothing of its end: neither a refresh token
// nor the cookie does.
const unknownSession = 30 * time.Minute

// maxFormer bounds how often a browser's cookies may have been replaced since something of it was kept.
const maxFormer = 8

// redeemedBy says whether a redemption is that of the code: else the primary takes care of itself, and it is tied to nothing.
func (x *tied) redeemedBy(t *trip) bool {
	return x.ask.Client.ID == t.ask.Client.ID && x.ask.Params["redirect_uri"] == t.ask.Params["redirect_uri"] && x.issuer.ID == t.v.issuer.ID &&
		(!x.request.Referenced || oauth.Verifies(x.ask.Params, t.ask.Params["code_verifier"]))
}

// learned makes of what was approved the message about the browser that it came of; nil where there is none. m is the message
// about the redemption of the code, or has what such a message has.
func (x *tied) learned(ctx context.Context, l *learner, v *visit, le *flow.Lesson, m *backup.Learned) *backup.Learned {
	g, s, names := l.g, l.g.c.Seal, v.tenant.SessionCookies
	sub := le.Record.Subject
	now := g.browserKeys(v.tenant.Name, v.issuer.ID, x.browser, x.after.text(names))
	now.Ends = unixNano(x.after.ends)
	out := *m
	out.Flow, out.Shape, out.Sealed, out.Replaced, out.Kept, out.Once = "authorization", nil, session.Sealed{}, nil, nil, nil
	var k *session.BrowserKey
	var held session.ID // where it was found
	for ks, more, n := now, true, 0; k == nil && more && n < maxFormer; n++ {
		if k, held = g.opened(ctx, v, ks), ks.Lookup; k == nil {
			ks, more = g.browsers.before(ks.Lookup)
		} else if held != now.Lookup {
			out.Replaced = append(out.Replaced, held)
		}
	}
	// Whose the browser is must show in this very answer: what it held before an earlier one may be somebody else's.
	if sub == "" && k != nil && x.direct && (held == now.Lookup || held == x.was) && oauth.AsksNothing(x.ask) {
		var begun int64
		m, begun = g.asBefore(ctx, v, x, m, k)
		if begun == 0 {
			return nil // it is over, or nobody knows since when it is
		}
		out.Subject, out.Session, out.AuthTime = m.Subject, m.Session, begun/int64(time.Second)
		sub, le.Record.Subject = k.Subject, k.Subject
	}
	if sub == "" {
		g.Counts.Unlearned(v.tenant.Name, "no_subject")
		return nil
	}
	// Somebody else signed in with this browser: what the former one could open is closed.
	if k != nil && k.Subject != sub {
		out.Former, k = append(out.Former, s.Device(v.tenant.Name, v.issuer.ID, k)), nil
	}
	if k == nil {
		k = session.NewBrowserKey(sub)
	}
	whose := g.browserKeys(v.tenant.Name, v.issuer.ID, x.browser, "").Lookup
	if was, err := g.user(ctx, v, whose); err != nil {
		g.Counts.Unlearned(v.tenant.Name, "backup_failed")
		return nil
	} else if !was.Device.Zero() && was.Subject != m.Subject && !slices.Contains(out.Former, was.Device) {
		out.Former = append(out.Former, was.Device)
	}
	out.Device = s.Device(v.tenant.Name, v.issuer.ID, k)
	app := g.application(v, x.ask, k.Application(x.ask.Door...))
	app.Ends = now.Ends
	if app.Ends == 0 {
		app.Ends = m.Sent + int64(unknownSession)
	}
	for _, a := range le.Artifacts {
		if a.Kind == session.RefreshToken && !a.Ends.IsZero() {
			app.Ends = a.Ends.UnixNano()
			if !m.Session.Zero() {
				out.Kept = append(out.Kept, session.SealedDoor{Kind: session.Activity, Lookup: m.Session, Ends: app.Ends})
			}
		}
	}
	out.Presented = app.Lookup
	apps := []session.ArtifactKeys{app}
	if x.ask.AnyPort != nil {
		any := g.application(v, x.ask, k.Application(x.ask.AnyPort...))
		any.Ends = app.Ends
		apps, out.Presented = append(apps, any), any.Lookup // the port is another one each time
	}
	rec := *le.Record
	if out.Unlearned == "" {
		rec.Front, out.Unlearned = x.front(ctx, l, v, &rec)
	}
	if out.Unlearned == "" {
		rec.SignedResponse, out.Unlearned = x.signed(ctx, l, v)
	}
	if out.Unlearned == "" && x.request.Referenced {
		rec.Scope, out.Unlearned = x.read(&rec)
	}
	if o := x.opened(v.tenant, app, out.Unlearned == ""); o != nil {
		k = g.browsers.lets(out.Device, k, *o)
	}
	wrapped, err := k.Wrap(v.tenant.Name, now)
	if err != nil {
		g.Counts.Unlearned(v.tenant.Name, "seal")
		return nil
	}
	g.browsers.remember(now.Lookup, k)
	g.browsers.uses(whose, user{m.Subject, out.Device, m.Session})
	out.Kept = append(out.Kept,
		session.SealedDoor{Kind: session.Browser, Lookup: whose},
		session.SealedDoor{Kind: session.Browser, Lookup: now.Lookup, Wrapped: wrapped, Ends: now.Ends},
		session.SealedDoor{Kind: session.RedirectURI, Lookup: g.redirectPlace(v, x.ask)},
	)
	out.Kept = append(out.Kept, g.ports(ctx, v, x.ask)...)
	if s := rec.SignedResponse; s != nil {
		out.Signs = map[string]string{flow.ClassAuthorizationResponse: s.Token.Header.Text("alg")}
	}
	if out.Unlearned != "" {
		out.Sealed = session.Sealed{Record: session.NewID()}
		for _, a := range apps {
			out.Sealed.Doors = append(out.Sealed.Doors, session.SealedDoor{Kind: a.Kind, Lookup: a.Lookup})
		}
		return &out
	}
	rec.Facts.UserAgent = clip(x.request.HTTP.UserAgent(), 256) // the browser's, whoever redeems
	rec.Asked, rec.Resource, rec.Redirect, rec.RedirectStatus = x.ask.Scope, x.ask.Resource, x.answer.Params, x.status
	sealed, err := session.Seal(&rec, x.userInfo, apps...)
	if err != nil {
		g.Counts.Unlearned(v.tenant.Name, "seal")
		return nil
	}
	out.Sealed = *sealed
	return &out
}

// asBefore is a message about whoever is signed in with the browser, of an answer that does not say who that is, and when that session
// began: such an answer begins nothing. 0: nobody is known to be.
func (g *Gateway) asBefore(ctx context.Context, v *visit, x *tied, m *backup.Learned, k *session.BrowserKey) (*backup.Learned, int64) {
	out := *m
	out.Subject = g.c.Seal.Pseudonym("subject", v.tenant.Name, v.issuer.ID, k.Subject)
	h, err := g.c.Backup.Held(ctx, v.tenant.Name, g.browserKeys(v.tenant.Name, v.issuer.ID, x.browser, "").Lookup)
	if err != nil || h.Subject != out.Subject || h.Device != g.c.Seal.Device(v.tenant.Name, v.issuer.ID, k) {
		return &out, 0
	}
	out.Session = h.Session
	return &out, h.Begun
}

// front reads the tokens of the authorization response, which must be about the person of the record.
func (x *tied) front(ctx context.Context, l *learner, v *visit, rec *session.Record) (*session.Front, string) {
	if x.answer.IDToken == "" && x.answer.AccessToken == "" {
		return nil, ""
	}
	front, why := x.answer.Front(v.issuer.ID)
	if why != "" {
		return nil, why
	}
	if why := l.unsigned(ctx, v, front.IDToken, front.AccessToken); why != "" {
		return nil, why
	}
	for _, t := range []struct {
		token string
		read  *session.Token
	}{{x.answer.IDToken, front.IDToken}, {x.answer.AccessToken, front.AccessToken}} {
		switch {
		case t.read == nil:
		case !v.issuer.signed(t.token, t.read):
			return nil, "unknown_key"
		case t.read.Claims.Text("sub") != rec.Subject:
			return nil, "subject_changed"
		}
	}
	return front, ""
}

// signed is how the authorization response is signed, as the primary signed it; nil: it was not.
func (x *tied) signed(ctx context.Context, l *learner, v *visit) (*session.SignedResponse, string) {
	s, why := x.answer.Signature(v.issuer.ID, x.ask.Client.ID, x.received)
	if s == nil {
		return nil, why
	}
	if why = l.unsigned(ctx, v, &s.Token); why == "" && !v.issuer.signed(x.answer.Response, &s.Token) {
		why = "unknown_key"
	}
	if why != "" {
		return nil, why
	}
	return s, ""
}

// user is who is signed in with a browser.
type user struct{ Subject, Device, Session session.ID }

// user is who was last seen to sign in with a browser.
func (g *Gateway) user(ctx context.Context, v *visit, whose session.ID) (user, error) {
	if u := g.browsers.user(whose); !u.Device.Zero() {
		return u, nil
	}
	h, err := g.c.Backup.Held(ctx, v.tenant.Name, whose)
	return user{h.Subject, h.Device, h.Session}, err
}

// redirectPlace is where it is kept that the primary has sent people to a client's redirect URI.
func (g *Gateway) redirectPlace(v *visit, ask *flow.Ask) session.ID {
	return g.c.Seal.Lookup(session.RedirectURI, v.tenant.Name, v.issuer.ID, session.Joined(ask.Client.ID, ask.Params["redirect_uri"]))
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
