package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"syscall"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/health"
	"understudy/session"
)

// outcome is what became of a request to the primary.
type outcome struct {
	endpoint  flow.Endpoint
	status    int
	header    http.Header
	body      []byte
	err       error          // no reply, or not a whole one
	sent      bool           // the request may have reached the primary
	handshake bool           // the TLS handshake failed
	object    session.Object // the body, or what the JWT that it is says
	objErr    error
	token     *session.Token // the body, where it is a JWT
}

// Rule is one line of the table of failures.
type Rule struct {
	Name   string // stable: it is the trigger in the sign-in log
	What   string // for docs/failures.md
	Origin health.Origin
	// Probe is true where the backup may answer only when the gateway's own probe fails likewise.
	Probe bool
	// Lost is true where the primary may have carried out what was asked, and its reply is lost.
	Lost bool
	when func(*outcome) bool
}

// Rules is the table of what counts as an unexpected failure of the primary at a protocol endpoint (design, law 1). The
// first line that holds decides; where none does, the primary has answered.
func Rules() []Rule {
	is := func(status ...int) func(*outcome) bool {
		return func(o *outcome) bool {
			for _, s := range status {
				if o.err == nil && o.status == s {
					return true
				}
			}
			return false
		}
	}
	return []Rule{
		{"client_gone", "the client went away before the primary answered", health.Ours, false, false,
			func(o *outcome) bool { return errors.Is(o.err, context.Canceled) || errors.Is(o.err, errOurs) }},
		{"handles", "the gateway itself has no file handles, ports or memory left", health.Ours, false, false,
			func(o *outcome) bool { return exhausted(o.err) }},
		{"refused", "the connection is refused, or there is no way to the host", health.Beyond, false, false,
			func(o *outcome) bool {
				return !o.sent && (errors.Is(o.err, syscall.ECONNREFUSED) || errors.Is(o.err, syscall.EHOSTUNREACH) || errors.Is(o.err, syscall.ENETUNREACH))
			}},
		{"dns", "the host name cannot be resolved", health.Beyond, false, false,
			func(o *outcome) bool { var e *net.DNSError; return errors.As(o.err, &e) }},
		{"tls", "the TLS handshake fails, or the certificate is wrong or expired", health.Beyond, false, false,
			func(o *outcome) bool { return o.err != nil && !o.sent && (o.handshake || isTLS(o.err)) }},
		{"connect", "the connection cannot be made", health.Beyond, false, false,
			func(o *outcome) bool { var e *net.OpError; return !o.sent && errors.As(o.err, &e) && e.Op == "dial" }},
		// The transport quotes requests that it does not take: no text of an error says whose doing it is.
		{"not_sent", "the request was not sent, for another reason", health.Doubt, true, false, func(o *outcome) bool { return o.err != nil && !o.sent && !isCut(o.err) }},
		{"too_large", "the reply is larger than the gateway takes", health.Doubt, false, true,
			func(o *outcome) bool { return errors.Is(o.err, errTooLarge) }},
		{"no_reply", "the request was sent and no whole reply came (reset, truncation, deadline)", health.Doubt, false, true,
			func(o *outcome) bool { return o.err != nil }},
		{"too_many", "429: the primary's answer, with its Retry-After", answered, false, false, is(http.StatusTooManyRequests)},
		{"gateway_error", "502 or 504: of something before the primary, which may have done its work", health.Doubt, false, true,
			is(http.StatusBadGateway, http.StatusGatewayTimeout)},
		{"server_error", "any other 5xx reply", health.Doubt, false, false, func(o *outcome) bool { return o.status >= 500 }},
		{"request_refused", "408, 413, 425 or 431", health.Doubt, true, false, is(408, 413, 425, 431)},
		{"redirect", "a redirect from a protocol endpoint", health.Doubt, false, false,
			func(o *outcome) bool { return o.status >= 300 && o.status < 400 && o.endpoint != flow.EndSession }},
		{"oauth_unavailable", "temporarily_unavailable or server_error in the protocol's words", health.Doubt, false, false,
			func(o *outcome) bool {
				e := o.object.Text("error")
				return e == "temporarily_unavailable" || e == "server_error"
			}},
		{"challenge", "401 with WWW-Authenticate: an answer, body or not", answered, false, false,
			func(o *outcome) bool { return o.status == 401 && o.header.Get("WWW-Authenticate") != "" }},
		{"client_error", "a 4xx without the protocol's body", health.Doubt, true, false,
			func(o *outcome) bool { return o.status >= 400 && o.object.Text("error") == "" }},
		{"empty", "a 2xx without the body that is due", health.Doubt, false, true,
			func(o *outcome) bool { return o.status < 300 && bodyDue(o.endpoint) && len(o.body) == 0 }},
		{"wrong_content", "a 2xx whose body is not JSON (an HTML page, for example)", health.Doubt, false, true,
			func(o *outcome) bool {
				return o.status < 300 && bodyDue(o.endpoint) && (o.objErr != nil || !isJSON(o.header)) && !isSignedIntrospection(o) ||
					o.status == 200 && o.endpoint == flow.UserInfo && len(o.body) > 0 && o.objErr != nil && !isJWT(o.body)
			}},
		{"no_active", "a 200 of the introspection endpoint that does not say whether the token is active", health.Doubt, false, true,
			func(o *outcome) bool {
				active := string(o.object.Get("active"))
				return o.status == 200 && o.endpoint == flow.Introspection && active != "true" && active != "false" && (o.token != nil || !isSignedIntrospection(o))
			}},
		{"no_token", "a 200 of the token endpoint without access_token or token_type", health.Doubt, false, true,
			func(o *outcome) bool {
				return o.status == 200 && o.endpoint == flow.Token && !(o.object.Filled("access_token") && o.object.Filled("token_type"))
			}},
	}
}

