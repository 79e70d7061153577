package gateway

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/session"
)

// SessionCookies are the cookies that carry the sessions of well-known primaries: Keycloak, oidc-provider, SimpleSAMLphp,
// LemonLDAP::NG, Hydra, Dex, Shibboleth, ADFS.
func SessionCookies() []string {
	return []string{
		"KEYCLOAK_IDENTITY", "_session", "SimpleSAMLAuthToken", "lemonldap", "ory_hydra_session", "dex_session", "shib_idp_session", "MSISAuth",
	}
}

const (
	hostCookie  = "__Host-understudy"
	plainCookie = "understudy" // only over plain HTTP on loopback
	// cookieAge is how long a browser keeps the gateway's cookie; by itself it opens nothing.
	cookieAge = 400 * 24 * time.Hour
)

// cookieName is the name of the gateway's cookie, "" where none can be set: without TLS others could read it.
func (v *visit) cookieName(r *http.Request) string {
	if v.scheme == "https" {
		return hostCookie
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); host == "localhost" || err == nil && a.IsLoopback() {
		return plainCookie
	}
	return ""
}

// findBrowser reads the gateway's cookie.
func (v *visit) findBrowser(r *http.Request) {
	v.cookie = v.cookieName(r)
	if v.cookie == "" {
		return
	}
	if cs := r.CookiesNamed(v.cookie); len(cs) == 1 && len(cs[0].Value) == 43 {
		v.browser = cs[0].Value
	}
}

// nameBrowser gives a browser that has none a cookie of the gateway's; the reply sets it.
func (v *visit) nameBrowser() {
	if v.browser == "" && v.cookie != "" && len(v.tenant.SessionCookies) > 0 {
		b := make([]byte, 32)
		rand.Read(b)
		v.browser, v.named = base64.RawURLEncoding.EncodeToString(b), true
	}
}

// setBrowser lets a reply set the gateway's cookie.
func (v *visit) setBrowser(h http.Header) {
	if !v.named {
		return
	}
	c := &http.Cookie{Name: v.cookie, Value: v.browser, Path: "/", HttpOnly: true, MaxAge: int(cookieAge / time.Second), SameSite: http.SameSiteLaxMode}
	if v.cookie == hostCookie {
		c.Secure, c.SameSite = true, http.SameSiteNoneMode // authorization requests come from other sites
	}
	h.Add("Set-Cookie", c.String())
}

// holding is what a browser holds of the primary's: its session cookies.
type holding struct {
	values map[string]string
	ends   time.Time // the earliest end of a cookie that has one
}

// text is the cookies as one text, "" where there are none.
func (h holding) text(names []string) string {
	var out []string
	for _, n := range names {
		if x := h.values[n]; x != "" {
			out = append(out, n, x)
		}
	}
	if out == nil {
		return ""
	}
	return session.Joined(out...)
}

// holds are the session cookies in a request. A name that occurs twice says nothing: another site of the domain may have set
// one of them.
func (t *Tenant) holds(r *http.Request) holding {
	h := holding{values: map[string]string{}}
	for _, n := range t.SessionCookies {
		if cs := r.CookiesNamed(n); len(cs) == 1 {
			h.values[n] = cs[0].Value
		}
	}
	return h
}

// after is what the browser holds when it has read a reply. cleared says that the reply took a session cookie away.
func (h holding) after(names []string, reply *http.Response, now time.Time) (out holding, cleared bool) {
	out = holding{values: map[string]string{}}
	for n, x := range h.values {
		out.values[n] = x
	}
	for _, line := range reply.Header["Set-Cookie"] {
		c := readSetCookie(line, now)
		switch {
		case !slices.Contains(names, c.name):
		case c.gone:
			cleared = cleared || out.values[c.name] != ""
			delete(out.values, c.name)
		default:
			out.values[c.name] = c.value
			if !c.ends.IsZero() && (out.ends.IsZero() || c.ends.Before(out.ends)) {
				out.ends = c.ends
			}
		}
	}
	return out, cleared
}

// browserKeys name what a browser holds: the gateway's cookie together with the primary's.
func (g *Gateway) browserKeys(tenant, issuer, browser, primary string) session.ArtifactKeys {
	value := session.Joined(browser, primary)
	return session.ArtifactKeys{
		Kind: session.Browser, Lookup: g.c.Seal.Lookup(session.Browser, tenant, issuer, value),
		Key: g.c.Seal.ArtifactKey(session.Browser, tenant, issuer, "", value, nil),
	}
}

