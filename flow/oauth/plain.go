package oauth

import (
	"net/http"
	"slices"
	"strings"

	"understudy/flow"
)

// passing are the parameters of an authorization request that do not belong to what the application is: they change from one request to
// the next, and the answer depends on them in ways that are known. Whatever else an application asks, it must ask again. In a plain
// request each is so long at most, and made of letters, digits and these characters: of none of which a path, a script or a query is
// made, for which something before the primary may fail. Of length 0 are those that nobody can be held to so.
var passing = map[string]struct {
	most int
	more string
}{
	"state": {2048, "_-=|"}, "nonce": {512, "_-"}, "code_challenge": {128, "_-"}, "prompt": {64, "_ "}, "id_token_hint": {4096, "_-."},
	"ui_locales": {128, "- "}, "display": {16, ""}, "client-request-id": {64, "-"}, "client_info": {8, ""}, "dpop_jkt": {64, "_-"},
	"login_hint": {}, "max_age": {},
	"x-client-SKU": {64, "."}, "x-client-VER": {32, "."}, "x-client-Ver": {32, "."}, "x-client-OS": {32, ""}, "x-client-CPU": {32, ""},
}

// passes says whether a parameter is one of them; what begins so tells of a library.
func passes(name string) bool {
	_, ok := passing[name]
	return ok || strings.HasPrefix(name, "x-client-")
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
		p := passing[name]
		switch {
		case len(vs) != 1,
			passes(name) && (len(vs[0]) > p.most || !madeOf(vs[0], p.more)),
			!passes(name) && (len(vs[0]) > maxApproved || !printable(vs[0])):
			return "parameters"
		}
	}
	return ""
}

// Spelled says whether an authorization request is of bytes that a primary takes: parameters that were read whole, each once, printable and
// of sizes that are usual. Whoever brings a person's browser to ask decides on the rest.
func Spelled(r *flow.Request) bool {
	for name, vs := range r.Form {
		most := maxApproved
		if p := passing[name]; p.most > 0 {
			most = p.most
		}
		if len(vs) != 1 && name != "resource" && name != "audience" || slices.ContainsFunc(vs, func(v string) bool { return len(v) > most || !printable(v) }) {
			return false
		}
	}
	return r.FormErr == nil
}

// madeOf says whether a text has only letters, digits and the characters more, of which a dot stands alone between others.
func madeOf(text, more string) bool {
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte(more, c) < 0:
			return false
		case c == '.' && (i == 0 || i == len(text)-1 || text[i-1] == '.'):
			return false
		}
	}
	return true
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
