package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/net/html"
)

// statePages are the last good copies of the primary's OP iframe (OpenID Connect Session Management 1.0, section 3.2): the page at
// check_session_iframe that a browser application asks whether its session goes on. The page looks at a cookie that the primary set
// and at nothing else, so that a copy says the same. Without it every application would read "changed" when the primary dies.
//
// The gateway asks the primary for the page by itself, as for metadata; nothing of it is learned from passing traffic but which
// client the primary let ask from which origin (Keycloak's page asks for that once, at its own path and /init).
type statePages struct {
	dir     string
	tenant  *Tenant
	changed chan struct{} // holds one: something is to be written

	mu    sync.Mutex           // guards what follows
	pages map[string]*document // by path
	asked map[string]bool      // path, client_id and origin of approved /init checks
	tried map[string]time.Time // by path
}

// document is a page or a script of the primary's with its own header.
type document struct {
	URI    string              `json:"uri"` // path and query
	Header map[string][]string `json:"header"`
	Body   []byte              `json:"body"`
}

const (
	maxStatePage    = 256 << 10
	maxStateScripts = 4
	maxStatePages   = 256
	maxStateAsked   = 2000
	statePageEvery  = time.Minute
)

type savedPages struct {
	Pages []*document `json:"pages"`
	Asked []string    `json:"asked"`
}

func openStatePages(t *Tenant, dir string) (*statePages, error) {
	s := &statePages{dir: dir, tenant: t, changed: make(chan struct{}, 1), pages: map[string]*document{}, asked: map[string]bool{}, tried: map[string]time.Time{}}
	b, err := os.ReadFile(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the kept pages: %w", err)
	}
	var saved savedPages
	if json.Unmarshal(b, &saved) != nil {
		return s, nil // damaged: they are fetched anew
	}
	for _, d := range saved.Pages {
		if d != nil {
			s.pages[d.path()] = d
		}
	}
	for _, k := range saved.Asked {
		s.asked[k] = true
	}
	return s, nil
}

func (s *statePages) file() string {
	h := sha256.Sum256([]byte(s.tenant.Name))
	return filepath.Join(s.dir, base64.RawURLEncoding.EncodeToString(h[:12])+".pages")
}

func (d *document) path() string {
	p, _, _ := strings.Cut(d.URI, "?")
	return p
}

// statePage is the path of an issuer's OP iframe, "" where it has none here.
func (is *issuer) statePage(t *Tenant) string {
	u, err := url.Parse(is.object.Text("check_session_iframe"))
	if err != nil || !strings.HasPrefix(u.Path, "/") || u.RawQuery != "" || !t.publicHost(u.Host) {
		return ""
	}
	return u.EscapedPath()
}

// run fetches the pages until ctx ends: those that are missing soon, the others now and then.
func (s *statePages) run(ctx context.Context, now func() time.Time) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		for _, is := range s.tenant.meta.issuers() {
			at := is.statePage(s.tenant)
			if at == "" {
				continue
			}
			s.mu.Lock()
			due := now().Sub(s.tried[at]) >= statePageEvery && len(s.pages) < maxStatePages
			if due {
				s.tried[at] = now()
			}
			s.mu.Unlock()
			if !due {
				continue
			}
			c, cancel := context.WithTimeout(ctx, 10*time.Second)
			if err := s.fetch(c, at); err != nil && ctx.Err() == nil {
				s.tenant.log.Warn("the page that says whether a session goes on is not refreshed; the last good copy stays", "tenant", s.tenant.Name, "error", err)
			}
			cancel()
		}
		select {
		case <-s.changed:
			if err := s.save(); err != nil {
				s.tenant.log.Error("the page that says whether a session goes on is not kept", "tenant", s.tenant.Name, "error", err)
			}
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// fetch asks the primary for a page and its scripts and, where all of them pass the check, replaces the copies.
func (s *statePages) fetch(ctx context.Context, at string) error {
	page, err := s.get(ctx, at, "text/html")
	if err != nil {
		return err
	}
	all := []*document{page}
	for _, src := range scripts(page.Body) {
		u, err := url.Parse(src)
		if err != nil {
			return fmt.Errorf("a script of %s: %w", at, err)
		}
		u = (&url.URL{Scheme: s.tenant.Scheme, Host: s.tenant.Hosts[0], Path: at}).ResolveReference(u)
		if !s.tenant.publicHost(u.Host) || len(all) > maxStateScripts {
			return fmt.Errorf("the page %s has scripts of another host, or too many", at)
		}
		d, err := s.get(ctx, u.RequestURI(), "text/javascript", "application/javascript")
		if err != nil {
			return err
		}
		all = append(all, d)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for _, d := range all {
		was := s.pages[d.path()]
		changed = changed || was == nil || was.URI != d.URI || !bytes.Equal(was.Body, d.Body)
		s.pages[d.path()] = d
	}
	if changed {
		s.nudge()
	}
	return nil
}

func (s *statePages) nudge() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// get asks the primary for one document of one of the types.
func (s *statePages) get(ctx context.Context, uri string, types ...string) (*document, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.tenant.Upstream.String()+uri, nil)
	if err != nil {
		return nil, err
	}
	req.Host = s.tenant.Hosts[0]
	s.tenant.forwarded(req, origin{scheme: s.tenant.Scheme})
	req.Header.Set("Accept", strings.Join(types, ", "))
	resp, err := s.tenant.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", uri, err)
	}
	defer resp.Body.Close()
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode != http.StatusOK || !slices.Contains(types, kind) || resp.Header.Get("Content-Encoding") != "" {
		return nil, fmt.Errorf("fetch %s: %d of type %.64q, want %q", uri, resp.StatusCode, kind, types)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxStatePage+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("fetch %s: %w", uri, err)
	case len(b) > maxStatePage:
		return nil, fmt.Errorf("fetch %s: %w", uri, errTooLarge)
	case len(bytes.TrimSpace(b)) == 0:
		return nil, fmt.Errorf("fetch %s: it is empty", uri)
	}
	d := &document{URI: uri, Body: b, Header: map[string][]string{}}
	for _, name := range []string{"Content-Type", "Cache-Control", "Content-Security-Policy", "P3p", "Referrer-Policy", "Strict-Transport-Security", "X-Content-Type-Options"} {
		if vs := resp.Header.Values(name); len(vs) > 0 {
			d.Header[name] = vs
		}
	}
	return d, nil
}

// scripts are the sources of a page's scripts.
func scripts(page []byte) (out []string) {
	z := html.NewTokenizer(bytes.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			return out
		case html.StartTagToken:
			if t := z.Token(); t.Data == "script" {
				for _, a := range t.Attr {
					if a.Key == "src" && a.Val != "" {
						out = append(out, a.Val)
					}
				}
			}
		}
	}
}

// save writes what is kept.
func (s *statePages) save() error {
	var saved savedPages
	s.mu.Lock()
	for _, d := range s.pages {
		saved.Pages = append(saved.Pages, d)
	}
	for k := range s.asked {
		saved.Asked = append(saved.Asked, k)
	}
	s.mu.Unlock()
	b, err := json.Marshal(saved)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if err := renameio.WriteFile(s.file(), b, 0o600); err != nil {
		return fmt.Errorf("keep the page that says whether a session goes on: %w", err)
	}
	return nil
}
