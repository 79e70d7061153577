package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"understudy/store"
)

// Stats says what is remembered of a tenant, and what would be served if an outage began now.
type Stats struct {
	Doors    map[Kind]int
	Records  int
	Servable map[Kind]int
	// Not counts the doors that would not be served by reason: "expired", "ended" (the artifact's own end at the
	// primary), "superseded", "revoked" (a final mark), "refused" (an inferred mark), "not learned: " and why.
	Not map[string]int
	// Unreadable counts doors whose seal does not open; they serve nobody.
	Unreadable int
	// Partial is set where there are more doors than were looked at.
	Partial bool
}

// maxStats is how many doors Stats looks at.
const maxStats = 2_000_000

// Stats looks at every door of a tenant, up to two million. It takes some 5 µs of a core for each door (a million: about
// five seconds, and some 40 MB while it runs), so it is for an operator's question, not for every scrape; ctx ends it.
// It does not know the client and the request, so policy and client authentication may still refuse what counts as
// servable.
func (s *Store) Stats(ctx context.Context, tenant string, now time.Time) (Stats, error) {
	out := Stats{Doors: map[Kind]int{}, Servable: map[Kind]int{}, Not: map[string]int{}}
	records := map[ID]struct{}{}
	rotation := map[ID]string{}
	from := place(spaceDoor, tenant)
	seen := 0
	err := s.KV.Scan(ctx, from, after(from), func(key []byte, e store.Entry) error {
		if seen++; seen > maxStats {
			out.Partial = true
			return errStep
		}
		var d Door
		if err := s.Seal.unsealCBOR(key, e.Value, &d); err != nil {
			out.Unreadable++
			return nil
		}
		out.Doors[d.Kind]++
		if !d.Record.Zero() {
			records[d.Record] = struct{}{}
		}
		why, err := s.standing(tenant, &d, now, rotation)
		if err != nil {
			return err
		}
		switch {
		case why != "":
			out.Not[why]++
		case d.Kind.Opens():
			out.Servable[d.Kind]++
		}
		return nil
	})
	if err != nil && !errors.Is(err, errStep) {
		return Stats{}, fmt.Errorf("count what is remembered: %w", err)
	}
	out.Records = len(records)
	return out, nil
}

// standing says why a door would not be served in an outage that begins now, "" where it would.
func (s *Store) standing(tenant string, d *Door, now time.Time, rotation map[ID]string) (string, error) {
	at := now.UnixNano()
	switch {
	case !d.Kind.Opens():
		return "", nil
	case d.Unlearned != "":
		return "not learned: " + d.Unlearned, nil
	case d.Record.Zero():
		return "not learned: unknown", nil
	case at >= d.Approved+int64(Lifetime):
		return "expired", nil
	case d.Ends != 0 && d.Ends <= at, d.Kind.short() && d.Ends == 0:
		return "ended", nil
	}
	marks, err := s.Blocking(tenant, d)
	switch {
	case err != nil:
		return "", err
	case len(marks) > 0 && marks[0].Final:
		return "revoked", nil
	case len(marks) > 0:
		return "refused", nil
	}
	if d.Superseded == 0 || d.Kind.short() {
		return "", nil
	}
	r, known := rotation[d.Client]
	if !known {
		h, err := s.Habit(tenant, d.Client)
		if err != nil {
			return "", err
		}
		r = h.Rotation
		rotation[d.Client] = r
	}
	if r != "accepts" {
		return "superseded", nil
	}
	return "", nil
}
