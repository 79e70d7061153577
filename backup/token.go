package backup

import (
	"net/http"
	"strings"
	"time"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// token takes an access token of the primary's or of the backup's, whose signature the gateway has verified, for what it says of
// itself: it is its own record. Only who asks about it is answered; nothing comes of it.
func (s *Service) token(a *attempt) *flow.Refusal {
	if a.flow.Endpoint() != flow.Introspection {
		return flow.NotNow("not_played")
	}
	c, p := a.play.Token.Claims, a.play
	if !oauth.SaysWhose(p.Token, p.Issuer) {
		return flow.NotNow("record_incomplete")
	}
	kind := "Bearer"
	if cnf, err := session.ParseObject(c.Get("cnf")); c.Has("cnf") && (err != nil || len(cnf) == 0) {
		return flow.NotNow("record_incomplete") // who asks must be able to tell whom the token is for
	} else if cnf.Has("jkt") {
		kind = "DPoP"
	}
	a.record = &session.Record{
		Format: session.RecordFormat, Tenant: p.Tenant, Issuer: p.Issuer, Client: oauth.ClientOf(p.Token), Subject: c.Text("sub"), SID: c.Text("sid"),
		Scope: strings.Fields(c.Text("scope")), AccessToken: p.Token,
		Response: session.Object{{Name: "token_type", Value: session.Quote(kind)}},
	}
	a.door = s.doorOf(p.Tenant, p.Issuer, p.Token, p.Artifact.Lookup)
	if a.door.Approved > a.now.Add(time.Minute).UnixNano() {
		return flow.No("record_mismatch", http.StatusBadRequest, "invalid_grant") // issued in the future
	}
	return nil
}

// doorOf is what a token says of itself that its door would.
func (s *Service) doorOf(tenant, issuer string, t *session.Token, lookup session.ID) *session.Door {
	c, of := t.Claims, func(what, name string) session.ID { return s.Sessions.Seal.Pseudonym(what, tenant, issuer, name) }
	iat, _ := c.Number("iat")
	exp, _ := c.Number("exp")
	at, _ := c.Number("auth_time")
	d := &session.Door{
		Kind: session.AccessToken, Client: of("client", oauth.ClientOf(t)), Subject: of("subject", c.Text("sub")), Session: of("session", c.Text("sid")),
		Issuer: s.issuer(tenant, issuer), Grant: lookup, Approved: iat * int64(time.Second), Ends: exp * int64(time.Second),
	}
	d.Begun, d.Guessed = begun(d.Approved, at)
	return d
}

// ofToken adds the marks of the presented token itself: that it was revoked (RFC 7009), and that the primary said that it is over.
func (s *Service) ofToken(a *attempt, marks []session.Mark) ([]session.Mark, error) {
	own, err := s.ownMarks(a.play, a.play.Artifact.Lookup, a.door.Approved)
	return append(own, marks...), err
}

// ownMarks are those of a token itself, approved at a time, for who presents it.
func (s *Service) ownMarks(p *flow.Play, lookup session.ID, approved int64) (out []session.Mark, err error) {
	for _, id := range []session.ID{lookup, s.Sessions.Seal.Told(p.Tenant, p.Issuer, lookup, p.Client.ID)} {
		own, err := s.Sessions.Blocking(p.Tenant, &session.Door{Grant: id, Begun: approved, Approved: approved})
		if err != nil {
			return nil, err
		}
		out = append(own, out...)
	}
	return out, nil
}
