package oauth

import (
	"net/http"

	"understudy/flow"
)

// JWTBearer is the grant by an assertion (RFC 7523, section 2.1), also in the form in which a service that was called asks on
// behalf of who called it (requested_token_use=on_behalf_of). Only an assertion of the primary's own can be verified in an outage:
// of one that another authorization server or the client itself signed, the keys and what they may stand for are the primary's to know.
type JWTBearer struct{}

const jwtBearerGrant = "urn:ietf:params:oauth:grant-type:jwt-bearer"

// Name implements flow.Flow.
func (JWTBearer) Name() string { return "jwt_bearer" }

// Endpoint implements flow.Flow.
func (JWTBearer) Endpoint() flow.Endpoint { return flow.Token }

// Match implements flow.Flow.
func (JWTBearer) Match(r *flow.Request) flow.Exchange {
	if r.HTTP.Method != http.MethodPost || r.Form == nil || r.Form.Get("grant_type") != jwtBearerGrant {
		return nil
	}
	return onBehalf(r, jwtBearerGrant, "assertion", "invalid_grant", "") // RFC 7523, section 3.1
}

// Answer implements flow.Flow.
func (JWTBearer) Answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	return answerOnBehalf(p, jwtBearerGrant)
}
