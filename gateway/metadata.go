package gateway

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/renameio/v2"

	"understudy/flow"
	"understudy/session"
)

const wellKnown = "/.well-known/openid-configuration"

// issuer is one issuer of a tenant: its metadata as last found good, and its keys.
type issuer struct {
	ID       string // the issuer identifier
	document []byte // the primary's own, byte for byte
	object   session.Object
	paths    map[string]flow.Endpoint // path → endpoint
	keyset   []json.RawMessage        // the primary's JWKs, as they came
	keys     map[string]primaryKey    // by kid
	algs     []string                 // algorithms of the primary's signing keys
	fetched  time.Time
	merged   []byte // the published key set
	etag     string
	problem  string // why the keys cannot be merged, "" where they are
}

// primaryKey is a verification key of the primary. It never meets a backup key: the types differ.
type primaryKey struct {
	alg string
	pub crypto.PublicKey
}

// discoveryPath is the path at which an issuer's metadata lies (OpenID Connect Discovery, section 4).
func discoveryPath(iss string) string {
	u, err := url.Parse(iss)
	if err != nil {
		return wellKnown
	}
	return strings.TrimSuffix(u.Path, "/") + wellKnown
}

// metadata fetches, checks, keeps and merges the metadata of a tenant's issuers.
type metadata struct {
	tenant    *Tenant
	dir       string
	transport http.RoundTripper
	publish   func(ctx context.Context, tenant, issuer string, algs []string) ([]jose.JSONWebKey, error)
	now       func() time.Time

	all atomic.Pointer[map[string]*issuer] // by discovery path; replaced whole

	mu     sync.Mutex           // held while all is replaced, and guards tried
	tried  map[string]time.Time // discovery paths that were asked for and not found
	flight map[string]chan struct{}
}

const (
	maxMetadata = 1 << 20
	maxIssuers  = 256
	maxTried    = 1024
	retryAfter  = 30 * time.Second
	refreshTime = time.Minute
	forceEvery  = 10 * time.Second
)

func (m *metadata) issuers() map[string]*issuer {
	if p := m.all.Load(); p != nil {
		return *p
	}
	return nil
}

// endpoint finds the issuer and endpoint class of a path.
func (m *metadata) endpoint(path string) (*issuer, flow.Endpoint) {
	for _, is := range m.issuers() {
		if e, ok := is.paths[path]; ok {
			return is, e
		}
	}
	return nil, flow.Other
}

// adopt asks the primary for the metadata at a discovery path that is not known yet. It is bounded in how often and how
// many: a stranger's paths cannot make the gateway fetch without end.
func (m *metadata) adopt(ctx context.Context, path string) *issuer {
	if is := m.issuers()[path]; is != nil {
		return is
	}
	m.mu.Lock()
	if t, ok := m.tried[path]; ok && m.now().Sub(t) < retryAfter || len(m.issuers()) >= maxIssuers || len(m.tried) >= maxTried || len(m.flight) >= 8 {
		if len(m.tried) >= maxTried {
			for p, t := range m.tried {
				if m.now().Sub(t) >= retryAfter {
					delete(m.tried, p)
				}
			}
		}
		m.mu.Unlock()
		return nil
	}
	done, ok := m.flight[path]
	if !ok {
		done = make(chan struct{})
		m.flight[path] = done
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			err := m.refresh(ctx, path)
			m.mu.Lock()
			delete(m.flight, path)
			if err != nil {
				m.tried[path] = m.now()
			}
			m.mu.Unlock()
			close(done)
		}()
	}
	m.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
	}
	return m.issuers()[path]
}

// refresh fetches one issuer's metadata and keys and, where they pass the check, replaces the last good copy.
func (m *metadata) refresh(ctx context.Context, path string) error {
	doc, err := m.get(ctx, path)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", path, err)
	}
	is, err := m.check(doc, path)
	if err != nil {
		return fmt.Errorf("metadata at %s: %w", path, err)
	}
	jwks, err := url.Parse(is.object.Text("jwks_uri"))
	if err != nil || jwks.Path == "" {
		return fmt.Errorf("metadata at %s: jwks_uri is missing or no URL", path)
	}
	if !m.tenant.publicHost(jwks.Host) {
		return fmt.Errorf("metadata at %s: jwks_uri is on the host %s, which is none of the tenant's: keys there cannot be merged", path, jwks.Host)
	}
	keys, err := m.get(ctx, jwks.RequestURI())
	if err != nil {
		return fmt.Errorf("fetch the keys of %s: %w", is.ID, err)
	}
	if err := is.setKeys(keys); err != nil {
		return fmt.Errorf("keys of %s: %w", is.ID, err)
	}
	is.fetched = m.now()
	if err := m.merge(ctx, is); err != nil {
		return err
	}
	if err := m.save(path, is, doc, keys); err != nil {
		return err
	}
	m.put(path, is)
	return nil
}

