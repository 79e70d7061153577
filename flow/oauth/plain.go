package oauth

import (
	"net/http"
	"strings"

	"understudy/flow"
)

// Parameters that change from one authorization request to the next, and how long they may be in a plain one. The others belong to
// the application, and were approved as they are.
var plainPassing = map[string]int{
	"state": 2048, "nonce": 512, "code_challenge": 128, "prompt": 64, "login_hint": 256, "id_token_hint": 4096, "max_age": 16,
	"ui_locales": 128, "display": 16, "client-request-id": 64, "client_info": 8, "dpop_jkt": 64,
}

// maxApproved is how long a parameter that belongs to the application may be in a plain request.
const maxApproved = 2048

// OddNavigation says why an authorization request is not a plain one (design, law 1), or "". It is asked where the primary failed.
func OddNavigation(r *flow.Request) string {
	switch h := r.HTTP; {
	case h == nil || h.URL == nil || h.Method != http.MethodGet || h.ContentLength != 0 || len(h.Trailer) > 0:
		return "method"
	case r.Pushed || r.Signed || r.FormErr != nil || strings.Count(h.URL.RawQuery, "&")+1 != len(r.Form):
		return "parameters"
	case !plainFields(h.Header) || strings.Trim(h.Header.Get("Accept"), plainLanguage+"/+") != "" || refusesAll(h.Header.Get("Accept")):
		return "headers"
	}
	for name, vs := range r.Form {
		limit, ok := plainPassing[name]
		switch {
		case strings.HasPrefix(name, "x-client-"):
			limit = 256
		case !ok:
			limit = maxApproved
		}
		if len(vs) != 1 || len(vs[0]) > limit || !printable(vs[0]) {
			return "parameters"
		}
	}
	return ""
}

// PlainQuestion says whether a request asks with an access token for what is known of its bearer, and holds nothing with which a
// primary could be brought to fail (design, law 1).
func PlainQuestion(r *flow.Request) bool {
	h := r.HTTP
	return len(r.Body) == 0 && h.URL.RawQuery == "" && len(h.Trailer) == 0 && plainFields(h.Header) && plainAccept(h.Header.Get("Accept"), "application/jwt")
}

// plainFields says whether there are only known header fields, each once and within its size.
func plainFields(h http.Header) bool {
	size := 0
	for name, vs := range h {
		limit, ok := plainHeaders[name]
		if !ok && (strings.HasPrefix(name, "X-Client-") || strings.HasPrefix(name, "X-Ms-") || strings.HasPrefix(name, "X-App-") || strings.HasPrefix(name, "X-B3-")) {
			limit, ok = 256, true
		}
		if !ok || len(vs) != 1 || len(vs[0]) > limit || !printable(vs[0]) {
			return false
		}
		if size += len(name) + len(vs[0]) + 4; size > maxHeaders {
			return false
		}
	}
	return !strings.ContainsAny(h.Get("Cookie"), `"\`) && strings.Trim(h.Get("Accept-Language"), plainLanguage) == "" && !refusesAll(h.Get("Accept-Encoding"))
}
