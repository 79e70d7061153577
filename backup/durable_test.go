package backup_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"understudy/backup"
	"understudy/session"
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

// What somebody is told of when the call returns is on disk by then: a revocation or a refusal that a crash could undo
// would let the one who was refused in (design, law 3). What is written Soon is lost with the machine.
func TestWhatIsAcknowledgedIsDurable(t *testing.T) {
	for name, c := range map[string]struct {
		before func(*rig)
		do     func(t *testing.T, r *rig) error
		last   bool // the last batch alone must be: with it those before it are
	}{
		"an operator's mark": {do: func(t *testing.T, r *rig) error {
			return r.Mark(t.Context(), tenant, session.Mark{Of: session.OfSubject, ID: session.NewID(), Final: true, At: 1, Cause: "operator"})
		}},
		"the primary's refusal of a token": {do: func(t *testing.T, r *rig) error {
			r.refuse("rt", "invalid_grant")
			return nil
		}},
		"the primary's refusal of a superseded token": {
			before: func(r *rig) { r.learn(r.learned("rt-2", "rt", r.now.Add(-time.Minute))) },
			do:     func(t *testing.T, r *rig) error { r.refuse("rt", "invalid_grant"); return nil },
		},
		"the primary's refusal of a client's secret": {
			before: func(r *rig) {
				m := r.learned("confidential", "", r.now.Add(-time.Hour))
				m.ClientAuth, m.SecretID = "client_secret_basic", session.ID{7}
				r.learn(m)
			},
			do: func(t *testing.T, r *rig) error {
				return r.Refused(t.Context(), &backup.Refused{
					Tenant: tenant, Client: r.Sessions.Seal.Pseudonym("client", tenant, iss, "app"), SecretID: session.ID{7}, Error: "invalid_client", Sent: r.now.UnixNano(),
				})
			},
		},
		"a step of an exchange without a reply": {do: func(t *testing.T, r *rig) error {
			return r.Step(t.Context(), tenant, r.artifact("rt").Lookup, r.now.UnixNano(), session.Successor{State: session.Pending, At: r.now.UnixNano()})
		}},
		"a reuse that is found while playing": {
			before: func(r *rig) {
				at := r.now.Add(-30 * time.Minute)
				r.replays(at, "a", "b") // this primary refuses superseded tokens
				r.learn(r.learned("rt-2", "rt", at))
			},
			do: func(t *testing.T, r *rig) error { r.want("rt", "reuse"); return nil },
		},
		"sign-ins that were learned": {last: true, do: func(t *testing.T, r *rig) error {
			var ms []*backup.Learned
			for range 150 {
				ms = append(ms, r.learned("new-"+session.NewID().String(), "", r.now))
			}
			r.learn(ms...)
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.learn(r.learned("rt", "", r.now.Add(-time.Hour)))
			if c.before != nil {
				c.before(r)
			}
			n := &noting{KV: r.Sessions.KV}
			r.Sessions.KV = n
			if err := c.do(t, r); err != nil {
				t.Fatal(err)
			}
			must := n.asked
			if c.last && len(must) > 0 {
				must = must[len(must)-1:]
			}
			if len(must) == 0 || slices.Contains(must, store.Soon) {
				t.Errorf("the store was asked for %v, want %v (%d: soon, %d: durable)", n.asked, store.Durable, store.Soon, store.Durable)
			}
		})
	}
}
