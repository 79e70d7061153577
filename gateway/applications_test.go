package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"understudy/audit"
	"understudy/gateway"
	"understudy/gateway/page"
	"understudy/idptest"
	"understudy/session"
)

// listed are the applications that a page for a person names, with their links.
func listed(t *testing.T, body string) (out []string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == "script" {
			t.Errorf("the page has a script: %.400s", body)
		}
		if n.Type != html.ElementNode || n.Data != "li" {
			continue
		}
		link, text := "", ""
		for c := range n.Descendants() {
			for _, a := range c.Attr {
				if a.Key == "href" {
					link = a.Val
				}
			}
			if c.Type == html.TextNode && text == "" {
				text = c.Data
			}
		}
		out = append(out, text+" "+link)
	}
	return out
}

// limited asks for what only the primary can answer, and returns the applications on the page that comes.
func (r *rig) limited(t *testing.T, realm string, b *idptest.Browser) []string {
	t.Helper()
	resp, body := r.tab(realm, "web", "", b).with("prompt", "login").once()
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "Sign-in is limited") {
		t.Fatalf("%d %.300s", resp.StatusCode, body)
	}
	h := resp.Header
	if h.Get("Referrer-Policy") != "no-referrer" || !strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'; style-src 'sha256-") ||
		strings.Contains(h.Get("Content-Security-Policy"), "script") || h.Get("Cache-Control") != "no-store" || h.Get("X-Frame-Options") != "DENY" {
		t.Errorf("the page's headers: %v", h)
	}
	if h.Get("Access-Control-Allow-Origin") != "" {
		t.Error("another site may read the page")
	}
	return listed(t, body)
}

// public adds a public client to Keycloak.
func public(t *testing.T, kc *idptest.Keycloak, id string, redirects ...string) {
	t.Helper()
	addClient(t, kc, "rot", url.QueryEscape(id), "client-secret", map[string]any{
		"clientId": id, "publicClient": true, "serviceAccountsEnabled": false, "redirectUris": redirects, "webOrigins": []string{"https://pay.example"},
	})
}

// signInTo signs in to an application at its redirect URI, and waits until that is learned.
func (x *tab) signInTo(redirect, user string) *tokens {
	x.t.Helper()
	x.with("redirect_uri", redirect)
	was := x.r.learnedFlow("authorization")
	at, err := x.browser.Visit(x.t.Context(), x.r.realm(x.realm)+"/protocol/openid-connect/auth?"+x.query.Encode(), redirect,
		map[string]string{"username": user, "password": "pw-" + user})
	if err != nil {
		x.t.Fatalf("%s: %v", redirect, err)
	}
	k := x.redeem(at.Query().Get("code"))
	if k.AccessToken == "" {
		x.t.Fatalf("%s: %v", redirect, k)
	}
	waitFor(x.t, "the browser is learned", func() bool { return x.r.learnedFlow("authorization") > was })
	return k
}

