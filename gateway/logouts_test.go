package gateway_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"understudy/audit"
	"understudy/backup/notice"
	"understudy/gateway"
	"understudy/gateway/page"
	"understudy/idptest"
	"understudy/session"
)

// party is a relying party that is told of logouts over the back channel. It verifies a logout token as OpenID Connect Back-Channel
// Logout, section 2.6, asks for, with the key set that it fetches itself.
type party struct {
	*httptest.Server
	mu     sync.Mutex
	tokens []string
	reply  func(http.ResponseWriter, *http.Request) // nil: 200
}

func newParty(t *testing.T) *party {
	p := &party{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.tokens = append(p.tokens, r.PostFormValue("logout_token"))
		if p.reply != nil {
			p.reply(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

// answers sets what it answers.
func (p *party) answers(f func(http.ResponseWriter, *http.Request)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reply = f
}

// heard are the logout tokens so far.
func (p *party) heard() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.tokens)
}

// next waits for the n-th logout token.
func (p *party) next(t *testing.T, n int) string {
	t.Helper()
	waitFor(t, fmt.Sprintf("logout token %d", n), func() bool { return len(p.heard()) >= n })
	if all := p.heard(); len(all) >= n {
		return all[n-1]
	}
	t.FailNow()
	return ""
}

// logoutClaims are what a relying party reads.
type logoutClaims struct {
	SID    string                     `json:"sid"`
	Nonce  *string                    `json:"nonce"`
	JTI    string                     `json:"jti"`
	Events map[string]json.RawMessage `json:"events"`
}

// accepts verifies a logout token by the key set of an issuer.
func accepts(ctx context.Context, issuer, client, token string) (sub, sid string, err error) {
	p, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return "", "", err
	}
	tok, err := p.Verifier(&oidc.Config{ClientID: client}).Verify(ctx, token)
	if err != nil {
		return "", "", err
	}
	var c logoutClaims
	if err := tok.Claims(&c); err != nil {
		return "", "", err
	}
	head, _, _ := strings.Cut(token, ".")
	event, ok := c.Events["http://schemas.openid.net/event/backchannel-logout"]
	switch {
	case claimOf(head, "typ") != "logout+jwt":
		return "", "", fmt.Errorf("typ %q", claimOf(head, "typ"))
	case c.Nonce != nil:
		return "", "", fmt.Errorf("it has a nonce")
	case !ok || !strings.HasPrefix(string(event), "{"):
		return "", "", fmt.Errorf("no logout event: %v", c.Events)
	case tok.Subject == "" && c.SID == "" || c.JTI == "":
		return "", "", fmt.Errorf("neither sub nor sid, or no jti")
	case time.Since(tok.IssuedAt).Abs() > time.Minute || time.Until(tok.Expiry) > 5*time.Minute:
		return "", "", fmt.Errorf("issued %v, until %v", tok.IssuedAt, tok.Expiry)
	}
	return tok.Subject, c.SID, nil
}

// shapeOf is what a part of a JWT is made of: names and JSON types, and the values that are the same for everybody.
func shapeOf(t *testing.T, part string) string {
	t.Helper()
	o, err := session.ParseObject(must(base64.RawURLEncoding.DecodeString(part)))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range o {
		x := m.Name + ":" + string(m.Value.Kind())
		if slices.Contains([]string{"alg", "typ", "aud", "iss", "events"}, m.Name) {
			x += string(m.Value)
		}
		out = append(out, x)
	}
	return strings.Join(out, " ")
}

// told makes Keycloak tell a client of logouts.
func told(t *testing.T, kc *idptest.Keycloak, realm, client, uri string) {
	t.Helper()
	var clients []map[string]any
	if err := json.Unmarshal(administer(t, kc, http.MethodGet, realm+"/clients?clientId="+client, nil), &clients); err != nil || len(clients) != 1 {
		t.Fatalf("client %s: %v", client, err)
	}
	clients[0]["attributes"].(map[string]any)["backchannel.logout.url"] = uri
	administer(t, kc, http.MethodPut, realm+"/clients/"+clients[0]["id"].(string), clients[0])
}

func (r *rig) logoutAt(realm, hint string, more ...string) string {
	q := url.Values{"id_token_hint": {hint}}
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return r.realm(realm) + "/protocol/openid-connect/logout?" + q.Encode()
}

// Who signs out while the primary is dead is signed out of the applications too: by a logout token like the primary's, and by
// frames on the page.
func TestRelyingPartiesAreToldOfALogout(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	rp, strange := newParty(t), newParty(t)
	frame := "https://rp.example/frontchannel?x=1"
	r := newRig(t, kc.URL(), func(x *gateway.Tenant) {
		x.Logouts = map[string]gateway.Logout{
			"web":  {Backchannel: notice.Client{URI: rp.URL, SessionRequired: true}, Frontchannel: frame},
			"code": {Backchannel: notice.Client{URI: strange.URL}}, // nobody signs in to it
		}
	})
	told(t, kc, "rot", "web", rp.URL)
	defer func() { told(t, kc, "rot", "web", "") }()

	bob := &idptest.Browser{}
	kb := r.tab("rot", "web", "web-secret", bob).signIn("bob")
	if _, _, err := bob.Get(ctx, r.logoutAt("rot", kb.IDToken, "post_logout_redirect_uri", "http://127.0.0.1:9999/bye")); err != nil {
		t.Fatal(err)
	}
	primarys := rp.next(t, 1)
	waitFor(t, "where a logout leads is learned", func() bool { return r.learnedFlow("post_logout_redirect_uri") > 0 })

	alice, other := &idptest.Browser{}, &idptest.Browser{}
	ka := r.tab("rot", "web", "web-secret", alice).signIn("alice")
	r.tab("rot", "spa", "", alice).signIn("alice")
	ko := r.tab("rot", "web", "web-secret", other).signIn("bob")
	settled()
	kc.Kill()
	defer kc.Restart(ctx)

	resp, page, err := alice.Get(ctx, r.logoutAt("rot", ka.IDToken, "post_logout_redirect_uri", "http://127.0.0.1:9999/bye", "state", "s&1",
		"backchannel_logout_uri", strange.URL, "frontchannel_logout_uri", strange.URL))
	if err != nil {
		t.Fatal(err)
	}
	ours := rp.next(t, 2)
	sub, sid, err := accepts(ctx, r.realm("rot"), "web", ours)
	if err != nil || sub != ka.claim("sub") || sid != ka.claim("sid") || !strings.HasPrefix(kid(ours), "bk-") {
		t.Errorf("the logout token: %v, sub %q sid %q, key %s", err, sub, sid, kid(ours))
	}
	t.Run("like the primary's", func(t *testing.T) {
		a, b := strings.Split(primarys, "."), strings.Split(ours, ".")
		for i := range 2 {
			if shapeOf(t, a[i]) != shapeOf(t, b[i]) {
				t.Errorf("part %d\nprimary %s\nbackup  %s", i, shapeOf(t, a[i]), shapeOf(t, b[i]))
			}
		}
	})
	t.Run("page", func(t *testing.T) {
		want := frame + "&" + url.Values{"iss": {r.realm("rot")}, "sid": {ka.claim("sid")}}.Encode()
		if resp.StatusCode != http.StatusOK || strings.Count(page, "<iframe") != 1 || !strings.Contains(page, `src="`+strings.ReplaceAll(want, "&", "&amp;")+`"`) {
			t.Errorf("%d, want a frame of %s: %s", resp.StatusCode, want, page)
		}
		if p := resp.Header.Get("Content-Security-Policy"); !strings.Contains(p, "frame-src https://rp.example") || strings.Contains(p, "127.0.0.1") {
			t.Errorf("policy %s", p)
		}
		if x := resp.Header.Get("Refresh"); !strings.HasSuffix(x, ";url=http://127.0.0.1:9999/bye?state=s%261") {
			t.Errorf("Refresh: %s", x)
		}
	})
	t.Run("lines", func(t *testing.T) {
		r.line(t, "the logout", func(e audit.Entry) bool {
			return e.Rule == "ended_here" && slices.Equal(e.Told, []string{"web"}) && slices.Equal(e.Untold, []string{"spa"})
		})
		r.line(t, "the logout token", func(e audit.Entry) bool {
			return e.Rule == "logout_told" && e.Client == "web" && e.Session == sid && e.Key == kid(ours)
		})
	})
	t.Run("no evidence", func(t *testing.T) {
		// Who was told holds the token. It signs nobody out and is exchanged for nothing.
		for range 2 {
			resp, body, err := (&idptest.Browser{}).Get(ctx, r.logoutAt("rot", ours))
			if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("as a hint: %v %d %.200s", err, resp.StatusCode, body)
			}
		}
		if k := r.token("rot", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {ours},
			"subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"}}); k.AccessToken != "" {
			t.Error("it is exchanged")
		}
	})
	t.Run("stranger's browser", func(t *testing.T) {
		// With her own ID token she must not sign him out of applications that look at no sid.
		him := other.Clone()
		resp, page, err := him.Get(ctx, r.logoutAt("rot", ka.IDToken, "post_logout_redirect_uri", "http://127.0.0.1:9999/bye"))
		if err != nil || strings.Contains(page, "<iframe") {
			t.Errorf("%v %d %s", err, resp.StatusCode, page)
		}
	})
	t.Run("repeated", func(t *testing.T) {
		n := len(rp.heard())
		for range 5 {
			if _, _, err := alice.Get(ctx, r.logoutAt("rot", ka.IDToken)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(1500 * time.Millisecond)
		if len(rp.heard()) != n {
			t.Errorf("%d more logout tokens", len(rp.heard())-n)
		}
	})
	t.Run("redirect and restart", func(t *testing.T) {
		rp.answers(func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, strange.URL, http.StatusTemporaryRedirect)
		})
		n := len(rp.heard())
		if _, _, err := other.Get(ctx, r.logoutAt("rot", ko.IDToken)); err != nil {
			t.Fatal(err)
		}
		rp.next(t, n+1)
		r.restart()
		rp.answers(nil)
		waitFor(t, "it is told after the restart", func() bool {
			all := rp.heard()
			_, sid, err := accepts(ctx, r.realm("rot"), "web", all[len(all)-1])
			return err == nil && len(all) > n+1 && sid == ko.claim("sid")
		})
	})
	if n := len(strange.heard()); n != 0 {
		t.Errorf("a place of no client's that took part was asked %d times", n)
	}
}