func (m *metadata) put(path string, is *issuer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := map[string]*issuer{path: is}
	for p, o := range m.issuers() {
		if p != path {
			next[p] = o
		}
	}
	m.all.Store(&next)
}

func (m *metadata) get(ctx context.Context, requestURI string) ([]byte, error) {
	u, err := m.tenant.Upstream.Parse(requestURI)
	if err != nil {
		return nil, err
	}
	u.Scheme, u.Host = m.tenant.Upstream.Scheme, m.tenant.Upstream.Host
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Host = m.tenant.Hosts[0]
	m.tenant.forwarded(req, "", m.tenant.Scheme)
	req.Header.Set("Accept", "application/json")
	resp, err := m.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
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

// check parses a discovery document and refuses one that must not replace a good copy.
func (m *metadata) check(doc []byte, path string) (*issuer, error) {
	o, err := session.ParseObject(doc)
	if err != nil {
		return nil, err
	}
	is := &issuer{ID: o.Text("issuer"), document: doc, object: o, paths: map[string]flow.Endpoint{}}
	u, err := url.Parse(is.ID)
	if err != nil || u.Host == "" {
		return nil, errors.New("issuer is no URL")
	}
	if len(m.tenant.Issuers) > 0 && !slices.Contains(m.tenant.Issuers, is.ID) {
		return nil, fmt.Errorf("issuer %q is none of the configured ones", is.ID)
	}
	if !m.tenant.publicHost(u.Host) {
		return nil, fmt.Errorf("issuer %q is on a host that is none of the tenant's", is.ID)
	}
	if discoveryPath(is.ID) != path {
		return nil, fmt.Errorf("issuer %q does not belong to this path", is.ID)
	}
	for name, e := range map[string]flow.Endpoint{
		"token_endpoint": flow.Token, "userinfo_endpoint": flow.UserInfo, "introspection_endpoint": flow.Introspection,
		"revocation_endpoint": flow.Revocation, "end_session_endpoint": flow.EndSession, "jwks_uri": flow.JWKS,
	} {
		v := o.Text(name)
		if v == "" {
			continue
		}
		e1, err := url.Parse(v)
		if err != nil || !m.tenant.publicHost(e1.Host) {
			continue // on a host that does not come through here: passed by, reported by check
		}
		is.paths[e1.EscapedPath()] = e
	}
	if _, ok := is.paths[endpointPath(o, "token_endpoint")]; !ok {
		return nil, errors.New("no token_endpoint on a known host")
	}
	is.paths[path] = flow.Discovery
	return is, nil
}

func endpointPath(o session.Object, name string) string {
	u, err := url.Parse(o.Text(name))
	if err != nil {
		return ""
	}
	return u.EscapedPath()
}

// setKeys reads the primary's key set. An empty one is refused.
func (is *issuer) setKeys(b []byte) error {
	o, err := session.ParseObject(b)
	if err != nil {
		return err
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(o.Get("keys"), &raw); err != nil || len(raw) == 0 || len(raw) > 100 {
		return errors.New("no keys, or more than 100")
	}
	is.keyset, is.keys = raw, map[string]primaryKey{}
	supported := is.object.Texts("id_token_signing_alg_values_supported")
	for _, r := range raw {
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(r); err != nil {
			continue // a type that is not for us; it is published as it came
		}
		if k.Use == "enc" || !k.Valid() || !k.IsPublic() {
			continue
		}
		if k.KeyID == "" {
			is.problem = "a key without kid: clients cannot tell two keys apart"
			continue
		}
		alg := k.Algorithm
		if alg == "" {
			alg = defaultAlg(&k, supported)
		}
		is.keys[k.KeyID] = primaryKey{alg, k.Key}
		if alg != "" && !slices.Contains(is.algs, alg) {
			is.algs = append(is.algs, alg)
		}
	}
	if len(is.keys) == 0 && is.problem == "" {
		return errors.New("no signing key with a kid")
	}
	return nil
}

// defaultAlg is the algorithm of a key that names none: the first that the primary says it supports for its type.
func defaultAlg(k *jose.JSONWebKey, supported []string) string {
	for _, alg := range supported {
		if algFits(alg, k.Key) {
			return alg
		}
	}
	return ""
}

// merge makes the published set: the primary's keys as they came, and the backup's.
func (m *metadata) merge(ctx context.Context, is *issuer) error {
	set := slices.Clone(is.keyset)
	if is.problem == "" {
		ours, err := m.publish(ctx, m.tenant.Name, is.ID, is.algs)
		if err != nil {
			return fmt.Errorf("backup keys of %s: %w", is.ID, err)
		}
		for _, k := range ours {
			if _, ok := is.keys[k.KeyID]; ok {
				return fmt.Errorf("key id %s is the primary's too", k.KeyID)
			}
			b, err := k.MarshalJSON()
			if err != nil {
				return err
			}
			set = append(set, b)
		}
	}
	b, err := json.Marshal(map[string]any{"keys": set})
	if err != nil {
		return err
	}
	is.merged = b
	h := sha256.Sum256(b)
	is.etag = `"` + base64.RawURLEncoding.EncodeToString(h[:12]) + `"`
	return nil
}

type savedMetadata struct {
	Path     string          `json:"path"`
	Fetched  time.Time       `json:"fetched"`
	Document json.RawMessage `json:"document"`
	Keys     json.RawMessage `json:"keys"`
}

func (m *metadata) file(path string) string {
	h := sha256.Sum256([]byte(m.tenant.Name + "\x00" + path))
	return filepath.Join(m.dir, base64.RawURLEncoding.EncodeToString(h[:12])+".json")
}

func (m *metadata) save(path string, is *issuer, doc, keys []byte) error {
	b, err := json.Marshal(savedMetadata{path, is.fetched, doc, keys})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	if err := renameio.WriteFile(m.file(path), b, 0o600); err != nil {
		return fmt.Errorf("keep the metadata of %s: %w", is.ID, err)
	}
	return nil
}

// load reads the last good copies, so that a node starts during an outage.
func (m *metadata) load(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(m.dir, "*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var s savedMetadata
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("kept metadata %s: %w", f, err)
		}
		if m.file(s.Path) != f {
			continue // another tenant's
		}
		is, err := m.check(s.Document, s.Path)
		if err != nil {
			continue // the configuration has changed: it will be fetched anew
		}
		if err := is.setKeys(s.Keys); err != nil {
			continue
		}
		is.fetched = s.Fetched
		if err := m.merge(ctx, is); err != nil {
			return err
		}
		m.put(s.Path, is)
	}
	return nil
}

// run keeps the copies fresh until ctx ends.
func (m *metadata) run(ctx context.Context) error {
	for _, iss := range m.tenant.Issuers {
		m.adopt(ctx, discoveryPath(iss))
	}
	if len(m.tenant.Issuers) == 0 {
		m.adopt(ctx, wellKnown)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(refreshTime):
		}
		for path := range m.issuers() {
			c, cancel := context.WithTimeout(ctx, 10*time.Second)
			if err := m.refresh(c, path); err != nil {
				m.tenant.log.Warn("metadata is not refreshed; the last good copy stays", "tenant", m.tenant.Name, "error", err)
			}
			cancel()
		}
	}
}

// key returns the primary's verification key, asking the primary anew where it is not known, but seldom.
func (m *metadata) key(ctx context.Context, is *issuer, kid string) (primaryKey, bool) {
	path := discoveryPath(is.ID)
	if cur := m.issuers()[path]; cur != nil {
		is = cur
	}
	if k, ok := is.keys[kid]; ok {
		return k, true
	}
	m.mu.Lock()
	seldom := m.now().Sub(m.tried["key "+path]) < forceEvery
	if !seldom {
		m.tried["key "+path] = m.now()
	}
	m.mu.Unlock()
	if seldom {
		return primaryKey{}, false
	}
	c, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := m.refresh(c, path); err != nil {
		return primaryKey{}, false
	}
	k, ok := m.issuers()[path].keys[kid]
	return k, ok
}
