package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"understudy/idptest"
)

// confidentialShapes are the primaries for confidential clients of MSAL. Keycloak has no grant on behalf of by an assertion of its own.
func (w *world) confidentialShapes() []shape {
	all := w.shapes()
	return []shape{all[0], all[3]}
}

func (s shape) grants() []string {
	if s.consent {
		return []string{"authorization code", "client credentials", "on behalf of"}
	}
	return []string{"authorization code", "client credentials"}
}

// service is the client that acts for itself, and the scope that it asks for; the library adds its own.
func (s shape) service() (id, scope string) {
	if s.consent {
		return "api", "api"
	}
	return "svc", "email"
}

func confidentialLibraries() []string {
	return []string{"MSAL Go confidential", "msal-node confidential"}
}

// TestConfidentialClients: MSAL's confidential clients ask for tokens by code, for themselves and on behalf of who called them; the
// primary is killed, they ask for the same again, and go on where it is back.
func TestConfidentialClients(t *testing.T) {
	var expected []string
	for _, s := range shared.confidentialShapes() {
		for _, l := range confidentialLibraries() {
			for _, g := range s.grants() {
				expected = append(expected, s.name+" × "+l+" × "+g)
			}
		}
	}
	var mu sync.Mutex // guards went
	went := map[string]bool{}
	t.Run("group", func(t *testing.T) {
		for _, s := range shared.confidentialShapes() {
			t.Run(s.deployment.name, func(t *testing.T) {
				t.Parallel()
				for _, name := range confidentially(t, s) {
					mu.Lock()
					went[name] = true
					mu.Unlock()
				}
			})
		}
	})
	for _, name := range expected {
		how := "NOT RUN"
		if went[name] {
			how = "whole way"
		}
		fmt.Printf("%-70s %s\n", name, how)
	}
	fmt.Printf("confidential clients: %d run, %d expected\n", len(went), len(expected))
	if len(went) != len(expected) {
		t.Errorf("%d combinations run, %d expected", len(went), len(expected))
	}
}

// grantee is one combination on its way: each call asks the token endpoint, and returns what came.
type grantee struct {
	name  string
	calls []func(ctx context.Context) (*tokens, error)
	lost  bool
}

