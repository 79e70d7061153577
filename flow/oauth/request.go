package oauth

import (
	"bytes"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"understudy/flow"
	"understudy/session"
)

// exchange is what all requests to the token endpoint share.
type exchange struct {
	r         *flow.Request
	ask       flow.Ask
	unlearned string // why the reply must not be learned
}

// parse reads client authentication, scope and resources, and says whether the request is a plain one.
func parse(r *flow.Request) exchange {
	x := exchange{r: r}
	f := r.Form
	if s := f["scope"]; len(s) > 0 {
		x.ask.Scope = strings.Fields(s[0])
	}
	x.ask.Resource = append(slices.Clone(f["resource"]), f["audience"]...)
	x.ask.Client, x.unlearned = credentials(r, f)
	x.ask.Client.DPoP = len(r.HTTP.Header.Values("DPoP")) == 1
	query, err := url.ParseQuery(r.HTTP.URL.RawQuery)
	switch {
	case slices.Contains(f["grant_type"], "password") || slices.Contains(query["grant_type"], "password"):
		x.unlearned = "password" // whatever else is wrong: a refresh keeps the origin of its family
	case x.unlearned == "" && err != nil:
		x.unlearned = "ambiguous_parameters"
	case x.unlearned == "":
		x.unlearned = unrepeatable(r, query)
	}
	x.ask.Unplayable = x.unlearned
	if x.ask.Unplayable == "" {
		x.ask.Unplayable = asksForMore(f)
	}
	x.ask.Odd = odd(r)
	return x
}

// Proves says whether a header of a request may be part of what its client proves.
func Proves(name string) bool {
	return proves(name) != "" || http.CanonicalHeaderKey(name) == "Authorization"
}

// proves says in a word what a header proves that could not be checked again.
func proves(name string) string {
	switch n := strings.ToLower(name); {
	case n == "dpop":
		return "dpop"
	case strings.Contains(n, "cert"): // of a proxy that ended TLS: RFC 9440 and its many predecessors
		return "client_certificate"
	case n == "oauth-client-attestation", n == "oauth-client-attestation-pop", n == "signature", n == "signature-input":
		return "client_attestation"
	}
	return ""
}

// unrepeatable says why an approved request must not be learned from although its client authentication is known: it
// proves something that could not be checked again, or it may not mean to the primary what it means here.
func unrepeatable(r *flow.Request, query url.Values) string {
	if r.Certificate.Unusable {
		return "client_certificate"
	}
	for name := range r.HTTP.Header {
		if why := proves(name); why != "" && !(why == "dpop" && (r.Endpoint == flow.Token || r.Endpoint == flow.Pushed) && len(r.HTTP.Header.Values(name)) == 1) {
			return why
		}
	}
	if r.HTTP.TLS != nil && len(r.HTTP.TLS.PeerCertificates) > 0 && r.Certificate.Thumbprint == "" {
		return "client_certificate"
	}
	for name := range query {
		// The primary may prefer the query. MSAL for Node writes its correlation id in both places.
		if _, ok := plainParameters[name]; name != "client-request-id" && (ok && name != "client_info" || r.Form.Has(name)) {
			return "ambiguous_parameters"
		}
	}
	if r.FormErr != nil || !formType(r.HTTP.Header.Values("Content-Type")) {
		return "ambiguous_parameters"
	}
	for name, vs := range r.Form {
		if len(vs) > 1 && name != "resource" && name != "audience" {
			return "repeated_parameters"
		}
	}
	return ""
}

// asksForMore says why the answer of a record would not be the answer to this request: a claims challenge that ignored
// would be a revocation ignored, other rights, or a token of another kind.
func asksForMore(f url.Values) string {
	for _, name := range []string{"authorization_details", "acr_values", "max_age", "organization", "requested_token_type", "token_type", "req_cnf", "dpop_jkt"} {
		if f.Get(name) != "" {
			return name
		}
	}
	if c := f.Get("claims"); c != "" && !capabilities(c) {
		return "claims"
	}
	return ""
}

// capabilities says whether a claims parameter (OpenID Connect Core, section 5.5) demands nothing: MSAL says with it what the
// client can do (xms_cc), and asks for claims that it does without (section 5.5.1: voluntary claims).
func capabilities(claims string) bool {
	o, err := session.ParseObject([]byte(claims))
	if err != nil {
		return false
	}
	for _, m := range o {
		part, err := session.ParseObject(m.Value)
		if err != nil || m.Name != "access_token" && m.Name != "id_token" && m.Name != "userinfo" {
			return false
		}
		for _, c := range part {
			if m.Name == "access_token" && c.Name != "xms_cc" || m.Name != "access_token" && !voluntary(c) {
				return false
			}
		}
	}
	return true
}

