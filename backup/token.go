package backup

import (
	"net/http"
	"strings"
	"time"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// token takes an access token of the primary's, whose signature the gateway has verified, for what it says of itself: it is its
// own record. Only who asks about it is answered; nothing comes of it.
func (s *Service) token(a *attempt) *flow.Refusal {
	if a.flow.Endpoint() != flow.Introspection {
		return flow.NotNow("not_played")
	}
	c, p := a.play.Token.Claims, a.play
	client := oauth.ClientOf(p.Token)
	iat, ok1 := c.Number("iat")
	exp, ok2 := c.Number("exp")
	if client == "" || c.Text("iss") != p.Issuer || c.Text("sub") == "" || c.Has("cnf") || !ok1 || !ok2 {
		return flow.NotNow("record_incomplete")
	}
	a.record = &session.Record{
		Format: session.RecordFormat, Tenant: p.Tenant, Issuer: p.Issuer, Client: client, Subject: c.Text("sub"), SID: c.Text("sid"),
		Scope: strings.Fields(c.Text("scope")), AccessToken: p.Token,
		Response: session.Object{{Name: "token_type", Value: []byte(`"Bearer"`)}},
	}
	seal := s.Sessions.Seal
	a.door = &session.Door{
		Kind: session.AccessToken, Client: seal.Pseudonym("client", p.Tenant, p.Issuer, client),
		Subject: seal.Pseudonym("subject", p.Tenant, p.Issuer, a.record.Subject), Session: seal.Pseudonym("session", p.Tenant, p.Issuer, a.record.SID),
		Issuer: s.issuer(p.Tenant, p.Issuer), Grant: p.Artifact.Lookup, Approved: iat * int64(time.Second), Ends: exp * int64(time.Second),
	}
	at, _ := c.Number("auth_time")
	a.door.Begun, a.door.Guessed = begun(a.door.Approved, at)
	if a.door.Approved > a.now.Add(time.Minute).UnixNano() {
		return flow.No("record_mismatch", http.StatusBadRequest, "invalid_grant") // issued in the future
	}
	return nil
}

// ofToken adds the marks of the presented token itself: that it was revoked (RFC 7009), and that the primary said that it is over.
func (s *Service) ofToken(a *attempt, marks []session.Mark) ([]session.Mark, error) {
	p := a.play
	for _, id := range []session.ID{p.Artifact.Lookup, s.Sessions.Seal.Told(p.Tenant, p.Issuer, p.Artifact.Lookup, p.Client.ID)} {
		own, err := s.Sessions.Blocking(p.Tenant, &session.Door{Grant: id, Begun: a.door.Approved, Approved: a.door.Approved})
		if err != nil {
			return nil, err
		}
		marks = append(own, marks...)
	}
	return marks, nil
}
