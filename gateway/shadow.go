package gateway

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"

	"understudy/flow/oauth"
	"understudy/session"
)

// shadowRate bounds shadow answers a second and tenant.
const shadowRate = 2

// shadow computes, for a share of healthy requests, the backup's answer beside the primary's, and counts by name what
// differs. Nothing of it is delivered. It must run before the reply is learned: the backup answers from what it knew.
func (g *Gateway) shadow(ctx context.Context, t *trip, o *outcome) {
	if !t.st.Known || t.v.flow == nil || t.place != t.lookup || rand.Float64()*100 >= t.v.tenant.Shadow || !t.prove(ctx) || t.ask.Subject != "" && !t.subject() ||
		t.ask.Client.DPoP && !t.possess() {
		return
	}
	if !t.v.tenant.shadows.Allow() {
		return // as many a second prove as much, and a signature costs more than the request
	}
	p := t.message("shadow")
	p.Shadow = true
	tenant, name := t.v.tenant.Name, t.v.flow.Name()
	reply, no, err := g.c.Backup.Play(ctx, p)
	switch {
	case err != nil:
		g.Counts.Shadow(tenant, name, "backup_failed")
		return
	case no != nil:
		g.Counts.Shadow(tenant, name, "refused_"+no.Code)
		return
	}
	body, err := session.ParseObject(reply.Body)
	if err != nil {
		g.Counts.Shadow(tenant, name, "not_understood")
		return
	}
	diffs := differences(o.object, body)
	if len(diffs) == 0 {
		g.Counts.Shadow(tenant, name, "equal")
	}
	for _, d := range diffs {
		g.Counts.Difference(tenant, name, d)
	}
}

// differences names what differs between the primary's token response and the backup's, beyond what must: times (their
// distances are compared), identifiers, the key, and the tokens themselves.
func differences(primary, ours session.Object) []string {
	var out []string
	if !ours.Has("refresh_token") {
		primary = primary.Without("refresh_token") // only the primary begins a family
	}
	if !slices.Equal(primary.Names(), ours.Names()) {
		out = append(out, "members")
	}
	for _, m := range primary {
		v := ours.Get(m.Name)
		switch m.Name {
		case "access_token", "id_token":
			out = append(out, tokenDifferences(m.Name, primary.Text(m.Name), ours.Text(m.Name))...)
		case "refresh_token", "refresh_expires_in", "expires_on", "iat", "not_before":
		default:
			if !bytes.Equal(m.Value, v) {
				out = append(out, m.Name)
			}
		}
	}
	return out
}

func tokenDifferences(name, primary, ours string) []string {
	a, err1 := oauth.ParseJWT(primary)
	b, err2 := oauth.ParseJWT(ours)
	if err1 != nil || err2 != nil {
		if (err1 == nil) != (err2 == nil) {
			return []string{name}
		}
		return nil // both opaque
	}
	var out []string
	compare := func(what string, x, y session.Object, fresh ...string) {
		if !slices.Equal(x.Names(), y.Names()) {
			out = append(out, name+"."+what+"_names")
		}
		for _, m := range x {
			if !slices.Contains(fresh, m.Name) && !bytes.Equal(m.Value, y.Get(m.Name)) {
				out = append(out, name+"."+m.Name)
			}
		}
	}
	compare("header", a.Header, b.Header, "kid")
	compare("claims", a.Claims, b.Claims, "iat", "nbf", "exp", "jti", "at_hash")
	if a.Lifetime() != b.Lifetime() {
		out = append(out, name+".lifetime")
	}
	return out
}