// voluntary says whether a claim is asked for in such a way that a reply without it is in order.
func voluntary(c session.Member) bool {
	if c.Name == "acr" || c.Name == "auth_time" || c.Name == "sub" {
		return false // these say how or as whom to sign in
	}
	if string(c.Value) == "null" {
		return true
	}
	how, err := session.ParseObject(c.Value)
	if err != nil {
		return false
	}
	for _, m := range how {
		if m.Name != "essential" || string(m.Value) != "false" {
			return false
		}
	}
	return true
}

// credentials reads the client authentication of RFC 6749, section 2.3.1, or says why it is none that can be checked
// again in an outage.
func credentials(r *flow.Request, f url.Values) (flow.Credentials, string) {
	c, why := written(r.HTTP.Header, f)
	if c.Certificate = r.Certificate.Thumbprint; c.Certificate != "" && c.Method == "none" {
		// Whether the primary asks for it does not show: a public client's is demanded again too.
		c.Method = r.Certificate.Method
	}
	return c, why
}

// written reads what a request says of its client in header and form.
func written(h http.Header, f url.Values) (flow.Credentials, string) {
	bodyID, bodySecret := f.Get("client_id"), f.Get("client_secret")
	switch {
	case f.Has("client_assertion") || f.Has("client_assertion_type"):
		return asserted(h, f)
	case len(h.Values("Authorization")) > 1 || len(f["client_secret"]) > 1 || len(f["client_id"]) > 1:
		return flow.Credentials{ID: bodyID}, "repeated_credentials"
	case len(h.Values("Authorization")) == 1:
		user, pass, ok := basic(h)
		switch {
		case !ok:
			return flow.Credentials{ID: bodyID}, "authorization_scheme"
		case bodySecret != "" || bodyID != "" && bodyID != user:
			return flow.Credentials{ID: user}, "two_credentials"
		}
		return flow.Credentials{ID: user, Method: "client_secret_basic", Secret: pass}, ""
	case bodyID == "":
		return flow.Credentials{}, "no_client"
	case f.Has("client_secret") && bodySecret != "":
		return flow.Credentials{ID: bodyID, Method: "client_secret_post", Secret: bodySecret}, ""
	}
	return flow.Credentials{ID: bodyID, Method: "none"}, ""
}

// assertionType is the client_assertion_type of a JWT (RFC 7523, section 2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// asserted reads a client assertion. Who the client is it says itself; that it is so is to be verified.
func asserted(h http.Header, f url.Values) (flow.Credentials, string) {
	c := flow.Credentials{ID: f.Get("client_id"), Method: "private_key_jwt"}
	a := f["client_assertion"]
	if strings.HasPrefix(header(f.Get("client_assertion")).Text("alg"), "HS") {
		c.Method = "client_secret_jwt"
	}
	switch sub := payload(f.Get("client_assertion")).Text("sub"); {
	case len(a) != 1 || len(f["client_assertion_type"]) != 1 || f.Get("client_assertion_type") != assertionType:
		return c, "client_assertion"
	case len(h.Values("Authorization")) > 0 || f.Get("client_secret") != "":
		return c, "two_credentials"
	case sub == "" || c.ID != "" && c.ID != sub || len(f["client_id"]) > 1:
		return c, "client_assertion"
	default:
		c.ID, c.Assertion = sub, a[0]
	}
	return c, ""
}

// ClientID is the client that a request names in whatever way, as a primary that approved the request understood it; "" where
// that cannot be seen. Nothing is proven by it.
func ClientID(r *flow.Request) string {
	c, _ := written(r.HTTP.Header, r.Form)
	if c.ID != "" {
		return c.ID
	}
	return payload(r.Form.Get("client_assertion")).Text("sub") // RFC 7523, section 3: the client
}

// basic reads HTTP Basic with the form encoding that RFC 6749, section 2.3.1 asks for. A client that does not encode is
// read as it is where decoding changes nothing or fails.
func basic(h http.Header) (user, pass string, ok bool) {
	r := http.Request{Header: http.Header{"Authorization": h.Values("Authorization")}}
	user, pass, ok = r.BasicAuth()
	if !ok || user == "" || pass == "" {
		return "", "", false
	}
	if u, err := url.QueryUnescape(user); err == nil {
		user = u
	}
	if p, err := url.QueryUnescape(pass); err == nil {
		pass = p
	}
	return user, pass, true
}

// Parameters of a plain request: each at most once, each value printable ASCII within its size. Values that must equal
// what was approved (the token, the client, scope, resource) are compared by the backup.
var plainParameters = map[string]int{
	"grant_type": 32, "refresh_token": 8192, "client_id": 512, "client_secret": 1024, "scope": 2048,
	"resource": 1024, "audience": 1024, "client_assertion": 8192, "client_assertion_type": 64,
	// what MSAL sends with every request
	"client_info": 8, "client-request-id": 64, "claims": 256,
}

