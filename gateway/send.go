package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"

	"understudy/flow"
	"understudy/health"
)

const maxReplyBody = 1 << 20

// once is an empty body that the transport does not know to be empty: a body that cannot be had again keeps it from
// repeating a request (design, law 11).
type once struct{}

func (once) Read([]byte) (int, error) { return 0, io.EOF }
func (once) Close() error             { return nil }

// WriteTo spares the transport the buffer that it would copy nothing through.
func (once) WriteTo(io.Writer) (int64, error) { return 0, nil }

// unrepeatable makes a request without a body one that the transport does not repeat. Where it would not anyway, the
// request is left alone: an empty POST says Content-Length: 0.
func unrepeatable(out *http.Request) {
	switch out.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
	default:
		if out.Header.Get("Idempotency-Key") == "" && out.Header.Get("X-Idempotency-Key") == "" {
			return
		}
	}
	out.Body, out.GetBody = once{}, nil
	// Nothing goes on the wire for it, and the transport need not find out that the body is empty.
	out.TransferEncoding = []string{"identity"}
}

// send sends one request to the primary and buffers the reply.
func (t *trip) send(ctx context.Context, body []byte) (*outcome, *http.Response) {
	out := t.out.Clone(ctx)
	out.Body, out.ContentLength, out.GetBody = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	if len(body) == 0 {
		out.Body = http.NoBody
		unrepeatable(out)
	}
	o, resp := exchange(t.v.tenant.transport, out, t.v.endpoint)
	t.gives(o.header)
	return o, resp
}

// exchange does one request and reads the whole reply.
func exchange(rt http.RoundTripper, out *http.Request, e flow.Endpoint) (*outcome, *http.Response) {
	o := &outcome{endpoint: e}
	var sent, handshake atomic.Bool
	out = out.WithContext(httptrace.WithClientTrace(out.Context(), &httptrace.ClientTrace{
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err != nil {
				handshake.Store(true)
			}
		},
		WroteHeaders: func() { sent.Store(true) },
		WroteRequest: func(httptrace.WroteRequestInfo) { sent.Store(true) },
	}))
	resp, err := rt.RoundTrip(out)
	if err != nil {
		o.err, o.sent, o.handshake = err, sent.Load(), handshake.Load()
		return o, nil
	}
	defer resp.Body.Close()
	// A copy: the proxy goes on changing the reply's own.
	o.sent, o.status, o.header = true, resp.StatusCode, resp.Header.Clone()
	o.body, err = readAll(io.LimitReader(resp.Body, maxReplyBody+1), resp.ContentLength)
	switch {
	case err != nil:
		o.err = err
		return o, nil
	case len(o.body) > maxReplyBody:
		o.err = errTooLarge
		return o, nil
	}
	resp.Body = io.NopCloser(bytes.NewReader(o.body))
	return o, resp
}

// readAll reads to the end; told is how long the body says it is, -1 where it does not.
func readAll(r io.Reader, told int64) ([]byte, error) {
	if told < 0 || told > maxReplyBody {
		return io.ReadAll(r)
	}
	b := bytes.NewBuffer(make([]byte, 0, told+bytes.MinRead)) // no byte is copied where it says the truth
	_, err := b.ReadFrom(r)
	return b.Bytes(), err
}

// answers says whether an error of asking for metadata is the primary's answer that it has none.
func answers(err error) bool {
	var s statusError
	return errors.As(err, &s) && s >= 400 && s < 500
}

// probed is the token endpoint that probes ask: of the issuer that answered last, so that one which the primary gave up does
// not speak for the others; "" where none is known.
func (t *Tenant) probed() string {
	if is := t.answered.Load(); is != nil {
		return is.tokenPath()
	}
	at := ""
	for _, is := range t.meta.issuers() {
		if p := is.tokenPath(); at == "" || p < at {
			at = p
		}
	}
	return at
}

// probe does a real exchange with the token endpoint that no attack protection counts: a grant type that nobody
// supports. A protocol error is a sign of life.
func (t *Tenant) probe(ctx context.Context) error {
	at := t.probed()
	if at == "" {
		if _, err := t.meta.get(ctx, wellKnown); err != nil && !answers(err) {
			if exhausted(err) {
				return fmt.Errorf("%w: %w", health.ErrOurs, err)
			}
			return err
		}
		return nil
	}
	body := "grant_type=urn%3Aunderstudy%3Aprobe"
	if t.ProbeClient != "" {
		body += "&client_id=" + url.QueryEscape(t.ProbeClient)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.Upstream.String()+at, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.GetBody = nil
	req.Host = t.Hosts[0]
	t.forwarded(req, origin{scheme: t.Scheme})
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	o, _ := exchange(t.transport, req, flow.Token)
	if rule := classify(t.rules, o); rule != nil {
		if rule.Origin == health.Ours {
			return fmt.Errorf("%w: %w", health.ErrOurs, o.err)
		}
		if o.err != nil {
			return fmt.Errorf("the probe failed: %s: %w", rule.Name, o.err)
		}
		return fmt.Errorf("the probe failed: %s (status %d)", rule.Name, o.status)
	}
	if o.err != nil {
		return errors.Join(errors.New("the probe failed"), o.err)
	}
	return nil
}
