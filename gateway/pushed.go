package gateway

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/flow/proof"
	"understudy/session"
)

// wholeRequest is the form of an authorization request where it is in another place than the query: it was pushed (RFC 9126), or
// it is a signed request object (RFC 9101). Where it cannot be read the query is left as it is, and nothing is learned of it.
func (g *Gateway) wholeRequest(ctx context.Context, v *visit, r *flow.Request) {
	client, uri := r.Form.Get("client_id"), r.Form.Get("request_uri")
	if uri != "" {
		form := g.pushedForm(ctx, v, client, uri)
		if form == nil || form.Get("client_id") != client {
			return
		}
		r.Form, r.Pushed = form, true
	}
	if object := r.Form["request"]; len(object) == 1 && object[0] != "" {
		beside := maps.Clone(r.Form)
		delete(beside, "request")
		if form, err := g.signedForm(v, client, object[0], beside); err == nil {
			r.Form, r.Signed = form, true
		}
	}
}

// signedForm is what a request object says that its client signed; what stands beside it in the query must say the same. It fails for
// one that is not the client's, or is not for now.
func (g *Gateway) signedForm(v *visit, client, object string, beside url.Values) (url.Values, error) {
	keys := v.tenant.keysOf(client)
	if keys == nil {
		return nil, errors.New("the client's keys are not known")
	}
	o, err := proof.RequestObjects{
		Issuer: v.issuer.ID, Client: client, Algs: v.issuer.object.Texts("request_object_signing_alg_values_supported"), Audiences: v.issuer.names(),
	}.Verify(object, keys, g.c.Now())
	if err != nil {
		return nil, err
	}
	form := url.Values{"client_id": {client}}
	for _, p := range o.Parameters {
		if p.Name != "client_id" {
			form.Add(p.Name, p.Value)
		}
	}
	for name, vs := range beside { // it counts for some primaries
		if !slices.Equal(vs, form[name]) {
			return nil, errors.New("what stands beside it is not in it")
		}
	}
	return form, nil
}

// pushedForm is a request that was pushed, or nil.
func (g *Gateway) pushedForm(ctx context.Context, v *visit, client, uri string) url.Values {
	rest, ok := strings.CutPrefix(uri, oauth.RequestURIPrefix)
	if !ok || !oauth.Ours(rest, g.c.Seal.Look) {
		return g.browsers.pushed(g.pushedPlace(v, client, uri))
	}
	v.own = true
	h, err := g.c.Backup.Held(ctx, v.tenant.Name, g.c.Seal.Lookup(session.PushedRequest, v.tenant.Name, v.issuer.ID, uri))
	if err != nil {
		g.c.Log.Warn("a pushed request is not known", "tenant", v.tenant.Name, "error", err)
		return nil
	}
	if h.Client != g.c.Seal.Pseudonym("client", v.tenant.Name, v.issuer.ID, client) {
		return nil
	}
	form, err := url.ParseQuery(h.Bound["form"])
	if err != nil {
		return nil
	}
	if key := h.Bound["dpop_jkt"]; key != "" {
		form.Set("dpop_jkt", key)
	}
	return form
}

// push remembers a request that the primary took.
func (t *trip) push(o *outcome) {
	if t.v.endpoint != flow.Pushed {
		return
	}
	if uri, lives := oauth.PushedURI(o.status, o.object); uri != "" && len(t.v.request.Body) <= maxPushedBody {
		form := oauth.Pushable(t.v.request.Form)
		form.Set("client_id", t.ask.Client.ID)
		if t.ask.Client.DPoP {
			if !t.possess() {
				return // to which key the primary binds what comes of it is not known
			}
			form.Set("dpop_jkt", t.possession.Thumbprint)
		}
		t.g.browsers.push(t.g.pushedPlace(t.v, t.ask.Client.ID, uri), form, lives)
	}
}

// maxPushed and maxPushedBody bound the pushed requests that are remembered, and each of them in bytes.
const (
	maxPushed     = 10_000
	maxPushedBody = 8 << 10
)

// pushedPlace is where a request that the primary took is remembered.
func (g *Gateway) pushedPlace(v *visit, client, uri string) session.ID {
	return g.c.Seal.Lookup(session.PushedRequest, v.tenant.Name, v.issuer.ID, session.Joined(client, uri))
}

func (b *browsers) push(at session.ID, form url.Values, lives time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.requests) < maxPushed {
		b.requests[at] = form
		b.later(lives, func() { delete(b.requests, at) })
	}
}

func (b *browsers) pushed(at session.ID) url.Values {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requests[at]
}

// gave says whether a protocol reply gives what was asked for.
func gave(e flow.Endpoint, status int) bool {
	return status == http.StatusOK || status == http.StatusCreated && e == flow.Pushed
}
