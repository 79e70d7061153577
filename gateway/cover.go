package gateway

import (
	"slices"

	"understudy/backup"
	"understudy/coverage"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// sealed is a message for the backup, with what the coverage table is told once the backup has it.
type sealed struct {
	*backup.Learned
	seen *coverage.Seen // nil: nothing
	// userInfo is what UserInfo said, which is sealed when all before it is kept; then nothing else is set.
	userInfo *lesson
}

func messages(ms []sealed) []*backup.Learned {
	out := make([]*backup.Learned, len(ms))
	for i := range ms {
		out[i] = ms[i].Learned
	}
	return out
}

// cover tells the coverage table what became of an exchange.
func (g *Gateway) cover(m sealed, o backup.Outcome) {
	if m.seen == nil || o.Unlearned == "revoked" || o.Unlearned == "spooled" { // over, or not known yet
		return
	}
	s := *m.seen
	s.Auth, s.Reason, s.Kept, s.Mute = m.ClientAuth, o.Unlearned, true, m.Notify != nil && m.Notify["alg"] == ""
	g.count(s)
}

func (g *Gateway) count(s coverage.Seen) {
	if g.c.Coverage != nil {
		g.c.Coverage.Add(s)
	}
}

// about is what all of a client's exchanges have in common.
func (g *Gateway) about(v *visit, client flow.Credentials, le *flow.Lesson) coverage.Seen {
	s := coverage.Seen{
		Tenant: v.tenant.Name, Issuer: v.issuer.ID, Client: client.ID, Auth: client.Method,
		Pseudonym: g.c.Seal.Pseudonym("client", v.tenant.Name, v.issuer.ID, client.ID),
	}
	if le == nil || le.Record == nil {
		return s
	}
	switch rec := le.Record; {
	case rec.AccessToken != nil:
		s.Audiences = rec.AccessToken.Claims.Texts("aud")
	case rec.Opaque != nil:
		s.Audiences = rec.Resource
	default:
		return s
	}
	if len(s.Audiences) == 0 {
		s.Audiences = []string{""}
	}
	return s
}

// asks is what an application asks for, in whatever order.
func asks(ask *flow.Ask) []string {
	return []string{
		session.Joined(slices.Sorted(slices.Values(ask.Scope))...), session.Joined(slices.Sorted(slices.Values(ask.Resource))...),
	}
}

// seen is what the table is told of an approved exchange. What goes on in an outage is what it led to.
func (g *Gateway) seen(t *trip, le *flow.Lesson, m *backup.Learned) *coverage.Seen {
	s := g.about(t.v, t.ask.Client, le)
	if t.ask.Client.Method != "none" {
		s.Address = t.v.address // a public client's is a person's
	}
	switch s.Flow = t.v.flow.Name(); {
	case byItself(t.ask.Artifact.Kind) && le.Presented != nil:
		s.Alone = true
		if t.v.endpoint == flow.Token {
			s.Asked = asks(t.ask)
		}
		if t.ask.Subject != "" {
			s.Who = sessionOf(m)
		}
	case t.v.endpoint == flow.Token:
		s.Flow, s.Who = "refresh_token", sessionOf(m)
		if t.ask.Artifact.Kind == session.RefreshToken {
			s.Asked = asks(t.ask)
		}
	}
	return &s
}

// sessionOf stands for the session, or where none is named the person.
func sessionOf(m *backup.Learned) session.ID {
	if m.Session.Zero() {
		return m.Subject
	}
	return m.Session
}

// seenBrowser is the same of what a browser may ask for again.
func (g *Gateway) seenBrowser(v *visit, x *tied, le *flow.Lesson) *coverage.Seen {
	s := g.about(v, x.ask.Client, le)
	s.Flow, s.Asked, s.Door, s.Person = "authorization", asks(x.ask), x.ask.Door, x.ask.Unplayable != ""
	s.Who = g.c.Seal.Pseudonym("browser", v.tenant.Name, "", x.browser)
	return &s
}

// missed tells that nothing was learned of an authorization response.
func (g *Gateway) missed(v *visit, x *tied, why string) {
	at := *v // pages lie at paths of no issuer's
	at.issuer = x.issuer
	s := g.seenBrowser(&at, x, nil)
	s.Auth, s.Reason = "", why // how the client would have redeemed it is not known
	g.count(*s)
}

// unlearned tells that nothing was learned of an approved exchange at an endpoint that clients ask.
func (g *Gateway) unlearned(t *trip, o *outcome, le *flow.Lesson, why string) {
	if t.v.endpoint != flow.Token && t.v.endpoint != flow.Introspection || t.v.flow == nil {
		return
	}
	s := g.about(t.v, t.ask.Client, le)
	if s.Flow, s.Reason = t.v.flow.Name(), why; byItself(t.ask.Artifact.Kind) {
		s.Asked = asks(t.ask)
	} else if t.v.endpoint == flow.Token {
		s.Who = g.person(t.v, o)
		if t.v.request.Form.Get("grant_type") == "password" {
			s.Reason = "password"
		}
	}
	g.count(s)
}

// untied tells that a code came of an authorization request that was not understood.
func (g *Gateway) untied(t *trip, o *outcome, le *flow.Lesson) {
	if g.c.Coverage == nil {
		return
	}
	s := g.about(t.v, t.ask.Client, le)
	if s.Reason = g.c.Coverage.Noted(s.Tenant, s.Issuer, s.Client); s.Reason != "" {
		s.Flow, s.Who = "authorization", g.person(t.v, o)
		g.count(s)
	}
}

// person stands for whose session a token response shows.
func (g *Gateway) person(v *visit, o *outcome) session.ID {
	sub, sid, _ := oauth.Whose(o.object)
	if sid != "" {
		return g.c.Seal.Pseudonym("session", v.tenant.Name, v.issuer.ID, sid)
	}
	return g.c.Seal.Pseudonym("subject", v.tenant.Name, v.issuer.ID, sub)
}

// puzzled notes why an authorization request is not understood.
func (g *Gateway) puzzled(v *visit, ask *flow.Ask) {
	if ask.Door == nil && g.c.Coverage != nil {
		g.c.Coverage.Note(v.tenant.Name, v.issuer.ID, ask.Client.ID, ask.Unplayable)
	}
}
