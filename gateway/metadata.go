package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/renameio/v2"

	"understudy/flow"
	"understudy/session"
)

// metadata fetches, checks, keeps and merges the metadata of a tenant's issuers. It asks the configured upstream itself
// and learns nothing from passing traffic.
type metadata struct {
	tenant  *Tenant
	dir     string
	publish func(ctx context.Context, tenant, issuer string, algs []string) ([]jose.JSONWebKey, error)
	now     func() time.Time

	all    atomic.Pointer[map[string]*issuer] // by discovery path; replaced whole
	routes atomic.Pointer[map[string]route]   // by unescaped path; replaced whole

	mu     sync.Mutex               // held while all is replaced, and guards what follows
	absent map[string]absence       // aliases of known issuers, as they were last asked for
	tried  map[string]time.Time     // discovery paths at which nothing was found, and keys asked for
	flight map[string]chan struct{} // discovery paths that are being asked for
	wanted map[string]struct{}      // issuers for which the backup has keys that are not published yet
}

const (
	maxMetadata = 1 << 20
	maxIssuers  = 256
	maxTried    = 1024
	maxFlight   = 8
	retryAfter  = 30 * time.Second
	refreshTime = time.Minute
	forceEvery  = 10 * time.Second
	bareEvery   = time.Second
)

func newMetadata(t *Tenant, dir string, b Backup, now func() time.Time) *metadata {
	return &metadata{tenant: t, dir: dir, publish: b.PublicKeys, now: now, absent: map[string]absence{}, tried: map[string]time.Time{}, flight: map[string]chan struct{}{}, wanted: map[string]struct{}{}}
}

func (m *metadata) issuers() map[string]*issuer {
	if p := m.all.Load(); p != nil {
		return *p
	}
	return nil
}

// issuersOf are those that a browser's request may be about: its endpoint's, or those below whose path it lies.
func (m *metadata) issuersOf(v *visit) (out []*issuer) {
	if v.issuer != nil {
		return []*issuer{v.issuer}
	}
	for at, is := range m.issuers() {
		if strings.HasPrefix(v.path, strings.TrimSuffix(at, wellKnown)+"/") {
			out = append(out, is)
		}
	}
	return out
}

// route is where a path leads.
type route struct {
	issuer   *issuer
	endpoint flow.Endpoint
}

// endpoint finds the issuer and endpoint class of a request's path. exact is false where the path is only another
// spelling of the endpoint's, which some primaries take for the same: what is forbidden there is forbidden here too.
func (m *metadata) endpoint(u *url.URL) (is *issuer, e flow.Endpoint, exact bool) {
	routes := m.routes.Load()
	if routes == nil {
		return nil, flow.Other, true
	}
	if r, ok := (*routes)[u.Path]; ok {
		return r.issuer, r.endpoint, u.RawPath == ""
	}
	if r, ok := (*routes)[canonical(u.Path)]; ok {
		return r.issuer, r.endpoint, false
	}
	return nil, flow.Other, true
}

// canonical is a path as a lenient server may read it: without matrix parameters, empty and dot segments.
func canonical(p string) string {
	if strings.Contains(p, ";") {
		segs := strings.Split(p, "/")
		for i := range segs {
			segs[i], _, _ = strings.Cut(segs[i], ";")
		}
		p = strings.Join(segs, "/")
	}
	return path.Clean("/" + p)
}

// adopt asks the primary for the metadata at a discovery path that is not known yet. It is bounded in how often and how
// many: a stranger's paths cannot make the gateway fetch without end.
func (m *metadata) adopt(ctx context.Context, at string) *issuer {
	if is := m.issuers()[at]; is != nil {
		return is
	}
	m.mu.Lock()
	done, ok := m.flight[at]
	if !ok {
		if !m.allowed(at) {
			m.mu.Unlock()
			return nil
		}
		done = make(chan struct{})
		m.flight[at] = done
		go func() {
			defer close(done)
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			err := m.refresh(ctx, at)
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.flight, at)
			if err != nil {
				m.tried[at] = m.now()
			}
		}()
	}
	m.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
	}
	return m.issuers()[at]
}

// absence is whether the primary has nothing at a path.
type absence struct {
	is    bool
	asked time.Time
}

