package oauth

import (
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"understudy/flow"
	"understudy/session"
)

// Pushed is the pushed authorization request (RFC 9126). Which client may push, and with which authentication, is learned from
// the primary's replies; in an outage the backup takes the request, and it is answered as any other authorization request.
type Pushed struct{}

// Name implements flow.Flow.
func (Pushed) Name() string { return "pushed_authorization_request" }

// Endpoint implements flow.Flow.
func (Pushed) Endpoint() flow.Endpoint { return flow.Pushed }

// RequestURIPrefix begins the request_uri of a pushed request (RFC 9126, section 2.2).
const RequestURIPrefix = "urn:ietf:params:oauth:request_uri:"

// Match implements flow.Flow.
func (Pushed) Match(r *flow.Request) flow.Exchange {
	if r.HTTP.Method != http.MethodPost || r.Form == nil {
		return nil
	}
	x := &pushed{exchange: parse(r)}
	x.ask.Unplayable = x.unlearned // what is asked for beyond is compared when it is authorized
	if x.ask.Unplayable == "" && r.Form.Has("id_token_hint") {
		x.ask.Unplayable = "id_token_hint" // the request would be kept, and tokens are not (design, law 6)
	}
	x.ask.Artifact = flow.Artifact{Kind: session.ClientSecret, Value: session.Joined(x.ask.Client.ID, Pushed{}.Name())}
	if x.ask.Client.Secret == "" {
		x.ask.Artifact.Kind = session.ClientKey
	}
	x.ask.Params = map[string]string{"form": Pushable(r.Form).Encode()}
	return x
}

// Pushable is a pushed request without what authenticates its client.
func Pushable(form url.Values) url.Values {
	out := url.Values{}
	for name, vs := range form {
		if !strings.HasPrefix(name, "client_assertion") && name != "client_secret" {
			out[name] = vs
		}
	}
	return out
}

type pushed struct{ exchange }

func (x *pushed) Ask() *flow.Ask { return &x.ask }

// Learn implements flow.Exchange.
func (x *pushed) Learn(r *flow.Response) *flow.Lesson {
	uri, _ := PushedURI(r.Status, r.Object)
	if uri == "" {
		return &flow.Lesson{Unlearned: "reply_not_understood"}
	}
	// The client stands for itself, and what comes of the request is for the key that it proved.
	l := &flow.Lesson{Unlearned: x.unlearned, Interactive: true, DPoP: x.ask.Client.DPoP}
	l.Record = &session.Record{
		Format: session.RecordFormat, Tenant: x.r.Tenant, Issuer: x.r.Issuer, Client: x.ask.Client.ID, Grant: Pushed{}.Name(),
		Facts: session.Facts{Address: x.r.Address, UserAgent: clip(x.r.HTTP.UserAgent(), 256)},
	}
	for _, m := range r.Object {
		if m.Name == "request_uri" {
			m.Value = []byte("null")
		}
		l.Record.Response = append(l.Record.Response, m)
	}
	l.Record.Headers = replyHeaders(r.Header)
	l.Artifacts, l.Presented = []flow.Artifact{x.ask.Artifact}, &x.ask.Artifact
	return l
}

// PushedURI reads the reply to a pushed request (RFC 9126, section 2.2): its request_uri and how long it lives; "" where it is none.
func PushedURI(status int, o session.Object) (uri string, lives time.Duration) {
	n, ok := o.Number("expires_in")
	if status != http.StatusCreated || !ok || n <= 0 {
		return "", 0
	}
	return o.Text("request_uri"), time.Duration(min(n, 600)) * time.Second
}

// Answer implements flow.Flow.
func (Pushed) Answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	if p.Record.Grant != (Pushed{}).Name() {
		return nil, flow.NotNow("record_incomplete")
	}
	uri := RequestURIPrefix + p.Opaque(session.Look{Length: 43, Charset: "base64url"})
	lives := int64(CodeLifetime / time.Second)
	if n, ok := p.Record.Response.Number("expires_in"); ok {
		lives = min(n, lives)
	}
	bound := maps.Clone(p.Play.Params)
	if key := p.Play.Client.JKT; key != "" {
		bound["dpop_jkt"] = key // what comes of it is for who holds this key (RFC 9449, section 10.1)
	}
	out := p.Record.Response.Clone()
	out.Set("request_uri", session.Quote(uri))
	out.Set("expires_in", strconv.AppendInt(nil, lives, 10))
	return &flow.Reply{
		Status: http.StatusCreated, Header: http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}, Body: out.Append(nil),
		Issued: []flow.Issued{{
			Kind: session.PushedRequest, Value: uri, Ends: p.Now.Add(time.Duration(lives) * time.Second), Bound: bound,
		}},
	}, nil
}
