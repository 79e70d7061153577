// Package gateway is the front door: a reverse proxy on the primary's public host name that learns what the primary
// approves, and lets the backup answer where the primary does not.
//
// It owns the way of a request and holds no signing key. It refuses to touch what it need not understand: bytes of
// requests and replies pass as they are.
package gateway

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"understudy/audit"
	"understudy/backup"
	"understudy/coverage"
	"understudy/flow"
	"understudy/gateway/page"
	"understudy/health"
	"understudy/session"
)

// Backup is the backup authentication service, in this process or another.
type Backup interface {
	Play(ctx context.Context, p *flow.Play) (*flow.Reply, *flow.Refusal, error)
	Opens(ctx context.Context, ps []*flow.Play) ([]bool, error)
	Learn(ctx context.Context, ls []*backup.Learned) ([]backup.Outcome, error)
	Standing(ctx context.Context, tenant string, lookup session.ID) (backup.Standing, error)
	Held(ctx context.Context, tenant string, lookup session.ID) (backup.Held, error)
	Barred(ctx context.Context, in *backup.SignIn) (bool, error)
	Refused(ctx context.Context, r *backup.Refused) error
	Step(ctx context.Context, tenant string, lookup session.ID, at int64, v session.Successor) error
	MarkGrant(ctx context.Context, g *backup.GrantMark) (bool, error)
	SignedOut(ctx context.Context, in *backup.SignOut) (backup.Parties, error)
	Mark(ctx context.Context, tenant string, ms ...session.Mark) error
	Untold(ctx context.Context, tenant string) (bool, error)
	PublicKeys(ctx context.Context, tenant, issuer string, algs []string) ([]jose.JSONWebKey, error)
}

// Config of a Gateway.
type Config struct {
	Tenants []*Tenant
	Flows   []flow.Flow
	Backup  Backup
	Seal    *session.Sealer
	DataDir string
	// HealthPath is answered on the traffic port, for balancers; "": "/.understudy/health".
	HealthPath string
	// Coverage is told of what was learned and what was not; nil: nobody is.
	Coverage *coverage.Book
	// Audit takes the lines of what the gateway decides by itself; nil: they are not kept.
	Audit *audit.Log
	Log   *slog.Logger
	Now   func() time.Time
}

// Gateway is an http.Handler. Run must be running.
type Gateway struct {
	c        Config
	rules    []Rule
	tenants  map[string]*Tenant // by public host
	learner  *learner
	secrets  *secrets
	late     *late
	browsers *browsers
	asking   undecided
	over     *lately // tokens of which the primary said that they are over
	nonces   *lately // nonces that the primary gave out
	proxy    *httputil.ReverseProxy
	pages    *page.Pages
	Counts   *Counts
}

