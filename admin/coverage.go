package admin

import (
	"strings"

	"understudy/coverage"
	"understudy/keys"
)

// signing are the keys that sign now at a tenant, by issuer; of several the youngest.
func (k *Keys) signing(tenant string) map[string]coverage.Key {
	out := map[string]coverage.Key{}
	if k == nil {
		return out
	}
	for _, x := range k.Keys {
		if x.Tenant == tenant && x.State == keys.Current && x.Published.After(out[x.Issuer].Published) {
			out[x.Issuer] = coverage.Key{ID: x.ID, Published: x.Published}
		}
	}
	return out
}

const (
	// maxApplications bounds the applications of a tenant that are labels of metrics; the table has them all.
	maxApplications = 200
	maxLabel        = 128 // bytes
)

// label makes a label's value of a name that came with a request.
func label(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxLabel)], "\uFFFD")
}

// covered shows a coverage table as metrics: every flow with its reasons, and the applications of which most could not be
// served.
func covered(tenant string, t *coverage.Table, gauge func(name, help string, v float64, kv ...string)) {
	type total struct {
		sessions, servable int
		why                map[string]int
	}
	flows := map[string]*total{}
	for _, r := range t.Applications {
		f := flows[r.Flow]
		if f == nil {
			f = &total{why: map[string]int{}}
			flows[r.Flow] = f
		}
		f.sessions, f.servable = f.sessions+r.Sessions, f.servable+r.Servable
		for _, w := range r.Why {
			f.why[w.Reason] += w.Sessions
		}
	}
	for name, f := range flows {
		gauge("coverage_sessions", "Sessions by flow, as far as they are known.", float64(f.sessions), "tenant", tenant, "flow", name)
		gauge("coverage_servable", "Of these the backup could serve now.", float64(f.servable), "tenant", tenant, "flow", name)
		for why, n := range f.why {
			gauge("coverage_unserved", "The others, by reason.", float64(n), "tenant", tenant, "flow", name, "reason", why)
		}
	}
	shown := map[[3]string]bool{}
	for _, r := range t.Applications[:min(len(t.Applications), maxApplications)] {
		k := [3]string{label(r.Issuer), label(r.Application), r.Flow}
		if shown[k] { // two that differ only behind the bound
			continue
		}
		shown[k] = true
		kv := []string{"tenant", tenant, "issuer", k[0], "application", k[1], "flow", k[2]}
		gauge("coverage_application_sessions", "Sessions of an application, as far as they are known; of at most 200.", float64(r.Sessions), kv...)
		gauge("coverage_application_servable", "Of these the backup could serve now.", float64(r.Servable), kv...)
	}
}
