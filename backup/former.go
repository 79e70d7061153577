package backup

import "understudy/session"

// answers is until when the access tokens of an exchange lead to its record, Unix nanoseconds; 0: none do.
func (l *Learned) answers() (until int64) {
	for _, sd := range l.Sealed.Doors {
		if sd.Kind == session.AccessToken {
			until = max(until, sd.Ends)
		}
	}
	return until
}

// inPlaceOf notes on a door that leads to a record in another's place, where access tokens lead to that one still: it stays until a
// third takes the place of this one, so that an artifact which stays the same never has more than two.
func (s *Service) inPlaceOf(b *learning, l *Learned, d, was *session.Door) {
	if was.Record == l.Sealed.Record { // applied again
		d.Former, d.FormerHour = was.Former, was.FormerHour
		return
	}
	until := was.Answers
	for _, sd := range l.Sealed.Doors {
		if sd.Kind != session.Application {
			continue
		}
		// One of two that lead to the same, and whichever was opened knows.
		if other, err := b.door(s.Sessions, l.Tenant, sd.Lookup); err == nil && other.Record == was.Record {
			until = max(until, other.Answers)
		}
	}
	if until > l.Sent {
		d.Former, d.FormerHour = was.Record, was.Hour
	}
}
