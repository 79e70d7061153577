package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"understudy/backup"
	"understudy/flow"
	"understudy/session"
)

// leaving is a logout that the primary asks its person about on a page: where it leads to shows only after the person's yes.
type leaving struct {
	at      session.ID // see [Gateway.postLogout]
	issuer  string
	path    string // the endpoint's
	uri     string
	state   []string // as asked for: none or one
	unclear bool     // another logout of the same browser is under way
}

// asksPerson remembers a logout that the primary answered with a page. Two that differ cannot be told apart afterwards, and nothing
// is learned of either.
func (g *Gateway) asksPerson(v *visit) {
	if v.browser == "" || v.endpoint != flow.EndSession {
		return
	}
	f := v.request.Form
	x := &leaving{at: g.postLogout(v), issuer: v.issuer.ID, path: v.request.HTTP.URL.Path, uri: f.Get("post_logout_redirect_uri"), state: f["state"]}
	if x.at.Zero() || len(x.uri)+len(f.Get("state")) > maxLeaving {
		return // nothing could be learned of it, or it is nobody's
	}
	if x.unclear = len(f["post_logout_redirect_uri"]) > 1 || len(x.state) > 1; x.unclear {
		x.state = nil // never compared
	}
	g.browsers.leaves(g.browserID(v), x)
}

const (
	maxLeaving  = 4096  // bytes of where a logout leads
	maxLeavings = 5_000 // of browsers
)

func (b *browsers) leaves(id session.ID, x *leaving) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if was := b.leaving[id]; was != nil {
		was.unclear = was.unclear || x.unclear || was.at != x.at || was.path != x.path || was.uri != x.uri || !slices.Equal(was.state, x.state)
		return
	}
	if len(b.leaving) < maxLeavings {
		b.leaving[id] = x
		b.later(tiedFor, func() {
			if b.leaving[id] == x {
				delete(b.leaving, id)
			}
		})
	}
}

// left notes that the primary sends a browser where its logout asked for, from a place below that endpoint: nothing else that leads
// there, an application's sign-in for one, says that a logout may. It must be that place exactly.
func (g *Gateway) left(v *visit, out *http.Request, location string) {
	x := g.browsers.left(g.browserID(v), out.URL.Path)
	if x == nil || x.unclear || !x.leads(location) {
		return
	}
	g.learner.add(v.tenant.Name, &lesson{ready: &backup.Learned{
		Tenant: v.tenant.Name, Issuer: x.issuer, Flow: "post_logout_redirect_uri", Sent: v.began.UnixNano(),
		Kept: []session.SealedDoor{{Kind: session.RedirectURI, Lookup: x.at}},
	}})
}

// left takes the logout that a request to a path is part of; nil where there is none.
func (b *browsers) left(id session.ID, path string) *leaving {
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.leaving[id]
	if x == nil || !strings.HasPrefix(path, x.path+"/") {
		return nil
	}
	if !x.unclear {
		delete(b.leaving, id)
	}
	return x
}

// leads says whether a redirect leads to where the logout asked for, with its state and nothing else.
func (x *leaving) leads(location string) bool {
	rest, ok := strings.CutPrefix(location, x.uri)
	if !ok || len(x.state) == 0 {
		return ok && rest == ""
	}
	sep := "?"
	if strings.Contains(x.uri, "?") {
		sep = "&"
	}
	rest, ok = strings.CutPrefix(rest, sep)
	ps, err := url.ParseQuery(rest)
	return ok && err == nil && len(ps) == 1 && len(ps["state"]) == 1 && ps.Get("state") == x.state[0]
}
