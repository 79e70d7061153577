package oauth

import (
	"cmp"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"understudy/flow"
	"understudy/session"
)

// Introspection is token introspection (RFC 7662; as a JWT: RFC 9701) of access tokens that the backup issued. What is learned is to whom the
// primary says "active", of which client's tokens for which audience, and which members it then says; nobody else is told
// anything.
type Introspection struct{}

// Name implements flow.Flow.
func (Introspection) Name() string { return "introspection" }

// Endpoint implements flow.Flow.
func (Introspection) Endpoint() flow.Endpoint { return flow.Introspection }

// Match implements flow.Flow.
func (Introspection) Match(r *flow.Request) flow.Exchange {
	if r.HTTP.Method != http.MethodPost || r.Form == nil {
		return nil
	}
	x := &introspection{r: r, form: r.Form["token"]}
	x.ask.Params = map[string]string{"accept": accepted(r.HTTP.Header)}
	x.ask.Client, x.unlearned = credentials(r, r.Form)
	query, err := url.ParseQuery(r.HTTP.URL.RawQuery)
	switch {
	case x.unlearned != "":
	case err != nil:
		x.unlearned = "ambiguous_parameters"
	case len(x.form) != 1:
		x.unlearned = "repeated_parameters"
	default:
		x.unlearned = unrepeatable(r, query)
	}
	x.ask.Unplayable = x.unlearned
	if len(x.form) > 0 {
		x.ask.Artifact = flow.Artifact{Kind: session.AccessToken, Value: x.form[0]}
		x.ask.Presented = ownMembers(x.form[0])
	}
	return x
}

type introspection struct {
	r         *flow.Request
	ask       flow.Ask
	form      []string
	unlearned string
}

func (x *introspection) Ask() *flow.Ask { return &x.ask }

// signedIntrospection is the media type of an introspection response in a JWT (RFC 9701, section 4).
const signedIntrospection = "application/token-introspection+jwt"

// accepted is the form of the response that a caller asks for; "": JSON.
func accepted(h http.Header) string {
	for _, v := range h.Values("Accept") {
		for one := range strings.SplitSeq(v, ",") {
			if t, _, err := mime.ParseMediaType(one); err == nil && t == signedIntrospection {
				return t
			}
		}
	}
	return ""
}

// ownMembers are the members that belong to one token alone; nil where it is no JWT.
func ownMembers(token string) session.Object {
	var out session.Object
	for _, m := range payload(token) {
		switch m.Name {
		case "exp", "iat", "nbf", "jti":
			out = append(out, m)
		}
	}
	return out
}

// Learn implements flow.Exchange.
func (x *introspection) Learn(r *flow.Response) *flow.Lesson {
	o, err := r.Object, error(nil)
	if o == nil {
		o, err = session.ParseObject(r.Body)
	}
	if err != nil || r.Status != http.StatusOK || string(o.Get("active")) != "true" {
		return nil // that a token is not active says nothing about who may ask
	}
	if x.unlearned != "" {
		return &flow.Lesson{Unlearned: x.unlearned}
	}
	client := o.Text("client_id")
	if client == "" {
		client = o.Text("azp")
	}
	if client == "" {
		return &flow.Lesson{Unlearned: "no_client"}
	}
	l := &flow.Lesson{
		Record: &session.Record{Tenant: x.r.Tenant, Issuer: x.r.Issuer, Client: x.ask.Client.ID},
		Habit:  told(x.ask.Client.Method, x.ask.Client.ID, client, o.Get("aud"), x.ask.Params["accept"]),
		Shape:  &session.Shape{Members: o.Names()},
	}
	if t := r.Token; t != nil {
		l.Signed, l.Class, l.Unlearned = t, flow.ClassIntrospection, x.unsignable(t)
		l.Shape.IDToken = &session.TokenShape{Header: t.Header.Names(), Claims: t.Claims.Names(), Alg: t.Header.Text("alg")}
	}
	return l
}

// unsignable says why the backup could not sign another response like t, or "".
func (x *introspection) unsignable(t *session.Token) string {
	why := unsignable(t, x.r.Issuer, false, "")
	switch {
	case why != "" && why != "no_lifetime":
		return why
	case t.Claims.Text("aud") != x.ask.Client.ID && !slices.Equal(t.Claims.Texts("aud"), []string{x.ask.Client.ID}):
		return "response_audience"
	}
	return ""
}

// told names what a caller is told of, and how: the tokens of a client for an audience (JSON text as it came; nil: none). What is told to
// who proves something is not told to a caller of the same name that proves nothing.
func told(method, caller, client string, audience []byte, form string) string {
	if method == "none" {
		return session.Joined("introspection by a public client", caller, client, string(audience), form)
	}
	return session.Joined("introspection", caller, client, string(audience), form)
}

// audienceOf is the aud of a record's access tokens, nil where they are opaque.
func audienceOf(r *session.Record) []byte {
	if r.AccessToken == nil {
		return nil
	}
	return r.AccessToken.Claims.Get("aud")
}

// SaysWhose says whether a JWT access token of an issuer names whose it is, for which client, and from when until when.
func SaysWhose(t *session.Token, issuer string) bool {
	c := t.Claims
	_, begins := c.Number("iat")
	_, ends := c.Number("exp")
	return begins && ends && ClientOf(t) != "" && c.Text("sub") != "" && c.Text("iss") == issuer
}

