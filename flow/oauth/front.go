package oauth

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"understudy/flow"
	"understudy/session"
)

// Redirected is an authorization response (RFC 6749, section 4.1.2; OAuth 2.0 Multiple Response Type Encoding Practices).
type Redirected struct {
	Code, IDToken, AccessToken, Error string
	// Params are its parameters in their order, as JSON strings; the values of those that belong to this response alone are null.
	Params session.Object
	// Response is the JWT that it came in, and Signed what that says; "" and nil: it came in none.
	Response string
	Signed   *session.Token
}

const maxRedirectParams = 32

// ReadRedirect reads a redirect as the answer to an authorization request, or returns nil where it is none: it leads to
// another place, or carries another state.
func ReadRedirect(location string, ask *flow.Ask) *Redirected {
	want, sep := ask.Params["redirect_uri"], "?"
	switch how, _ := returned(ask.Params); {
	case how == "form_post":
		return nil
	case how == "fragment":
		sep = "#"
	case strings.Contains(want, "?"):
		sep = "&"
	}
	rest, ok := strings.CutPrefix(location, want+sep)
	if !ok {
		return nil
	}
	rest, _, _ = strings.Cut(rest, "#")
	var ps [][2]string
	for pair := range strings.SplitSeq(rest, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(name)
		value, err2 := url.QueryUnescape(value)
		if err1 != nil || err2 != nil {
			return nil
		}
		ps = append(ps, [2]string{name, value})
	}
	return redirected(ps, ask)
}

func redirected(ps [][2]string, ask *flow.Ask) *Redirected {
	out := &Redirected{}
	if Signs(ask) {
		if ps = out.unwrap(ps); ps == nil {
			return nil
		}
	}
	state := ""
	for _, p := range ps {
		if out.Params.Has(p[0]) || len(out.Params) == maxRedirectParams {
			return nil
		}
		m := session.Member{Name: p[0], Value: session.Quote(p[1])}
		own := func(to *string) { *to, m.Value = p[1], []byte("null") }
		switch p[0] {
		case "code":
			own(&out.Code)
		case "id_token":
			own(&out.IDToken)
		case "access_token":
			own(&out.AccessToken)
		case "state":
			own(&state)
		case "error":
			out.Error = p[1]
		}
		out.Params = append(out.Params, m)
	}
	given := out.Code != "" || out.IDToken != "" || out.AccessToken != ""
	if state != ask.Params["state"] || out.Error == "" && given == AsksNothing(ask) {
		return nil
	}
	return out
}

// Unlearned says why a response cannot be given again: it reports something beside the sign-in, as done (Keycloak's
// kc_action_status, …), that nobody would have done.
func (r *Redirected) Unlearned() string {
	for _, m := range r.Params {
		switch m.Name {
		case "code", "id_token", "access_token", "state", "session_state", "iss", "token_type", "expires_in", "scope", "client_info":
		default:
			return "response_parameters"
		}
	}
	return ""
}

// Front reads the tokens of an authorization response. unlearned says why they cannot be continued, "" where they can.
func (r *Redirected) Front(issuer string) (front *session.Front, unlearned string) {
	front = &session.Front{}
	if r.IDToken != "" {
		t, err := ParseJWT(r.IDToken)
		if err != nil {
			return nil, "id_token_encrypted"
		}
		front.IDToken = t
	}
	if r.AccessToken != "" {
		t, err := ParseJWT(r.AccessToken)
		switch {
		case err == nil:
			front.AccessToken = t
		case jose(r.AccessToken):
			return nil, "access_token_encrypted"
		default:
			look := lookOf(r.AccessToken)
			front.Opaque = &look
		}
		if t := r.Params.Text("token_type"); !strings.EqualFold(t, "Bearer") {
			return nil, "token_type"
		}
	}
	for _, t := range []*session.Token{front.IDToken, front.AccessToken} {
		if t != nil {
			if why := unsignable(t, issuer, false, ""); why != "" {
				return nil, why
			}
		}
	}
	return front, ""
}

// Lesson is what an authorization response without a code teaches (OpenID Connect Core, section 3.2): all of it is there.
func (r *Redirected) Lesson(x *flow.Request, ask *flow.Ask) *flow.Lesson {
	front, why := r.Front(x.Issuer)
	if why != "" {
		return &flow.Lesson{Unlearned: why}
	}
	rec := &session.Record{
		Format: session.RecordFormat, Tenant: x.Tenant, Issuer: x.Issuer, Client: ask.Client.ID, Grant: "implicit",
		Asked: ask.Scope, Scope: ask.Scope, Resource: ask.Resource, IDToken: front.IDToken, AccessToken: front.AccessToken, Opaque: front.Opaque,
		Facts: session.Facts{Address: x.Address, UserAgent: clip(x.HTTP.UserAgent(), 256)},
	}
	if s := r.Params.Text("scope"); s != "" {
		rec.Scope = strings.Fields(s)
	}
	for _, t := range []*session.Token{front.AccessToken, front.IDToken} {
		if t == nil {
			continue
		}
		rec.Subject = t.Claims.Text("sub")
		if sid := t.Claims.Text("sid"); sid != "" {
			rec.SID = sid
		}
	}
	if rec.SID == "" {
		rec.SID = r.Params.Text("session_state")
	}
	return &flow.Lesson{Record: rec, Interactive: true, AuthTime: authTime(rec.IDToken, rec.AccessToken)}
}

