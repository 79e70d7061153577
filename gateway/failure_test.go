package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"understudy/flow"
	"understudy/health"
)

var update = flag.Bool("update", false, "write docs/failures.md anew")

func dialError(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }

func reply(e flow.Endpoint, status int, contentType, body string, header ...string) *outcome {
	h := http.Header{}
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &outcome{endpoint: e, status: status, header: h, body: []byte(body), sent: true}
}

const (
	jsonType = "application/json"
	goodBody = `{"access_token":"a","token_type":"Bearer","expires_in":60}`
)

// examples has what each line of the table is about.
func examples() map[string][]*outcome {
	tok := flow.Token
	return map[string][]*outcome{
		"client_gone": {{err: context.Canceled, sent: true}, {err: fmt.Errorf("write: %w", errOurs)}},
		"handles": {
			{err: dialError(os.NewSyscallError("socket", syscall.EMFILE))}, {err: dialError(syscall.ENFILE)}, {err: dialError(os.NewSyscallError("connect", syscall.EADDRNOTAVAIL))},
			{err: dialError(syscall.ENOBUFS)}, {err: dialError(&net.DNSError{Err: "dial udp: socket: too many open files", Name: "idp"})},
		},
		"refused": {{err: dialError(os.NewSyscallError("connect", syscall.ECONNREFUSED))}, {err: dialError(syscall.ENETUNREACH)}, {err: dialError(syscall.EHOSTUNREACH)}},
		"dns":     {{err: dialError(&net.DNSError{Err: "no such host", Name: "idp", IsNotFound: true})}},
		"tls": {
			{err: &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}},
			{err: x509.HostnameError{Host: "other"}}, {err: x509.UnknownAuthorityError{}}, {err: tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}},
			{err: errors.New("remote error: tls: handshake failure"), handshake: true},
		},
		"connect":   {{err: dialError(os.ErrDeadlineExceeded)}},
		"not_sent":  {{err: errors.New(`net/http: invalid trailer field name "tls: x"`)}, {err: errors.New(`http2: invalid Upgrade request header: ["tls: x"]`)}},
		"too_large": {{err: errTooLarge, sent: true}},
		"no_reply": {
			{err: io.ErrUnexpectedEOF, sent: true}, {err: syscall.ECONNRESET, sent: true}, {err: context.DeadlineExceeded, sent: true},
			{err: &net.OpError{Op: "read", Err: syscall.ECONNRESET}, sent: true}, {err: io.EOF, sent: true}, {err: io.EOF},
		},
		"server_error": {
			reply(tok, 500, jsonType, `{"error":"unknown_error"}`), reply(tok, 503, "text/plain", "Bootstrap in progress", "Retry-After", "2"),
			reply(tok, 501, "", ""), reply(tok, 599, "", ""), reply(flow.UserInfo, 500, "", ""),
		},
		"gateway_error":   {reply(tok, 502, "text/html", "<html>"), reply(tok, 504, "", ""), reply(flow.UserInfo, 502, "", "")},
		"request_refused": {reply(tok, 408, "", ""), reply(tok, 413, "text/html", "<html>"), reply(tok, 425, "", ""), reply(tok, 431, "", "")},
		"redirect":        {reply(tok, 302, "", "", "Location", "/login"), reply(tok, 307, jsonType, "{}"), reply(flow.UserInfo, 301, "", "")},
		"oauth_unavailable": {
			reply(tok, 400, jsonType, `{"error":"temporarily_unavailable"}`), reply(tok, 400, jsonType, `{"error":"server_error"}`),
		},
		"client_error": {
			reply(tok, 401, "text/html", "<html>login</html>"), reply(tok, 403, "text/html", "<h1>Request blocked</h1>"), reply(tok, 404, "", ""),
			reply(tok, 400, jsonType, `{"message":"no"}`), reply(tok, 400, jsonType, `{"error":`),
		},
		"empty": {reply(tok, 200, jsonType, ""), reply(flow.Introspection, 200, jsonType, "")},
		"no_active": {
			reply(flow.Introspection, 200, jsonType, `{"message":"closed"}`), reply(flow.Introspection, 200, jsonType, `{"active":"true"}`), reply(flow.Introspection, 200, jsonType, `{"active":1}`),
		},
		"wrong_content": {reply(flow.Introspection, 200, "text/html", "<html>"), reply(tok, 200, "text/html", "<html>maintenance</html>"), reply(tok, 200, "text/html", goodBody), reply(tok, 200, jsonType, "[]"), reply(tok, 200, jsonType, goodBody+"x"), reply(flow.UserInfo, 200, "text/html", "<html>maintenance</html>"), reply(flow.UserInfo, 200, "text/html", "It works.")},
		"no_token":      {reply(tok, 200, jsonType, "{}"), reply(tok, 200, jsonType, `{"access_token":"a"}`), reply(tok, 200, jsonType, `{"access_token":1,"token_type":"Bearer"}`)},
	}
}

