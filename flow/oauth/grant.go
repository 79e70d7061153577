package oauth

import (
	"net/http"

	"understudy/flow"
	"understudy/session"
)

// Grant is every other request to the token endpoint. What it leads to is learned, so that the refresh tokens it gives
// are known; the request itself is not answered in an outage.
type Grant struct{}

// Name implements flow.Flow.
func (Grant) Name() string { return "token" }

// Endpoint implements flow.Flow.
func (Grant) Endpoint() flow.Endpoint { return flow.Token }

// Match implements flow.Flow.
func (Grant) Match(r *flow.Request) flow.Exchange {
	if r.HTTP.Method != http.MethodPost || r.Form == nil {
		return nil
	}
	x := &grant{exchange: parse(r), kind: r.Form.Get("grant_type")}
	x.ask.Unplayable = "grant"
	return x
}

type grant struct {
	exchange
	kind string
}

func (x *grant) Ask() *flow.Ask { return &x.ask }

// Learn implements flow.Exchange.
func (x *grant) Learn(r *flow.Response) *flow.Lesson {
	l := x.learn(r, x.kind)
	if l != nil {
		// Only a code or a device code stands at the end of a person's sign-in.
		l.Interactive = x.kind == "authorization_code" || x.kind == "urn:ietf:params:oauth:grant-type:device_code"
		if r := l.Record; r != nil {
			l.AuthTime = authTime(r.IDToken, r.AccessToken)
		}
	}
	return l
}

// authTime is when the person signed in, as far as one of the tokens says so. A code may come of a session that is hours
// old, without a person.
func authTime(ts ...*session.Token) int64 {
	for _, t := range ts {
		if t == nil {
			continue
		}
		if n := seconds(t.Claims, "auth_time"); n > 0 {
			return n
		}
	}
	return 0
}

// Whose reads from a token response, without verifying anything, whose sign-in it is, of which session, and when the person
// signed in (Unix seconds; 0: it does not say).
func Whose(o session.Object) (sub, sid string, at int64) {
	id, _ := ParseJWT(o.Text("id_token"))
	access, _ := ParseJWT(o.Text("access_token"))
	for _, t := range []*session.Token{access, id} {
		if t == nil {
			continue
		}
		if s := t.Claims.Text("sub"); s != "" {
			sub = s
		}
		if s := t.Claims.Text("sid"); s != "" {
			sid = s
		}
	}
	if sid == "" {
		sid = o.Text("session_state")
	}
	return sub, sid, authTime(id, access)
}

// Answer implements flow.Flow.
func (Grant) Answer(*flow.Permit) (*flow.Reply, *flow.Refusal) {
	return nil, flow.NotNow("not_played")
}