// ClientOf is the client that an access token says it was issued to, "" where it does not say.
func ClientOf(t *session.Token) string {
	if azp := t.Claims.Text("azp"); azp != "" {
		return azp
	}
	return t.Claims.Text("client_id") // RFC 9068, section 2.2
}

// Answer implements flow.Flow.
func (Introspection) Answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	if p.Play.Client.ID == "" {
		return nil, flow.No("client_unauthenticated", http.StatusUnauthorized, "invalid_client")
	}
	h, err := p.HabitOf(told(p.Play.Client.Method, p.Play.Client.ID, p.Record.Client, audienceOf(p.Record), p.Play.Params["accept"]))
	switch {
	case err != nil:
		return nil, flow.NotNow("store_failed")
	case h.Refresh == nil:
		return nil, flow.NotNow("introspection_unlearned")
	}
	out := make(session.Object, 0, len(h.Refresh.Members))
	for _, name := range h.Refresh.Members {
		if v := introspected(p, name); v != nil {
			out = append(out, session.Member{Name: name, Value: v})
		}
	}
	// Whoever is not told that a token is bound takes it from anybody.
	if v := confirmation(p, false); v != nil && !out.Has("cnf") {
		out = append(out, session.Member{Name: "cnf", Value: v})
	}
	reply := &flow.Reply{
		Status: http.StatusOK, Body: out.Append(nil),
		Header: http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}, "Pragma": {"no-cache"}},
	}
	if h.Refresh.IDToken == nil {
		return reply, nil
	}
	signed, err := introspectionJWT(p, h.Refresh.IDToken, out)
	if err != nil {
		return nil, flow.NotNow("keys_unavailable")
	}
	reply.Body = []byte(signed)
	reply.Header.Set("Content-Type", signedIntrospection)
	return reply, nil
}

// introspectionJWT makes the JWT of an introspection response (RFC 9701, section 5).
func introspectionJWT(p *flow.Permit, s *session.TokenShape, said session.Object) (string, error) {
	var header, claims session.Object
	for _, name := range s.Header {
		switch name {
		case "alg":
			header.Set(name, session.Quote(s.Alg))
		case "typ":
			header.Set(name, session.Quote("token-introspection+jwt"))
		case "kid":
			header.Set(name, session.Quote("")) // the backup key's
		}
	}
	for _, name := range s.Claims {
		switch name {
		case "iss":
			claims.Set(name, session.Quote(p.Record.Issuer))
		case "aud":
			claims.Set(name, session.Quote(p.Play.Client.ID))
		case "iat", "nbf":
			claims.Set(name, strconv.AppendInt(nil, p.Now.Unix(), 10))
		case "jti":
			claims.Set(name, session.Quote(session.NewID().String()+session.NewID().String()))
		case "token_introspection":
			claims.Set(name, said.Append(nil))
		}
	}
	return p.Sign(flow.ClassIntrospection, header, claims)
}

// introspected is a member of what the primary would say of the presented token, or nil where that is not known.
func introspected(p *flow.Permit, name string) []byte {
	rec := p.Record
	if v := p.Play.Presented.Get(name); v != nil {
		return v
	}
	switch name {
	case "active":
		return []byte("true")
	case "exp":
		return strconv.AppendInt(nil, p.Ends.Unix(), 10)
	case "iat":
		if lives, ok := rec.Response.Number("expires_in"); ok {
			return strconv.AppendInt(nil, p.Ends.Unix()-lives, 10)
		}
		return nil
	case "nbf", "jti":
		return nil // another token's
	case "cnf":
		return confirmation(p, true)
	case "client_id":
		return session.Quote(rec.Client)
	case "sub":
		if rec.Subject == "" { // a client's own token
			return nil
		}
		return session.Quote(rec.Subject)
	case "iss":
		return session.Quote(rec.Issuer)
	case "scope":
		return session.Quote(strings.Join(rec.Scope, " "))
	case "token_type":
		return rec.Response.Get("token_type")
	}
	for _, t := range []*session.Token{rec.AccessToken, rec.IDToken} {
		if t == nil || t.Claims.Text("sub") != rec.Subject {
			continue
		}
		if v := t.Claims.Get(name); v != nil {
			return v
		}
		if name == "username" && t.Claims.Has("preferred_username") {
			return t.Claims.Get("preferred_username")
		}
	}
	return nil
}

// confirmation is to what the presented token is bound (RFC 7800), nil where to nothing: it may have been bound to another key and
// certificate than the one that was learned. Of an opaque token it shows only by what the primary tells whether the certificate that
// was there counts.
func confirmation(p *flow.Permit, tells bool) []byte {
	var cnf session.Object
	if t := p.Record.AccessToken; t != nil && t.Claims.Has("cnf") {
		was, err := session.ParseObject(t.Claims.Get("cnf"))
		if err != nil {
			return t.Claims.Get("cnf")
		}
		cnf = was.Clone()
	}
	if key := cmp.Or(p.Bound["jkt"], p.Record.JKT); key != "" {
		cnf.Set("jkt", session.Quote(key))
	}
	certificate := cmp.Or(p.Bound["x5t#S256"], p.Record.Certificate)
	if certificate != "" && (cnf.Has("x5t#S256") || p.Record.AccessToken == nil && tells) {
		cnf.Set("x5t#S256", session.Quote(certificate))
	}
	if len(cnf) == 0 {
		return nil
	}
	return cnf.Append(nil)
}
