package session

import (
	"context"
	"slices"
	"testing"
	"time"

	"understudy/store"
)

// noting is a store that notes how durable its batches were asked to be.
type noting struct {
	store.KV
	asked []store.Durability
}

func (n *noting) Apply(ctx context.Context, b *store.Batch, d store.Durability) error {
	n.asked = append(n.asked, d)
	return n.KV.Apply(ctx, b, d)
}

// A mark holds, and one that was lifted is lifted, whatever happens to the machine after the call has returned.
func TestMarksAreDurable(t *testing.T) {
	s := opened(t)
	_, _, d := remembered(t, s, tenant, "token", start)
	n := &noting{KV: s.KV}
	s.KV = n
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"a final mark", func() error {
			return s.Mark(t.Context(), tenant, Mark{Of: OfSession, ID: d.Session, Final: true, At: start.UnixNano(), Cause: "logout"})
		}},
		{"an inferred mark", func() error {
			return s.Mark(t.Context(), tenant, Mark{Of: OfSubject, ID: d.Subject, At: start.UnixNano(), Cause: "refused"})
		}},
		{"two at once", func() error {
			return s.Mark(t.Context(), tenant, Mark{Of: OfGrant, ID: d.Grant, Final: true, At: 1}, Mark{Of: OfClient, ID: d.Client, At: 1})
		}},
		{"a batch that is lifted", func() error {
			_, err := s.Lift(t.Context(), tenant, "", start.Add(-time.Hour), start.Add(time.Hour), start.Add(time.Hour))
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.asked = nil
			must(t, c.do())
			if len(n.asked) == 0 || slices.Contains(n.asked, store.Soon) {
				t.Errorf("the store was asked for %v, want %v alone", n.asked, store.Durable)
			}
		})
	}
}