// opened is the key of a browser that holds the primary's cookies, or nil where nothing is kept of it.
func (g *Gateway) opened(ctx context.Context, v *visit, ks session.ArtifactKeys) *session.BrowserKey {
	if k := g.browsers.recent(ks.Lookup); k != nil {
		return k
	}
	h, err := g.c.Backup.Held(ctx, v.tenant.Name, ks.Lookup)
	if err != nil {
		g.c.Log.Warn("what a browser holds is not known", "tenant", v.tenant.Name, "error", err)
		return nil
	}
	if h.Wrapped == nil {
		return nil
	}
	k, err := g.c.Seal.UnwrapBrowser(v.tenant.Name, ks, h.Wrapped)
	if err != nil {
		g.c.Log.Error("a browser's door does not open", "tenant", v.tenant.Name, "error", err)
		return nil
	}
	return k
}

// closeBrowser ends what the browser of a logout can open as those who are signed in with it. It is false where there are none.
func (t *trip) closeBrowser(ctx context.Context, us []user, now time.Time) (bool, error) {
	v := t.v
	var ms []session.Mark
	for _, u := range us {
		ms = append(ms, session.Mark{Of: session.OfDevice, ID: u.Device, Final: true, At: now.UnixNano(), Cause: "logout"})
	}
	if ms == nil {
		return false, nil
	}
	t.g.browsers.close(t.g.browserID(v), v.browser, nil)
	return true, t.g.c.Backup.Mark(context.WithoutCancel(ctx), v.tenant.Name, ms...)
}

// hinted are those who are signed in with the browser of a logout as the person whom its hint names: with a stranger's hint anybody
// could sign anybody out. What ends their session hides them, so this is asked before.
func (t *trip) hinted(ctx context.Context) ([]user, error) {
	v := t.v
	hint, err := oauth.ParseJWT(oauth.Canonical(v.request.Form.Get("id_token_hint")))
	if v.browser == "" || err != nil || v.endpoint != flow.EndSession {
		return nil, nil
	}
	us, err := t.g.usersOf(ctx, v, v.issuer, v.tenant.holds(v.request.HTTP).text(v.tenant.SessionCookies))
	subject := t.g.c.Seal.Pseudonym("subject", v.tenant.Name, v.issuer.ID, hint.Claims.Text("sub"))
	return slices.DeleteFunc(us, func(u user) bool { return u.Subject != subject }), err
}

// partsOf are the applications that those who are signed in with the browser of a logout were let into, as far as it was remembered.
func (t *trip) partsOf(ctx context.Context, us []user) (clients []string) {
	v := t.v
	primary := v.tenant.holds(v.request.HTTP).text(v.tenant.SessionCookies)
	if len(us) == 0 || primary == "" {
		return nil
	}
	k := t.g.opened(ctx, v, t.g.browserKeys(v.tenant.Name, v.issuer.ID, v.browser, primary))
	if k == nil || !slices.ContainsFunc(us, func(u user) bool { return u.Device == t.g.c.Seal.Device(v.tenant.Name, v.issuer.ID, k) }) {
		return nil
	}
	for _, o := range k.Opened {
		clients = append(clients, o.Client)
	}
	return clients
}

// usersOf are those who may be signed in with a browser, by what it holds, what it held before, and who was last seen to sign in.
func (g *Gateway) usersOf(ctx context.Context, v *visit, is *issuer, primary string) ([]user, error) {
	t := v.tenant
	u, err := g.user(ctx, v, g.browserKeys(t.Name, is.ID, v.browser, "").Lookup)
	if err != nil {
		return nil, err
	}
	var out []user
	add := func(u user) {
		if !u.Device.Zero() && !slices.Contains(out, u) {
			out = append(out, u)
		}
	}
	add(u)
	at := g.browserKeys(t.Name, is.ID, v.browser, primary)
	for more, n := primary != "", 0; more && n < maxFormer; n++ {
		h, err := g.c.Backup.Held(ctx, t.Name, at.Lookup)
		if err != nil {
			return nil, err
		}
		add(user{h.Subject, h.Device, h.Session})
		at, more = g.browsers.before(at.Lookup)
	}
	return out, nil
}

