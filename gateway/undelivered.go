package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/renameio/v2"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/health"
	"understudy/session"
)

// undelivered keeps what the primary has yet to hear: revocations and logouts that were carried out here while it was away.
// One of each is a file, sealed under the deployment's key, because it holds artifacts (design, law 6), and lives until the
// primary has answered it, for undeliveredFor at most. Until then, and after, the marks here hold against what it ended.
type undelivered struct {
	dir  string
	seal *session.Sealer

	mu     sync.Mutex         // guards what follows
	flying map[string]bool    // requests that were sent and whose reply may still come
	failed map[string]backoff // requests that the primary did not answer while it answered others
}

// backoff is when a request is told again.
type backoff struct {
	times int
	next  time.Time
}

const (
	undeliveredFor = 7 * 24 * time.Hour
	maxUndelivered = 10_000
	deliverEvery   = 2 * time.Second
	deliverTime    = 10 * time.Second
	maxBackoff     = 10 * time.Minute
)

// owed is one request that the primary has yet to hear.
type owed struct {
	Endpoint string              `cbor:"0,keyasint"`
	Method   string              `cbor:"1,keyasint"`
	URI      string              `cbor:"2,keyasint"` // path and query
	Host     string              `cbor:"3,keyasint"`
	Scheme   string              `cbor:"4,keyasint"`
	Header   map[string][]string `cbor:"5,keyasint"`
	Body     []byte              `cbor:"6,keyasint"`
	At       int64               `cbor:"7,keyasint"` // Unix nanoseconds
}

func openUndelivered(dir string, seal *session.Sealer) (*undelivered, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of what the primary has yet to hear: %w", err)
	}
	return &undelivered{dir: dir, seal: seal, flying: map[string]bool{}, failed: map[string]backoff{}}, nil
}

