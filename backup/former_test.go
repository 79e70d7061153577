package backup_test

import (
	"fmt"
	"testing"
	"time"

	"understudy/backup"
	"understudy/session"
	"understudy/store"
)

// An artifact that stays the same leads to one record, and its access tokens to the one before at most: who refreshes all day takes no
// more of the disk than who does once.
func TestRecordsOfOneSession(t *testing.T) {
	for name, lives := range map[string]time.Duration{"access tokens that are over": 10 * time.Second, "access tokens that live on": time.Hour} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			most := 0
			var last, before session.ID
			for i := range 20 {
				l := r.learned("rt", "rt", r.now)
				rec := &session.Record{Format: session.RecordFormat, Tenant: tenant, Issuer: iss, Client: "app", Subject: "alice", SID: "sid-1", Grant: "refresh_token"}
				s, at := r.Sessions.Seal, fmt.Sprint("at", i)
				k := session.ArtifactKeys{
					Kind: session.AccessToken, Lookup: s.Lookup(session.AccessToken, tenant, iss, at), Key: s.ArtifactKey(session.AccessToken, tenant, iss, "", at, nil),
					Ends: r.now.Add(lives).UnixNano(),
				}
				sealed, err := session.Seal(rec, nil, r.artifact("rt"), k)
				if err != nil {
					t.Fatal(err)
				}
				l.Sealed = *sealed
				for range 2 { // a message may come again
					if _, err := r.Learn(t.Context(), []*backup.Learned{l}); err != nil {
						t.Fatal(err)
					}
				}
				before, last = last, k.Lookup
				r.now = r.now.Add(30 * time.Second)
				n := 0
				if err := r.Sessions.KV.Scan(t.Context(), []byte("r"), []byte("s"), func([]byte, store.Entry) error { n++; return nil }); err != nil {
					t.Fatal(err)
				}
				most = max(most, n)
			}
			if want := map[bool]int{true: 2, false: 1}[lives > time.Minute]; most != want {
				t.Errorf("%d records at once, want %d", most, want)
			}
			for what, look := range map[string]session.ID{"the last": last, "the one before": before} {
				d, err := r.Sessions.Door(tenant, look)
				if err != nil {
					t.Fatal(err)
				}
				_, err = r.Sessions.SealedRecord(tenant, d)
				if want := what == "the last" || lives > time.Minute; (err == nil) != want {
					t.Errorf("the record of %s access token: %v", what, err)
				}
			}
		})
	}
}
