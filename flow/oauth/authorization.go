package oauth

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"understudy/flow"
	"understudy/session"
)

// Authorization is the authorization request (RFC 6749, section 4.1.1; OpenID Connect Core, section 3.1.2.1) of a browser in
// which the person is signed in already. It is learned when its code is redeemed, and answered without a person: with a code
// of the backup's own.
type Authorization struct{}

// Name implements flow.Flow.
func (Authorization) Name() string { return "authorization" }

// Endpoint implements flow.Flow.
func (Authorization) Endpoint() flow.Endpoint { return flow.Authorization }

// CodeLifetime is how long a code of the backup's can be redeemed (RFC 6749, section 4.1.2: ten minutes at most).
const CodeLifetime = time.Minute

// responseTypes are those whose answers are understood (OAuth 2.0 Multiple Response Type Encoding Practices, section 5).
var responseTypes = map[string]bool{
	"code": true, "id_token": true, "id_token token": true, "token id_token": true, "token": true, "code id_token": true, "id_token code": true,
	"code token": true, "code id_token token": true, "code token id_token": true, "none": true,
}

// responseModes are those whose answers are understood (OAuth 2.0 Multiple Response Type Encoding Practices, section 2.1; OAuth 2.0
// Form Post Response Mode; JARM, section 2.3).
var responseModes = []string{"", "query", "fragment", "form_post", "jwt", "query.jwt", "fragment.jwt", "form_post.jwt"}

// responseMode is how the answer to a request is returned: where the request does not say it, in the query, or in the
// fragment where there are tokens in it.
func responseMode(ps map[string]string) string {
	switch {
	case ps["response_mode"] != "":
		return ps["response_mode"]
	case !tokensIn(ps["response_type"]):
		return "query"
	}
	return "fragment"
}

// tokensIn says whether the answer to a request of a response type has tokens in it.
func tokensIn(responseType string) bool { return responseType != "code" && responseType != "none" }

// AsksNothing says whether an application asks only whether somebody is signed in and lets it in, and is not told who (OAuth 2.0
// Multiple Response Type Encoding Practices, section 4).
func AsksNothing(ask *flow.Ask) bool { return ask.Params["response_type"] == "none" }

// returned is how the answer to a request comes back, in the query, the fragment or a form, and whether it is a JWT (JARM).
func returned(ps map[string]string) (how string, signed bool) {
	how, signed = strings.CutSuffix(responseMode(ps), "jwt")
	if how = strings.TrimSuffix(how, "."); how != "" {
		return how, signed
	}
	return responseMode(map[string]string{"response_type": ps["response_type"]}), signed
}

// Signs says whether the answer to a request is a JWT, which nobody but the primary and the backup can make.
func Signs(ask *flow.Ask) bool {
	_, signed := returned(ask.Params)
	return signed
}

// ByForm says whether the answer to a request comes in a page.
func ByForm(ask *flow.Ask) bool {
	how, _ := returned(ask.Params)
	return how == "form_post"
}

// Match implements flow.Flow.
func (Authorization) Match(r *flow.Request) flow.Exchange {
	if r.Form == nil {
		return nil
	}
	x := &authorization{r: r, ask: flow.Ask{Client: flow.Credentials{ID: r.Form.Get("client_id"), Method: "none"}, Params: map[string]string{}}}
	f, a := r.Form, &x.ask
	a.Scope = strings.Fields(f.Get("scope"))
	a.Resource = append(slices.Clone(f["resource"]), f["audience"]...)
	for name, vs := range f {
		if name != "resource" && name != "audience" {
			a.Params[name] = vs[0]
		}
	}
	a.Unplayable = x.unlearned()
	if a.Unplayable == "" {
		a.Door = x.door(f.Get("redirect_uri"))
		if uri := withoutPort(f.Get("redirect_uri")); uri != "" {
			a.AnyPort = slices.Clone(a.Door)
			a.AnyPort[1] = uri
		}
		a.Unplayable = needsPerson(f)
	}
	return x
}

type authorization struct {
	r   *flow.Request
	ask flow.Ask
}

func (x *authorization) Ask() *flow.Ask { return &x.ask }

// Learn implements flow.Exchange: what the primary answers shows only at the redemption of its code.
func (x *authorization) Learn(*flow.Response) *flow.Lesson { return nil }

// unlearned says why such a request must not be learned from, or "".
func (x *authorization) unlearned() string {
	f := x.r.Form
	for name, vs := range f {
		if len(vs) > 1 && name != "resource" && name != "audience" {
			return "repeated_parameters"
		}
	}
	u, err := url.Parse(f.Get("redirect_uri"))
	switch {
	case x.r.FormErr != nil:
		return "ambiguous_parameters"
	case f.Get("client_id") == "":
		return "no_client"
	case f.Has("request_uri"):
		return "request_uri"
	case f.Has("request"):
		return "request_object"
	case !responseTypes[f.Get("response_type")]:
		return "response_type"
	case !slices.Contains(responseModes, f.Get("response_mode")):
		return "response_mode"
	case strings.Contains(f.Get("response_type"), "id_token") && f.Get("nonce") == "":
		return "nonce" // OpenID Connect Core, sections 3.2.2.1 and 3.3.2.11
	case tokensIn(f.Get("response_type")) && strings.HasPrefix(f.Get("response_mode"), "query"):
		return "response_mode" // tokens do not go into a query (OAuth 2.0 Multiple Response Type Encoding Practices, section 5)
	case err != nil || u.Scheme == "" || u.Fragment != "" || strings.Contains(f.Get("redirect_uri"), "#"):
		return "redirect_uri"
	case f.Has("authorization_details"):
		return "authorization_details"
	case f.Has("code_challenge") && f.Get("code_challenge_method") != "S256" && f.Get("code_challenge_method") != "plain" && f.Get("code_challenge_method") != "":
		return "code_challenge_method"
	}
	return ""
}

