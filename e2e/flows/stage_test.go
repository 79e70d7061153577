package flows

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/idptest"
)

// primary is a running identity provider.
type primary interface {
	URL() string
	Kill()
	Restart(ctx context.Context) error
}

// stage is one primary with the program in front of it, and the applications.
type stage struct {
	name   string
	issuer string
	ca     string // the authority of the gateway's certificate, PEM
	p      primary
	u      *idptest.Understudy
	node   *idptest.NodeClient
	kc     *keycloak // nil: it is oidc-provider
}

// kind is a primary as it is set up here.
type kind struct {
	name string
	path string // of its issuer
	// exchanges: it has token exchange (RFC 8693), which oidc-provider leaves to whoever uses it.
	exchanges bool
	// onBehalf: it has the grant by an assertion on behalf of who called, and resources (RFC 8707).
	onBehalf bool
	// introspectsByJWT: it answers in the media type of RFC 9701, for which the library asks; Keycloak has one of its own.
	introspectsByJWT bool
	// nonces: it demands them in DPoP proofs, of whom it is told to.
	nonces bool
	// fetches: it reads requests that lie at a URL, which oidc-provider has given up.
	fetches bool
	// forgets: who waits for a person must begin anew after its death.
	forgets bool
	start   func(ctx context.Context, dir, gateway string, apps []*app) (primary, error)
}

// newStage starts a primary with these applications as its clients.
func newStage(t *testing.T, k kind, apps []*app) *stage {
	t.Helper()
	port, err := idptest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(shared.dir, k.name)
	ca, err := os.ReadFile(shared.authority.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	// A primary that has just started is slow, which is another test's matter.
	tenant := "health: {probe_away: 100ms, ramp: [100], ramp_step: 100ms, deadline_min: 5s}\n" +
		fmt.Sprintf("client_certificates: {ca_file: %q, primary_header: Client-Cert}\nclients:\n", shared.keys.caFile)
	for _, a := range apps {
		if err := a.equip(shared.keys); err != nil {
			t.Fatal(err)
		}
		line, err := a.configured(shared.keys)
		if err != nil {
			t.Fatal(err)
		}
		tenant += line
	}
	gateway := fmt.Sprintf("https://localhost:%d", port)
	s := &stage{name: k.name, issuer: gateway + k.path, ca: string(ca)}
	if s.p, err = k.start(t.Context(), filepath.Join(dir, "primary"), gateway, apps); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.p.Kill)
	if kc, ok := s.p.(*keycloak); ok {
		s.kc = kc
		t.Cleanup(kc.phones.Close)
	}
	if s.u, err = idptest.StartUnderstudyConfig(t.Context(), idptest.UnderstudyOptions{
		Bin: shared.bin, Dir: filepath.Join(dir, "understudy"), Port: port, Primary: s.p.URL(), Authority: shared.authority, AskCertificate: true, Tenant: tenant,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.u.Kill()
		if t.Failed() {
			t.Logf("understudy's own log:\n%s", s.u.Log())
		}
	})
	if s.node, err = idptest.StartNodeClient("flows.js", shared.authority.CAFile, filepath.Join(dir, "flows.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.node.Close)
	for _, a := range apps {
		if err := a.open(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", a.id, err)
		}
	}
	return s
}

// browser is a person's, without a session.
func (s *stage) browser() *idptest.Browser {
	return &idptest.Browser{Transport: &postman{RoundTripper: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: shared.authority.Pool}, DisableKeepAlives: true,
	}}}
}

// metrics reads the process's counters that begin so.
func (s *stage) metrics(prefix string) (map[string]string, error) {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(s.u.DataDir(), "admin.sock"))
	}}}
	resp, err := c.Get("http://understudy/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out := map[string]string{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if i := strings.LastIndexByte(lines.Text(), ' '); i > 0 && strings.HasPrefix(lines.Text(), prefix) {
			out[lines.Text()[:i]] = lines.Text()[i+1:]
		}
	}
	return out, lines.Err()
}

// settled waits until what was approved is learned, and the primary has written it down: Keycloak does that half a second late.
func (s *stage) settled(t *testing.T) {
	t.Helper()
	var before string
	for end := time.Now().Add(30 * time.Second); ; {
		time.Sleep(1200 * time.Millisecond)
		m, err := s.metrics("understudy_learned_total")
		if err != nil {
			t.Fatal(err)
		}
		now := fmt.Sprint(m)
		if now == before {
			return
		}
		if before = now; time.Now().After(end) {
			t.Fatal("it goes on learning")
		}
	}
}

// returned waits until the primary has all of the traffic again.
func (s *stage) returned(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		m, err := s.metrics("understudy_primary_share_percent")
		if err != nil {
			t.Fatal(err)
		}
		all := len(m) > 0
		for _, share := range m {
			all = all && share == "100"
		}
		if all {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the primary does not get its traffic back: %v", m)
		}
	}
}
