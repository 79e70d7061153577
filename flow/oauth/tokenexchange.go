package oauth

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"understudy/flow"
	"understudy/session"
)

// TokenExchange is the token exchange grant (RFC 8693): a client that asks on behalf of somebody whose token it was given. It is
// continued for exactly what the primary approved: client, what it asks for, and a subject token that says the same about
// the same person and session, to the same client and audience.
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
	x := &tokenExchange{clientCredentials{parse(r)}}
	f, a := r.Form, &x.ask
	a.Subject = f.Get("subject_token")
	t, err := ParseJWT(a.Subject)
	kind := f.Get("subject_token_type")
	switch {
	case x.unlearned != "":
	case x.anonymous():
		x.unlearned = "no_client_secret"
	case f.Has("actor_token"):
		x.unlearned = "actor_token"
	case err != nil || kind != accessTokenType && kind != jwtTokenType && kind != idTokenTokenType:
		x.unlearned = "subject_token" // nobody could verify it
	case t.Claims.Has("cnf"):
		x.unlearned = "cnf"
	case t.Claims.Text("iss") != r.Issuer || t.Claims.Text("sub") == "":
		x.unlearned = "other_issuer"
	}
	// What else is asked for is part of what was approved.
	if a.Unplayable = x.unlearned; a.Unplayable == "" {
		a.Artifact = flow.Artifact{Kind: session.ClientSecret, Value: x.asks(t)}
		if a.Client.Assertion != "" || a.Client.Certified() {
			a.Artifact.Kind = session.ClientKey
		}
	}
	return x
}

type tokenExchange struct{ clientCredentials }

// asks is what is asked for, on whose behalf.
func (x *tokenExchange) asks(t *session.Token) string {
	out := []string{exchangeGrant, x.asked()}
	var more []string
	for name, vs := range x.r.Form {
		switch name {
		case "grant_type", "subject_token", "client_id", "client_secret", "client_assertion", "client_assertion_type", "scope", "resource", "audience":
		default:
			if !strings.HasPrefix(name, "x-client-") && name != "client-request-id" {
				more = append(more, session.Joined(name, vs[0]))
			}
		}
	}
	out = append(out, session.Joined(slices.Sorted(slices.Values(more))...))
	for _, name := range []string{"sub", "sid", "azp", "client_id", "aud", "acr", "amr", "act", "may_act", "typ"} {
		out = append(out, name, string(t.Claims.Get(name)))
	}
	scope := strings.Fields(t.Claims.Text("scope"))
	return session.Joined(append(out, session.Joined(slices.Sorted(slices.Values(scope))...))...)
}

// Learn implements flow.Exchange.
func (x *tokenExchange) Learn(r *flow.Response) *flow.Lesson {
	if x.unlearned != "" {
		return &flow.Lesson{Unlearned: x.unlearned}
	}
	l := x.clientCredentials.Learn(r)
	if l != nil && l.Record != nil {
		l.Record.Grant = exchangeGrant
	}
	return l
}

// Answer implements flow.Flow.
func (TokenExchange) Answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	if p.Record.Grant != exchangeGrant {
		return nil, flow.NotNow("record_incomplete")
	}
	return answer(rebound(p))
}

// Lives says whether a subject token is valid now by its own times. There is no leeway: the backup takes none that has expired.
func Lives(t *session.Token, now time.Time) bool {
	exp, ok := t.Claims.Number("exp")
	if !ok || exp <= now.Unix() {
		return false
	}
	nbf, ok := t.Claims.Number("nbf")
	return !t.Claims.Has("nbf") || ok && nbf <= now.Unix()
}
