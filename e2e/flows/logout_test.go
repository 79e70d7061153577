package flows

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"understudy/idptest"
)

// party is where an application is told of logouts (OpenID Connect Back-Channel Logout).
type party struct {
	*httptest.Server
	mu     sync.Mutex
	tokens []string
}

func newParty() *party {
	p := &party{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.tokens = append(p.tokens, r.PostFormValue("logout_token"))
	}))
	return p
}

// next waits for a logout token of a session, and removes it.
func (p *party) next(ctx context.Context, t *testing.T, a *app, sid string) string {
	t.Helper()
	ctx = oidc.ClientContext(ctx, &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: shared.authority.Pool}, DisableKeepAlives: true}})
	provider, err := oidc.NewProvider(ctx, a.s.issuer)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		p.mu.Lock()
		all := p.tokens
		p.tokens = nil
		p.mu.Unlock()
		for _, token := range all {
			tok, err := provider.Verifier(&oidc.Config{ClientID: a.id}).Verify(ctx, token)
			if err != nil {
				t.Fatalf("a logout token: %v", err)
			}
			var c struct {
				SID    string         `json:"sid"`
				Events map[string]any `json:"events"`
			}
			if err := tok.Claims(&c); err != nil || c.Events["http://schemas.openid.net/event/backchannel-logout"] == nil {
				t.Fatalf("a logout token: %v %v", err, c.Events)
			}
			if c.SID == sid {
				return token
			}
		}
	}
	t.Fatal("the application is not told of the logout")
	return ""
}

// leaver is a person who signs out while the primary is dead.
type leaver struct {
	a       *app
	p       *party
	browser *idptest.Browser
	id      string
}

func (l *leaver) served(t *testing.T) {
	// Somebody signs out at the primary: where that leads is learned.
	b := l.a.s.browser()
	k, err := l.a.signIn(t.Context(), b, "bob")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Visit(t.Context(), l.url(t, k.ID), bye, map[string]string{"logout": "yes"}); err != nil {
		t.Fatalf("the logout: %v", err)
	}
	if token := l.p.next(t.Context(), t, l.a, read(t, k.ID, false).text("sid")); isBackups(token) {
		t.Error("the logout token is the backup's")
	}
	l.browser = l.a.s.browser()
	if k, err = l.a.signIn(t.Context(), l.browser, "alice"); err != nil {
		t.Fatal(err)
	}
	l.id = k.ID
}

func (l *leaver) url(t *testing.T, hint string) string {
	t.Helper()
	var r struct{ URL string }
	if err := l.a.do(t.Context(), "logout", map[string]any{"parameters": map[string]any{"id_token_hint": hint, "post_logout_redirect_uri": bye, "state": "s1"}}, &r); err != nil {
		t.Fatal(err)
	}
	return r.URL
}

func (l *leaver) dead(t *testing.T) {
	resp, page, err := l.browser.Get(t.Context(), l.url(t, l.id))
	if err != nil {
		t.Fatal(err)
	}
	to := resp.Header.Get("Location")
	if _, after, ok := strings.Cut(resp.Header.Get("Refresh"), ";url="); ok {
		to = after
	}
	if to != bye+"?state=s1" {
		t.Errorf("it leads to %q: status %d: %.300s", to, resp.StatusCode, page)
	}
	if token := l.p.next(t.Context(), t, l.a, read(t, l.id, false).text("sid")); !isBackups(token) {
		t.Error("the logout token is not the backup's")
	}
	l.over(t, "temporarily_unavailable") // its browser is a stranger's, about whom nothing is known
}

func (l *leaver) back(t *testing.T) { l.over(t, "login_required") }

// over checks that nothing lets the person in again; silent is what the application is told that asks without a page.
func (l *leaver) over(t *testing.T, silent string) {
	t.Helper()
	if k, err := l.a.ask(t.Context(), "refresh", nil); refusedFor(err) != "invalid_grant" {
		t.Errorf("refresh: %v %v", k, err)
	}
	if k, err := l.a.again(t.Context(), l.browser); err == nil {
		t.Errorf("opened anew: %v", k)
	}
	if k, err := l.a.again(t.Context(), l.browser, "prompt", "none"); refusedFor(err) != silent {
		t.Errorf("opened anew with prompt=none: %v %v", k, err)
	}
}
