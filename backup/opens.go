package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"understudy/audit"
	"understudy/flow"
	"understudy/session"
)

// Opens says of each authorization request of one browser whether it would be answered now: by the same row of checks, and by its
// flow, which signs and issues nothing. It leaves one line, which names the clients that would be let in.
//
// The requests have the ID, tenant, issuer and address of the first. An error means that nothing may be said of any.
func (s *Service) Opens(ctx context.Context, ps []*flow.Play) ([]bool, error) {
	if len(ps) == 0 || len(ps) > session.MaxOpened {
		return nil, fmt.Errorf("ask what a browser opens: %d requests, from 1 to %d are taken", len(ps), session.MaxOpened)
	}
	began := s.Now()
	e := audit.Entry{
		Time: began, ID: ps[0].ID, Tenant: ps[0].Tenant, Issuer: ps[0].Issuer, Flow: ps[0].Flow, Address: ps[0].Facts.Address, Trigger: ps[0].Trigger,
		TokenIssuerType: "none", Decision: "shown", Rule: "applications",
	}
	out := make([]bool, len(ps))
	for i, p := range ps {
		if p.Tenant != e.Tenant || p.Issuer != e.Issuer || p.ID != e.ID || p.Artifact.Kind != session.Application {
			return nil, errors.New("ask what a browser opens: the requests are not those of one browser")
		}
		asked := *p
		asked.Shadow = true // what is asked uses nothing up, and marks nothing
		a := &attempt{play: &asked, now: began, asked: true}
		if _, no := s.run(ctx, a); no != nil {
			continue
		}
		out[i] = true
		e.Opens = append(e.Opens, a.record.Client)
		e.Subject, e.Session = a.record.Subject, a.record.SID
		if at := time.Unix(0, a.door.Approved); at.After(e.Approved) {
			e.Approved = at
		}
	}
	e.Latency = float64(s.Now().Sub(began).Microseconds()) / 1000
	if err := s.Audit.Write(e); err != nil {
		return nil, fmt.Errorf("ask what a browser opens: %w", err) // law 9
	}
	return out, nil
}