// withoutSession lets a reply take the primary's session cookies away, at the paths at which it may have set them.
func (v *visit) withoutSession(h http.Header, r *http.Request) {
	paths := []string{"/"}
	if u, err := url.Parse(v.issuer.ID); err == nil && strings.Trim(u.Path, "/") != "" {
		paths = append(paths, strings.TrimSuffix(u.Path, "/")+"/")
	}
	var names []string
	for name := range v.tenant.holds(r).values {
		names = append(names, name)
	}
	for _, name := range stateCookies() {
		if len(r.CookiesNamed(name)) > 0 {
			names = append(names, name)
		}
	}
	for _, name := range names {
		for _, p := range paths {
			c := http.Cookie{Name: name, Path: p, MaxAge: -1, HttpOnly: true}
			if v.scheme == "https" || v.cookie == plainCookie { // a browser takes Secure from loopback
				c.Secure, c.SameSite = true, http.SameSiteNoneMode
			}
			h.Add("Set-Cookie", c.String())
		}
	}
}

// browsed reads what a reply of the primary's to a browser shows: the answer to an authorization request, or the end of a
// session. reads is for what a page is read. An error means that the end is not kept, and that the browser must not be
// told yet; or errBarred.
func (g *Gateway) browsed(ctx context.Context, v *visit, out *http.Request, resp *http.Response, reads reading) error {
	t := v.tenant
	location := ""
	if resp.StatusCode/100 == 3 {
		location = resp.Header.Get("Location")
	}
	carried := oauth.Carried(location)
	var page []byte
	if resp.StatusCode == http.StatusOK && reads != unread && isHTML(resp.Header) {
		page = g.readPage(v, resp, reads)
		carried = oauth.CarriedByForm(page)
		if reads == guarded || len(page) > oauth.MaxFormPage {
			page = nil
		}
	}
	if g.endedHere(ctx, v, carried) {
		return errBarred
	}
	if v.browser == "" || len(resp.Header["Set-Cookie"]) == 0 && location == "" && page == nil && resp.StatusCode != http.StatusBadRequest {
		return nil
	}
	before := t.holds(out)
	after, cleared := before.after(t.SessionCookies, resp, g.c.Now())
	if cleared {
		if err := g.cleared(ctx, v, before); err != nil && v.endpoint != flow.Authorization {
			return err
		} else if err != nil { // a sign-in that begins waits for nothing (design, law 5)
			g.c.Log.Error("the end of a browser's session cannot be kept", "tenant", t.Name, "error", err)
		}
	}
	if location != "" {
		g.left(v, out, location)
	}
	read := func(ask *flow.Ask) *oauth.Redirected {
		switch {
		case location != "":
			return oauth.ReadRedirect(location, ask)
		case page != nil:
			return oauth.ReadForm(page, ask)
		}
		return nil
	}
	x, r := g.browsers.match(g.browserID(v), read)
	switch {
	case x != nil && !g.given(ctx, v, x, r, before, after, resp.StatusCode):
		return errBarred
	case x != nil || v.begun == nil:
	case !v.reference.awaited():
		g.unanswered(ctx, v, resp, before)
	case oauth.SaysNothing(location) && !t.here(location) && g.signedOutHere(ctx, v, v.issuer): // it may be all that was asked for
		return errBarred
	default:
		was := &http.Response{StatusCode: resp.StatusCode, Header: resp.Header.Clone()} // the reply goes on its way
		g.late.wg.Add(1)
		go func() { // what was asked is not known yet, and the person waits for nothing
			defer g.late.wg.Done()
			<-v.reference.here
			ctx := context.WithoutCancel(ctx)
			if x, r := g.browsers.match(g.browserID(v), read); x != nil {
				g.given(ctx, v, x, r, before, after, was.StatusCode)
			} else {
				g.unanswered(ctx, v, was, before)
			}
		}()
	}
	return nil
}

// cleared keeps that the primary took a session cookie away: what the browser could open it opens no more, and the session is
// over as far as can be seen.
func (g *Gateway) cleared(ctx context.Context, v *visit, before holding) error {
	t := v.tenant
	defer g.browsers.close(g.browserID(v), v.browser, v.begun)
	for _, is := range t.meta.issuersOf(v) {
		us, err := g.usersOf(ctx, v, is, before.text(t.SessionCookies))
		if err != nil {
			return err
		}
		now := g.c.Now().UnixNano()
		var ms []session.Mark
		for _, u := range us {
			ms = append(ms, session.Mark{Of: session.OfDevice, ID: u.Device, At: now, Cause: "cookie_cleared", Told: true})
			if !u.Session.Zero() {
				ms = append(ms, session.Mark{Of: session.OfSession, ID: u.Session, At: now, Cause: "cookie_cleared", Told: true})
			}
		}
		if ms == nil {
			continue
		}
		if err := g.c.Backup.Mark(context.WithoutCancel(ctx), t.Name, ms...); err != nil && !errors.Is(err, backup.ErrStopped) {
			return err
		}
	}
	return nil
}
