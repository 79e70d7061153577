package gateway

import (
	"maps"
	"sync"
)

// Counts are the gateway's counters. Labels are tenants, flows and codes of this program: their number is bounded.
type Counts struct {
	mu     sync.Mutex // guards what follows
	m      map[string]uint64
	claims map[string]bool // names of claims that are labels
}

func newCounts() *Counts { return &Counts{m: map[string]uint64{}, claims: map[string]bool{}} }

func (c *Counts) add(name string, labels ...string) {
	for _, l := range labels {
		name += "\x00" + l
	}
	c.mu.Lock()
	c.m[name]++
	c.mu.Unlock()
}

// Snapshot returns a copy, keyed by name and labels joined with NUL.
func (c *Counts) Snapshot() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.m)
}

func (c *Counts) Learned(tenant, flow string)           { c.add("learned", tenant, flow) }
func (c *Counts) Unlearned(tenant, reason string)       { c.add("unlearned", tenant, reason) }
func (c *Counts) Answered(tenant, flow, trigger string) { c.add("answered", tenant, flow, trigger) }
func (c *Counts) Refused(tenant, flow, code string)     { c.add("refused", tenant, flow, code) }

// Demanded counts requests that are to come again with a nonce.
func (c *Counts) Demanded(tenant, flow string) { c.add("demanded", tenant, flow) }

func (c *Counts) Rule(tenant, endpoint, rule string) {
	c.add("primary_failures", tenant, endpoint, rule)
}
func (c *Counts) Failed(tenant, endpoint string) { c.add("failed", tenant, endpoint) }
func (c *Counts) Ambiguous(tenant string)        { c.add("ambiguous", tenant) }
func (c *Counts) Late(tenant string)             { c.add("late", tenant) }

// Owed counts what became of logouts that the primary had yet to hear.
func (c *Counts) Owed(tenant, result string) { c.add("owed", tenant, result) }

// Notified counts relying parties of logouts that were carried out here: "told" or "untold".
func (c *Counts) Notified(tenant, result string) { c.add("notified", tenant, result) }

// maxDifferences bounds how many names of claims become labels; the rest count as "other".
const maxDifferences = 64

func (c *Counts) Shadow(tenant, flow, result string) { c.add("shadow", tenant, flow, result) }

func (c *Counts) Difference(tenant, flow, claim string) {
	c.mu.Lock()
	if !c.claims[claim] {
		if len(c.claims) >= maxDifferences {
			claim = "other"
		} else {
			c.claims[claim] = true
		}
	}
	c.mu.Unlock()
	c.add("shadow_differences", tenant, flow, claim)
}
