package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// IssuerState is what an operator wants to know of an issuer. It holds no secret.
type IssuerState struct {
	Issuer     string    `json:"issuer"`
	Fetched    time.Time `json:"fetched"`           // when its metadata and keys were last found good
	Stale      bool      `json:"stale,omitempty"`   // they are too old to be published any more
	Problem    string    `json:"problem,omitempty"` // why the keys cannot be merged
	Algorithms []string  `json:"algorithms"`        // of the primary's signing keys
	Keys       int       `json:"primaryKeys"`
	Held       []string  `json:"heldKeys,omitempty"` // key ids that left the primary's set while it still signs with them
}

// Issuers returns the known issuers of a tenant, the configured ones among them even where the primary was never
// reached, in order.
func (g *Gateway) Issuers(tenant string) []string {
	var out []string
	for _, t := range g.c.Tenants {
		if t.Name != tenant {
			continue
		}
		out = append(out, t.Issuers...)
		for _, is := range t.meta.issuers() {
			out = append(out, is.ID)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// IssuerStates returns the issuers of a tenant whose metadata is known, in order.
func (g *Gateway) IssuerStates(tenant string) []IssuerState {
	var out []IssuerState
	for _, t := range g.c.Tenants {
		if t.Name != tenant {
			continue
		}
		for _, is := range t.meta.issuers() {
			s := IssuerState{Issuer: is.ID, Fetched: is.fetched, Stale: t.meta.stale(is), Problem: is.problem, Algorithms: slices.Sorted(slices.Values(is.algs)), Keys: len(is.keyset)}
			for kid, v := range is.vanished {
				if v.held {
					s.Held = append(s.Held, kid)
				}
			}
			slices.Sort(s.Held)
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b IssuerState) int { return strings.Compare(a.Issuer, b.Issuer) })
	return out
}

// Tenants returns the tenants as configured. Callers change nothing in them.
func (g *Gateway) Tenants() []*Tenant { return g.c.Tenants }

// Queue says how many approved exchanges wait to be learned, and how many may.
func (g *Gateway) Queue() (waiting, most int) {
	return int(g.learner.waiting.Load()), cap(g.learner.queue)
}

// AcceptKeys ends the hold of an issuer's vanished keys: its key set is right as it is. It returns how many were given up.
func (g *Gateway) AcceptKeys(ctx context.Context, tenant, issuer string) (int, error) {
	for _, t := range g.c.Tenants {
		if t.Name != tenant {
			continue
		}
		for at, is := range t.meta.issuers() {
			if is.ID == issuer {
				return t.meta.accept(ctx, at)
			}
		}
	}
	return 0, fmt.Errorf("tenant %s has no known issuer %s", tenant, issuer)
}

// Resume lets a tenant's halted ramps go on. It returns false where none is halted.
func (g *Gateway) Resume(tenant string) bool {
	did := false
	for _, t := range g.c.Tenants {
		if t.Name != tenant {
			continue
		}
		for _, m := range t.monitors {
			did = m.Resume() || did
		}
	}
	return did
}

// Republish publishes the backup's keys as they are now, beside the primary's as they were last found good.
func (g *Gateway) Republish(ctx context.Context) error {
	for _, t := range g.c.Tenants {
		for _, is := range t.meta.issuers() {
			again := *is
			if err := t.meta.put(ctx, &again); err != nil {
				return fmt.Errorf("tenant %s: %w", t.Name, err)
			}
		}
	}
	return nil
}
