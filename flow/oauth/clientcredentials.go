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
	return x.alone(r, "client_credentials")
}

// alone is what a reply teaches about the request by itself. A refresh token beside it, of which RFC 6749, section 4.4.3 says that
// there should be none, goes on by itself too: the client may present it, or ask for itself anew. So does an opaque access token, about
// which somebody may ask when another has taken its place.
func (x *clientCredentials) alone(r *flow.Response, grant string) *flow.Lesson {
	o, err := r.Object, error(nil)
	if o == nil {
		o, err = session.ParseObject(r.Body)
	}
	if err != nil || tokenResponse(r.Status, r.Header, o) != nil {
		return &flow.Lesson{Unlearned: "reply_not_understood"}
	}
	l := x.record(r, o, grant)
	l.Record.First = false // the next reply is as this one
	l.Shape, l.Habit = shapeOf(l.Record), habitOf(l.Record)
	l.Interactive = true // it stands for itself: each approval begins anew
	l.Artifacts, l.Presented = []flow.Artifact{x.ask.Artifact}, &x.ask.Artifact
	if l.Unlearned == "" && x.anonymous() {
		l.Unlearned = "no_client_secret"
	}
	answers := answerable(l.Record, o, r.Sent)
	switch {
	case o.Text("refresh_token") != "":
		l.Beside = x.learn(r, grant)
		l.Beside.Interactive = true
	case l.Record.Opaque != nil && len(answers) > 0 && l.Unlearned == "": // a JWT shows what it is
		rec := *l.Record
		l.Beside = &flow.Lesson{Record: &rec, Artifacts: answers, Interactive: true}
	}
	return l
}

// habitOf is the name of what is known of the replies to one grant: they are none to a refresh.
func habitOf(rec *session.Record) string {
	return session.Joined(rec.Grant, rec.Client, session.Joined(slices.Sorted(slices.Values(rec.Asked))...))
}

// Answer implements flow.Flow.
func (ClientCredentials) Answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	return answerAlone(p)
}

// answerAlone answers what a client asked for by itself. There is no refresh token in the reply: only the primary can begin a
// family that it will know.
func answerAlone(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	h, err := p.HabitOf(habitOf(p.Record))
	if err != nil {
		return nil, flow.NotNow("store_failed")
	}
	own := *p
	own.Record, own.Habit = withoutRefresh(p.Record), h
	return answer(rebound(&own))
}
