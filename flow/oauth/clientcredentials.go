package oauth

import (
	"net/http"
	"slices"
	"strings"

	"understudy/flow"
	"understudy/session"
)

// ClientCredentials is the client_credentials grant (RFC 6749, section 4.4): a client that asks for itself, with its secret
// as the only artifact. It is continued for exactly what the primary approved: client, scope and resources.
type ClientCredentials struct{}

// Name implements flow.Flow.
func (ClientCredentials) Name() string { return "client_credentials" }

// Endpoint implements flow.Flow.
func (ClientCredentials) Endpoint() flow.Endpoint { return flow.Token }

// Match implements flow.Flow.
func (ClientCredentials) Match(r *flow.Request) flow.Exchange {
	if r.HTTP.Method != http.MethodPost || r.Form == nil || r.Form.Get("grant_type") != "client_credentials" {
		return nil
	}
	x := &clientCredentials{exchange: parse(r)}
	x.ask.Artifact = flow.Artifact{Kind: session.ClientSecret, Value: x.asked()}
	if x.ask.Client.Assertion != "" || x.ask.Client.Certified() {
		x.ask.Artifact.Kind = session.ClientKey
	}
	if x.ask.Unplayable == "" && x.anonymous() {
		x.ask.Unplayable = "no_client_secret"
	}
	return x
}

type clientCredentials struct{ exchange }

// asked is what is asked for, in whatever order. No part can hold a control character and be taken for two: scopes are
// fields, and of resources and clients the lengths count.
func (x *clientCredentials) asked() string {
	scope := slices.Compact(slices.Sorted(slices.Values(x.ask.Scope)))
	resource := slices.Compact(slices.Sorted(slices.Values(x.ask.Resource)))
	b := session.Joined(x.ask.Client.ID, strings.Join(scope, " "))
	return b + session.Joined(resource...)
}

// anonymous says whether the client proves nothing.
func (x *clientCredentials) anonymous() bool {
	return x.ask.Client.Secret == "" && x.ask.Client.Assertion == "" && !x.ask.Client.Certified()
}

func (x *clientCredentials) Ask() *flow.Ask { return &x.ask }

// Learn implements flow.Exchange.
func (x *clientCredentials) Learn(r *flow.Response) *flow.Lesson {
	o, err := r.Object, error(nil)
	if o == nil {
		o, err = session.ParseObject(r.Body)
	}
	if err != nil || tokenResponse(r.Status, r.Header, o) != nil {
		return &flow.Lesson{Unlearned: "reply_not_understood"}
	}
	if o.Has("refresh_token") { // RFC 6749, section 4.4.3: there should be none; where there is, it is how this goes on
		return x.learn(r, "client_credentials")
	}
	l := x.record(r, o, "client_credentials")
	l.Record.First = false // the next reply is as this one
	l.Shape = shapeOf(l.Record)
	l.Interactive = true // it stands for itself: each approval begins anew
	l.Artifacts, l.Presented = []flow.Artifact{x.ask.Artifact}, &x.ask.Artifact
	if l.Record.Opaque != nil { // of a JWT it shows what it is
		l.Apart = answerable(l.Record, o, r.Sent)
	}
	if l.Unlearned == "" && x.anonymous() {
		l.Unlearned = "no_client_secret"
	}
	return l
}

// Answer implements flow.Flow.
func (ClientCredentials) Answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	return answer(rebound(p))
}
