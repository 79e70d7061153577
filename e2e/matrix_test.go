package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"understudy/flow/oauth"
	"understudy/idptest"
)

// outageRefreshes is how often each client refreshes while the primary is dead.
const outageRefreshes = 3

// TestClientsThroughOutage: every client library, at every shape of primary, is signed in; the primary is killed; each
// refreshes through the backup, the primary comes back, and the same refresh token works there.
func TestClientsThroughOutage(t *testing.T) {
	groups := map[*deployment][]shape{}
	var order []*deployment
	for _, s := range shared.shapes() {
		if groups[s.deployment] == nil {
			order = append(order, s.deployment)
		}
		groups[s.deployment] = append(groups[s.deployment], s)
	}
	expected := len(shared.shapes()) * len(libraries())
	var mu sync.Mutex // guards run
	var run []string
	t.Run("group", func(t *testing.T) {
		for _, d := range order {
			t.Run(d.name, func(t *testing.T) {
				t.Parallel()
				for _, name := range throughOutage(t, d, groups[d]) {
					mu.Lock()
					run = append(run, name)
					mu.Unlock()
				}
			})
		}
	})
	for _, s := range shared.shapes() {
		for _, l := range libraries() {
			name, how := combination(s, l), "NOT RUN"
			for _, r := range run {
				if r == name {
					how = "whole way"
				}
			}
			fmt.Printf("%-50s %s\n", name, how)
		}
	}
	fmt.Printf("combinations: %d run, %d expected\n", len(run), expected)
	if len(run) != expected {
		t.Errorf("%d combinations run, %d expected", len(run), expected)
	}
}

func combination(s shape, l library) string { return s.name + " × " + l.name }

// rider is one client on its way through an outage.
type rider struct {
	name   string
	lib    library
	s      *site
	c      client
	b      *idptest.Browser
	last   *tokens
	issued time.Time // iat of the last ID token
	failed bool
}

// throughOutage returns the combinations that went the whole way.
func throughOutage(t *testing.T, d *deployment, shapes []shape) []string {
	d.use(t)
	ctx := t.Context()
	u := d.understudy(t, false, "")
	var riders []*rider
	for _, s := range shapes {
		st, err := s.at(ctx, u)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range libraries() {
			r := &rider{name: combination(s, l), lib: l, s: st, b: &idptest.Browser{Transport: shared.transport()}}
			r.c, err = l.open(st, t.TempDir())
			if err != nil {
				t.Fatalf("%s: %v", r.name, err)
			}
			t.Cleanup(r.c.close)
			if r.last, err = st.signInWith(ctx, r.c, r.b, "alice"); err != nil {
				r.fail(t, "sign in", err)
				continue
			}
			if err := r.check(ctx, r.last, false); err != nil {
				r.fail(t, "sign in", err)
			}
			riders = append(riders, r)
		}
	}
	time.Sleep(1500 * time.Millisecond) // Keycloak's database writes behind

	pid := d.primary.PID()
	d.primary.Kill()
	if !idptest.Gone(pid) {
		t.Fatalf("process %d is still there", pid)
	}
	address, err := url.Parse(d.primary.URL())
	if err != nil {
		t.Fatal(err)
	}
	for i := range outageRefreshes {
		time.Sleep(1100 * time.Millisecond) // iat has whole seconds
		for _, r := range riders {
			if r.failed {
				continue
			}
			before := issuedBy(t, u, r)
			next, err := r.c.refresh(ctx)
			if err == nil {
				err = r.check(ctx, next, true)
			}
			if err != nil {
				r.fail(t, fmt.Sprintf("refresh %d in the outage", i+1), err)
				continue
			}
			if n := awaitIssued(t, u, r, before+1); n != before+1 {
				r.fail(t, "refresh in the outage", fmt.Errorf("one refresh, and the sign-in log has %d lines more", n-before))
			}
			if r.last.Refresh != "" && next.Refresh != r.last.Refresh {
				r.fail(t, "refresh in the outage", fmt.Errorf("the backup changed the refresh token"))
			}
			r.last = next
		}
		if c, err := net.DialTimeout("tcp", address.Host, time.Second); err == nil {
			c.Close()
			t.Fatalf("the primary's port is open")
		}
	}
	time.Sleep(1100 * time.Millisecond)
	for _, r := range riders {
		if r.failed {
			continue
		}
		if err := r.openAgain(t, ctx); err != nil {
			r.fail(t, "the application opened anew in the outage", err)
		}
	}
	if err := d.primary.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	// The gateway leads traffic back in a ramp, by session. Until a session's turn comes the backup goes on.
	deadline := time.Now().Add(40 * time.Second)
	var whole []string
	for _, r := range riders {
		for !r.failed {
			next, err := r.c.refresh(ctx)
			if err != nil {
				r.fail(t, "refresh after the return", err)
				break
			}
			if isBackup(next.ID) {
				if time.Now().After(deadline) {
					r.fail(t, "refresh after the return", fmt.Errorf("the backup still answers"))
				}
				r.last = next
				time.Sleep(500 * time.Millisecond)
				continue
			}
			if err := r.check(ctx, next, false); err != nil {
				r.fail(t, "refresh after the return", err)
				break
			}
			r.last = next
			// And once more: what the primary gave then works there.
			time.Sleep(1100 * time.Millisecond)
			if next, err = r.c.refresh(ctx); err == nil {
				err = r.check(ctx, next, false)
			}
			if err != nil {
				r.fail(t, "second refresh after the return", err)
				break
			}
			whole = append(whole, r.name)
			break
		}
	}
	return whole
}

