// Package e2e proves the whole path on real identity providers and unmodified clients: each is a process of its own on
// loopback, and what dies is killed.
package e2e

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"understudy/idptest"
)

// world is what the tests share: the built program, an authority, and the running primaries.
type world struct {
	dir       string
	bin       string
	authority *idptest.Authority
	keycloak  *deployment
	opaque    *deployment
	jwt       *deployment
	es256     *deployment
}

var (
	shared *world // set once by TestMain
	long   = flag.Bool("long", false, "run as many rounds as a release needs")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		w, err := newWorld(context.Background())
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
		defer w.close()
		shared = w
		return m.Run()
	}())
}

func newWorld(ctx context.Context) (*world, error) {
	for _, p := range idptest.InstallParts() {
		if err := p.Install(ctx); err != nil {
			return nil, fmt.Errorf("install %s: %w", p.Name, err)
		}
	}
	dir, err := os.MkdirTemp("", "understudy-e2e-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir}
	if w.bin, err = idptest.BuildUnderstudy(ctx, dir); err != nil {
		return nil, err
	}
	if w.authority, err = idptest.NewAuthority(filepath.Join(dir, "authority")); err != nil {
		return nil, err
	}
	w.keycloak = &deployment{name: "keycloak", start: func(ctx context.Context, dir, _ string) (primary, error) {
		k, err := idptest.StartKeycloak(ctx, dir)
		if err != nil {
			return nil, err
		}
		return k, warm(ctx, k)
	}}
	provider := func(name, path string, o idptest.OIDCProviderOptions) *deployment {
		return &deployment{name: name, start: func(ctx context.Context, dir, gateway string) (primary, error) {
			o.Issuer = gateway + path
			return idptest.StartOIDCProvider(ctx, dir, o)
		}}
	}
	w.opaque = provider("opaque", "", idptest.OIDCProviderOptions{AccessTokens: "opaque", AccessTokenLifetime: lifetime})
	w.jwt = provider("jwt", "/op", idptest.OIDCProviderOptions{AccessTokens: "jwt", AccessTokenLifetime: lifetime})
	w.es256 = provider("es256", "/op", idptest.OIDCProviderOptions{AccessTokens: "jwt", Alg: "ES256", AccessTokenLifetime: lifetime})
	return w, nil
}

// warm makes a fresh Keycloak work once at its own port, where no gateway learns from it: its first exchanges take
// seconds, which show in the lifetimes of its tokens.
func warm(ctx context.Context, k *idptest.Keycloak) error {
	for _, realm := range []string{"rot", "norot"} {
		form := url.Values{"grant_type": {"password"}, "client_id": {"spa"}, "username": {"bob"}, "password": {"pw-bob"}, "scope": {"openid"}}
		resp, err := http.PostForm(k.URL()+"/realms/"+realm+"/protocol/openid-connect/token", form)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("warm Keycloak: status %d", resp.StatusCode)
		}
	}
	return nil
}

func (w *world) close() {
	for _, d := range []*deployment{w.keycloak, w.opaque, w.jwt, w.es256} {
		if d.primary != nil {
			d.primary.Kill()
			d.fault.Close()
		}
	}
	os.RemoveAll(w.dir)
}

// primary is a running identity provider.
type primary interface {
	URL() string
	PID() int
	Kill()
	Restart(ctx context.Context) error
}

// deployment is a primary, a fault proxy before it and the port of the gateway in front: the primary knows its own public
// URL. The primary is started once, each test has an understudy of its own.
type deployment struct {
	name  string
	start func(ctx context.Context, dir, gateway string) (primary, error)

	mu      sync.Mutex // held by the test that uses it
	primary primary
	fault   *idptest.FaultProxy
	port    int
}

// use takes the deployment for one test and starts its primary where that has not been done.
func (d *deployment) use(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	t.Cleanup(d.mu.Unlock)
	if d.primary == nil {
		port, err := idptest.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		p, err := d.start(t.Context(), filepath.Join(shared.dir, d.name), fmt.Sprintf("https://localhost:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		f, err := idptest.StartFaultProxy(p.URL())
		if err != nil {
			p.Kill()
			t.Fatal(err)
		}
		d.primary, d.fault, d.port = p, f, port
	}
	if idptest.Gone(d.primary.PID()) {
		if err := d.primary.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.fault.Set(idptest.Fault{}); err != nil {
		t.Fatal(err)
	}
}

// understudy starts the program in front of the primary, with an empty data directory. through puts the fault proxy
// between the two.
func (d *deployment) understudy(t *testing.T, through bool, tenant string) *idptest.Understudy {
	t.Helper()
	to := d.primary.URL()
	if through {
		to = d.fault.URL()
	}
	u, err := idptest.StartUnderstudyConfig(t.Context(), idptest.UnderstudyOptions{
		Bin: shared.bin, Dir: t.TempDir(), Port: d.port, Primary: to, Authority: shared.authority, Tenant: tenant,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u.Kill()
		if t.Failed() {
			t.Logf("understudy's own log:\n%s", u.Log())
		}
	})
	return u
}

// transport trusts the tests' authority.
func (w *world) transport() *http.Transport {
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.authority.Pool}, DisableKeepAlives: true}
}
