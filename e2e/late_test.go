package e2e

import (
	"net/http"
	"testing"

	"understudy/idptest"
)

// rotating are the clients whose refresh tokens a primary supersedes at each use.
func rotating() []struct {
	shape      shape
	id, secret string
} {
	ss := shared.shapes()
	return []struct {
		shape      shape
		id, secret string
	}{{ss[0], "spa", ""}, {ss[0], "web", "web-secret"}, {ss[2], "spa", ""}, {ss[3], "spa", ""}}
}

// TestCommitThenReplyLate: the primary rotates the refresh token and its reply comes late. The client, which has been
// answered by the backup, comes back with the old token before and after, and its session is alive at the primary.
func TestCommitThenReplyLate(t *testing.T) {
	for _, killed := range []bool{false, true} {
		for _, c := range rotating() {
			name := c.shape.name + ", " + c.id
			if killed {
				name += ", understudy killed between"
			}
			t.Run(name, func(t *testing.T) {
				d := c.shape.deployment
				d.use(t)
				u := d.understudy(t, true, "")
				st, err := c.shape.at(t.Context(), u)
				if err != nil {
					t.Fatal(err)
				}
				p := newPerson(t, st, c.id, c.secret, "alice")
				st.learned(t)
				held := p.refresh

				lates := d.fault.Done(idptest.LateReply)
				if err := d.fault.Set(idptest.Fault{Kind: idptest.LateReply, Grant: "refresh_token", Times: 1}); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(d.fault.Release)
				for range 2 { // the second while the reply is still out
					sent := d.fault.Passed("refresh_token")
					if r, err := p.again(t.Context()); err != nil || !r.backup() || p.refresh != held {
						t.Fatalf("before the late reply: not answered by the backup with the same token: %v", err)
					}
					if n := d.fault.Passed("refresh_token") - sent; n != 0 {
						t.Fatalf("the old token was presented to the primary %d times more", n)
					}
				}
				if n := d.fault.Done(idptest.LateReply) - lates; n != 1 {
					t.Fatalf("%d exchanges with a late reply", n)
				}
				d.fault.Release()
				eventually(t, "the late reply is not kept", func() bool { return status(t, u).Late == 1 })
				if killed {
					u.Kill()
					if err := u.Restart(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				for i := range 2 { // the successor in place of the old token; then what it led to
					r, err := p.again(t.Context())
					if err != nil {
						t.Fatalf("refresh %d after the late reply: %v", i+1, err)
					}
					if r.backup() {
						t.Fatalf("refresh %d after the late reply was answered by the backup", i+1)
					}
					if p.refresh == held {
						t.Fatal("the primary did not rotate")
					}
				}
				if n := status(t, u).Ambiguous; n != 0 {
					t.Errorf("%d ambiguous exchanges, where the reply came", n)
				}
			})
		}
	}
}

// TestCommitThenLoseReply: a reply that never comes is counted as ambiguous, once for each, and the client is answered;
// whether the connection is reset or something before the primary says 502 or 504 in the reply's place.
func TestCommitThenLoseReply(t *testing.T) {
	for _, f := range []struct {
		name  string
		fault idptest.Fault
	}{
		{"", idptest.Fault{Kind: idptest.LoseReply}},
		{", 502", idptest.Fault{Kind: idptest.CommitError, Status: http.StatusBadGateway}},
		{", 504", idptest.Fault{Kind: idptest.CommitError, Status: http.StatusGatewayTimeout}},
	} {
		for _, c := range rotating() {
			t.Run(c.shape.name+", "+c.id+f.name, func(t *testing.T) {
				d := c.shape.deployment
				d.use(t)
				u := d.understudy(t, true, fastRamp)
				st, err := c.shape.at(t.Context(), u)
				if err != nil {
					t.Fatal(err)
				}
				var ps []*person
				for range 5 {
					ps = append(ps, newPerson(t, st, c.id, c.secret, "alice"))
				}
				st.learned(t)
				lost := d.fault.Done(f.fault.Kind)
				// The gateway's probes are no exchanges that anybody waits for.
				f.fault.Grant = "refresh_token"
				if err := d.fault.Set(f.fault); err != nil {
					t.Fatal(err)
				}
				for i, p := range ps {
					r, err := p.again(t.Context())
					if err != nil {
						t.Fatalf("person %d: %v", i, err)
					}
					if !r.backup() {
						t.Fatalf("person %d: the reply was lost and yet came", i)
					}
				}
				lost = d.fault.Done(f.fault.Kind) - lost
				if lost == 0 {
					t.Fatal("no reply was lost")
				}
				if err := d.fault.Set(idptest.Fault{}); err != nil {
					t.Fatal(err)
				}
				if n := status(t, u).Ambiguous; n != uint64(lost) {
					t.Errorf("%d ambiguous exchanges, the fault proxy lost %d replies", n, lost)
				}
			})
		}
	}
}
