// Package clients holds client libraries to what they do when their provider fails: real ones, unmodified, in front of a real
// Keycloak, with each fault at each class of its endpoints. docs/clients.md has what was measured.
package clients

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"understudy/admin"
	"understudy/idptest"
)

// stage is Keycloak, two understudies in front of it, and the clients on Node.js.
type stage struct {
	u         *idptest.Understudy // a tenant for each fault and reply
	published *idptest.Understudy // a tenant for each fault at discovery, and at the key set
	authority *idptest.Authority
	msal      *idptest.NodeClient
	openid    *idptest.NodeClient
	clients   atomic.Int64 // opened on Node.js
	began     time.Time    // of the understudies
}

// lane is a tenant with a fault proxy of its own between it and Keycloak, and somebody who is signed in there with each library.
type lane struct {
	s       *stage
	f       fault
	class   class // where it is, at the lanes of what is published
	proxy   *idptest.FaultProxy
	u       *idptest.Understudy
	tenant  string
	browser *idptest.Browser
	riders  []*rider
}

// rider is a client library at a lane.
type rider struct {
	library
	c client
}

// tenant's settings: the processors are shared by many clients, and a primary that is late for that is not away.
const tenant = "health: {deadline_min: 2s, probe_deadline: 10s, probe_away: 100ms, window: 1s, ramp: [100], ramp_step: 100ms}"