// Headers that may stand in a plain request, and how long they may be.
var plainHeaders = map[string]int{
	"Accept": 256, "Accept-Encoding": 128, "Accept-Language": 256, "Authorization": 2048, "Cache-Control": 64,
	"Connection": 32, "Content-Length": 12, "Content-Type": 128, "Cookie": 8192, "Dpop": 4096, "Origin": 512, "Pragma": 64,
	"Priority": 32, "Referer": 2048, "User-Agent": 512, "Traceparent": 64, "Tracestate": 512, "X-Request-Id": 128,
	"Sec-Ch-Ua": 256, "Sec-Ch-Ua-Mobile": 16, "Sec-Ch-Ua-Platform": 64, "Sec-Fetch-Dest": 32, "Sec-Fetch-Mode": 32,
	"Sec-Fetch-Site": 32, "Dnt": 8, "Te": 16, "Keep-Alive": 64,
	"X-Forwarded-For": 512, "X-Forwarded-Proto": 16, "X-Forwarded-Host": 256, "X-Forwarded-Port": 8, "Via": 256,
	"X-Real-Ip": 64, "Forwarded": 512,
	"X-Correlation-Id": 128, "Request-Id": 256, "B3": 128, "Baggage": 512, "Sentry-Trace": 128, "X-Amzn-Trace-Id": 256, "Sec-Gpc": 8,
	"Client-Request-Id": 64, "Return-Client-Request-Id": 8, "X-Ms-Lib-Capability": 128,
	"Upgrade-Insecure-Requests": 8, "Sec-Fetch-User": 8, "Sec-Fetch-Storage-Access": 16, // of a browser that goes to a page
}

// maxHeaders bounds the header fields of a plain request together, below what any primary takes.
const maxHeaders = 8 << 10

// odd says why a request is not a plain one (design, law 1), or "".
func odd(r *flow.Request) string {
	h := r.HTTP.Header
	switch {
	case !formType(h.Values("Content-Type")):
		return "content_type"
	case !PlainQuery(r.HTTP.URL.RawQuery):
		return "query"
	case r.FormErr != nil || !oddlessForm(r):
		return "parameters"
	case len(r.HTTP.Trailer) > 0:
		return "headers"
	}
	if !plainFields(h) {
		return "headers"
	}
	if !plainAccept(h.Get("Accept")) {
		return "accept"
	}
	return ""
}

// PlainQuery says whether the query of a token request holds nothing, or nothing but the correlation id that MSAL for Node writes there.
func PlainQuery(raw string) bool {
	if raw == "" {
		return true
	}
	id, ok := strings.CutPrefix(raw, "client-request-id=")
	return ok && len(id) <= plainParameters["client-request-id"] && strings.Trim(id, "0123456789abcdefABCDEF-") == ""
}

const plainLanguage = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-,;=.* "

// refusesAll says whether an Accept-Encoding forbids something: the identity, or whatever the primary would take.
func refusesAll(v string) bool {
	v = strings.ReplaceAll(v, " ", "")
	return strings.Contains(v, "q=0") && !strings.Contains(v, "q=0.")
}

// formType says whether a Content-Type is that of a form, once, in no other character set than its own.
func formType(vs []string) bool {
	if len(vs) != 1 {
		return false
	}
	if vs[0] == "application/x-www-form-urlencoded" {
		return true
	}
	t, params, err := mime.ParseMediaType(vs[0])
	if err != nil || t != "application/x-www-form-urlencoded" || len(params) > 1 {
		return false
	}
	charset, ok := params["charset"]
	return len(params) == 0 || ok && strings.EqualFold(charset, "utf-8")
}

// oddlessForm says whether the body holds known parameters, each once, and nothing else.
func oddlessForm(r *flow.Request) bool {
	for name, vs := range r.Form {
		limit, ok := plainParameters[name]
		if !ok && (strings.HasPrefix(name, "x-client-") || strings.HasPrefix(name, "x-ms-") || strings.HasPrefix(name, "x-app-")) {
			limit, ok = 256, true
		}
		if !ok || len(vs) != 1 || len(vs[0]) > limit || !printable(vs[0]) {
			return false
		}
	}
	// Empty pairs are none to this parser; a primary may count them.
	return bytes.Count(r.Body, []byte{'&'})+1 == len(r.Form)
}

// plainAccept says whether an Accept header wants nothing but what a token endpoint sends, or one of other types. Some primaries
// answer HTML where it is preferred.
func plainAccept(v string, other ...string) bool {
	if v == "" {
		return true
	}
	for _, part := range strings.Split(v, ",") {
		t, _, _ := strings.Cut(part, ";")
		switch t = strings.ToLower(strings.TrimSpace(t)); t {
		case "application/json", "*/*", "application/*", "text/plain", "text/javascript":
		default:
			if !slices.Contains(other, t) {
				return false
			}
		}
	}
	return !refusesAll(v)
}

func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
