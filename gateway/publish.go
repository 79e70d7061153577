package gateway

import (
	"net/http"
	"strings"

	"understudy/flow"
	"understudy/session"
)

// Paths at which MSAL asks for metadata; where the primary has nothing there, the gateway answers.
var aliases = []string{"/v2.0" + wellKnown, "/adfs" + wellKnown}

// serveMetadata answers discovery paths of issuers not known yet, and aliases. It is false where the path is neither.
func (g *Gateway) serveMetadata(w http.ResponseWriter, r *http.Request, t *Tenant) bool {
	path := r.URL.EscapedPath()
	if !strings.HasSuffix(path, wellKnown) {
		return false
	}
	if is := t.meta.adopt(r.Context(), path); is != nil {
		g.serveDiscovery(w, r, is)
		return true
	}
	for _, a := range aliases {
		base, ok := strings.CutSuffix(path, a)
		if !ok {
			continue
		}
		if is := t.meta.adopt(r.Context(), base+wellKnown); is != nil && t.meta.lacks(r.Context(), path) {
			g.serveDiscovery(w, r, is)
			return true
		}
	}
	return false
}

// notice adopts the issuer of a path whose clients never asked for metadata: the tenant's root, or a Keycloak realm. It
// is true where it is known now; another request may have brought that about a moment ago.
func (g *Gateway) notice(r *http.Request, t *Tenant) bool {
	if r.Method == http.MethodGet && r.URL.RawQuery == "" {
		return false
	}
	q := r.URL.Query()
	if r.Method != http.MethodPost && !(r.Method == http.MethodGet && q.Has("client_id") && (q.Has("response_type") || q.Has("request_uri"))) {
		return false
	}
	at := wellKnown
	if rest, ok := strings.CutPrefix(r.URL.Path, "/realms/"); ok {
		if realm, _, ok := strings.Cut(rest, "/"); ok && realm != "" {
			at = "/realms/" + realm + wellKnown
		}
	}
	return t.meta.adopt(r.Context(), at) != nil
}

// servePublished answers discovery and key sets.
func (g *Gateway) servePublished(w http.ResponseWriter, r *http.Request, v *visit) {
	if v.endpoint == flow.Discovery {
		g.serveDiscovery(w, r, v.issuer)
		return
	}
	g.serveKeys(w, r, v.issuer)
	if g.c.Coverage != nil && r.Method == http.MethodGet {
		g.c.Coverage.Fetched(v.tenant.Name, v.issuer.ID, v.address)
	}
}

func (g *Gateway) serveDiscovery(w http.ResponseWriter, r *http.Request, is *issuer) {
	serveJSON(w, r, is.document, is.docETag)
}

func (g *Gateway) serveKeys(w http.ResponseWriter, r *http.Request, is *issuer) {
	serveJSON(w, r, is.merged, is.etag)
}

// serveJSON answers GET and HEAD from memory, for any origin: the documents are public.
func serveJSON(w http.ResponseWriter, r *http.Request, b []byte, etag string) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		h.Set("Allow", "GET, HEAD, OPTIONS")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=60")
	if etag != "" {
		h.Set("ETag", etag)
		if matches(r.Header.Values("If-None-Match"), etag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.Write(b)
}

// matches is the weak comparison of If-None-Match (RFC 9110, section 13.1.2). Our own tags hold no comma.
func matches(lines []string, etag string) bool {
	for _, line := range lines {
		for tag := range strings.SplitSeq(line, ",") {
			if tag = strings.TrimSpace(tag); tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
				return true
			}
		}
	}
	return false
}

// notNowSeconds is the Retry-After of "not now". docs/clients.md says what clients do with it, and without.
const notNowSeconds = "5"

// writeRefusal writes an error in the protocol's words (RFC 6749, section 5.2).
func writeRefusal(h http.Header, w http.ResponseWriter, no *flow.Refusal, r *flow.Request) {
	if r != nil && r.Endpoint == flow.UserInfo && no.Error == "invalid_grant" { // RFC 6750, section 3.1
		no = &flow.Refusal{Code: no.Code, Status: http.StatusUnauthorized, Error: "invalid_token"}
		h.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	if r != nil && r.Endpoint == flow.UserInfo && no.Demands() { // RFC 9449, section 9
		no = &flow.Refusal{Code: no.Code, Status: http.StatusUnauthorized, Error: no.Error}
		h.Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
	}
	if no.Status == http.StatusServiceUnavailable && polls(r) {
		// Who waits for a person goes on waiting; many clients of these grants give up at anything else.
		no = &flow.Refusal{Code: no.Code, Status: http.StatusBadRequest, Error: "authorization_pending"}
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	if no.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", notNowSeconds)
	}
	if no.Error == "invalid_client" && no.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Basic realm="token"`)
	}
	if r != nil && r.HTTP.Header.Get("Origin") != "" {
		// A browser must be able to read that it may try again; nothing in it is secret.
		h.Set("Access-Control-Allow-Origin", "*")
		if no.Demands() { // a request with a proof was preceded by a preflight, and so is from an origin that was approved
			h.Set("Access-Control-Expose-Headers", "DPoP-Nonce, WWW-Authenticate")
		}
	}
	w.WriteHeader(no.Status)
	w.Write(refusalBody(no))
}

// polls says whether a request asks again and again whether a person has signed in elsewhere: with a device code (RFC 8628,
// section 3.5), or after a backchannel authentication request (OpenID Connect CIBA Core, section 11).
func polls(r *flow.Request) bool {
	if r == nil || r.Endpoint != flow.Token {
		return false
	}
	switch r.Form.Get("grant_type") {
	case "urn:ietf:params:oauth:grant-type:device_code", "urn:openid:params:grant-type:ciba":
		return true
	}
	return false
}

func refusalBody(no *flow.Refusal) []byte {
	return session.Object{
		{Name: "error", Value: session.Quote(no.Error)},
		{Name: "error_description", Value: session.Quote("understudy: " + no.Code)},
	}.Append(nil)
}
