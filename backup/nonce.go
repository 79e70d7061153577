package backup

import (
	"errors"
	"net/http"

	"understudy/flow"
	"understudy/session"
)

// challenge demands a nonce in the proof of possession where the primary took one with a nonce (RFC 9449, sections 8 and 9): at the
// endpoint of the request, or where it was not seen to be asked there, for the sign-in.
func (s *Service) challenge(a *attempt) *flow.Refusal {
	if a.play.Client.Fresh {
		return nil
	}
	nonced := a.record.Nonced
	if a.flow.Endpoint() == flow.UserInfo {
		told, _, err := s.Sessions.UserInfo(a.play.Tenant, a.play.Issuer, session.UserInfoOf(a.data))
		switch {
		case err == nil:
			nonced = told.Nonced
		case !errors.Is(err, session.ErrNoRecord):
			s.Log.Error("what UserInfo said does not open", "tenant", a.play.Tenant, "error", err)
			return flow.NotNow("store_failed")
		}
	}
	if !nonced {
		return nil
	}
	return flow.No("dpop_nonce", http.StatusBadRequest, "use_dpop_nonce")
}
