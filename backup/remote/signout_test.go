package remote_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"understudy/backup"
	"understudy/backup/remote"
)

// Of a logout at a gateway the backup says who took part, and one that is away tells nobody.
func TestSignedOut(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	srv := remote.StartServer(t, a, "", remote.StartService(t))
	cl, _ := remote.StartClient(t, a, srv.Addr, t.TempDir())
	ctx := context.Background()
	s := remote.NewSignIn(t)
	m := s.Learned(t, "", "rt", time.Now().Add(-time.Second))
	m.Notify = map[string]string{"alg": "ES256"}
	if out, err := cl.Learn(ctx, []*backup.Learned{m}); err != nil || out[0].Unlearned != "" {
		t.Fatal(out, err)
	}
	in := backup.SignOut{Tenant: s.Tenant, Issuer: s.Issuer, Subject: s.Subject, SID: s.SID, At: time.Now().UnixNano(), Clients: []string{s.Client, "stranger"}}
	if p, err := cl.SignedOut(ctx, &in); err != nil || !slices.Equal(p.Took, []string{s.Client}) || len(p.Told) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	other := in
	other.SID = "sid-2"
	if p, err := cl.SignedOut(ctx, &other); err != nil || len(p.Took) != 0 {
		t.Errorf("another session: %+v, %v", p, err)
	}
	srv.Stop()
	remote.Eventually(t, "the backup is away", func() bool {
		_, err := cl.SignedOut(ctx, &in)
		return errors.Is(err, remote.ErrAway)
	})
}
