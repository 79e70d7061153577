package gateway

import (
	"maps"
	"sync"
)

// Counts are the gateway's counters. Labels are tenants, flows and codes of this program: their number is bounded.
type Counts struct {
	mu sync.Mutex // guards m
	m  map[string]uint64
}

func newCounts() *Counts { return &Counts{m: map[string]uint64{}} }

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
func (c *Counts) Rule(tenant, endpoint, rule string) {
	c.add("primary_failures", tenant, endpoint, rule)
}
func (c *Counts) Failed(tenant, endpoint string) { c.add("failed", tenant, endpoint) }
func (c *Counts) Ambiguous(tenant string)        { c.add("ambiguous", tenant) }
func (c *Counts) Late(tenant string)             { c.add("late", tenant) }
