package admin

import (
	"context"
	"net/http"
	"strings"
	"time"

	"understudy/coverage"
	"understudy/gateway"
	"understudy/health"
	"understudy/session"
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

	Coverage *coverage.Table `json:"coverage,omitempty"`
}

// Records says how much is remembered, and what would be served if an outage began now.
type Records struct {
	At       time.Time      `json:"at"`
	Records  int            `json:"records"`           // remembered sign-ins
	Doors    map[string]int `json:"artifacts"`         // known artifacts, by kind
	Servable map[string]int `json:"servable"`          // of these the backup could answer for, by kind
	Not      map[string]int `json:"notServable"`       // the others, by reason
	Broken   int            `json:"unreadable"`        // artifacts whose seal does not open
	Partial  bool           `json:"partial,omitempty"` // there are more than were looked at
	Problem  string         `json:"problem,omitempty"` // why there are no numbers

	owners map[session.Owner]session.Sessions
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

// countTime bounds how long a question waits for what is remembered to be counted.
const countTime = 20 * time.Second

func (s *Server) status(r *http.Request) (any, error) {
	s.count(r.Context())
	return s.Status(), nil
}

// Status gathers the state now; what is remembered as it was last counted.
func (s *Server) Status() *Status {
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
		s.mu.Lock()
		ts.Records = s.recent[t.Name]
		s.mu.Unlock()
		if s.p.Coverage != nil {
			var owners map[session.Owner]session.Sessions
			if ts.Records != nil {
				owners = ts.Records.owners
			}
			ts.Coverage = s.p.Coverage.Table(t.Name, owners, out.Keys.signing(t.Name), Reason)
			ts.Coverage.Logouts(t.Told)
		}
		out.Tenants = append(out.Tenants, ts)
	}
	return out
}

// count counts what is remembered of every tenant.
func (s *Server) count(ctx context.Context) {
	if s.p.Sessions == nil || s.p.Gateway == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	for _, t := range s.p.Gateway().Tenants() {
		st, err := s.p.Sessions.Stats(ctx, t.Name, s.p.Now())
		r := &Records{At: s.p.Now(), Records: st.Records, Doors: kinds(st.Doors), Servable: kinds(st.Servable), Not: st.Not, Broken: st.Unreadable, Partial: st.Partial, owners: st.Owners}
		if err != nil {
			r.Problem = err.Error()
		}
		s.mu.Lock()
		s.recent[t.Name] = r
		s.mu.Unlock()
	}
}

func kinds(m map[session.Kind]int) map[string]int {
	out := map[string]int{}
	for k, n := range m {
		out[string(k)] = n
	}
	return out
}

// countEvery is how old the numbers of the metrics may be. A count looks at everything that is remembered.
const countEvery = 15 * time.Minute

// Run counts now and then what is remembered, for the metrics, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	t := time.NewTicker(countEvery)
	defer t.Stop()
	for {
		s.count(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}
