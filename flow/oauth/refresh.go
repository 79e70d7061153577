// Package oauth holds the flows of OAuth 2.0's token endpoint, one file a grant.
package oauth

import (
	"net/http"

	"understudy/flow"
	"understudy/session"
)

// Refresh is the refresh_token grant (RFC 6749, section 6): the one grant that needs no person, and so the first that
// an outage must not stop.
type Refresh struct{}

// Name implements flow.Flow.
func (Refresh) Name() string { return "refresh_token" }

// Endpoint implements flow.Flow.
func (Refresh) Endpoint() flow.Endpoint { return flow.Token }

// Match implements flow.Flow.
func (Refresh) Match(r *flow.Request) flow.Exchange {
	if r.HTTP.Method != http.MethodPost || r.Form == nil || r.Form.Get("grant_type") != "refresh_token" {
		return nil
	}
	x := &refresh{exchange: parse(r)}
	x.ask.Artifact = flow.Artifact{Kind: session.RefreshToken, Value: r.Form.Get("refresh_token")}
	if x.ask.Artifact.Value == "" {
		x.ask.Unplayable = "no_refresh_token"
	}
	return x
}

type refresh struct{ exchange }

func (x *refresh) Ask() *flow.Ask { return &x.ask }

// Learn implements flow.Exchange.
func (x *refresh) Learn(r *flow.Response) *flow.Lesson {
	l := x.learn(r, "refresh_token")
	if presented := x.ask.Artifact; l != nil && presented.Value != "" {
		l.Presented = &presented
	}
	return l
}

// Answer implements flow.Flow.
func (Refresh) Answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	if no := covers(p.Record, p.Play.Scope, p.Play.Resource); no != nil {
		return nil, no
	}
	return answer(p)
}