// Whom nobody tells of a logout, because no logout URI of theirs is configured, is named in its line and to the person, as far as the
// browser shows: to whoever signs out with it, and in no other's.
func TestWhoIsNotNotifiedOfALogout(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	public(t, kc, "wiki", "https://wiki.example/cb")
	r := newRig(t, kc.URL(), func(t *gateway.Tenant) { t.Applications = map[string]page.Application{"wiki": {Name: "Our wiki"}} })
	alice, bob := &idptest.Browser{}, &idptest.Browser{}
	ka := r.tab("rot", "web", "web-secret", alice).signIn("alice")
	r.tab("rot", "wiki", "", alice).signInTo("https://wiki.example/cb", "alice")
	at := "http://" + strings.TrimPrefix(r.url, "http://") + "/inside"
	public(t, kc, "inside", at)
	r.tab("rot", "inside", "", alice).signInTo(at, "alice") // at the primary's own host: nobody can open it, and it took part
	kb := r.tab("rot", "web", "web-secret", bob).signIn("bob")
	settled()
	kc.Kill()
	defer kc.Restart(ctx)
	signOut := func(b *idptest.Browser, hint string) string {
		t.Helper()
		resp, body, err := b.Get(ctx, r.logoutAt("rot", hint))
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v %d %.300s", err, resp.StatusCode, body)
		}
		return body
	}
	if body := signOut(alice.Clone(), kb.IDToken); strings.Contains(body, "Our wiki") {
		t.Error("with another's hint the browser's applications are told")
	}
	body := signOut(alice, ka.IDToken)
	for _, name := range []string{"Our wiki", "inside"} {
		if !strings.Contains(body, "<li><bdi>"+name+"</bdi></li>") {
			t.Errorf("the person is not told of %s: %s", name, body)
		}
	}
	if strings.Contains(body, "<bdi>web</bdi>") {
		t.Error("the person is told of the application that sent them")
	}
	r.line(t, "the logout", func(e audit.Entry) bool {
		return e.Rule == "ended_here" && len(e.Told) == 0 && slices.Equal(e.Untold, []string{"inside", "web", "wiki"})
	})
	r.line(t, "the logout with another's hint", func(e audit.Entry) bool {
		return e.Rule == "ended_here" && len(e.Told) == 0 && slices.Equal(e.Untold, []string{"web"})
	})
}
