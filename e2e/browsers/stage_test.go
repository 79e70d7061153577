// Package browsers proves in real Chromium and Firefox that who is signed in stays signed in: unmodified client libraries, each with
// its own validation on, at two sites, in front of a real Keycloak that is killed.
package browsers

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"mime"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"understudy/admin"
	"understudy/demo/chromium"
	"understudy/demo/firefox"
	"understudy/idptest"
)

// The hosts, each a site of its own but for the applications at the same one.
const (
	idpHost   = "login.idp.test"
	spaURL    = "https://spa.one.test"
	neverURL  = "https://never.one.test" // an application where nobody has been
	msalURL   = "https://msal.two.test"
	webURL    = "https://web.two.test"
	hybridURL = "https://hybrid.two.test"

	implicitURL = "https://implicit.one.test"
	expressURL  = "https://express.two.test"
)

// sites are those of the applications.
var sites = [...]string{".one.test", ".two.test"}

const displayName = "Example Works"

// stage is everything that runs: Keycloak, understudy in front of it, and the applications.
type stage struct {
	kc          *idptest.Keycloak
	u           *idptest.Understudy
	provider    *oidc.Provider
	authority   *idptest.Authority
	apps, proxy int            // ports
	servers     map[string]int // ports of the server-side applications, by host
}

//go:embed pages
var pages embed.FS

func newStage(t *testing.T) *stage {
	t.Helper()
	ctx := t.Context()
	for _, p := range append(idptest.InstallParts(), idptest.Part{Name: "chromium", Install: chromium.Install}, idptest.Part{Name: "firefox", Install: firefox.Install}) {
		if err := p.Install(ctx); err != nil {
			t.Fatalf("install %s: %v", p.Name, err)
		}
	}
	s := &stage{servers: map[string]int{}}
	dir := t.TempDir()
	bin, err := idptest.BuildUnderstudy(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := idptest.NewAuthority(filepath.Join(dir, "authority"), idpHost, "*.one.test", "*.two.test")
	if err != nil {
		t.Fatal(err)
	}
	s.authority = authority
	if s.kc, err = idptest.StartKeycloak(ctx, filepath.Join(dir, "keycloak")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.kc.Kill() })
	// Five browsers share the processors with the primary: it may be late and is not away for that. A dead one refuses at once.
	s.u, err = idptest.StartUnderstudyConfig(ctx, idptest.UnderstudyOptions{
		Bin: bin, Dir: filepath.Join(dir, "gateway"), Primary: s.kc.URL(), Authority: authority, Host: idpHost,
		Tenant: fmt.Sprintf("display_name: %q\ncontact: %q\nhealth: {deadline_min: 5s, probe_deadline: 10s, probe_away: 100ms, ramp: [100], ramp_step: 100ms}\n"+
			"clients: [{id: spa, client_name: Mail}, {id: msal, client_name: Payroll}, {id: web, client_name: Time sheets}, {id: hybrid, client_name: Wiki, client_uri: %q}]",
			displayName, "help@works.example", hybridURL+"/"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.u.Kill()
		if t.Failed() {
			t.Logf("understudy's own log:\n%s", s.u.Log())
		}
	})
	if s.provider, err = oidc.NewProvider(oidc.ClientContext(context.Background(), s.u.Client()), s.issuer()); err != nil {
		t.Fatal(err)
	}
	s.serveApps(t, authority)
	s.startWeb(t, dir, "webapp.js", "web", webURL)
	s.startWeb(t, dir, "webapp.js", "hybrid", hybridURL)
	s.startWeb(t, dir, "idtoken.js", "express", expressURL)
	s.proxy = s.serveProxy(t)
	return s
}

func (s *stage) issuer() string { return s.u.URL() + "/realms/browsers" }

// serveApps serves the single-page applications: their pages, and the libraries' bundles as npm has them.
func (s *stage) serveApps(t *testing.T, authority *idptest.Authority) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.apps = ln.Addr().(*net.TCPAddr).Port
	modules := filepath.Join(idptest.Parts(), "node", "node_modules")
	lib := map[string]string{
		"oidc-client.min.js":          filepath.Join(modules, "oidc-client", "dist"),
		"oidc-client-ts.min.js":       filepath.Join(modules, "oidc-client-ts", "dist", "browser"),
		"msal-browser.min.js":         filepath.Join(modules, "@azure", "msal-browser", "lib"),
		"msal-redirect-bridge.min.js": filepath.Join(modules, "@azure", "msal-browser", "lib", "redirect-bridge"),
	}
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		app, _, _ := strings.Cut(r.Host, ".")
		name := strings.TrimPrefix(r.URL.Path, "/")
		var b []byte
		var err error
		switch dir, file := path.Split(name); {
		case name == "config.js":
			var c []byte
			c, err = json.Marshal(map[string]string{"issuer": s.issuer(), "client": app})
			b = []byte("const config = " + string(c) + ";")
		case dir == "lib/" && lib[file] != "":
			b, err = os.ReadFile(filepath.Join(lib[file], file))
		case strings.HasSuffix(name, ".js"):
			b, err = pages.ReadFile("pages/" + name)
		case app == "msal" && name == "redirect":
			b, err = pages.ReadFile("pages/redirect.html")
			name = "redirect.html"
		default:
			page := "spa.html"
			if app == "msal" || app == "implicit" {
				page = app + ".html"
			}
			b, err = pages.ReadFile("pages/" + page)
			name = page
		}
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
		w.Header().Set("Cache-Control", "no-store")
		w.Write(b)
	})}
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(ln, authority.CertFile, authority.KeyFile) }()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
}

// startWeb starts a server-side application.
func (s *stage) startWeb(t *testing.T, dir, script, client, origin string) {
	t.Helper()
	n, err := idptest.StartNodeClient(script, s.authority.CAFile, filepath.Join(dir, client+".log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	var r struct{ Port int }
	if err := n.Do(t.Context(), "serve", map[string]any{
		"issuer": s.issuer(), "clientId": client, "secret": client + "-secret", "origin": origin, "hybrid": client == "hybrid",
		"cert": s.authority.CertFile, "key": s.authority.KeyFile,
	}, &r); err != nil {
		t.Fatal(err)
	}
	s.servers[strings.TrimPrefix(origin, "https://")] = r.Port
}

// status is what understudy says of its one tenant.
func (s *stage) status(t *testing.T) admin.TenantStatus {
	t.Helper()
	var st admin.Status
	c := &admin.Client{Socket: filepath.Join(s.u.DataDir(), "admin.sock")}
	if err := c.Get(t.Context(), "/v1/status", &st); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(st.Tenants, func(x admin.TenantStatus) bool { return x.Name == "default" })
	if i < 0 {
		t.Fatal("no tenant")
	}
	return st.Tenants[i]
}

// eventually waits for what comes by itself, within a bound that only a failure reaches.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}
