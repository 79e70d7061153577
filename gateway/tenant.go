package gateway

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"understudy/flow"
	"understudy/flow/proof"
	"understudy/gateway/page"
	"understudy/health"
)

// Tenant is one primary and the names under which it is known. Exported fields are configuration and do not change.
type Tenant struct {
	Name     string
	Hosts    []string // public host names, with the port where it is not the scheme's; the first is asked for metadata
	Scheme   string   // of the public URLs: "https" or "http"
	Upstream *url.URL // scheme and host of the primary
	Issuers  []string // empty: adopted from the primary's own metadata
	TLS      *tls.Config
	Trusted  []netip.Prefix // peers whose X-Forwarded-* count
	Health   health.Config
	// DisplayName and Contact are shown to people while the primary is away; "": the host name, nobody.
	DisplayName, Contact string
	// InFlight bounds concurrent requests to the primary, of pages, of sessions that go on, and of other protocol exchanges
	// each; 0: 1000.
	InFlight int
	// Shadow is the share of healthy requests, in percent, for which the backup's answer is computed too.
	Shadow float64

	// RefuseRevoked refuses also what the primary itself should know to be over. Else that it approves it is an alarm.
	RefuseRevoked bool

	// ClientKeys are the registered keys of clients that prove themselves with private_key_jwt, by client_id.
	ClientKeys map[string]*proof.ClientKeys
	// ClientKeyURIs are the URLs where clients have their keys instead (jwks_uri), by client_id.
	ClientKeyURIs map[string]string
	// RequestURIs are where clients have their request objects (RFC 9101, section 5.2), by client_id; see [CheckRequestURI].
	RequestURIs map[string][]string
	// ClientSecrets are the secrets with which clients sign their assertions (client_secret_jwt), by client_id.
	ClientSecrets map[string]proof.Secret
	// Certificates says where client certificates come from and where they go to; nil: they are not taken.
	Certificates *Certificates

	// Logouts say how clients are told of logouts, by client_id.
	Logouts map[string]Logout

	// Applications say what people are shown of clients, by client_id. It goes before what is learned.
	Applications map[string]page.Application

	// SessionCookies are the names of the cookies that carry the primary's sessions; nil: those of well-known primaries; empty:
	// browsers are not continued.
	SessionCookies []string

	// ProbeClient is a client_id that probes name; "": none.
	ProbeClient string

	log         *slog.Logger
	rules       []Rule
	verified    sync.Map // issuer NUL kid → struct{}: keys that were seen to sign
	transport   *http.Transport
	answered    atomic.Pointer[issuer] // whose token endpoint answered last
	meta        *metadata
	origins     *origins
	states      *statePages
	undelivered *undelivered
	fetched     map[string]*fetchedKeys // by client_id
	references  map[string]*references  // by client_id
	monitors    map[flow.Endpoint]*health.Monitor
	failing     map[flow.Endpoint]*failing
	pages       chan struct{} // requests in flight that are passed through
	others      chan struct{} // those at protocol endpoints, whose bodies are here, without a session that is known
	exchanges   chan struct{} // and those with one
	alone       chan struct{} // exchanges of strangers that go on without their clients
	reading     *readers
	shadows     *rate.Limiter
}

// trusts says whether an address is a trusted proxy's.
func (t *Tenant) trusts(s string) bool {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(t.Trusted, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
}

func (t *Tenant) publicHost(h string) bool {
	return slices.ContainsFunc(t.Hosts, func(o string) bool { return strings.EqualFold(trimPort(o, t.Scheme), trimPort(h, t.Scheme)) })
}

// trimPort drops a port that the scheme implies.
func trimPort(host, scheme string) string {
	if scheme == "https" {
		return strings.TrimSuffix(host, ":443")
	}
	return strings.TrimSuffix(host, ":80")
}

func (t *Tenant) newTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        t.TLS,
		TLSHandshakeTimeout:    5 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           1024,
		MaxIdleConnsPerHost:    1024,
		IdleConnTimeout:        4 * time.Second, // below the 5 s after which Node.js closes
		DisableCompression:     true,            // bodies pass as they are
		MaxResponseHeaderBytes: 256 << 10,
		ReadBufferSize:         16 << 10, // a page to sign in on comes in one piece
	}
}

// here says whether a redirect leads to the tenant's own host.
func (t *Tenant) here(location string) bool {
	u, err := url.Parse(location)
	return err == nil && (u.Host == "" && u.Scheme == "" || (u.Scheme == "http" || u.Scheme == "https") && t.publicHost(u.Host))
}

// origin is where a request comes from, as the peer or a trusted proxy says.
type origin struct {
	address, scheme string
	host, port      string // as the client asked for them; "": as they came
}

// forwarded writes the X-Forwarded-* headers of an outgoing request, whatever came in.
func (t *Tenant) forwarded(out *http.Request, from origin) {
	address, scheme, host, port := from.address, from.scheme, from.host, from.port
	if host == "" {
		host = out.Host
	}
	if port == "" {
		port = "80"
		if scheme == "https" {
			port = "443"
		}
		if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
			port = host[i+1:]
		}
	}
	h := out.Header
	delete(h, "Forwarded")
	delete(h, "X-Forwarded-For")
	if address != "" {
		h["X-Forwarded-For"] = []string{address}
	}
	v := [3]string{host, scheme, port}
	h["X-Forwarded-Host"], h["X-Forwarded-Proto"], h["X-Forwarded-Port"] = v[0:1:1], v[1:2:2], v[2:3:3]
}

// answeredBy notes that an issuer's token endpoint answered.
func (t *Tenant) answeredBy(is *issuer) {
	if t.answered.Load() != is {
		t.answered.Store(is)
	}
}

// leave lets an exchange go on without its client where few enough do; else it ends at once: who sends and leaves, again and
// again, must not fill the gateway with what hangs.
func (t *Tenant) leave(cancel func()) (finish func()) {
	select {
	case t.alone <- struct{}{}:
		return func() { <-t.alone }
	default:
		cancel()
		return func() {}
	}
}

// vouches says whether the connection to the primary can be trusted to carry its replies.
func (t *Tenant) vouches() bool {
	if t.Upstream.Scheme == "https" {
		return true
	}
	a, err := netip.ParseAddr(t.Upstream.Hostname())
	return t.Upstream.Hostname() == "localhost" || err == nil && a.IsLoopback()
}