// whose is whose doing each line is, whether only with the probe, and whether the primary may have done its work.
func whose() map[string]Rule {
	return map[string]Rule{
		"client_gone": {Origin: health.Ours}, "handles": {Origin: health.Ours},
		"refused": {Origin: health.Beyond}, "dns": {Origin: health.Beyond}, "tls": {Origin: health.Beyond}, "connect": {Origin: health.Beyond},
		"server_error": {Origin: health.Doubt}, "redirect": {Origin: health.Doubt}, "oauth_unavailable": {Origin: health.Doubt},
		"request_refused": {Origin: health.Doubt, Probe: true}, "client_error": {Origin: health.Doubt, Probe: true},
		"too_large": {Origin: health.Doubt, Lost: true}, "no_reply": {Origin: health.Doubt, Lost: true}, "gateway_error": {Origin: health.Doubt, Lost: true},
		"not_sent": {Origin: health.Doubt, Probe: true}, "no_active": {Origin: health.Doubt, Lost: true},
		"empty": {Origin: health.Doubt, Lost: true}, "wrong_content": {Origin: health.Doubt, Lost: true}, "no_token": {Origin: health.Doubt, Lost: true},
	}
}

func TestEveryLineOfTheTable(t *testing.T) {
	rules := Rules()
	ex := examples()
	for _, r := range rules {
		if r.Origin == answered {
			continue // its examples are answers
		}
		t.Run(r.Name, func(t *testing.T) {
			if len(ex[r.Name]) == 0 {
				t.Fatal("no example")
			}
			if w, ok := whose()[r.Name]; !ok || w.Origin != r.Origin || w.Probe != r.Probe || w.Lost != r.Lost {
				t.Errorf("origin %d, probe %v, lost %v; want %+v", r.Origin, r.Probe, r.Lost, w)
			}
			for i, o := range ex[r.Name] {
				got := classify(rules, o)
				if got == nil {
					t.Errorf("example %d is taken for an answer", i)
				} else if got.Name != r.Name {
					t.Errorf("example %d is taken for %s", i, got.Name)
				}
			}
		})
		delete(ex, r.Name)
	}
	for name := range ex {
		t.Errorf("example of a line that is not there: %s", name)
	}
}

