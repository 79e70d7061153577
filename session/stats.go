package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
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
	// Owners are the sessions of each client, up to ten thousand.
	Owners map[Owner]Sessions
}

// Owner is a client, with the kind of artifact that its sessions hang on.
type Owner struct {
	Client ID
	Kind   Kind
}

// Sessions are sessions that are not over: one of a refresh token and all its successors is one.
type Sessions struct {
	Servable  int
	Unlearned map[string]int // why the others would not be served
}

// maxOwners is how many clients Stats tells apart.
const maxOwners = 10_000

// maxStats is how many doors Stats looks at.
const maxStats = 2_000_000

// Stats looks at every door of a tenant, up to two million. It takes some 5 µs of a core for each door (a million: about
// five seconds, and some 100 MB while it runs), so it is for an operator's question, not for every scrape; ctx ends it.
// It does not know the client and the request, so policy and client authentication may still refuse what counts as
// servable.
func (s *Store) Stats(ctx context.Context, tenant string, now time.Time) (Stats, error) {
	out := Stats{Doors: map[Kind]int{}, Servable: map[Kind]int{}, Not: map[string]int{}}
	records := map[ID]struct{}{}
	rotation := map[ID]string{}
	from := place(spaceDoor, tenant)
	seen, sessions := 0, newTally()
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
		sessions.add(&d, why)
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
	out.Records, out.Owners = len(records), sessions.owners()
	return out, nil
}

// tally gathers doors into sessions.
type tally struct {
	owner map[Owner]uint16
	names []Owner
	why   map[string]uint16
	codes []string
	best  map[uint64]verdict // by owner and grant
}

// verdict is what the newest door of a session says of it.
type verdict struct {
	owner    uint16
	why      uint16 // of tally.codes; 0: it would be served
	approved uint32 // Unix seconds
}

func newTally() *tally {
	return &tally{owner: map[Owner]uint16{}, why: map[string]uint16{"": 0}, codes: []string{""}, best: map[uint64]verdict{}}
}

// add counts a door; why is its standing. What is over is no session any more.
func (t *tally) add(d *Door, why string) {
	why, unlearned := strings.CutPrefix(why, notLearned)
	if !d.Kind.Opens() || d.Kind.short() || why != "" && !unlearned {
		return
	}
	o := Owner{d.Client, d.Kind}
	n, ok := t.owner[o]
	if !ok {
		if len(t.names) >= maxOwners {
			return
		}
		n = uint16(len(t.names))
		t.owner[o], t.names = n, append(t.names, o)
	}
	code, ok := t.why[why]
	if !ok {
		code = uint16(len(t.codes))
		t.why[why], t.codes = code, append(t.codes, why)
	}
	v := verdict{n, code, uint32(d.Approved / int64(time.Second))}
	k := binary.BigEndian.Uint64(d.Grant[:]) ^ uint64(n)<<48
	if was, ok := t.best[k]; !ok || code == 0 && was.why != 0 || (code == 0) == (was.why == 0) && v.approved > was.approved {
		t.best[k] = v
	}
}

func (t *tally) owners() map[Owner]Sessions {
	out := map[Owner]Sessions{}
	for _, v := range t.best {
		o := t.names[v.owner]
		s := out[o]
		if s.Unlearned == nil {
			s.Unlearned = map[string]int{}
		}
		if v.why == 0 {
			s.Servable++
		} else {
			s.Unlearned[t.codes[v.why]]++
		}
		out[o] = s
	}
	return out
}

// notLearned begins the standing of a door from whose family nothing was learned.
const notLearned = "not learned: "

// standing says why a door would not be served in an outage that begins now, "" where it would.
func (s *Store) standing(tenant string, d *Door, now time.Time, rotation map[ID]string) (string, error) {
	at := now.UnixNano()
	switch {
	case !d.Kind.Opens():
		return "", nil
	case d.Unlearned != "":
		return notLearned + d.Unlearned, nil
	case d.Record.Zero():
		return notLearned + "unknown", nil
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
