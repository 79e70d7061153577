package remote_test

import (
	"testing"
	"time"

	"understudy/backup"
	"understudy/backup/remote"
)

// BenchmarkStanding and BenchmarkPlay are whole calls over loopback, with a real backup behind (ES256, one signature).
func BenchmarkStanding(b *testing.B) {
	cl, s := benchClient(b)
	look := s.Keys("rt").Lookup
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if st, err := cl.Standing(b.Context(), s.Tenant, look); err != nil || !st.Known {
				b.Error(st, err)
				return
			}
		}
	})
}

func BenchmarkPlay(b *testing.B) {
	cl, s := benchClient(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if reply, no, err := cl.Play(b.Context(), s.Play("rt")); reply == nil {
				b.Error(no, err)
				return
			}
		}
	})
}

func benchClient(b *testing.B) (*remote.Client, *remote.SignIn) {
	a := remote.NewAuthority(b, b.TempDir())
	svc := remote.StartService(b)
	s := remote.NewSignIn(b)
	if _, err := svc.Learn(b.Context(), []*backup.Learned{s.Learned(b, "", "rt", time.Now())}); err != nil {
		b.Fatal(err)
	}
	srv := remote.StartServer(b, a, "", svc)
	cl, _ := remote.StartClient(b, a, srv.Addr, b.TempDir(), func(c *remote.ClientConfig) {
		c.Timeouts.Standing, c.Timeouts.Play = time.Minute, time.Minute // a busy machine is slow, not away
	})
	return cl, s
}