// respond makes the authorization response: the parameters that the primary's had, in its order, with what belongs to one
// response made anew.
func respond(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	r, ps := p.Record, p.Play.Params
	reply := &flow.Reply{Status: r.RedirectStatus, Header: http.Header{"Cache-Control": {"no-store"}, "Referrer-Policy": {"no-referrer"}}}
	made := map[string]string{}
	if r.Redirect.Has("code") {
		made["code"] = p.Opaque(session.Look{Length: 43, Charset: "base64url"})
		bound := map[string]string{}
		for _, name := range []string{"redirect_uri", "code_challenge", "code_challenge_method", "nonce", "state", "dpop_jkt"} {
			if v, ok := ps[name]; ok {
				bound[name] = v
			}
		}
		reply.Issued = append(reply.Issued, flow.Issued{Kind: session.OwnCode, Value: made["code"], Ends: p.Now.Add(CodeLifetime), Bound: bound})
	}
	if r.Redirect.Has("access_token") {
		t, lifetime, no := frontAccessToken(p)
		if no != nil {
			return nil, no
		}
		made["access_token"] = t
		if lifetime > 0 {
			reply.Issued = append(reply.Issued, flow.Issued{Kind: session.AccessToken, Value: t, Ends: p.Now.Add(time.Duration(lifetime) * time.Second)})
		}
	}
	if r.Redirect.Has("id_token") {
		t, no := frontIDToken(p, made["code"], made["access_token"])
		if no != nil {
			return nil, no
		}
		made["id_token"] = t
	}
	var out [][2]string
	for _, m := range r.Redirect {
		switch v, ok := made[m.Name]; {
		case ok:
			out = append(out, [2]string{m.Name, v})
		case m.Name == "state":
			made["state"] = ps["state"]
			if _, asked := ps["state"]; asked {
				out = append(out, [2]string{"state", ps["state"]})
			}
		default:
			out = append(out, [2]string{m.Name, r.Redirect.Text(m.Name)})
		}
	}
	if state, ok := ps["state"]; ok && !r.Redirect.Has("state") {
		out = append(out, [2]string{"state", state})
	}
	how, signed := returned(ps)
	if signed {
		jwt, no := signedResponse(p, out)
		if no != nil {
			return nil, no
		}
		out = [][2]string{{"response", jwt}}
	}
	if how == "form_post" {
		reply.Post = &flow.Post{Action: ps["redirect_uri"], Parameters: out}
		return reply, nil
	}
	reply.Header.Set("Location", location(ps, out))
	return reply, nil
}

func frontAccessToken(p *flow.Permit) (token string, lifetime int64, no *flow.Refusal) {
	f := p.Record.Front
	if f == nil {
		return "", 0, flow.NotNow("record_incomplete")
	}
	lifetime, err := strconv.ParseInt(p.Record.Redirect.Text("expires_in"), 10, 64)
	switch {
	case f.AccessToken != nil:
		if err != nil {
			lifetime = f.AccessToken.Lifetime()
		}
		h, c := fresh(f.AccessToken, nil, p.Now, false, f.AccessToken.Lifetime())
		t, err := p.Sign(flow.ClassAccessToken, h, c)
		if err != nil {
			return "", 0, flow.NotNow("keys_unavailable")
		}
		return t, lifetime, nil
	case f.Opaque != nil && err == nil:
		return p.Opaque(*f.Opaque), lifetime, nil
	}
	return "", 0, flow.NotNow("record_incomplete")
}

func frontIDToken(p *flow.Permit, code, accessToken string) (string, *flow.Refusal) {
	f := p.Record.Front
	if f == nil || f.IDToken == nil {
		return "", flow.NotNow("record_incomplete")
	}
	h, c := fresh(f.IDToken, nil, p.Now, false, f.IDToken.Lifetime())
	for name, of := range map[string]string{"at_hash": accessToken, "c_hash": code, "s_hash": p.Play.Params["state"]} {
		switch {
		case of == "":
			c = c.Without(name)
		case c.Has(name):
			c.Set(name, session.Quote(atHash(h.Text("alg"), of)))
		}
	}
	c.Set("nonce", session.Quote(p.Play.Params["nonce"]))
	t, err := p.Sign(flow.ClassIDToken, h, c)
	if err != nil {
		return "", flow.NotNow("keys_unavailable")
	}
	return t, nil
}

// location is the redirect to the application.
func location(ps map[string]string, params [][2]string) string {
	at := ps["redirect_uri"]
	switch how, _ := returned(ps); {
	case how == "fragment":
		at += "#"
	case strings.Contains(at, "?"):
		at += "&"
	default:
		at += "?"
	}
	for i, p := range params {
		if i > 0 {
			at += "&"
		}
		at += url.QueryEscape(p[0]) + "=" + url.QueryEscape(p[1])
	}
	return at
}

// ErrorResponse tells an application why nobody was signed in (RFC 6749, section 4.1.2.1; OpenID Connect Core, section
// 3.1.2.6). The caller has made sure that the redirect URI is the client's, and that the answer is no JWT.
func ErrorResponse(ask *flow.Ask, issuer, code, description string) *flow.Reply {
	ps := [][2]string{{"error", code}, {"error_description", description}}
	if s, ok := ask.Params["state"]; ok {
		ps = append(ps, [2]string{"state", s})
	}
	if issuer != "" {
		ps = append(ps, [2]string{"iss", issuer})
	}
	reply := &flow.Reply{Status: http.StatusFound, Header: http.Header{"Cache-Control": {"no-store"}}}
	if ByForm(ask) {
		reply.Status, reply.Post = http.StatusOK, &flow.Post{Action: ask.Params["redirect_uri"], Parameters: ps}
		return reply
	}
	reply.Header.Set("Location", location(ask.Params, ps))
	return reply
}