// needsPerson says why a request cannot be answered without a person, or "".
func needsPerson(f url.Values) string {
	for _, p := range strings.Fields(f.Get("prompt")) {
		if p != "none" {
			return "prompt"
		}
	}
	if n, err := strconv.ParseInt(f.Get("max_age"), 10, 64); f.Has("max_age") && (err != nil || n <= 0) {
		return "max_age"
	}
	return ""
}

// door is what the application asks for: exactly this is what the primary approved, or it is something else.
func (x *authorization) door(redirectURI string) []string {
	f := x.r.Form
	challenge := ""
	if f.Has("code_challenge") {
		challenge = f.Get("code_challenge_method")
		if challenge == "" {
			challenge = "plain" // RFC 7636, section 4.3
		}
	}
	out := append(make([]string, 0, 7+len(f)), f.Get("client_id"), redirectURI, f.Get("response_type"), responseMode(x.ask.Params), challenge,
		inAnyOrder(x.ask.Scope), inAnyOrder(x.ask.Resource))
	asked := len(out)
	for name, vs := range f {
		switch name {
		case "client_id", "redirect_uri", "response_type", "response_mode", "code_challenge_method", "scope", "resource", "audience":
			continue
		}
		if !passes(name) {
			out = append(out, session.Joined(name, vs[0]))
		}
	}
	// What a client must push or sign it does not get by a link.
	if x.r.Pushed {
		out = append(out, "pushed")
	}
	if x.r.Signed {
		out = append(out, "signed")
	}
	if x.r.Referenced {
		out = append(out, "referenced")
	}
	if f.Get("dpop_jkt") != "" { // nor what it must bind to a key by one that binds nothing
		out = append(out, "bound")
	}
	slices.Sort(out[asked:])
	return out
}

// inAnyOrder is a list as one text, in whatever order it came.
func inAnyOrder(list []string) string {
	list = slices.Clone(list)
	slices.Sort(list)
	return session.Joined(list...)
}

// withoutPort is a redirect URI of an application that listens on the person's own machine, at a port that it gets anew each time
// (RFC 8252, section 7.3), without that; "" where it is none. Its host has no name that something else could answer to.
func withoutPort(uri string) string {
	if len(uri) < 7 || !strings.EqualFold(uri[:7], "http://") {
		return ""
	}
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "http" || u.User != nil || u.Port() == "" {
		return ""
	}
	switch host := strings.TrimSuffix(u.Host, ":"+u.Port()); host {
	case "127.0.0.1", "[::1]", "localhost":
		rest, ok := strings.CutPrefix(uri, "http://"+u.Host)
		if !ok {
			return ""
		}
		return "http://" + host + ":*" + rest
	}
	return ""
}

// Answer implements flow.Flow.
func (Authorization) Answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	r, ps := p.Record, p.Play.Params
	if r.Redirect == nil {
		return nil, flow.NotNow("record_incomplete")
	}
	if no := samePerson(r, ps); no != nil {
		return nil, no
	}
	if ps["max_age"] != "" {
		// The person's sign-in was at auth_time, and nothing that the backup does is another (OpenID Connect Core, section 3.1.2.1).
		most, err := strconv.ParseInt(ps["max_age"], 10, 64)
		at := authTime(r.IDToken)
		if err != nil || at == 0 || p.Now.Unix()-at >= most {
			return nil, flow.NotNow("max_age")
		}
	}
	return respond(p)
}

// samePerson refuses where the application asks for somebody whose session this is not, or may not be.
func samePerson(r *session.Record, ps map[string]string) *flow.Refusal {
	if hint := ps["id_token_hint"]; hint != "" {
		// Whoever signed it: it can only lead to a refusal.
		t, err := ParseJWT(hint)
		if err != nil || t.Claims.Text("iss") != r.Issuer || t.Claims.Text("sub") != r.Subject {
			return flow.NotNow("other_user")
		}
	}
	hint := ps["login_hint"]
	if hint == "" || hint == r.Subject {
		return nil
	}
	for _, t := range []*session.Token{r.IDToken, r.AccessToken} {
		if t == nil {
			continue
		}
		for _, name := range []string{"preferred_username", "email", "upn", "login_hint", "phone_number"} {
			if v := t.Claims.Text(name); v != "" && strings.EqualFold(v, hint) {
				return nil
			}
		}
	}
	return flow.NotNow("other_user")
}
