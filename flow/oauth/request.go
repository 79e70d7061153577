package oauth

import (
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"understudy/flow"
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
	x.ask.Client, x.unlearned = credentials(r.HTTP.Header, f)
	switch {
	case x.unlearned != "":
	case r.HTTP.Header.Get("DPoP") != "":
		x.unlearned = "dpop"
	case r.HTTP.TLS != nil && len(r.HTTP.TLS.PeerCertificates) > 0:
		x.unlearned = "client_certificate"
	case f.Get("grant_type") == "password":
		x.unlearned = "password"
	case len(f["scope"]) > 1 || len(f["client_id"]) > 1 || len(f["refresh_token"]) > 1 || len(f["grant_type"]) > 1:
		x.unlearned = "repeated_parameters"
	}
	if x.unlearned != "" {
		x.ask.Unplayable = x.unlearned
	}
	x.ask.Odd = odd(r)
	return x
}

// credentials reads the client authentication of RFC 6749, section 2.3.1, or says why it is none that can be checked
// again in an outage.
func credentials(h http.Header, f url.Values) (flow.Credentials, string) {
	bodyID, bodySecret := f.Get("client_id"), f.Get("client_secret")
	switch {
	case f.Has("client_assertion") || f.Has("client_assertion_type"):
		return flow.Credentials{ID: bodyID, Method: "private_key_jwt"}, "client_assertion"
	case len(h.Values("Authorization")) > 1 || len(f["client_secret"]) > 1:
		return flow.Credentials{ID: bodyID}, "repeated_credentials"
	case h.Get("Authorization") != "":
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
	"resource": 1024, "audience": 1024,
	// what MSAL sends with every request
	"client_info": 8, "client-request-id": 64, "claims": 0,
}

// Headers that may stand in a plain request, and how long they may be.
var plainHeaders = map[string]int{
	"Accept": 256, "Accept-Encoding": 128, "Accept-Language": 256, "Authorization": 2048, "Cache-Control": 64,
	"Connection": 32, "Content-Length": 12, "Content-Type": 128, "Cookie": 8192, "Origin": 512, "Pragma": 64,
	"Priority": 32, "Referer": 2048, "User-Agent": 512, "Traceparent": 64, "Tracestate": 512, "X-Request-Id": 128,
	"Sec-Ch-Ua": 256, "Sec-Ch-Ua-Mobile": 16, "Sec-Ch-Ua-Platform": 64, "Sec-Fetch-Dest": 32, "Sec-Fetch-Mode": 32,
	"Sec-Fetch-Site": 32, "Dnt": 8, "Te": 16, "Keep-Alive": 64,
	"X-Forwarded-For": 512, "X-Forwarded-Proto": 16, "X-Forwarded-Host": 256, "X-Forwarded-Port": 8, "Via": 256,
	"X-Real-Ip": 64, "Forwarded": 512,
	"Client-Request-Id": 64, "Return-Client-Request-Id": 8, "X-Ms-Lib-Capability": 128,
}

// odd says why a request is not a plain one (design, law 1), or "".
func odd(r *flow.Request) string {
	if t, _, err := mime.ParseMediaType(r.HTTP.Header.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
		return "content_type"
	}
	if len(r.HTTP.Header.Values("Content-Type")) > 1 {
		return "content_type"
	}
	if r.HTTP.URL.RawQuery != "" {
		return "query"
	}
	for name, vs := range r.Form {
		limit, ok := plainParameters[name]
		if !ok && (strings.HasPrefix(name, "x-client-") || strings.HasPrefix(name, "x-ms-") || strings.HasPrefix(name, "x-app-")) {
			limit, ok = 256, true
		}
		if !ok || len(vs) != 1 || len(vs[0]) > limit || !printable(vs[0]) {
			return "parameters"
		}
	}
	for name, vs := range r.HTTP.Header {
		limit, ok := plainHeaders[name]
		if !ok && (strings.HasPrefix(name, "X-Client-") || strings.HasPrefix(name, "X-Ms-") || strings.HasPrefix(name, "X-App-")) {
			limit, ok = 256, true
		}
		if !ok || len(vs) != 1 || len(vs[0]) > limit || !printable(vs[0]) {
			return "headers"
		}
	}
	if a := r.HTTP.Header.Get("Accept"); strings.Contains(a, "html") || strings.Contains(a, "xml") {
		return "accept"
	}
	return ""
}

func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
