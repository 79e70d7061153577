package remote_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"understudy/backup/remote"
	"understudy/session"
)

// A gateway knows at once what it ended itself, and within a second what another one ended; where the backup is away, anything may be.
func TestWhetherThePrimaryMayNotKnow(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	srv := remote.StartServer(t, a, "", remote.StartService(t))
	one, _ := remote.StartClient(t, a, srv.Addr, t.TempDir())
	two, _ := remote.StartClient(t, a, srv.Addr, t.TempDir())
	ctx := context.Background()
	for _, c := range []*remote.Client{one, two} {
		if yes, err := c.Untold(ctx, "acme"); yes || err != nil {
			t.Fatalf("nothing was ended: %v, %v", yes, err)
		}
	}
	m := session.Mark{Of: session.OfSession, ID: session.NewID(), Final: true, At: time.Now().UnixNano(), Cause: "logout"}
	if err := one.Mark(ctx, "acme", m); err != nil {
		t.Fatal(err)
	}
	if yes, err := one.Untold(ctx, "acme"); !yes || err != nil {
		t.Errorf("who ended it: %v, %v", yes, err)
	}
	remote.Eventually(t, "another gateway knows", func() bool {
		yes, err := two.Untold(ctx, "acme")
		return yes && err == nil
	})
	if yes, err := two.Untold(ctx, "other"); yes || err != nil {
		t.Errorf("another tenant: %v, %v", yes, err)
	}
	srv.Stop()
	remote.Eventually(t, "the backup is away", func() bool {
		yes, err := two.Untold(ctx, "third")
		return yes && errors.Is(err, remote.ErrAway)
	})
	if yes, err := two.Untold(ctx, "acme"); !yes || err != nil {
		t.Errorf("what is known stays known: %v, %v", yes, err)
	}
}
