package backup

import (
	"net/http"

	"understudy/flow"
	"understudy/session"
)

// certificate checks that the client shows a certificate that the primary took for this client, and has not refused since: the
// same subject of the same authority, the same registered key, or the very same certificate, whichever was learned (RFC 8705,
// section 2). No other method is taken in its place: one that is weaker never, one that is stronger is the primary's to judge.
func (s *Service) certificate(a *attempt) *flow.Refusal {
	p := a.play.Client
	if p.Method != a.door.ClientAuth || p.SecretID.Zero() {
		return flow.NotNow("certificate_refused")
	}
	_, no := s.approved(a, a.door.Client)
	return no
}

// bound checks that the client shows the certificate to which what it presents is bound (RFC 8705, section 3). What it obtains
// anew, by a code or for itself, is bound to the one that it shows.
func bound(a *attempt) *flow.Refusal {
	shown, want := a.play.Client.Certificate, a.record.Certificate
	kind := a.door.Kind
	if x := a.door.Bound["x5t#S256"]; x != "" && kind == session.AccessToken {
		want = x
	}
	switch {
	case kind == session.Application, a.flow.Endpoint() == flow.Introspection:
		return nil // nobody proves anything, or who asks about somebody else's token
	case want == "" || shown == want:
		return nil
	case shown != "" && (kind == session.OwnCode || kind == session.ClientKey || kind == session.ClientSecret):
		return nil
	case kind == session.AccessToken && a.record.AccessToken != nil:
		return flow.No("certificate_mismatch", http.StatusUnauthorized, "invalid_grant")
	}
	return flow.NotNow("certificate_mismatch") // it may be that the primary binds nothing
}