// New prepares a gateway from what its data directory holds; the primary need not be there.
func New(c Config) (*Gateway, error) {
	if c.HealthPath == "" {
		c.HealthPath = "/.understudy/health"
	}
	g := &Gateway{c: c, rules: Rules(), tenants: map[string]*Tenant{}, Counts: newCounts(), pages: page.New(nil)}
	g.secrets = newSecrets(c.Seal)
	g.learner = newLearner(g)
	g.late = newLate(c.Now)
	g.browsers = newBrowsers(c.Now)
	g.asking.doors = map[session.ID][]chan struct{}{}
	g.over, g.nonces = newLately(time.Minute), newLately(givenFor)
	for _, t := range c.Tenants {
		t.log = c.Log
		t.transport = t.newTransport()
		if t.InFlight == 0 {
			t.InFlight = 1000
		}
		if t.SessionCookies == nil {
			t.SessionCookies = SessionCookies()
		}
		t.pages, t.others, t.exchanges = make(chan struct{}, t.InFlight), make(chan struct{}, t.InFlight), make(chan struct{}, t.InFlight)
		t.alone, t.reading = make(chan struct{}, t.InFlight), newReaders(t.InFlight)
		t.failing = map[flow.Endpoint]*failing{flow.Authorization: {}, flow.UserInfo: {}}
		t.shadows = rate.NewLimiter(shadowRate, shadowRate)
		t.rules = g.rules
		t.meta = newMetadata(t, filepath.Join(c.DataDir, "metadata"), c.Backup, c.Now)
		if err := t.meta.load(context.Background()); err != nil {
			return nil, fmt.Errorf("tenant %s: %w", t.Name, err)
		}
		var err error
		if t.origins, err = openOrigins(filepath.Join(c.DataDir, "metadata", "origins", url.PathEscape(t.Name)+".json")); err != nil {
			return nil, fmt.Errorf("tenant %s: %w", t.Name, err)
		}
		if t.states, err = openStatePages(t, filepath.Join(c.DataDir, "metadata")); err != nil {
			return nil, fmt.Errorf("tenant %s: %w", t.Name, err)
		}
		if t.undelivered, err = openUndelivered(filepath.Join(c.DataDir, "metadata", "undelivered", url.PathEscape(t.Name)), c.Seal); err != nil {
			return nil, fmt.Errorf("tenant %s: %w", t.Name, err)
		}
		if t.fetched, err = openFetchedKeys(filepath.Join(c.DataDir, "metadata", "clientkeys", url.PathEscape(t.Name)), t.ClientKeyURIs, c); err != nil {
			return nil, fmt.Errorf("tenant %s: %w", t.Name, err)
		}
		if t.references, err = newReferences(t.RequestURIs); err != nil {
			return nil, fmt.Errorf("tenant %s: %w", t.Name, err)
		}
		hc := t.Health
		hc.Now, hc.Probe = c.Now, t.probe
		token := health.New(hc)
		t.monitors = map[flow.Endpoint]*health.Monitor{flow.Token: token}
		for _, h := range t.Hosts {
			if g.tenants[strings.ToLower(h)] != nil {
				return nil, fmt.Errorf("host %s belongs to two tenants", h)
			}
			g.tenants[strings.ToLower(h)] = t
		}
	}
	g.proxy = &httputil.ReverseProxy{
		Rewrite: g.rewrite, Transport: upstream{g}, ErrorHandler: g.failed, BufferPool: &buffers{},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	return g, nil
}

// Run does the gateway's background work until ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { return g.learner.run(ctx) })
	eg.Go(func() error { return g.late.run(ctx) })
	eg.Go(func() error { return g.browsers.run(ctx) })
	for _, t := range g.c.Tenants {
		eg.Go(func() error { return t.meta.run(ctx) })
		eg.Go(func() error { return t.origins.run(ctx, g.c.Log) })
		for _, f := range t.fetched {
			eg.Go(func() error { return f.run(ctx) })
		}
		eg.Go(func() error { return t.states.run(ctx, g.c.Now) })
		eg.Go(func() error { return g.deliver(ctx, t) })
		for _, m := range t.monitors {
			eg.Go(func() error { return m.Run(ctx) })
		}
	}
	return eg.Wait()
}

// States returns the health of each tenant's endpoint classes.
func (g *Gateway) States() map[string]map[string]health.State {
	out := map[string]map[string]health.State{}
	for _, t := range g.c.Tenants {
		out[t.Name] = map[string]health.State{}
		for e, m := range t.monitors {
			out[t.Name][string(e)] = m.State()
		}
		for _, e := range followers() {
			out[t.Name][string(e)] = t.monitors[flow.Token].State()
		}
	}
	return out
}

// followers are the classes of endpoints whose breaker is the token endpoint's: they are served by the same process, are asked
// too seldom to have evidence of their own, and what they say must not speak for it.
func followers() []flow.Endpoint {
	return []flow.Endpoint{flow.Authorization, flow.Pushed, flow.UserInfo, flow.Introspection, flow.Revocation, flow.EndSession}
}

// visit is what the gateway knows of a request on its way.
type visit struct {
	id       string
	tenant   *Tenant
	issuer   *issuer
	endpoint flow.Endpoint
	origin   // the client's
	began    time.Time
	// what follows is set for protocol endpoints
	request  *flow.Request
	flow     flow.Flow
	exchange flow.Exchange
	odd      string        // why the request's spelling is not plain, "" where it is
	json     bool          // the parameters came as JSON
	charset  bool          // they may be in a character set in which ASCII is not ASCII
	refusal  *flow.Refusal // the backup's, where it was asked: it is not asked again for the same request

	certificate shown // of the client

	path    string // of the request
	cookie  string // name of the gateway's cookie; "": none can be set
	browser string // its value; "": the browser has none
	named   bool   // the browser gets it with this reply
	// browserID stands for one of these values: see [Gateway.browserID].
	browserID struct {
		of string
		id session.ID
	}
	own bool // it presents something that the backup made: only that can answer
	// navigation is an authorization request, whose body is not read.
	navigation *flow.Request
	reference  *reference // where that lies, until it is known what it asks for
	told       []string   // relying parties that are told of a logout, and those that are not
	untold     []string
	begun      *begun // it, as it waits for its answer; nil: it does not
}

