package backup_test

import (
	"testing"
	"time"

	"understudy/backup"
	"understudy/session"
)

// What a primary says of the time before which nothing counts (Keycloak's not-before-policy) is of the subject at the client that were
// told it; of everybody, once another subject was told the same at another client; and of nobody where it cannot be.
func TestNotBefore(t *testing.T) {
	type told struct{ client, subject string }
	hour := func(r *rig, n int) int64 { return r.now.Add(time.Duration(n) * time.Hour).Unix() }
	for name, c := range map[string]struct {
		hours int // before now; what was learned before is three hours old
		to    []told
		alice string // what becomes of her sign-in, and of Bob's, at the same client
		bob   string
	}{
		"told nobody":                     {-1, nil, "", ""},
		"told her there":                  {-1, []told{{"app", "alice"}}, "refused_by_primary", ""},
		"told her at another":             {-1, []told{{"other", "alice"}}, "", ""},
		"told another there":              {-1, []told{{"app", "carol"}}, "", ""},
		"told two, at one client":         {-1, []told{{"app", "alice"}, {"app", "carol"}}, "refused_by_primary", ""},
		"told one, at two clients":        {-1, []told{{"app", "alice"}, {"other", "alice"}}, "refused_by_primary", ""},
		"told two, at two clients":        {-1, []told{{"third", "dave"}, {"other", "carol"}}, "refused_by_primary", "refused_by_primary"},
		"and one is nobody":               {-1, []told{{"third", "dave"}, {"other", ""}}, "", ""},
		"older than all that was learned": {-4, []told{{"app", "alice"}, {"other", "carol"}}, "", ""},
		"in the future: by another clock": {1, []told{{"app", "alice"}, {"other", "carol"}}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			as := func(token, client, subject string, at time.Time) *backup.Learned {
				m := r.learned(token, "", at)
				m.Client = r.Sessions.Seal.Pseudonym("client", tenant, iss, client)
				m.Subject = session.ID{}
				if subject != "" {
					m.Subject = r.Sessions.Seal.Pseudonym("subject", tenant, iss, subject)
				}
				return m
			}
			r.learn(as("alice", "app", "alice", r.now.Add(-3*time.Hour)), as("bob", "app", "bob", r.now.Add(-3*time.Hour)))
			for i, to := range c.to {
				m := as("new-"+to.client+to.subject, to.client, to.subject, r.now.Add(time.Duration(i-10)*time.Second))
				m.NotBefore = hour(r, c.hours)
				r.learn(m)
			}
			r.want("alice", c.alice)
			r.want("bob", c.bob)
		})
	}
}
