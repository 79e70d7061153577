package notice

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	lookEvery = time.Second
	// atOnce is how many requests are under way, and atOnceOne how many of them to one relying party: one that hangs holds up
	// nobody else.
	atOnce    = 16
	atOnceOne = 4
	postTime  = 5 * time.Second
	maxReply  = 64 << 10
	firstWait = time.Second
	longest   = time.Minute
)

// try is what is known of a notice that was not told yet.
type try struct {
	flying bool
	next   time.Time
	wait   time.Duration
	client [2]string // tenant and client_id, while it flies
}

// transport posts: no proxy of the environment's, no connection for long.
func transport() *http.Transport {
	return &http.Transport{
		Proxy: nil, DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext, TLSHandshakeTimeout: 3 * time.Second,
		ResponseHeaderTimeout: postTime, MaxIdleConns: atOnce, MaxConnsPerHost: atOnce, IdleConnTimeout: 10 * time.Second,
		MaxResponseHeaderBytes: 16 << 10, ForceAttemptHTTP2: true, DisableCompression: true,
	}
}

// Run tells until ctx ends; what is left then waits on the disk for the next start.
func (o *Outbox) Run(ctx context.Context) error {
	client := &http.Client{
		Transport: transport(), Timeout: postTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	var eg errgroup.Group
	eg.SetLimit(atOnce)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		o.round(ctx, client, &eg)
		select {
		case <-ctx.Done():
			return eg.Wait()
		case <-o.nudge:
		case <-tick.C:
		}
	}
}

// round sends what is due and what there is room for.
func (o *Outbox) round(ctx context.Context, c *http.Client, eg *errgroup.Group) {
	names, err := o.names()
	if err != nil {
		o.Warn("logouts to be told cannot be read", "error", err)
		return
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return
		}
		o.mu.Lock()
		t := o.tries[name]
		due := t == nil || !t.flying && !o.Now().Before(t.next)
		o.mu.Unlock()
		if !due {
			continue
		}
		n, err := o.read(name)
		if n == nil && err == nil {
			continue
		}
		if err != nil { // sealed under another key, or damaged
			o.Warn("a logout to be told does not open", "error", err)
			o.drop(name)
			continue
		}
		if !o.fly(name, n) {
			continue
		}
		if !eg.TryGo(func() error { o.one(ctx, c, name, n); return nil }) {
			o.mu.Lock()
			o.tries[name].flying = false
			o.mu.Unlock()
			return
		}
	}
}

// fly takes a place for a notice; false where its relying party has all of its own.
func (o *Outbox) fly(name string, n *Notice) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	theirs, of := 0, [2]string{n.Tenant, n.Client}
	for _, t := range o.tries {
		if t.flying && t.client == of {
			theirs++
		}
	}
	if theirs >= atOnceOne {
		return false
	}
	t := o.tries[name]
	if t == nil {
		t = &try{wait: firstWait}
		o.tries[name] = t
	}
	t.flying, t.client = true, of
	return true
}

// one tries to tell one relying party.
func (o *Outbox) one(ctx context.Context, c *http.Client, name string, n *Notice) {
	to, known := o.Client(n.Tenant, n.Client)
	over := o.Now().UnixNano() > n.At+int64(keepFor)
	if over || !known {
		o.Over(n, false, "")
		o.drop(name)
		return
	}
	kid, err := o.post(ctx, c, to, n)
	if err == nil {
		o.Over(n, true, kid)
		o.drop(name)
		return
	}
	o.mu.Lock()
	t := o.tries[name]
	first := t.wait == firstWait
	t.flying, t.next = false, o.Now().Add(t.wait)
	t.wait = min(2*t.wait, longest)
	o.mu.Unlock()
	if first && ctx.Err() == nil {
		o.Warn("a relying party cannot be told of a logout; it is tried again for an hour", "tenant", n.Tenant, "client", n.Client, "error", err)
	}
}

// drop forgets a notice.
func (o *Outbox) drop(name string) {
	if err := os.Remove(filepath.Join(o.Dir, name)); err != nil {
		o.Warn("a logout that is over cannot be removed", "error", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.tries, name)
}

// post sends the logout token (section 2.5). The relying party answers 200; frameworks that have nothing to say answer 204
// (section 2.8).
func (o *Outbox) post(ctx context.Context, c *http.Client, to Client, n *Notice) (kid string, err error) {
	token, kid, err := o.Sign(n)
	if err != nil {
		return "", err
	}
	form := url.Values{"logout_token": {token}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URI, strings.NewReader(form))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("User-Agent", "understudy")
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxReply))
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return "", fmt.Errorf("it answers %d", resp.StatusCode)
	}
	return kid, nil
}