// find finds issuer and endpoint by the request's path.
func (v *visit) find(r *http.Request) {
	exact := true
	if v.issuer, v.endpoint, exact = v.tenant.meta.endpoint(r.URL); !exact {
		v.odd = "path"
	}
}

type visitKey struct{}

// request → gateway → (primary | backup) → learn → store
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == g.c.HealthPath {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintln(w, "ok")
		return
	}
	t := g.tenant(r.Host)
	if t == nil {
		http.Error(w, "This host name is not served here.", http.StatusMisdirectedRequest)
		return
	}
	if path, _, _ := strings.Cut(r.RequestURI, "?"); strings.HasPrefix(path, "//") && path != r.URL.EscapedPath() {
		http.Error(w, "The path begins with // and has bytes that a URL must have escaped: it cannot be passed as it is.", http.StatusBadRequest)
		return
	}
	v := &visit{tenant: t, began: g.c.Now(), endpoint: flow.Other}
	v.origin = g.client(t, r)
	v.certificate = t.certificate(r, v.began)
	v.path = r.URL.Path
	v.findBrowser(r)
	v.find(r)
	if v.endpoint == flow.Other && g.notice(r, t) {
		v.find(r) // an issuer that is known only now
	}
	switch v.endpoint {
	case flow.Discovery, flow.JWKS:
		if !t.meta.stale(v.issuer) {
			g.servePublished(w, r, v)
			return
		}
	case flow.Other:
		if g.serveMetadata(w, r, t) || g.stateAway(w, r, t) {
			return
		}
	case flow.Authorization:
		g.readAuthorization(r, v)
	default:
		if t.monitors[flow.Token].Share() == 0 && t.origins.answer(w, r, v) {
			return
		}
		done := t.reading.begin(v.address)
		if done == nil {
			w.Header().Set("Connection", "close") // or the server would receive the body before it answers
			g.failed(w, r.WithContext(context.WithValue(r.Context(), visitKey{}, v)), fmt.Errorf("%w: too many bodies are being received", errOurs))
			return
		}
		read := g.read(w, r, v)
		done()
		if !read {
			return
		}
		if resp := g.away(r, v); resp != nil {
			write(w, resp)
			return
		}
	}
	g.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), visitKey{}, v)))
}

// buffers lends the proxy what it copies bodies through.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 64<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

// write writes a reply of the backup's.
func write(w http.ResponseWriter, resp *http.Response) {
	for k, vs := range resp.Header {
		w.Header()[k] = vs
	}
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body)
	resp.Body.Close()
}

func (g *Gateway) tenant(host string) *Tenant {
	if t := g.tenants[host]; t != nil {
		return t
	}
	host = strings.ToLower(host)
	if t := g.tenants[host]; t != nil {
		return t
	}
	if h, p, err := net.SplitHostPort(host); err == nil && (p == "443" || p == "80") {
		return g.tenants[h]
	}
	return nil
}

// client is where the client's request comes from: the peer's own, or what a trusted peer says of it.
func (g *Gateway) client(t *Tenant, r *http.Request) (from origin) {
	from.scheme = "http"
	if r.TLS != nil {
		from.scheme = "https"
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return from
	}
	from.address = host
	if !t.trusts(host) {
		return from
	}
	if p := r.Header.Get("X-Forwarded-Proto"); p == "https" || p == "http" {
		from.scheme = p
	}
	if h := r.Header.Get("X-Forwarded-Host"); g.tenant(h) == t {
		from.host = h // no other name than the tenant's own goes to the primary
	}
	if n, err := strconv.ParseUint(r.Header.Get("X-Forwarded-Port"), 10, 16); err == nil && n > 0 {
		from.port = strconv.FormatUint(n, 10)
	}
	// From the right: the first that is no trusted proxy of ours is the client.
	list := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(list) - 1; i >= 0; i-- {
		a := strings.TrimSpace(list[i])
		if _, err := netip.ParseAddr(a); err != nil {
			break
		}
		from.address = a
		if !t.trusts(a) {
			break
		}
	}
	return from
}

