package backup

import (
	"errors"
	"slices"

	"understudy/flow"
	"understudy/session"
)

// ofBehalf adds the marks of the token on whose behalf the client asks. What was approved for another one of the same person
// does not make up for them: that it is over shows only there.
func (s *Service) ofBehalf(p *flow.Play, marks []session.Mark) ([]session.Mark, error) {
	own, err := s.ownMarks(p, p.Behalf.Lookup, s.doorOf(p.Tenant, p.Issuer, p.Behalf.Token, session.ID{}).Approved)
	if err != nil {
		return nil, err
	}
	more, err := s.behalfMarks(p.Tenant, p.Issuer, p.Behalf)
	out := slices.Concat(marks, own, more)
	slices.SortStableFunc(out, func(a, b session.Mark) int { // final ones first
		switch {
		case a.Final == b.Final:
			return 0
		case a.Final:
			return -1
		}
		return 1
	})
	return out, err
}

// behalfMarks are those that block what a token says of itself, and the grant that it is known to have come of.
func (s *Service) behalfMarks(tenant, issuer string, of *flow.Behalf) ([]session.Mark, error) {
	marks, err := s.Sessions.Blocking(tenant, s.doorOf(tenant, issuer, of.Token, of.Lookup))
	if err != nil {
		return nil, err
	}
	d, err := s.Sessions.Door(tenant, of.Lookup)
	switch {
	case errors.Is(err, session.ErrNoRecord):
		return marks, nil
	case err != nil:
		return nil, err
	}
	more, err := s.Sessions.Blocking(tenant, d)
	return append(marks, more...), err
}