// names are those of what waits, the oldest first.
func (u *undelivered) names() ([]string, error) {
	es, err := os.ReadDir(u.dir)
	if err != nil {
		return nil, fmt.Errorf("look for what the primary has yet to hear: %w", err)
	}
	var out []string
	for _, e := range es {
		if strings.HasSuffix(e.Name(), ".owed") {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// keep keeps a request, durably. flying says that it was sent and is under way.
func (u *undelivered) keep(o *owed, flying bool) (name string, err error) {
	names, err := u.names()
	if err != nil {
		return "", err
	}
	if len(names) >= maxUndelivered {
		return "", fmt.Errorf("keep a logout for the primary: %d wait already", len(names))
	}
	plain, err := cbor.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("keep a logout for the primary: %w", err)
	}
	name = fmt.Sprintf("%019d-%s.owed", o.At, requestID())
	if flying {
		u.mu.Lock()
		u.flying[name] = true
		u.mu.Unlock()
	}
	if err := renameio.WriteFile(filepath.Join(u.dir, name), u.seal.Seal([]byte("owed "+name), plain), 0o600); err != nil {
		u.mu.Lock()
		delete(u.flying, name)
		u.mu.Unlock()
		return "", fmt.Errorf("keep a logout for the primary: %w", err)
	}
	return name, nil
}

// landed says that the exchange of what was kept is over; heard, that the primary carried it out.
func (u *undelivered) landed(name string, heard bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.flying, name)
	if !heard || name == "" {
		return nil
	}
	return os.Remove(filepath.Join(u.dir, name))
}

func (u *undelivered) read(name string) (*owed, error) {
	b, err := os.ReadFile(filepath.Join(u.dir, name))
	if err != nil {
		return nil, err
	}
	plain, err := u.seal.Unseal([]byte("owed "+name), b)
	if err != nil {
		return nil, err
	}
	dec, err := cbor.DecOptions{UTF8: cbor.UTF8DecodeInvalid}.DecMode() // a header field may hold any bytes
	if err != nil {
		return nil, err
	}
	var o owed
	return &o, dec.Unmarshal(plain, &o)
}

// waits says whether a request is not to be told yet.
func (u *undelivered) waits(name string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.flying[name] || now.Before(u.failed[name].next)
}

// again puts a request off: others must not wait for it.
func (u *undelivered) again(name string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	b := u.failed[name]
	b.times++
	b.next = now.Add(min(deliverEvery<<min(b.times, 10), maxBackoff))
	u.failed[name] = b
}

// gone forgets a request that was told, or that nobody can be told.
func (u *undelivered) gone(name string) error {
	u.mu.Lock()
	delete(u.failed, name)
	u.mu.Unlock()
	return os.Remove(filepath.Join(u.dir, name))
}

// owe keeps what was ended here for the primary. What it could make nothing of is left out: tokens of the backup's.
func (t *trip) owe() {
	r := t.v.request
	for _, name := range []string{"token", "id_token_hint", "refresh_token"} {
		if x := r.Form.Get(name); x != "" && oauth.Issued(x, t.g.c.Seal.Look) {
			t.g.c.Log.Warn("the primary will not hear of a logout: what it was asked for with is the backup's", "tenant", t.v.tenant.Name, "id", t.v.id)
			return
		}
	}
	h := map[string][]string{}
	for _, name := range []string{"Authorization", "Content-Type", "Cookie", "User-Agent", "Accept", "Accept-Language"} {
		if vs := t.out.Header[name]; vs != nil {
			h[name] = vs
		}
	}
	name, err := t.v.tenant.undelivered.keep(&owed{
		Endpoint: string(t.v.endpoint), Method: r.HTTP.Method, URI: r.HTTP.URL.RequestURI(), Host: r.HTTP.Host, Scheme: t.v.scheme, Header: h,
		Body: r.Body, At: t.g.c.Now().UnixNano(),
	}, t.flying)
	t.owed = name
	if err != nil { // it holds here all the same
		t.g.c.Log.Error("the primary will not hear of a logout", "tenant", t.v.tenant.Name, "error", err)
	}
}

// deliver tells the primary what it has yet to hear once it serves again.
func (g *Gateway) deliver(ctx context.Context, t *Tenant) error {
	tick := time.NewTicker(deliverEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if t.monitors[flow.Token].Share() < 100 {
			continue
		}
		names, err := t.undelivered.names()
		if err != nil {
			g.c.Log.Error("what the primary has yet to hear cannot be read", "tenant", t.Name, "error", err)
			continue
		}
		for _, name := range names {
			if t.undelivered.waits(name, g.c.Now()) {
				continue
			}
			if !g.deliverOne(ctx, t, name) {
				break
			}
		}
	}
}

// deliverOne is false where the primary did not answer: it is asked again later.
func (g *Gateway) deliverOne(ctx context.Context, t *Tenant, name string) bool {
	o, err := t.undelivered.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	result := "delivered"
	switch {
	case err != nil:
		g.c.Log.Error("what the primary has yet to hear does not open", "tenant", t.Name, "error", err)
		result = "unreadable"
	case g.c.Now().UnixNano() > o.At+int64(undeliveredFor):
		result = "too_late"
	default:
		out, rule := g.tellPrimary(ctx, t, o)
		switch {
		case rule == nil:
		case rule.Origin == health.Beyond || rule.Origin == health.Ours || t.monitors[flow.Token].Suspect(ctx):
			return false
		default: // it is this one that the primary does not answer
			t.undelivered.again(name, g.c.Now())
			return true
		}
		if !ends(flow.Endpoint(o.Endpoint), out.status, out.header) {
			result = "refused"
		}
	}
	g.Counts.Owed(t.Name, result)
	if result != "delivered" {
		g.c.Log.Warn("the primary did not carry out a logout; here it holds", "tenant", t.Name, "result", result)
	}
	if err := t.undelivered.gone(name); err != nil {
		g.c.Log.Error("what the primary has heard cannot be removed", "tenant", t.Name, "error", err)
		return false
	}
	return true
}

func (g *Gateway) tellPrimary(ctx context.Context, t *Tenant, o *owed) (*outcome, *Rule) {
	ctx, cancel := context.WithTimeout(ctx, deliverTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, o.Method, t.Upstream.String()+o.URI, bytes.NewReader(o.Body))
	if err != nil {
		return &outcome{err: err}, nil
	}
	req.GetBody, req.Host = nil, o.Host
	for k, vs := range o.Header {
		req.Header[k] = vs
	}
	if len(o.Body) == 0 {
		req.Body = http.NoBody
		unrepeatable(req)
	}
	t.forwarded(req, origin{scheme: o.Scheme})
	out, _ := exchange(t.transport, req, flow.Endpoint(o.Endpoint))
	return out, classify(t.rules, out)
}