// confidentially returns the combinations that went the whole way.
func confidentially(t *testing.T, s shape) []string {
	s.deployment.use(t)
	ctx := t.Context()
	u := s.deployment.understudy(t, false, "")
	st, err := s.at(ctx, u)
	if err != nil {
		t.Fatal(err)
	}
	caller := &caller{st: st}
	if s.consent {
		if err := caller.signIn(ctx); err != nil {
			t.Fatal(err)
		}
	}
	var all []*grantee
	for _, l := range confidentialLibraries() {
		for _, g := range s.grants() {
			x := &grantee{name: s.name + " × " + l + " × " + g}
			switch {
			case g == "authorization code" && strings.HasPrefix(l, "MSAL Go"):
				x.calls, err = byCode(ctx, t, st, func() (client, error) { return openConfidentialGo(st) })
			case g == "authorization code":
				x.calls, err = byCode(ctx, t, st, func() (client, error) {
					return openNode(st, t.TempDir(), "msal.js", st.postClient(), st.postClient()+"-secret", "client_secret_post")
				})
			case strings.HasPrefix(l, "MSAL Go"):
				x.calls, err = serviceGo(st, caller, g)
			default:
				x.calls, err = serviceNode(t, st, caller, g)
			}
			if err != nil {
				t.Errorf("%s: %v", x.name, err)
				continue
			}
			all = append(all, x)
		}
	}
	// again makes every call of every combination once, until it is answered by the one or the other.
	again := func(when string, backup bool, within time.Duration) {
		deadline := time.Now().Add(within)
		for _, x := range all {
			for i, call := range x.calls {
				for !x.lost {
					got, err := call(ctx)
					if err == nil {
						err = st.checkConfidential(ctx, got, backup)
					}
					if err == nil {
						break
					}
					if time.Now().After(deadline) || !strings.Contains(err.Error(), "signed by the backup") {
						t.Errorf("%s, call %d, %s: %v", x.name, i+1, when, err)
						x.lost = true
					}
					time.Sleep(300 * time.Millisecond)
				}
			}
		}
	}
	again("healthy", false, 0)
	if s.consent {
		if err := caller.renew(ctx); err != nil { // for as long as it goes on
			t.Fatal(err)
		}
	}
	time.Sleep(1500 * time.Millisecond) // Keycloak's database writes behind
	s.deployment.primary.Kill()
	again("in the outage", true, 0)
	if s.consent {
		if err := caller.renew(ctx); err != nil {
			t.Fatal(err)
		}
		if !isBackup(caller.assertion()) {
			t.Error("the assertion is not the backup's")
		}
		again("in the outage, with the backup's assertion", true, 0)
	}
	if err := s.deployment.primary.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if s.consent {
		for end := time.Now().Add(40 * time.Second); isBackup(caller.assertion()) && time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
			if err := caller.renew(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	again("after the return", false, 40*time.Second)
	var whole []string
	for _, x := range all {
		if !x.lost {
			whole = append(whole, x.name)
		}
	}
	return whole
}

// checkConfidential verifies tokens with the published keys, and says which key must have signed.
func (s *site) checkConfidential(ctx context.Context, t *tokens, backup bool) error {
	ctx = oidc.ClientContext(ctx, &http.Client{Transport: shared.transport()})
	for what, raw := range map[string]string{"access_token": t.Access, "id_token": t.ID} {
		if raw == "" && what == "id_token" {
			continue // nobody's
		}
		if _, err := s.provider.Verifier(&oidc.Config{SkipClientIDCheck: true}).Verify(ctx, raw); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if isBackup(raw) != backup {
			return fmt.Errorf("%s: signed by the backup: %v", what, !backup)
		}
	}
	return nil
}

// byCode signs somebody in at a confidential client; then the application is opened anew in the same browser, by a fresh instance of
// the library, and the first instance renews what it holds.
func byCode(ctx context.Context, t *testing.T, s *site, open func() (client, error)) ([]func(context.Context) (*tokens, error), error) {
	first, err := open()
	if err != nil {
		return nil, err
	}
	t.Cleanup(first.close)
	b := &idptest.Browser{Transport: shared.transport()}
	if _, err := s.signInWith(ctx, first, b, "alice"); err != nil {
		return nil, err
	}
	anew := func(ctx context.Context) (*tokens, error) {
		c, err := open()
		if err != nil {
			return nil, err
		}
		defer c.close()
		to, err := c.begin(ctx)
		if err != nil {
			return nil, err
		}
		// Keycloak's session in the browser is over once it gave an offline token: while it is there it asks again.
		back, err := s.visitWith(ctx, b, strings.Replace(to, "prompt=consent", "", 1), "alice")
		if err != nil {
			return nil, err
		}
		return c.finish(ctx, back)
	}
	return []func(context.Context) (*tokens, error){anew, first.refresh}, nil
}

// caller is a single-page application that calls the service, and its access token.
type caller struct {
	st *site
	c  *goClient
}

func (x *caller) signIn(ctx context.Context) error {
	x.c = newGoClient(x.st, "spa", "")
	x.c.c.Scopes = append(x.c.c.Scopes, "api")
	_, err := x.st.signInWith(ctx, x.c, &idptest.Browser{Transport: shared.transport()}, "alice")
	return err
}

func (x *caller) renew(ctx context.Context) error {
	_, err := x.c.refresh(ctx)
	return err
}

func (x *caller) assertion() string { return x.c.tok.AccessToken }

// newConfidentialGo makes a confidential client of MSAL Go with an empty cache.
func newConfidentialGo(s *site, id string, via http.RoundTripper) (confidential.Client, error) {
	cred, err := confidential.NewCredFromSecret(id + "-secret")
	if err != nil {
		return confidential.Client{}, err
	}
	return confidential.New(s.u.URL()+s.msalGo, id, cred, confidential.WithInstanceDiscovery(false), confidential.WithHTTPClient(&http.Client{Transport: via}))
}

// serviceGo asks with a fresh instance each time, and with one whose cache has what came before and is about to end.
func serviceGo(s *site, from *caller, grant string) ([]func(context.Context) (*tokens, error), error) {
	id, scope := s.service()
	kept, err := newConfidentialGo(s, id, shared.transport())
	if err != nil {
		return nil, err
	}
	ask := func(ctx context.Context, c confidential.Client) (*tokens, error) {
		var r confidential.AuthResult
		var err error
		if grant == "on behalf of" {
			r, err = c.AcquireTokenOnBehalfOf(ctx, from.assertion(), []string{scope})
		} else {
			r, err = c.AcquireTokenByCredential(ctx, []string{scope})
		}
		if err != nil {
			return nil, err
		}
		return &tokens{ID: r.IDToken.RawToken, Access: r.AccessToken}, nil
	}
	fresh := func(ctx context.Context) (*tokens, error) {
		c, err := newConfidentialGo(s, id, shared.transport())
		if err != nil {
			return nil, err
		}
		return ask(ctx, c)
	}
	if grant == "on behalf of" { // its token lives an hour: what is kept needs nobody
		return []func(context.Context) (*tokens, error){fresh}, nil
	}
	return []func(context.Context) (*tokens, error){fresh, func(ctx context.Context) (*tokens, error) { return ask(ctx, kept) }}, nil
}

func serviceNode(t *testing.T, s *site, from *caller, grant string) ([]func(context.Context) (*tokens, error), error) {
	n, err := idptest.StartNodeClient("msal-confidential.js", shared.authority.CAFile, filepath.Join(t.TempDir(), "msal-confidential.log"))
	if err != nil {
		return nil, err
	}
	t.Cleanup(n.Close)
	id, scope := s.service()
	return []func(context.Context) (*tokens, error){func(ctx context.Context) (*tokens, error) {
		args := map[string]any{"issuer": s.issuer(s.u), "clientId": id, "secret": id + "-secret", "scope": scope}
		command := "app"
		if grant == "on behalf of" {
			command, args["assertion"] = "behalf", from.assertion()
		}
		var got tokens
		return &got, n.Do(ctx, command, args, &got)
	}}, nil
}

// confidentialGo is MSAL Go's confidential client where a person signs in.
type confidentialGo struct {
	s        *site
	c        confidential.Client
	verifier string
	account  confidential.Account
}

func openConfidentialGo(s *site) (client, error) {
	c, err := newConfidentialGo(s, s.postClient(), shared.transport())
	if err != nil {
		return nil, err
	}
	return &confidentialGo{s: s, c: c, verifier: oauth2.GenerateVerifier()}, nil
}

func (m *confidentialGo) begin(ctx context.Context) (string, error) {
	to, err := m.c.AuthCodeURL(ctx, m.s.postClient(), redirect, []string{"email", "openid", "profile", "offline_access"})
	if err != nil {
		return "", err
	}
	return m.s.proved(to, m.verifier)
}

func (m *confidentialGo) finish(ctx context.Context, back *url.URL) (*tokens, error) {
	return m.take(m.c.AcquireTokenByAuthCode(ctx, back.Query().Get("code"), redirect, []string{"email"}, confidential.WithChallenge(m.verifier)))
}

func (m *confidentialGo) refresh(ctx context.Context) (*tokens, error) {
	return m.take(m.c.AcquireTokenSilent(ctx, []string{"email"}, confidential.WithSilentAccount(m.account)))
}

func (m *confidentialGo) take(r confidential.AuthResult, err error) (*tokens, error) {
	if err != nil {
		return nil, err
	}
	m.account = r.Account
	return &tokens{ID: r.IDToken.RawToken, Access: r.AccessToken}, nil
}

func (m *confidentialGo) close() {}
