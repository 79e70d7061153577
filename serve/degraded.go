package serve

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"

	"understudy/backup"
	"understudy/flow"
	"understudy/keys"
	"understudy/session"
)

// errDegraded is wrapped where nothing can be kept, because a part did not open at the start.
var errDegraded = errors.New("the backup is not running on this node")

// unable stands in for a backup whose store, keys or log do not open: sign-ins pass through, nothing is answered, and
// no revocation is acknowledged (design, law 3).
type unable struct {
	code  string // of the refusals
	cause error
	ring  *keys.Ring // nil: not even its public keys are known
	list  *unkept    // nil: it does not open either
}

func (u *unable) Play(context.Context, *flow.Play) (*flow.Reply, *flow.Refusal, error) {
	return nil, flow.NotNow(u.code), nil
}

func (u *unable) Learn(_ context.Context, ls []*backup.Learned) ([]backup.Outcome, error) {
	out := make([]backup.Outcome, len(ls))
	for i := range out {
		out[i].Unlearned = u.code
	}
	return out, nil
}

// Standing knows of nothing: the primary decides alone.
func (u *unable) Standing(context.Context, string, session.ID) (backup.Standing, error) {
	return backup.Standing{}, nil
}

func (u *unable) Held(context.Context, string, session.ID) (backup.Held, error) {
	return backup.Held{}, nil
}

func (u *unable) Barred(context.Context, *backup.SignIn) (bool, error) { return false, nil }

func (u *unable) failed() error { return fmt.Errorf("%w: %w", errDegraded, u.cause) }

// lost notes that a mark of a tenant is not kept.
func (u *unable) lost(tenant string) error {
	if u.list == nil {
		return u.failed()
	}
	if err := u.list.add(tenant); err != nil {
		return fmt.Errorf("%w: %w", u.failed(), err)
	}
	return fmt.Errorf("%w: %w", backup.ErrStopped, u.failed())
}

func (u *unable) Refused(_ context.Context, r *backup.Refused) error { return u.lost(r.Tenant) }

func (u *unable) Step(context.Context, string, session.ID, int64, session.Successor) error {
	return u.failed()
}

func (u *unable) MarkGrant(_ context.Context, g *backup.GrantMark) (bool, error) {
	return false, u.lost(g.Tenant)
}

// Untold says no: what a page gives out could be held against nothing.
func (u *unable) Untold(context.Context, string) (bool, error) { return false, nil }

// Opens says that nothing can be said.
func (u *unable) Opens(context.Context, []*flow.Play) ([]bool, error) { return nil, u.failed() }

// SignedOut tells nobody.
func (u *unable) SignedOut(context.Context, *backup.SignOut) (backup.Parties, error) {
	return backup.Parties{}, u.failed()
}

func (u *unable) Mark(_ context.Context, tenant string, _ ...session.Mark) error {
	return u.lost(tenant)
}

// PublicKeys returns those that exist and makes none: what the backup signed before must verify still.
func (u *unable) PublicKeys(_ context.Context, tenant, issuer string, _ []string) ([]jose.JSONWebKey, error) {
	if u.ring == nil {
		return nil, nil
	}
	return u.ring.Public(keys.Fence{Tenant: tenant, Issuer: issuer}), nil
}
