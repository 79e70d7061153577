package e2e

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"understudy/admin"
	"understudy/idptest"
)

// operator is the admin API of a running understudy, as its commands use it.
func operator(u *idptest.Understudy) *admin.Client {
	return &admin.Client{Socket: filepath.Join(u.DataDir(), "admin.sock")}
}

// status is the one tenant's status.
func status(t *testing.T, u *idptest.Understudy) admin.TenantStatus {
	t.Helper()
	return statusOf(t, u, "default")
}

// statusOf is a tenant's status.
func statusOf(t *testing.T, u *idptest.Understudy, tenant string) admin.TenantStatus {
	t.Helper()
	var s admin.Status
	if err := operator(u).Get(t.Context(), "/v1/status", &s); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(s.Tenants, func(x admin.TenantStatus) bool { return x.Name == tenant })
	if i < 0 {
		t.Fatalf("status has %d tenants, and no %s", len(s.Tenants), tenant)
	}
	return s.Tenants[i]
}

// learned waits until every exchange that the primary approved since the process started is kept. Learning is behind
// the replies.
func (s *site) learned(t *testing.T) {
	t.Helper()
	eventually(t, "what the primary approved is not learned", func() bool {
		st := statusOf(t, s.u, s.tenant)
		if len(st.NotLearned) > 0 {
			t.Fatalf("not learned: %+v", st.NotLearned)
		}
		var have int64
		for flow, n := range st.Learned {
			if flow != "authorization" { // what a browser holds is learned beside what came of its code
				have += int64(n)
			}
		}
		return have >= s.approved.Load()
	})
}

// eventually waits for what comes by itself, within a bound that only a failure reaches.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// revoke ends a subject's sign-ins as an operator does. Without an error it is acknowledged.
func revoke(ctx context.Context, u *idptest.Understudy, subject string) error {
	return operator(u).Post(ctx, "/v1/revoke", &admin.Revoke{Subject: subject}, &admin.Revoked{})
}
