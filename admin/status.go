package admin

import (
	"context"
	"net/http"
	"strings"
	"time"

	"understudy/gateway"
	"understudy/health"
)

// Status is what a person wants to know of a running process.
type Status struct {
	Version  string    `json:"version"`
	Role     string    `json:"role"`
	Started  time.Time `json:"started"`
	Now      time.Time `json:"now"`
	Problems []Problem `json:"problems"` // empty: all is well

	Connections int    `json:"connections"`
	Shed        uint64 `json:"connectionsShed"` // closed because there were too many
	Waiting     int    `json:"learnQueue"`
	MostWaiting int    `json:"learnQueueMost"`

	Tenants []TenantStatus `json:"tenants"`
	Keys    *Keys          `json:"keys,omitempty"`
}

// TenantStatus is one tenant's.
type TenantStatus struct {
	Name     string   `json:"name"`
	Hosts    []string `json:"hosts"`
	Upstream string   `json:"upstream"`

	Issuers   []gateway.IssuerState  `json:"issuers"`
	Endpoints map[string]ClassStatus `json:"endpoints"` // by class

	Records *Records `json:"records,omitempty"` // nil: this process has no store

	Learned    map[string]uint64 `json:"learned"`    // by flow
	NotLearned []Unlearned       `json:"notLearned"` // by reason
	Answered   []Count           `json:"answered"`   // by the backup: flow, trigger
	Refused    []Count           `json:"refused"`    // by the backup: flow, code
	Failures   []Count           `json:"primaryFailures"`
	Failed     uint64            `json:"failed"`    // requests that nobody answered
	Ambiguous  uint64            `json:"ambiguous"` // the primary may have rotated a token and the reply is lost
	Late       uint64            `json:"late"`      // replies kept for clients that come back
	Shadow     []Count           `json:"shadow"`    // flow, result
	Difference []Count           `json:"shadowDifferences"`
}

// Records says how much is remembered.
type Records struct {
	Doors    uint64 `json:"doors"`    // artifacts that are known
	Records  uint64 `json:"records"`  // remembered sign-ins
	Servable uint64 `json:"servable"` // that the backup could answer now
	Marks    uint64 `json:"marks"`    // revocations in force
}

// ClassStatus is the health of one class of endpoints.
type ClassStatus struct {
	// Mode is "normal" (the primary answers), "outage" (the backup does), or "returning" (traffic goes back step by step).
	Mode string `json:"mode"`
	health.State
}

// Count is a number with what it counts.
type Count struct {
	Labels []string `json:"labels"`
	N      uint64   `json:"n"`
}

// Unlearned says how many exchanges were not learned, why, and what to do.
type Unlearned struct {
	Reason string `json:"reason"`
	N      uint64 `json:"n"`
	Text   string `json:"text,omitempty"`
	Mend   string `json:"mend,omitempty"`
}

func mode(s health.State) string {
	switch s.Breaker {
	case "closed":
		return "normal"
	case "ramp", "halted":
		return "returning"
	}
	return "outage"
}

func (s *Server) status(r *http.Request) (any, error) { return s.Status(r.Context()), nil }

// Status gathers the state now.
func (s *Server) Status(ctx context.Context) *Status {
	out := &Status{
		Version: s.p.Version, Role: s.p.Role, Started: s.p.Started, Now: s.p.Now(), Problems: s.p.Problems(), Keys: s.keyState(), Tenants: []TenantStatus{},
	}
	if out.Problems == nil {
		out.Problems = []Problem{}
	}
	if s.p.Connections != nil {
		out.Connections, out.Shed = s.p.Connections()
	}
	if s.p.Gateway == nil {
		return out
	}
	g := s.p.Gateway()
	out.Waiting, out.MostWaiting = g.Queue()
	states, counts := g.States(), group(s.p.Counts())
	for _, t := range g.Tenants() {
		ts := TenantStatus{
			Name: t.Name, Hosts: t.Hosts, Upstream: t.Upstream.String(), Issuers: g.IssuerStates(t.Name),
			Endpoints: map[string]ClassStatus{}, Learned: map[string]uint64{}, NotLearned: []Unlearned{},
		}
		for class, st := range states[t.Name] {
			ts.Endpoints[class] = ClassStatus{Mode: mode(st), State: st}
		}
		for _, c := range counts.of("learned", t.Name) {
			ts.Learned[strings.Join(c.Labels, " ")] += c.N
		}
		for _, c := range counts.of("unlearned", t.Name) {
			u := Unlearned{Reason: strings.Join(c.Labels, " "), N: c.N}
			u.Text, u.Mend = Reason(u.Reason)
			ts.NotLearned = append(ts.NotLearned, u)
		}
		ts.Answered, ts.Refused, ts.Failures = counts.of("answered", t.Name), counts.of("refused", t.Name), counts.of("primary_failures", t.Name)
		ts.Shadow, ts.Difference = counts.of("shadow", t.Name), counts.of("shadow_differences", t.Name)
		ts.Failed, ts.Ambiguous, ts.Late = counts.sum("failed", t.Name), counts.sum("ambiguous", t.Name), counts.sum("late", t.Name)
		if rec, err := s.records(ctx, t.Name); err == nil {
			ts.Records = rec
		}
		out.Tenants = append(out.Tenants, ts)
	}
	return out
}

func (s *Server) records(context.Context, string) (*Records, error) { return nil, nil }
