package gateway_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"understudy/audit"
	"understudy/idptest"
	"understudy/session"
)

// Who signs out, or lets somebody else sign in, closes what the browser could open.
func TestBrowserIsClosed(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	defer kc.Restart(ctx)
	logout := func(r *rig, b *idptest.Browser, q url.Values) {
		t.Helper()
		at := r.realm("rot") + "/protocol/openid-connect/logout?" + q.Encode()
		if q.Get("id_token_hint") == "" { // Keycloak asks the person
			if _, err := b.Visit(ctx, at, "never", nil); err != nil && !strings.Contains(err.Error(), "without a form") {
				t.Fatal(err)
			}
			return
		}
		if _, _, err := b.Get(ctx, at); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		end  func(r *rig, b *idptest.Browser, k *tokens)
		dead bool // the primary is
		next bool // somebody else goes on
	}{
		"a logout with a hint": {end: func(r *rig, b *idptest.Browser, k *tokens) {
			logout(r, b, url.Values{"id_token_hint": {k.IDToken}})
		}},
		"a logout by a person": {end: func(r *rig, b *idptest.Browser, _ *tokens) { logout(r, b, url.Values{"client_id": {"web"}}) }},
		"somebody else": {next: true, end: func(r *rig, b *idptest.Browser, _ *tokens) {
			b.Take("KEYCLOAK_IDENTITY", &idptest.Browser{})
			b.Take("AUTH_SESSION_ID", &idptest.Browser{})
			r.tab("rot", "spa", "", b).signIn("bob")
		}},
		"a logout in the outage": {dead: true, end: func(r *rig, b *idptest.Browser, k *tokens) {
			logout(r, b, url.Values{"id_token_hint": {k.IDToken}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := kc.Restart(ctx); err != nil {
				t.Fatal(err)
			}
			front := behind(t, kc.URL())
			r := newRig(t, front.URL())
			b := &idptest.Browser{}
			k := r.tab("rot", "web", "web-secret", b).signIn("alice")
			settled()
			was := b.Clone() // somebody kept her cookies
			if !c.dead {
				c.end(r, b, k)
			}
			kc.Kill()
			if c.dead {
				if code, _ := r.tab("rot", "web", "web-secret", was).silent(); code == "" {
					t.Fatal("not served")
				}
				c.end(r, b, k)
				if b.Cookie("KEYCLOAK_IDENTITY") != "" {
					t.Error("the browser has the primary's cookie still")
				}
			}
			if resp, _ := r.tab("rot", "web", "web-secret", was).once(); resp.Header.Get("Location") != "" {
				t.Error("her doors are open to her old cookies")
			}
			if resp, _ := r.tab("rot", "web", "web-secret", b).once(); resp.Header.Get("Location") != "" {
				t.Error("her doors are open to the browser")
			}
			if c.next {
				x := r.tab("rot", "spa", "", b)
				code, _ := x.silent()
				if k := x.redeem(code); !k.byBackup() || k.claim("preferred_username") != "bob" {
					t.Errorf("the next one: %v", k)
				}
			}
			r.restart()
			if resp, _ := r.tab("rot", "web", "web-secret", was).once(); resp.Header.Get("Location") != "" {
				t.Error("after a restart her doors are open")
			}
			if !c.dead {
				return
			}
			// The primary does not know that she signed out, and is not told: what it would let in is not let in.
			fault(t, front, idptest.Fault{Kind: idptest.ServerError, Status: http.StatusServiceUnavailable, Match: func(q *http.Request) bool {
				return strings.HasSuffix(q.URL.Path, "/logout")
			}})
			if err := kc.Restart(ctx); err != nil {
				t.Fatal(err)
			}
			r.back()
			for _, mode := range []string{"form_post", "fragment", "form_post.jwt"} {
				y := r.tab("rot", "spa", "", was).with("response_type", "id_token").with("response_mode", mode).with("code_challenge", "").with("code_challenge_method", "")
				if resp, page := y.once(); strings.Contains(strings.ToLower(page), `name="id_token"`) || strings.Contains(strings.ToLower(page), `name="response"`) || resp.Header.Get("Location") != "" {
					t.Errorf("her old cookies, by %s: %d %s %.300s", mode, resp.StatusCode, resp.Header.Get("Location"), page)
				}
			}
			r.line(t, "the answer that was kept back", func(e audit.Entry) bool {
				return e.Flow == "authorization" && e.Rule == "revoked" && e.Trigger == "revoked_here"
			})
			x := r.tab("rot", "web", "web-secret", was)
			code, _ := x.silent()
			if k := x.redeem(code); k.AccessToken != "" || k.Error != "invalid_grant" {
				t.Errorf("her old cookies, at the primary: %v", k)
			}
			r.line(t, "the refusal", func(e audit.Entry) bool {
				return e.Flow == "authorization_code" && e.Rule == "revoked" && e.Trigger == "revoked_here"
			})
			if k := r.tab("rot", "web", "web-secret", b).signIn("alice"); k.AccessToken == "" {
				t.Errorf("she signs in anew: %v", k)
			}
		})
	}
}

// Browsers do as with the primary alone: tabs in flight at once, an authorization that was begun and never finished, another
// issuer on the same host.
func TestBrowserTabs(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	ctx := context.Background()
	b := &idptest.Browser{}
	r.tab("rot", "web", "web-secret", b).signIn("alice")
	// Two tabs are restored at once: both answers replace the cookies, in an order that nobody knows.
	first, second := r.tab("rot", "web", "web-secret", b), r.tab("rot", "spa", "", b)
	one, two := b.Clone(), b.Clone()
	first.browser, second.browser = one, two
	code1, _ := first.silent()
	code2, _ := second.silent()
	n := r.learnedFlow("authorization")
	// A third begins with cookies whose code nobody has redeemed yet.
	third := r.tab("rot", "web", "web-secret", two).with("scope", "openid")
	code3, _ := third.silent()
	for x, code := range map[*tab]string{first: code1, second: code2, third: code3} {
		if k := x.redeem(code); k.AccessToken == "" {
			t.Fatalf("%v", k)
		}
	}
	// One is begun and left.
	r.tab("rot", "web", "web-secret", two.Clone()).with("prompt", "login").once()
	// Somebody signs in at another issuer of the same host with the same browser.
	elsewhere := r.tab("norot", "web", "web-secret", two)
	elsewhere.signIn("bob")
	waitFor(t, "they are learned", func() bool { return r.learnedFlow("authorization") >= n+4 })
	kc.Kill()
	defer kc.Restart(ctx)
	for _, x := range []*tab{
		r.tab("rot", "web", "web-secret", two), r.tab("rot", "spa", "", two), r.tab("rot", "web", "web-secret", two).with("scope", "openid"),
		r.tab("norot", "web", "web-secret", two),
	} {
		code, _ := x.silent()
		k := x.redeem(code)
		if want := map[string]string{"rot": "alice", "norot": "bob"}[x.realm]; !k.byBackup() || k.claim("preferred_username") != want {
			t.Errorf("%s %s: %v, want %s", x.realm, x.query.Get("client_id"), k, want)
		}
	}
	t.Run("after a restart", func(t *testing.T) {
		r.restart()
		x := r.tab("rot", "spa", "", two)
		code, _ := x.silent()
		if k := x.redeem(code); !k.byBackup() {
			t.Errorf("%v", k)
		}
	})
	t.Run("a private window", func(t *testing.T) {
		if resp, _ := r.tab("rot", "web", "web-secret", &idptest.Browser{}).once(); resp.Header.Get("Location") != "" {
			t.Error(resp.Header)
		}
	})
}

// A logout in an outage leads where the primary was seen to send people after one, and nowhere else (OpenID Connect RP-Initiated
// Logout, section 3).
func TestBrowserIsSentBack(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	r := newRig(t, kc.URL())
	const bye = "http://127.0.0.1:9999/bye"
	logout := func(b *idptest.Browser, hint, to string) *http.Response {
		t.Helper()
		q := url.Values{"id_token_hint": {hint}, "post_logout_redirect_uri": {to}, "state": {"s&1"}}
		resp, _, err := b.Get(ctx, r.realm("rot")+"/protocol/openid-connect/logout?"+q.Encode())
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	b := &idptest.Browser{}
	k := r.tab("rot", "web", "web-secret", b).signIn("alice")
	was := logout(b, k.IDToken, bye).Header.Get("Location")
	if was != bye+"?state=s%261" {
		t.Fatalf("the primary leads to %q", was)
	}
	waitFor(t, "that is learned", func() bool { return r.learnedFlow("post_logout_redirect_uri") > 0 })
	one, two, three := &idptest.Browser{}, &idptest.Browser{}, &idptest.Browser{}
	k1, k2 := r.tab("rot", "web", "web-secret", one).signIn("alice"), r.tab("rot", "web", "web-secret", two).signIn("bob")
	k3 := r.tab("rot", "spa", "", three).signIn("alice")
	kc.Kill()
	defer kc.Restart(ctx)
	if resp := logout(one, k1.IDToken, bye); resp.StatusCode != http.StatusFound || resp.Header.Get("Location") != was {
		t.Errorf("%d %s", resp.StatusCode, resp.Header.Get("Location"))
	}
	for _, to := range []string{bye + "/", bye + "?x", "http://127.0.0.1:9999@evil.example/bye", "HTTP://127.0.0.1:9999/bye", "http://127.0.0.1:9999/BYE", "//evil.example"} {
		if resp := logout(two, k2.IDToken, to); resp.Header.Get("Location") != "" {
			t.Errorf("%s: %s", to, resp.Header.Get("Location"))
		}
	}
	if resp := logout(three, k3.IDToken, bye); resp.Header.Get("Location") != "" {
		t.Errorf("of another client: %s", resp.Header.Get("Location"))
	}
}

// A primary that asks the person first leads on from another page, and where that goes is learned too.
func TestBrowserIsSentBackAfterAQuestion(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	r := newRig(t, kc.URL())
	const bye = "http://127.0.0.1:9999/bye"
	logout := func(more ...string) string {
		q := url.Values{"post_logout_redirect_uri": {bye}, "state": {"s&1"}}
		for i := 0; i+1 < len(more); i += 2 {
			q.Set(more[i], more[i+1])
		}
		return r.realm("rot") + "/protocol/openid-connect/logout?" + q.Encode()
	}
	b, other := &idptest.Browser{}, &idptest.Browser{}
	r.tab("rot", "web", "web-secret", b).signIn("alice")
	k := r.tab("rot", "web", "web-secret", other).signIn("alice")
	at, err := b.Visit(ctx, logout("client_id", "web"), bye, map[string]string{"confirmLogout": "Logout"})
	if err != nil || at.String() != bye+"?state=s%261" {
		t.Fatalf("the primary: %v %v", at, err)
	}
	waitFor(t, "that is learned", func() bool { return r.learnedFlow("post_logout_redirect_uri") > 0 })
	kc.Kill()
	defer kc.Restart(ctx)
	resp, _, err := other.Get(ctx, logout("id_token_hint", k.IDToken))
	if err != nil || resp.Header.Get("Location") != bye+"?state=s%261" {
		t.Errorf("%v %d %s", err, resp.StatusCode, resp.Header.Get("Location"))
	}
}

// Whoever signs out is signed out here too, whatever tab was under way; whose hint it is decides who; and what was ended here goes
// out in no redirect.
func TestBrowserEnds(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	r := newRig(t, kc.URL())
	one, two, three := &idptest.Browser{}, &idptest.Browser{}, &idptest.Browser{}
	r.tab("rot", "web", "web-secret", one).signIn("alice")
	bob := r.tab("rot", "web", "web-secret", two).signIn("bob")
	implicit := func(b *idptest.Browser) *tab {
		return r.tab("rot", "spa", "", b).with("response_type", "id_token").with("code_challenge", "").with("code_challenge_method", "")
	}
	n := r.learnedFlow("authorization")
	action := r.tab("rot", "web", "web-secret", two).with("kc_action", "UPDATE_PROFILE")
	at, err := two.Visit(ctx, r.realm("rot")+"/protocol/openid-connect/auth?"+action.query.Encode(), callback, map[string]string{"username": "bob", "email": "bob@example.test", "firstName": "Bob", "lastName": "Test"})
	if err != nil || at.Query().Get("kc_action_status") == "" {
		t.Fatalf("%v %v", at, err)
	}
	if k := action.redeem(at.Query().Get("code")); k.AccessToken == "" {
		t.Fatalf("%v", k)
	}
	again := r.tab("rot", "web", "web-secret", two)
	code, _ := again.silent()
	if k := again.redeem(code); k.AccessToken == "" {
		t.Fatalf("%v", k)
	}
	waitFor(t, "the browser is learned", func() bool { return r.learnedFlow("authorization") > n })
	// A silent sign-on whose code nobody redeems, then a logout by the person.
	old := one.Clone()
	r.tab("rot", "spa", "", one).silent()
	if _, err := one.Visit(ctx, r.realm("rot")+"/protocol/openid-connect/logout?client_id=web", "never", nil); err != nil && !strings.Contains(err.Error(), "without a form") {
		t.Fatal(err)
	}
	// A session that an operator ended, of which the primary has not heard.
	carol := r.tab("norot", "web", "web-secret", three).signIn("alice")
	m := session.Mark{Of: session.OfSession, ID: r.seal.Pseudonym("session", "default", r.realm("norot"), carol.claim("sid")), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := r.backup.Mark(ctx, "default", m); err != nil {
		t.Fatal(err)
	}
	x := implicit(three)
	x.realm = "norot"
	if resp, _ := x.once(); strings.Contains(resp.Header.Get("Location"), "id_token=") {
		t.Error("an ID token of a session that was ended here")
	}
	// An access token that the primary revoked.
	if s, o := r.introspect("rot", "svc", "svc-secret", bob.AccessToken); s != http.StatusOK || string(o.Get("active")) != "true" {
		t.Fatalf("%d %s", s, o.Append(nil))
	}
	waitFor(t, "who is told is learned", func() bool { return r.learnedFlow("introspection") > 0 })
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, r.realm("rot")+"/protocol/openid-connect/revoke", strings.NewReader(url.Values{"token": {bob.AccessToken}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	q.SetBasicAuth("web", "web-secret")
	resp, err := http.DefaultClient.Do(q)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(err, resp)
	}
	resp.Body.Close()
	settled()
	kc.Kill()
	defer kc.Restart(ctx)
	if resp, _ := r.tab("rot", "web", "web-secret", old).once(); resp.Header.Get("Location") != "" {
		t.Error("cookies from before her logout are let in")
	}
	if resp, _ := action.once(); resp.Header.Get("Location") != "" {
		t.Errorf("an action is said to be done: %s", resp.Header.Get("Location"))
	}
	if s, o := r.introspect("rot", "svc", "svc-secret", bob.AccessToken); s != http.StatusOK || string(o.Get("active")) != "false" {
		t.Errorf("the revoked token: %d %s", s, o.Append(nil))
	}
	// Somebody else's hint in bob's browser.
	if _, _, err := two.Get(ctx, r.realm("rot")+"/protocol/openid-connect/logout?"+url.Values{"id_token_hint": {carol.IDToken}}.Encode()); err != nil {
		t.Fatal(err)
	}
	if code, _ := r.tab("rot", "web", "web-secret", two).silent(); code == "" || two.Cookie("KEYCLOAK_IDENTITY") == "" {
		t.Error("a stranger's ID token signs him out")
	}
}

// Whoever comes back when the session at the primary is over signs in anew, and that is learned: the page that asks takes the old
// session's cookie away.
func TestBrowserSignsInAgain(t *testing.T) {
	kc := keycloak(t)
	r := newRig(t, kc.URL())
	b := &idptest.Browser{}
	r.tab("rot", "web", "web-secret", b).signIn("alice")
	endSessions(t, kc, "rot", "alice")
	was := b.Clone()
	r.tab("rot", "web", "web-secret", b).signIn("alice")
	settled()
	kc.Kill()
	defer kc.Restart(context.Background())
	x := r.tab("rot", "web", "web-secret", b)
	code, _ := x.silent()
	if k := x.redeem(code); !k.byBackup() {
		t.Errorf("%v", k)
	}
	x = r.tab("rot", "web", "web-secret", was)
	if resp, _ := x.once(); resp.Header.Get("Location") != "" {
		t.Errorf("the cookies of the session that is over open something: %v", resp.Header)
	}
}