// A person who sees the page is told what the backup would let them into now, by their own records, and nobody else is.
func TestApplicationsOnThePage(t *testing.T) {
	kc := keycloak(t)
	ctx := context.Background()
	defer kc.Restart(ctx)
	const hostile = `"><script>alert(1)</script>`
	for id, redirect := range map[string]string{
		"pay": "https://pay.example/app/cb", "wiki": "https://wiki.example:8443/cb", hostile: "https://evil.example/cb", "phone": "com.example.phone:/cb",
		"console": "http://127.0.0.1:7001/cb", "dev": "http://localhost:7002/cb", "aged": "https://aged.example/cb", "misled": "https://misled.example/cb",
	} {
		public(t, kc, id, redirect)
	}
	hosts := ""
	r := newRig(t, kc.URL(), func(t *gateway.Tenant) {
		hosts = t.Hosts[0]
		t.Applications = map[string]page.Application{
			"pay": {Name: "Payroll", URL: "https://start.example/pay"}, "aged": {Name: "Aged"}, "misled": {Name: "Misled", URL: "javascript:alert(1)"},
			"never": {Name: "Never opened", URL: "https://never.example/"},
		}
	})
	public(t, kc, "inside", "http://"+hosts+"/inside")
	b, byPage := &idptest.Browser{}, http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}}
	r.tab("rot", "wiki", "", b).signInTo("https://wiki.example:8443/cb", "alice")
	r.tab("rot", "pay", "", b).signInTo("https://pay.example/app/cb", "alice")
	r.tab("rot", "pay", "", b).with("scope", "openid").signInTo("https://pay.example/app/cb", "alice")
	hk := r.tab("rot", hostile, "", b).signInTo("https://evil.example/cb", "alice")
	r.tab("rot", "phone", "", b).signInTo("com.example.phone:/cb", "alice")
	r.tab("rot", "misled", "", b).signInTo("https://misled.example/cb", "alice")
	r.tab("rot", "inside", "", b).signInTo("http://"+hosts+"/inside", "alice")
	r.tab("rot", "aged", "", b).with("max_age", "3600").signInTo("https://aged.example/cb", "alice")
	for _, site := range []string{"", "none"} { // a native application opens the browser by itself
		b.Header = http.Header{}
		if site != "" {
			b.Header.Set("Sec-Fetch-Site", site)
		}
		r.tab("rot", "console", "", b).signInTo("http://127.0.0.1:7001/cb", "alice")
	}
	b.Header = byPage
	r.tab("rot", "dev", "", b).signInTo("http://localhost:7002/cb", "alice")
	b.Header = nil
	bob := &idptest.Browser{}
	r.tab("rot", "web", "web-secret", bob).signIn("bob")
	settled()
	kc.Kill()

	const evil = "evil.example https://evil.example/"
	all := []string{
		"Aged https://aged.example/", "console ", evil, "localhost:7002 http://localhost:7002/", "Misled ", "Payroll https://start.example/pay", "phone ",
		"wiki.example:8443 https://wiki.example:8443/",
	}
	have := r.limited(t, "rot", b)
	if !slices.Equal(have, all) {
		t.Errorf("alice sees\n%q, want\n%q", have, all)
	}
	r.line(t, "what alice was told", func(e audit.Entry) bool {
		return e.Decision == "shown" && e.Rule == "applications" && e.TokenIssuerType == "none" && e.Key == "" && e.Trigger == "page" && e.Address != "" &&
			e.Subject != "" && e.Session != "" && slices.Contains(e.Opens, hostile) && slices.Contains(e.Opens, "pay") && !slices.Contains(e.Opens, "inside")
	})
	if have := r.limited(t, "rot", bob); !slices.Equal(have, []string{"web "}) { // at a loopback address to which no page sent him
		t.Errorf("bob sees %q", have)
	}

	t.Run("from a script of another site", func(t *testing.T) {
		b := b.Clone()
		b.Header = http.Header{"Origin": {"https://pay.example"}}
		if have := r.limited(t, "rot", b); len(have) == 0 {
			t.Error("nothing to keep from anybody")
		}
	})
	nobody := func(what string, b *idptest.Browser) {
		t.Helper()
		lines := len(r.signIns())
		if have := r.limited(t, "rot", b); have != nil {
			t.Errorf("%s: %q", what, have)
		}
		for _, e := range r.signIns()[lines:] {
			if len(e.Opens) > 0 {
				t.Errorf("%s: %v", what, e.Opens)
			}
		}
	}
	stranger := func(change func(b *idptest.Browser)) *idptest.Browser {
		x := b.Clone()
		change(x)
		return x
	}
	primaries := func(b, from *idptest.Browser) {
		for _, n := range gateway.SessionCookies() {
			b.Take(n, from)
		}
	}
	nobody("a new browser", &idptest.Browser{})
	nobody("the gateway's cookie alone", stranger(func(b *idptest.Browser) { primaries(b, &idptest.Browser{}) }))
	nobody("the primary's cookies alone", stranger(func(b *idptest.Browser) { b.Take("understudy", &idptest.Browser{}) }))
	nobody("with bob's cookies of the primary", stranger(func(b *idptest.Browser) { primaries(b, bob) }))
	nobody("with bob's cookie of the gateway", stranger(func(b *idptest.Browser) { b.Take("understudy", bob) }))
	if have := r.limited(t, "norot", b); have != nil {
		t.Errorf("at another issuer: %q", have)
	}

	t.Run("after a restart, and when a grant is over", func(t *testing.T) {
		r.restart()
		st, err := r.backup.Standing(ctx, "default", r.seal.Lookup(session.RefreshToken, "default", r.realm("rot"), hk.RefreshToken))
		if err != nil || !st.Known {
			t.Fatal(st, err)
		}
		client := r.seal.Pseudonym("client", "default", r.realm("rot"), hostile)
		if err := r.backup.Mark(ctx, "default", session.Mark{Of: session.OfPair, ID: session.Pair(client, st.Subject), Final: true, At: time.Now().UnixNano(), Cause: "operator"}); err != nil {
			t.Fatal(err)
		}
		rest := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == evil })
		if have := r.limited(t, "rot", b); !slices.Equal(have, rest) {
			t.Errorf("alice sees\n%q, want\n%q", have, rest)
		}
	})
	t.Run("each is let in", func(t *testing.T) {
		x := r.tab("rot", "wiki", "", b).with("redirect_uri", "https://wiki.example:8443/cb")
		if resp, body := x.once(); !strings.HasPrefix(resp.Header.Get("Location"), "https://wiki.example:8443/cb?") {
			t.Errorf("%d %.300s", resp.StatusCode, body)
		}
	})
	was := b.Clone()
	if _, _, err := b.Get(ctx, r.realm("rot")+"/protocol/openid-connect/logout?"+url.Values{"id_token_hint": {hk.IDToken}}.Encode()); err != nil {
		t.Fatal(err)
	}
	nobody("after the logout", b)
	nobody("with the cookies from before the logout", was)
	r.restart()
	nobody("and after a restart", was)

	if err := r.backup.Mark(ctx, "default", session.Mark{
		Of: session.OfSubject, ID: r.seal.Pseudonym("subject", "default", r.realm("rot"), subjectOf(t, r, "bob")), Final: true, At: time.Now().UnixNano(), Cause: "operator",
	}); err != nil {
		t.Fatal(err)
	}
	nobody("bob, whom an operator ended", bob)
}