// lacks says whether the primary has nothing (404) at an alias of a known issuer. One that cannot be asked has what it had
// when it was, and nothing where it never was.
func (m *metadata) lacks(ctx context.Context, at string) bool {
	m.mu.Lock()
	last, known := m.absent[at]
	if known && m.now().Sub(last.asked) < retryAfter {
		m.mu.Unlock()
		return last.is
	}
	if !known {
		last.is = true
	}
	m.absent[at] = absence{last.is, m.now()} // the others need not wait
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	doc, err := m.get(ctx, at)
	var status statusError
	switch errors.As(err, &status); {
	case err == nil:
		if o, e := session.ParseObject(doc); e == nil && o.Text("issuer") != "" { // a page is nothing
			last.is = false
		}
	case errors.Is(err, errTooLarge):
		last.is = false
	case status.answers():
		last.is = status == http.StatusNotFound
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.absent[at] = absence{last.is, m.now()}
	return last.is
}

// statusError is a reply that is not a 200.
type statusError int

func (s statusError) Error() string { return fmt.Sprintf("status %d", int(s)) }

// answers says whether the primary has spoken of what was asked for, and nothing before it of how it fares.
func (s statusError) answers() bool {
	switch s {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return s >= 400 && s < 500
}

// allowed says whether a path may be asked for now; m.mu is held.
func (m *metadata) allowed(at string) bool {
	now := m.now()
	if len(m.tried) >= maxTried {
		maps.DeleteFunc(m.tried, func(_ string, t time.Time) bool { return now.Sub(t) >= retryAfter })
	}
	t, again := m.tried[at]
	return len(m.flight) < maxFlight && len(m.issuers()) < maxIssuers && len(m.tried) < maxTried && len(at) <= 512 &&
		(!again || now.Sub(t) >= retryAfter)
}

// staleAfter is how old a copy may be that is still published: nothing that the backup could answer is older. Then the
// primary is asked again, and its keys are its own word.
const staleAfter = session.Lifetime

func (m *metadata) stale(is *issuer) bool { return m.now().Sub(is.fetched) > staleAfter }

// refresh fetches one issuer's metadata and keys and, where they pass the check, replaces the last good copy.
func (m *metadata) refresh(ctx context.Context, at string) error {
	doc, err := m.get(ctx, at)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", at, err)
	}
	is, err := parseIssuer(m.tenant, doc, at)
	if err != nil {
		return fmt.Errorf("metadata at %s: %w", at, err)
	}
	jwks, err := url.Parse(is.object.Text("jwks_uri"))
	if err != nil || jwks.Path == "" {
		return fmt.Errorf("metadata at %s: jwks_uri is missing or no URL", at)
	}
	if !m.tenant.publicHost(jwks.Host) {
		return fmt.Errorf("metadata at %s: jwks_uri is on the host %s, which is none of the tenant's: keys there cannot be merged", at, jwks.Host)
	}
	keys, err := m.get(ctx, jwks.RequestURI())
	if err != nil {
		return fmt.Errorf("fetch the keys of %s: %w", is.ID, err)
	}
	now := m.now()
	if err := is.setKeys(keys, m.issuers()[at], now); err != nil {
		return fmt.Errorf("keys of %s: %w", is.ID, err)
	}
	is.fetched = now
	if err := m.put(ctx, is); err != nil {
		return err
	}
	return m.save(is)
}

// put merges an issuer's keys and publishes it. Where the backup cannot be asked for its keys, the primary's are published
// with those of the backup's that were known before, and the backup is asked again soon: what is signed in meanwhile is learned all the same.
func (m *metadata) put(ctx context.Context, is *issuer) error {
	ours, err := m.publish(ctx, m.tenant.Name, is.ID, is.algs)
	if is.bare = err != nil; is.bare {
		if before := m.issuers()[is.at]; before != nil {
			ours = before.ours // those of before still verify what was signed
		}
		m.tenant.log.Error("the backup cannot be asked for its keys; it is asked again", "tenant", m.tenant.Name, "issuer", is.ID, "error", err)
	}
	is.ours = ours
	if err := is.merge(ours, m.now()); err != nil {
		return fmt.Errorf("publish the keys of %s: %w", is.ID, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := m.issuers()[is.at]; now != nil && now.fetched.After(is.fetched) {
		return nil // a fresher set was published while the backup was asked
	}
	next := map[string]*issuer{}
	maps.Copy(next, m.issuers())
	next[is.at] = is
	routes := map[string]route{}
	for _, is := range next {
		for p, e := range is.paths {
			routes[p] = route{is, e}
		}
	}
	m.all.Store(&next)
	m.routes.Store(&routes)
	return nil
}

// get asks the primary as the first public host would.
func (m *metadata) get(ctx context.Context, requestURI string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.tenant.Upstream.String()+requestURI, nil)
	if err != nil {
		return nil, err
	}
	req.Host = m.tenant.Hosts[0]
	m.tenant.forwarded(req, origin{scheme: m.tenant.Scheme})
	req.Header.Set("Accept", "application/json")
	resp, err := m.tenant.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxMetadata+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxMetadata {
		return nil, errTooLarge
	}
	return b, nil
}

type savedMetadata struct {
	At       string          `json:"at"`
	Fetched  time.Time       `json:"fetched"`
	Document json.RawMessage `json:"document"`
	Keys     json.RawMessage `json:"keys"`
}

func (m *metadata) file(at string) string {
	h := sha256.Sum256([]byte(m.tenant.Name + "\x00" + at))
	return filepath.Join(m.dir, base64.RawURLEncoding.EncodeToString(h[:12])+".json")
}

func (m *metadata) save(is *issuer) error {
	b, err := json.Marshal(savedMetadata{is.at, is.fetched, is.document, is.rawKeys})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	if err := renameio.WriteFile(m.file(is.at), b, 0o600); err != nil {
		return fmt.Errorf("keep the metadata of %s: %w", is.ID, err)
	}
	return nil
}

// load reads the last good copies, so that a node starts during an outage. A copy that does not fit the configuration
// any more, or is damaged, is left out: it is fetched anew.
func (m *metadata) load(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(m.dir, "*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("read the kept metadata: %w", err)
		}
		var s savedMetadata
		if err := json.Unmarshal(b, &s); err != nil || m.file(s.At) != f {
			continue // damaged, or another tenant's
		}
		is, err := parseIssuer(m.tenant, s.Document, s.At)
		if err != nil {
			m.tenant.log.Warn("kept metadata is left out", "tenant", m.tenant.Name, "error", err)
			continue
		}
		if err := is.setKeys(s.Keys, nil, m.now()); err != nil {
			continue
		}
		is.fetched = s.Fetched
		if err := m.put(ctx, is); err != nil {
			m.tenant.log.Error("kept metadata is not served: its backup keys cannot be had", "tenant", m.tenant.Name, "issuer", is.ID, "error", err)
		}
	}
	return nil
}

// run keeps the copies fresh until ctx ends.
func (m *metadata) run(ctx context.Context) error {
	first := []string{wellKnown}
	if len(m.tenant.Issuers) > 0 {
		first = nil
		for _, iss := range m.tenant.Issuers {
			first = append(first, discoveryPath(iss))
		}
	}
	for _, at := range first {
		m.adopt(ctx, at)
	}
	t := time.NewTicker(bareEvery)
	defer t.Stop()
	refreshed := m.now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if m.now().Sub(refreshed) < refreshTime {
			m.complete(ctx)
			continue
		}
		refreshed = m.now()
		for at, is := range m.issuers() {
			c, cancel := context.WithTimeout(ctx, 10*time.Second)
			if err := m.refresh(c, at); err != nil {
				m.tenant.log.Warn("metadata is not refreshed; the last good copy stays", "tenant", m.tenant.Name, "error", err)
				// The backup's own keys go through their states all the same, and holds end.
				again := *is
				if err := m.put(c, &again); err != nil {
					m.tenant.log.Error("the key set is not published anew", "tenant", m.tenant.Name, "error", err)
				}
			}
			cancel()
		}
	}
}