// rewrite makes the outgoing request: the same but for the forwarding headers, byte for byte in path and query.
func (g *Gateway) rewrite(p *httputil.ProxyRequest) {
	v := p.In.Context().Value(visitKey{}).(*visit)
	p.Out.URL.Scheme, p.Out.URL.Host = v.tenant.Upstream.Scheme, v.tenant.Upstream.Host
	p.Out.Host = p.In.Host
	p.Out.URL.RawQuery, p.Out.URL.ForceQuery = p.In.URL.RawQuery, p.In.URL.ForceQuery
	if path, _, _ := strings.Cut(p.In.RequestURI, "?"); path != p.In.URL.EscapedPath() && strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") {
		p.Out.URL.Opaque = path // bytes that net/url would encode another way
	}
	v.tenant.forwarded(p.Out, v.origin)
	withoutOurs(p.Out.Header)
	v.handOn(p.Out.Header)
	if p.Out.Body == nil || p.Out.Body == http.NoBody {
		unrepeatable(p.Out)
	}
}

// upstream is the transport of the proxy.
type upstream struct{ g *Gateway }

func (u upstream) RoundTrip(out *http.Request) (*http.Response, error) {
	v := out.Context().Value(visitKey{}).(*visit)
	switch {
	case v.request != nil:
		resp, err := u.g.exchange(out, v)
		if err == nil {
			withoutTheirs(resp.Header)
		}
		return resp, err
	case v.navigation != nil:
		return u.authorize(out, v)
	}
	return u.pass(out, v)
}

// pass sends a request to the primary whose reply passes as it comes.
func (u upstream) pass(out *http.Request, v *visit) (*http.Response, error) {
	// Pages and uploads, which may last as long as their clients like, take nothing away from who has a session.
	select {
	case v.tenant.pages <- struct{}{}:
	default:
		return nil, fmt.Errorf("%w: %d requests in flight", errOurs, v.tenant.InFlight)
	}
	release := func() { <-v.tenant.pages }
	reads := u.g.reads(v, out)
	if reads != unread {
		readable(out.Header)
	}
	resp, err := v.tenant.transport.RoundTrip(out)
	if kept := v.stateReply(out, resp, err); kept != nil {
		release()
		return kept, nil
	}
	if err != nil {
		release()
		return nil, err
	}
	withoutTheirs(resp.Header)
	if v.endpoint == flow.Authorization && pageRule(u.g.rules, resp, nil) != nil {
		withoutTaken(resp.Header, v.tenant.SessionCookies, u.g.c.Now())
	}
	if err := u.g.browsed(out.Context(), v, out, resp, reads); errors.Is(err, errBarred) {
		resp.Body.Close()
		release()
		return nil, err
	} else if err != nil {
		u.g.c.Log.Error("the end of a browser's session cannot be kept", "tenant", v.tenant.Name, "error", err)
		resp.Body.Close()
		release()
		return nil, errNotKept
	}
	v.setBrowser(resp.Header)
	v.tenant.states.passed(out, resp.StatusCode)
	u.g.crossed(v, out, resp.StatusCode, resp.Header)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		release() // a tunnel is bounded by its peers
		return resp, nil
	}
	resp.Body = &releasing{resp.Body, release}
	return resp, nil
}

// failed answers where there is no reply to pass.
func (g *Gateway) failed(w http.ResponseWriter, r *http.Request, err error) {
	v := r.Context().Value(visitKey{}).(*visit)
	if errors.Is(err, context.Canceled) {
		panic(http.ErrAbortHandler) // nobody is there to be told
	}
	g.Counts.Failed(v.tenant.Name, string(v.endpoint))
	if errors.Is(err, errBarred) { // its line is there
		v.refusal = flow.No("revoked", http.StatusBadRequest, "invalid_grant")
	}
	if g.tellApplication(w, r, v) || navigates(r) && g.showLimited(w, r, v, err) || v.tenant.origins.answer(w, r, v) {
		return
	}
	w.Header().Set("Retry-After", notNowSeconds)
	if v.endpoint != flow.Other {
		code, why := "primary_away", ""
		if v.exchange != nil {
			why = v.exchange.Ask().Unplayable
		}
		switch {
		case errors.Is(err, errNotKept):
			code = "mark_not_kept"
		case errors.Is(err, errOurs), exhausted(err):
			code = "overloaded"
		}
		g.note(v, "refused", code, why)
		writeRefusal(w.Header(), w, flow.NotNow(code), v.request)
		return
	}
	status := http.StatusBadGateway
	if errors.Is(err, errOurs) || exhausted(err) {
		status = http.StatusServiceUnavailable
	}
	http.Error(w, "Sign-in is not available at the moment. Please try again in a few seconds.", status)
}

func requestID() string {
	var b [12]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// ParseUpstream reads the URL of a primary: scheme and host, nothing behind it.
func ParseUpstream(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("%q is no URL of the form https://host:port: paths pass as they come and stand in no configuration", s)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}