// named is a line of the table.
func named(rules []Rule, name string) *Rule {
	for i := range rules {
		if rules[i].Name == name {
			return &rules[i]
		}
	}
	return nil
}

// unknownKey is the rule for a reply whose ID token is signed by a key that the primary does not publish.
func unknownKey() *Rule {
	return &Rule{"unknown_key", "the ID token is signed by a key that the primary does not publish, also after asking again", health.Doubt, false, false, nil}
}

// answered marks lines of the table that are the primary's answer although they look like failures.
const answered health.Origin = -1

var errOurs = errors.New("the gateway's own limit")

// exhausted says whether an error is this machine's own want of handles, ports or memory.
func exhausted(err error) bool {
	var dns *net.DNSError
	isDNS := errors.As(err, &dns) // which keeps the words only
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) || isDNS && strings.Contains(dns.Err, e.Error()) {
			return true
		}
	}
	return false
}

var errNotKept = errors.New("a revocation could not be kept")

var errTooLarge = errors.New("reply too large")

// classify returns the line of the table that holds, or nil where the primary has answered.
func classify(rules []Rule, o *outcome) *Rule {
	if o.err == nil && len(o.body) > 0 {
		o.read()
	}
	for i := range rules {
		if rules[i].when(o) {
			if rules[i].Origin == answered {
				return nil
			}
			return &rules[i]
		}
	}
	return nil
}

// bodyDue says whether a successful reply of the endpoint has a JSON body.
func bodyDue(e flow.Endpoint) bool {
	switch e {
	case flow.Token, flow.Discovery, flow.JWKS, flow.Introspection:
		return true
	}
	return false // UserInfo may be signed (JWT); revocation and logout may be empty
}

// isSignedIntrospection says whether a reply is a JWT of RFC 9701, which may be encrypted to its reader.
func isSignedIntrospection(o *outcome) bool {
	return o.endpoint == flow.Introspection && mediaType(o.header) == "application/token-introspection+jwt" && len(o.body) > 0
}

// read reads the body: an object, or a JWT that says one (OpenID Connect Core, section 5.3.2; RFC 9701, section 5), which nobody
// verifies here.
func (o *outcome) read() {
	if o.endpoint == flow.UserInfo && mediaType(o.header) == "application/jwt" || isSignedIntrospection(o) {
		if tok, err := oauth.ParseJWT(string(o.body)); err == nil {
			said := tok.Claims
			if o.endpoint == flow.Introspection {
				said, err = session.ParseObject(tok.Claims.Get("token_introspection"))
			}
			if err == nil {
				o.token, o.object = tok, said
				return
			}
		}
	}
	o.object, o.objErr = session.ParseObject(o.body)
}

// mediaType is what a reply says it is, "" where it does not.
func mediaType(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// isJWT says whether a body looks like a JWT, signed or encrypted, as UserInfo may be (OpenID Connect Core, section 5.3.2), whatever
// its Content-Type.
func isJWT(body []byte) bool {
	n := bytes.Count(body, []byte{'.'})
	return (n == 2 || n == 4) && !bytes.ContainsAny(bytes.TrimSpace(body), "<>{} \t\r\n")
}

func isJSON(h http.Header) bool {
	t := mediaType(h)
	return t == "application/json" || strings.HasSuffix(t, "+json")
}

// isCut says whether a connection came to its end, or a time did.
func isCut(err error) bool {
	var late net.Error
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.As(err, &late) && late.Timeout()
}

func isTLS(err error) bool {
	var cert *tls.CertificateVerificationError
	var rec tls.RecordHeaderError
	var alert tls.AlertError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &cert) || errors.As(err, &rec) || errors.As(err, &alert) || errors.As(err, &unknown) ||
		errors.As(err, &host) || errors.As(err, &invalid)
}