// renew has the backup's keys for an issuer asked for soon, primary or not: there are new ones, and what they sign must be verified.
func (m *metadata) renew(issuer string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.wanted) < maxIssuers {
		m.wanted[issuer] = struct{}{}
	}
}

// wants says whether an issuer's keys are to be asked for, and takes them for asked for.
func (m *metadata) wants(issuer string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.wanted[issuer]
	delete(m.wanted, issuer)
	return ok
}

// complete asks for backup keys that could not be had, or are new.
func (m *metadata) complete(ctx context.Context) {
	for _, is := range m.issuers() {
		if !m.wants(is.ID) && !is.bare {
			continue
		}
		c, cancel := context.WithTimeout(ctx, 5*time.Second)
		again := *is
		if err := m.put(c, &again); err != nil {
			m.tenant.log.Error("the key set is not published anew", "tenant", m.tenant.Name, "error", err)
		}
		cancel()
	}
}

var errUnknownKey = errors.New("signed with a key that the primary does not publish")

// key returns the primary's verification key for a reply received from it, asking it anew where the key is not known,
// but seldom. A key that vanished from the primary's set while the primary still signs with it is held.
func (m *metadata) key(ctx context.Context, at, kid string) (primaryKey, error) {
	is := m.issuers()[at]
	if is == nil {
		return primaryKey{}, errUnknownKey
	}
	if k, ok := is.keys[kid]; ok {
		return k, nil
	}
	m.mu.Lock()
	seldom := m.now().Sub(m.tried["key "+at]) < forceEvery
	if !seldom {
		m.tried["key "+at] = m.now()
	}
	m.mu.Unlock()
	if !seldom {
		c, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := m.refresh(c, at); err == nil {
			is = m.issuers()[at]
		}
	}
	if k, ok := is.keys[kid]; ok {
		return k, nil
	}
	v, ok := is.vanished[kid]
	if !ok || m.now().Sub(v.since) >= holdTime {
		return primaryKey{}, errUnknownKey
	}
	if !v.held {
		m.tenant.log.Error("the primary signs with a key that it no longer publishes; it is held: mend the key set, or end it with understudy keys accept",
			"tenant", m.tenant.Name, "issuer", is.ID, "kid", clip(kid, 64), "until", v.since.Add(holdTime))
		again := *is
		again.vanished = maps.Clone(is.vanished)
		v.held = true
		again.vanished[kid] = v
		if err := m.put(ctx, &again); err != nil {
			return primaryKey{}, err
		}
	}
	return v.key, nil
}

// accept ends every hold of an issuer: the primary's key set is right as it is. It returns how many keys were given up.
func (m *metadata) accept(ctx context.Context, at string) (int, error) {
	is := m.issuers()[at]
	if is == nil {
		return 0, nil
	}
	again := *is
	again.vanished = map[string]vanishedKey{}
	return len(is.vanished), m.put(ctx, &again)
}