func newStage(t *testing.T) *stage {
	t.Helper()
	ctx := t.Context()
	for _, p := range idptest.InstallParts() {
		if err := p.Install(ctx); err != nil {
			t.Fatalf("install %s: %v", p.Name, err)
		}
	}
	dir := t.TempDir()
	s := &stage{}
	var err error
	if s.authority, err = idptest.NewAuthority(filepath.Join(dir, "authority")); err != nil {
		t.Fatal(err)
	}
	for script, n := range map[string]**idptest.NodeClient{"msal.js": &s.msal, "openid-client.js": &s.openid} {
		if *n, err = idptest.StartNodeClient(script, s.authority.CAFile, filepath.Join(dir, script+".log")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup((*n).Close)
	}
	return s
}

// start starts Keycloak and the understudies, and returns the lanes of each.
func (s *stage) start(t *testing.T, at, published []fault) (lanes, published2 []*lane) {
	t.Helper()
	ctx, dir := t.Context(), t.TempDir()
	bin, err := idptest.BuildUnderstudy(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	kc, err := idptest.StartKeycloak(ctx, filepath.Join(dir, "keycloak"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kc.Kill)
	front := func(name string, faults []fault) (u *idptest.Understudy, lanes []*lane) {
		var primaries []string
		for _, f := range faults {
			p, err := idptest.StartFaultProxy(kc.URL())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { p.Close() })
			primaries = append(primaries, p.URL())
			lanes = append(lanes, &lane{s: s, f: f, proxy: p})
		}
		u, err := idptest.StartUnderstudyConfig(ctx, idptest.UnderstudyOptions{
			Bin: bin, Dir: filepath.Join(dir, name), Primary: primaries[0], More: primaries[1:], Authority: s.authority, Tenant: tenant,
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
		for i, l := range lanes {
			l.u, l.tenant = u, "default"
			if i > 0 {
				l.u, l.tenant = u.More(i-1), fmt.Sprintf("more-%d", i-1)
			}
			l.browser = &idptest.Browser{Transport: l.u.Client().Transport}
			for _, lib := range libraries() {
				l.riders = append(l.riders, &rider{library: lib})
			}
		}
		return u, lanes
	}
	s.u, lanes = front("gateway", at)
	s.published, published2 = front("published", published)
	s.began = time.Now()
	return lanes, published2
}

// anew starts the understudy of the lanes again as one that never saw anybody.
func (s *stage) anew(t *testing.T, lanes []*lane) {
	t.Helper()
	s.u.Kill()
	if err := os.RemoveAll(s.u.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := s.u.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, l := range lanes {
		resp, err := l.u.Client().Get(issuer(l.u) + "/.well-known/openid-configuration")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
}

// each runs f for each lane, so many at a time.
func each(lanes []*lane, n int, f func(l *lane)) {
	var wg sync.WaitGroup
	free := make(chan struct{}, n)
	for _, l := range lanes {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			f(l)
		})
	}
	wg.Wait()
}

// status is what understudy says of the lane's tenant.
func (l *lane) status(ctx context.Context) (admin.TenantStatus, error) {
	var st admin.Status
	c := &admin.Client{Socket: filepath.Join(l.u.DataDir(), "admin.sock")}
	if err := c.Get(ctx, "/v1/status", &st); err != nil {
		return admin.TenantStatus{}, err
	}
	for _, x := range st.Tenants {
		if x.Name == l.tenant {
			return x, nil
		}
	}
	return admin.TenantStatus{}, fmt.Errorf("no tenant %s", l.tenant)
}

// eventually waits for what comes by itself.
func eventually(what string, f func() error) error {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// signIn signs alice in with each library, in a browser that is new, and waits until that is learned.
func (l *lane) signIn(ctx context.Context) error {
	before, err := l.status(ctx)
	if err != nil {
		return err
	}
	l.browser = &idptest.Browser{Transport: l.u.Client().Transport}
	for _, r := range l.riders {
		if token, err := l.enter(ctx, r); err != nil || byBackup(token) {
			return fmt.Errorf("%s: by the backup: %v; %w", r.name, byBackup(token), err)
		}
	}
	return eventually("the sign-ins are not learned", func() error {
		st, err := l.status(ctx)
		for _, flow := range []string{"authorization", "authorization_code"} {
			if err == nil && st.Learned[flow] < before.Learned[flow]+uint64(len(l.riders)) {
				err = fmt.Errorf("%v, not %v", st.Learned, st.NotLearned)
			}
		}
		return err
	})
}

// home ends the fault and waits until the primary has all of the traffic again.
func (l *lane) home(ctx context.Context) error {
	if err := l.proxy.Set(idptest.Fault{}); err != nil {
		return err
	}
	return eventually("the primary does not serve again", func() error {
		st, err := l.status(ctx)
		if err == nil && st.Endpoints["token"].Mode != "normal" {
			err = fmt.Errorf("it is %+v", st.Endpoints["token"])
		}
		return err
	})
}

// fault is what is done to requests at one class of endpoints.
type fault struct {
	name string
	idptest.Fault
}

// limitedFor is how long a primary that limits its rate asks to be left alone.
const limitedFor = "3"

// faults are those of the matrix.
func faults() []fault {
	one := func(status int, header http.Header) idptest.Fault {
		return idptest.Fault{Kind: idptest.ServerError, Status: status, Header: header}
	}
	return []fault{
		{"hang", idptest.Fault{Kind: idptest.BlackHole}},
		{"408", one(408, nil)},
		{"425", one(425, nil)},
		{"429", words(429, "too_many_requests", "Retry-After", limitedFor)},
		{"500", one(500, nil)},
		{"502", one(502, nil)},
		{"503", one(503, nil)},
		{"504", one(504, nil)},
		{"close", idptest.Fault{Kind: idptest.ResetAfter}},
		{"HTML with 200", idptest.Fault{Kind: idptest.HTMLPage}},
		{"deletes cookies", one(502, deletesCookies())},
	}
}

// words is a reply in the protocol's form.
func words(status int, code string, header ...string) idptest.Fault {
	h := http.Header{"Content-Type": {"application/json"}}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return idptest.Fault{Kind: idptest.ServerError, Status: status, Header: h, Body: fmt.Sprintf(`{"error":%q}`, code)}
}

// replies are other words for "not now", and one that is none, as a primary may say them.
func replies() []fault {
	return []fault{
		{"503 in its own words, no Retry-After", words(503, "temporarily_unavailable")},
		{"400 temporarily_unavailable", words(400, "temporarily_unavailable")},
		{"400 temporarily_unavailable with Retry-After", words(400, "temporarily_unavailable", "Retry-After", limitedFor)},
		{"400 invalid_grant", words(400, "invalid_grant")},
		{"429, no Retry-After", words(429, "too_many_requests")},
	}
}

// deletesCookies clears the cookies of Keycloak's sessions, and the gateway's.
func deletesCookies() http.Header {
	h := http.Header{}
	for _, c := range []string{"KEYCLOAK_IDENTITY", "KEYCLOAK_SESSION", "AUTH_SESSION_ID"} {
		h.Add("Set-Cookie", c+"=; Path=/realms/norot/; Max-Age=0; Secure; HttpOnly; SameSite=None")
	}
	h.Add("Set-Cookie", "__Host-understudy=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=None")
	return h
}

// class is a class of the primary's endpoints.
type class struct {
	name  string
	match func(r *http.Request) bool
}

func at(suffix string) func(*http.Request) bool {
	return func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, suffix) }
}

const (
	discovery     = "discovery"
	keySet        = "key set"
	authorization = "authorization"
	silent        = "authorization, prompt=none"
	token         = "token"
	userInfo      = "UserInfo"
)

func classes() []class {
	auth := at("/protocol/openid-connect/auth")
	return []class{
		{discovery, at("/.well-known/openid-configuration")}, {keySet, at("/certs")}, {authorization, auth}, {silent, auth},
		{token, at("/token")}, {userInfo, at("/userinfo")},
	}
}
