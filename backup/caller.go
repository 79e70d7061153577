package backup

import (
	"context"
	"net/http"

	"understudy/flow"
	"understudy/session"
)

// caller checks the client authentication of who asks about somebody's token. Each proof is known by itself: what the primary took
// from the client by one method proves nothing by another.
func (s *Service) caller(ctx context.Context, a *attempt) *flow.Refusal {
	p := a.play.Client
	c := s.Sessions.Seal.Pseudonym("client", a.play.Tenant, a.play.Issuer, p.ID)
	id := p.SecretID
	switch {
	case p.Vouched:
		id = session.ID{}    // whichever was approved last
		if len(p.Once) > 0 { // the primary does not know of those that were used here
			if no := s.spends(ctx, a); no != nil {
				return no
			}
		}
	case p.Method == "none":
		return public(a, c)
	default:
		if no := s.proves(ctx, a, c); no != nil {
			return no
		}
	}
	known, err := s.Sessions.Secret(a.play.Tenant, c, id)
	if err != nil {
		return flow.NotNow("store_failed")
	}
	approved := int64(0)
	if known != nil {
		approved = known.Approved
	}
	// Of an operator's mark the primary could not have heard: it holds also where the primary has just taken the caller.
	ended, err := s.Sessions.Marked(a.play.Tenant, true, session.OfClient, c, approved)
	switch {
	case err != nil:
		_ = s.stop(a.play.Tenant, err)
		return flow.NotNow("marks_unreadable")
	case ended:
		return flow.No("client_revoked", http.StatusUnauthorized, "invalid_client")
	}
	return nil
}

// proves checks what a caller proves itself with.
func (s *Service) proves(ctx context.Context, a *attempt, client session.ID) *flow.Refusal {
	switch p := a.play.Client; p.Method {
	case "private_key_jwt", "client_secret_jwt":
		return s.asserted(ctx, a, client)
	case "tls_client_auth", "self_signed_tls_client_auth":
		if p.SecretID.Zero() {
			return flow.NotNow("certificate_refused")
		}
		_, no := s.approved(a, client)
		return no
	}
	return s.secret(a, client)
}

// public takes a caller that proves nothing, for what was issued to such a client of the same name: as good as its bearer. Whether
// the primary tells it anything is what was learned.
func public(a *attempt, client session.ID) *flow.Refusal {
	switch {
	case a.door.Client != client || a.door.ClientAuth != "none" && a.door.ClientAuth != "":
		return flow.No("client_unauthenticated", http.StatusUnauthorized, "invalid_client")
	case a.door.ClientAuth == "":
		return flow.NotNow("client_method") // a token of the primary's does not say how its client proves itself
	}
	return nil
}
