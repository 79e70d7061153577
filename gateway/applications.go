package gateway

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/gateway/page"
	"understudy/session"
)

// What a person is told that they can open is in the browser-session key, which is kept under what the browser holds: nobody else can
// read it, and the backup cannot. Whether each would be opened now only the backup knows.

const (
	// applicationsTime bounds the wait for the backup: the page is shown whatever it says.
	applicationsTime = time.Second
	maxClientShown   = 256 // bytes of a client_id
)

// opened is what is remembered of an application that a person was let into; nil: nothing. door are the keys of what was approved. One
// that was not learned, or that nobody could open, is remembered by its name alone.
func (x *tied) opened(t *Tenant, door session.ArtifactKeys, learned bool) *session.Opened {
	if len(x.ask.Client.ID) > maxClientShown {
		return nil
	}
	start, ok := t.start(x.ask.Params["redirect_uri"], x.request.HTTP.Header.Get("Sec-Fetch-Site"))
	if !learned || !ok && t.Applications[x.ask.Client.ID].URL == "" {
		return &session.Opened{Client: x.ask.Client.ID}
	}
	o := &session.Opened{Client: x.ask.Client.ID, Start: start, Lookup: door.Lookup, Key: door.Key, Params: map[string]string{}}
	for _, name := range []string{"response_type", "response_mode", "max_age"} {
		if v := x.ask.Params[name]; v != "" {
			o.Params[name] = v
		}
	}
	return o
}

// start is where an application starts, as far as the redirect URI that the primary approved shows: at the origin of that, where it is
// https, or http on loopback and a page sent the browser here (site is the request's Sec-Fetch-Site): else a native application
// listens there, for one answer (RFC 8252, section 7.3). It is "" where that is not known, and false where it lies at the primary's own
// host, and is away with it.
func (t *Tenant) start(redirectURI, site string) (at string, ok bool) {
	u, err := url.Parse(redirectURI)
	if err != nil {
		return "", false
	}
	web := u.Scheme == "https" || u.Scheme == "http"
	if web && t.publicHost(u.Host) {
		return "", false
	}
	local := u.Hostname() == "localhost"
	if a, err := netip.ParseAddr(u.Hostname()); err == nil && a.IsLoopback() {
		local = true
	}
	if !web || u.Host == "" || u.User != nil || u.Scheme == "http" && (!local || site == "" || site == "none") {
		return "", true
	}
	return u.Scheme + "://" + u.Host + "/", true
}

// applications are those that the person can open now with the browser of a request, by their own records, in the order of their names.
func (g *Gateway) applications(r *http.Request, v *visit) []page.Application {
	primary := v.tenant.holds(r).text(v.tenant.SessionCookies)
	if v.named || v.browser == "" || primary == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), applicationsTime)
	defer cancel()
	is := v.tenant.meta.issuersOf(v)
	slices.SortFunc(is, func(a, b *issuer) int { return cmp.Compare(a.ID, b.ID) })
	var out []page.Application
	for _, is := range is {
		k := g.opened(ctx, v, g.browserKeys(v.tenant.Name, is.ID, v.browser, primary))
		if k == nil {
			continue
		}
		may := slices.DeleteFunc(slices.Clone(k.Opened), func(o session.Opened) bool { return o.Key == nil })
		if len(may) == 0 {
			continue
		}
		opens, err := g.c.Backup.Opens(ctx, g.asked(r, v, is, may))
		if err != nil {
			g.c.Log.Warn("what a person can open is not known", "tenant", v.tenant.Name, "id", v.id, "error", err)
			return nil
		}
		for i, o := range may[:min(len(may), len(opens))] {
			if a := v.tenant.shown(&o); opens[i] && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, func(a, b page.Application) int {
		return cmp.Or(cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.URL, b.URL))
	})
	return out[:min(len(out), session.MaxOpened)]
}

// asked are the requests with which the applications of a browser would be opened, as the primary approved them.
func (g *Gateway) asked(r *http.Request, v *visit, is *issuer, may []session.Opened) (ps []*flow.Play) {
	m := v.tenant.monitors[flow.Token]
	for _, o := range may[:min(len(may), session.MaxOpened)] {
		ps = append(ps, &flow.Play{
			ID: v.id, Tenant: v.tenant.Name, Issuer: is.ID, Flow: oauth.Authorization{}.Name(), Client: flow.Proof{ID: o.Client, Method: "none"},
			Artifact: session.ArtifactKeys{Kind: session.Application, Lookup: o.Lookup, Key: o.Key}, Params: o.Params,
			Doubt: m.Serving(0), // or the failure may be the request's own
			Facts: session.Facts{Address: v.address, UserAgent: clip(r.UserAgent(), 256)},
			// as a request that comes now
			Received: v.began.UnixNano(), Outage: m.Outage().UnixNano(), Trigger: "page",
		})
	}
	return ps
}

// shown is how a person is shown an application: as configured, else by the host where it starts, else by its client_id.
func (t *Tenant) shown(o *session.Opened) page.Application {
	a := t.Applications[o.Client]
	if a.URL == "" {
		a.URL = o.Start
	}
	if u, err := url.Parse(a.URL); err == nil && a.Name == "" {
		a.Name = u.Host
	}
	if a.Name == "" {
		a.Name = o.Client
	}
	return a
}

// names are how a person is shown clients, without one.
func (t *Tenant) names(clients []string, but string) (out []string) {
	for _, id := range clients {
		if id != but {
			out = append(out, cmp.Or(t.Applications[id].Name, id))
		}
	}
	return out
}