// The primary's answer is an answer (design, law 1): none of these may ever go to the backup.
func TestAnswersAreAnswers(t *testing.T) {
	tok := flow.Token
	for name, o := range map[string]*outcome{
		"tokens":                                  reply(tok, 200, jsonType, goodBody),
		"tokens, with charset":                    reply(tok, 200, "application/json;charset=UTF-8", goodBody),
		"invalid_grant":                           reply(tok, 400, jsonType, `{"error":"invalid_grant","error_description":"Session not active"}`),
		"invalid_client":                          reply(tok, 401, jsonType, `{"error":"invalid_client"}`),
		"unauthorized_client":                     reply(tok, 401, jsonType, `{"error":"unauthorized_client"}`),
		"access_denied":                           reply(tok, 403, jsonType, `{"error":"access_denied"}`),
		"invalid_scope":                           reply(tok, 400, jsonType, `{"error":"invalid_scope"}`),
		"interaction_required":                    reply(tok, 400, jsonType, `{"error":"interaction_required"}`),
		"slow_down":                               reply(tok, 400, jsonType, `{"error":"slow_down"}`),
		"429 with a page":                         reply(tok, 429, "text/html", "<html>slow down</html>", "Retry-After", "30"),
		"429 without a body":                      reply(tok, 429, "", ""),
		"challenge without a body (UserInfo)":     reply(flow.UserInfo, 401, "", "", "WWW-Authenticate", `Bearer error="invalid_token"`),
		"challenge without a body (token)":        reply(tok, 401, "", "", "WWW-Authenticate", "Basic"),
		"empty 200 of a revocation":               reply(flow.Revocation, 200, "", ""),
		"204 of a logout":                         reply(flow.EndSession, 204, "", ""),
		"redirect of a logout":                    reply(flow.EndSession, 302, "", "", "Location", "https://app.example/bye"),
		"signed UserInfo":                         reply(flow.UserInfo, 200, "application/jwt", "a.b.c"),
		"signed UserInfo, of another type":        reply(flow.UserInfo, 200, "text/plain", "a.b.c"),
		"encrypted UserInfo":                      reply(flow.UserInfo, 200, "application/jwt", "a.b.c.d.e\n"),
		"UserInfo as text":                        reply(flow.UserInfo, 200, "text/plain", `{"sub":"a"}`),
		"signed introspection":                    reply(flow.Introspection, 200, "application/token-introspection+jwt", "a.b.c"),
		"introspection":                           reply(flow.Introspection, 200, jsonType, `{"active":false}`),
		"a 4xx in the protocol's words, as HTML?": reply(tok, 400, "text/plain", `{"error":"invalid_grant"}`),
	} {
		t.Run(name, func(t *testing.T) {
			if r := classify(Rules(), o); r != nil {
				t.Errorf("taken for %s", r.Name)
			}
		})
	}
}

func TestTheTableInTheDocs(t *testing.T) {
	var b strings.Builder
	b.WriteString("# What counts as a failure of the primary\n\n")
	b.WriteString("Written from the table in `gateway/failure.go` by `go test ./gateway -run Docs -update`. The first line that holds decides.\n")
	b.WriteString("Where none holds, the primary has answered, and its answer stands.\n\n")
	b.WriteString("- *ours*: never counts and is never answered by the backup.\n")
	b.WriteString("- *beyond doubt*: answered by the backup at once, and counts.\n")
	b.WriteString("- *could be the requester's doing*: answered by the backup at once only for a plain request, once per grant, until somebody\n  else's request or the gateway's own probe fails too; otherwise only when the probe fails.\n")
	b.WriteString("- *only with the probe*: answered by the backup only when the gateway's own probe fails likewise; never counts.\n")
	b.WriteString("- *answer*: passes as it came.\n\nWhere the reply may be lost, a refresh token may have been rotated: such exchanges are counted as ambiguous.\n\n")
	b.WriteString("At the authorization endpoint a page may be anything: there count 408, 413, 425, 431 and 5xx alone, and a page where the request wants\nnone (`prompt=none`) and the backup knows what the primary answered to the same. What a failed reply takes away from the browser it keeps.\n")
	b.WriteString("The breaker is the token endpoint's. [What clients make of all that](clients.md) is measured.\n\n")
	b.WriteString("| line | what | whose doing | reply may be lost |\n|---|---|---|---|\n")
	for _, r := range append(Rules(), *unknownKey()) {
		who := map[health.Origin]string{health.Ours: "ours", health.Beyond: "beyond doubt", health.Doubt: "could be the requester's", answered: "answer"}[r.Origin]
		if r.Probe {
			who = "only with the probe"
		}
		lost := ""
		if r.Lost {
			lost = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.Name, r.What, who, lost)
	}
	if *update {
		if err := os.WriteFile("../docs/failures.md", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile("../docs/failures.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Error("docs/failures.md is not what the table says: go test ./gateway -run Docs -update")
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(200, jsonType, []byte(goodBody))
	f.Add(503, "text/html", []byte("<html>"))
	f.Add(400, jsonType, []byte(`{"error":"invalid_grant"}`))
	rules := Rules()
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		o := reply(flow.Token, status, contentType, string(body))
		r := classify(rules, o)
		if status == 429 && r != nil {
			t.Errorf("a 429 is taken for %s", r.Name)
		}
		switch o.object.Text("error") {
		case "invalid_grant", "access_denied", "invalid_client":
			if r != nil && status >= 400 && status < 500 && !r.Probe {
				t.Errorf("a protocol error is taken for %s", r.Name)
			}
		}
	})
}