// openAgain opens the application anew in the same browser while the primary is dead: a fresh instance of the client, which
// checks everything as ever, gets its tokens and nobody is asked.
func (r *rider) openAgain(t *testing.T, ctx context.Context) error {
	c, err := r.lib.open(r.s, t.TempDir())
	if err != nil {
		return err
	}
	defer c.close()
	to, err := c.begin(ctx)
	if err != nil {
		return err
	}
	u, err := url.Parse(to)
	if err != nil {
		return err
	}
	q := u.Query()
	q.Del("prompt") // consent was given; nobody is asked anew
	u.RawQuery = q.Encode()
	resp, _, err := r.b.Get(ctx, u.String())
	if err != nil {
		return err
	}
	back, err := resp.Location()
	if err != nil || !strings.HasPrefix(back.String(), redirect+"?") {
		return fmt.Errorf("status %d, to %v", resp.StatusCode, back)
	}
	got, err := c.finish(ctx, back)
	if err != nil {
		return err
	}
	return r.check(ctx, got, true)
}

func (r *rider) fail(t *testing.T, what string, err error) {
	t.Errorf("%s: %s: %v", r.name, what, err)
	r.failed = true
}

// check verifies new tokens with the keys that the gateway publishes, and says which key must have signed.
func (r *rider) check(ctx context.Context, t *tokens, backup bool) error {
	ctx = oidc.ClientContext(ctx, &http.Client{Transport: shared.transport()})
	id, err := r.s.provider.Verifier(&oidc.Config{ClientID: r.lib.clientID(r.s)}).Verify(ctx, t.ID)
	if err != nil {
		return err
	}
	if !id.IssuedAt.After(r.issued) {
		return fmt.Errorf("iat %s is not new", id.IssuedAt)
	}
	r.issued = id.IssuedAt
	for what, raw := range map[string]string{"id_token": t.ID, "access_token": t.Access} {
		if what == "access_token" && r.s.opaque {
			if strings.Count(raw, ".") == 2 {
				return fmt.Errorf("the access token is a JWT")
			}
			continue
		}
		if _, err := r.s.provider.Verifier(&oidc.Config{SkipClientIDCheck: true}).Verify(ctx, raw); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if isBackup(raw) != backup {
			return fmt.Errorf("%s: signed by the backup: %v", what, !backup)
		}
		if alg := header(raw, "alg"); alg != r.s.alg {
			return fmt.Errorf("%s: alg is %s", what, alg)
		}
	}
	return nil
}

// isBackup says whether a JWT names a key of the backup.
func isBackup(jwt string) bool { return strings.HasPrefix(header(jwt, "kid"), "bk-") }

func header(jwt, name string) string {
	t, err := oauth.ParseJWT(jwt)
	if err != nil {
		return ""
	}
	return t.Header.Text(name)
}