// subjectOf is the sub of a user, as the sign-in log has it.
func subjectOf(t *testing.T, r *rig, user string) string {
	t.Helper()
	for _, e := range r.signIns() {
		if len(e.Opens) == 1 && e.Opens[0] == "web" {
			return e.Subject
		}
	}
	t.Fatal("no line of ", user)
	return ""
}

// Where the failure may be the request's own doing a person is told of what would be opened then: nothing, to a browser of another name.
func TestApplicationsInDoubt(t *testing.T) {
	f := behind(t, keycloak(t).URL())
	r := newRig(t, f.URL())
	b := r.healthy(t, f)
	fault(t, f, idptest.Fault{Kind: idptest.ResetAfter, Match: atPath("/auth")})
	if have := r.limited(t, "norot", b); !slices.Equal(have, []string{"web "}) {
		t.Errorf("she sees %q", have)
	}
	b.Header = http.Header{"User-Agent": {"another"}}
	if have := r.limited(t, "norot", b); have != nil {
		t.Errorf("with another browser's name she sees %q", have)
	}
}

// However many applications somebody opened, the page names the last twenty.
func TestApplicationsAreBounded(t *testing.T) {
	kc := keycloak(t)
	defer kc.Restart(context.Background())
	var redirects []string
	for i := range session.MaxOpened + 3 {
		redirects = append(redirects, fmt.Sprintf("https://a%02d.example/cb", i))
	}
	public(t, kc, "many", redirects...)
	r := newRig(t, kc.URL())
	b := &idptest.Browser{}
	for _, at := range redirects {
		r.tab("rot", "many", "", b).signInTo(at, "alice")
	}
	settled()
	kc.Kill()
	have := r.limited(t, "rot", b)
	if len(have) != session.MaxOpened || have[0] != "a03.example https://a03.example/" || !slices.IsSorted(have) {
		t.Errorf("%d: %q", len(have), have)
	}
}
