package oauth

import (
	"net/http"

	"understudy/flow"
)

// TokenExchange is the token exchange grant (RFC 8693): a client that asks on behalf of somebody whose token it was given.
type TokenExchange struct{}

const (
	exchangeGrant    = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessTokenType  = "urn:ietf:params:oauth:token-type:access_token"
	jwtTokenType     = "urn:ietf:params:oauth:token-type:jwt"
	idTokenTokenType = "urn:ietf:params:oauth:token-type:id_token"
)

// Name implements flow.Flow.
func (TokenExchange) Name() string { return "token_exchange" }

// Endpoint implements flow.Flow.
func (TokenExchange) Endpoint() flow.Endpoint { return flow.Token }

// Match implements flow.Flow.
func (TokenExchange) Match(r *flow.Request) flow.Exchange {
	if r.HTTP.Method != http.MethodPost || r.Form == nil || r.Form.Get("grant_type") != exchangeGrant {
		return nil
	}
	why, kind := "", r.Form.Get("subject_token_type")
	switch {
	case r.Form.Has("actor_token"):
		why = "actor_token"
	case kind != accessTokenType && kind != jwtTokenType && kind != idTokenTokenType:
		why = "subject_token" // nobody could verify it
	}
	return onBehalf(r, exchangeGrant, "subject_token", "invalid_request", why) // RFC 8693, section 2.2.2
}

// Answer implements flow.Flow.
func (TokenExchange) Answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	return answerOnBehalf(p, exchangeGrant)
}
