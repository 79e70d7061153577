package gateway

import (
	"context"

	"understudy/flow"
	"understudy/session"
)

// Applications on the person's own machine listen at a port that they get anew each time, and primaries let them (RFC 8252,
// section 7.3). What was approved for one port is given for another only where this primary was seen to approve two.

// application are the keys of what a browser may ask for.
func (g *Gateway) application(v *visit, ask *flow.Ask, value string) session.ArtifactKeys {
	s := g.c.Seal
	return session.ArtifactKeys{
		Kind: session.Application, Lookup: s.Lookup(session.Application, v.tenant.Name, v.issuer.ID, value),
		Key: s.ArtifactKey(session.Application, v.tenant.Name, v.issuer.ID, ask.Client.ID, value, nil),
	}
}

// portPlace is where it is kept what was seen of the ports of an application: with all, that there were several, else that there
// was one.
func (g *Gateway) portPlace(v *visit, ask *flow.Ask, all bool) session.ID {
	what := "one port"
	if all {
		what = "any port"
	}
	return g.c.Seal.Lookup(session.RedirectURI, v.tenant.Name, v.issuer.ID, session.Joined(append([]string{what}, ask.AnyPort[:2]...)...))
}

// ports are the doors that say what an approval shows of the ports of an application.
func (g *Gateway) ports(ctx context.Context, v *visit, ask *flow.Ask) []session.SealedDoor {
	if ask.AnyPort == nil {
		return nil
	}
	out := []session.SealedDoor{{Kind: session.RedirectURI, Lookup: g.portPlace(v, ask, false)}}
	if g.seenAt(ctx, v, g.portPlace(v, ask, false)) && !g.seenAt(ctx, v, g.redirectPlace(v, ask)) {
		out = append(out, session.SealedDoor{Kind: session.RedirectURI, Lookup: g.portPlace(v, ask, true)})
	}
	return out
}

// anyPort says whether an application may be answered at any port.
func (g *Gateway) anyPort(ctx context.Context, v *visit, ask *flow.Ask) bool {
	return ask.AnyPort != nil && g.seenAt(ctx, v, g.portPlace(v, ask, true))
}

func (g *Gateway) seenAt(ctx context.Context, v *visit, place session.ID) bool {
	st, err := g.c.Backup.Standing(ctx, v.tenant.Name, place)
	return err == nil && st.Known
}
