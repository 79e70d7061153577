package backup_test

import (
	"context"
	"testing"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/session"
)

// playSince plays with an outage that began at a time.
func (r *rig) playSince(a session.ArtifactKeys, outage time.Time) string {
	r.t.Helper()
	client := flow.Proof{ID: "app", Method: "none"}
	if a.Kind == session.AccessToken {
		client = flow.Proof{} // whoever bears it
	}
	reply, no, err := r.Play(context.Background(), &flow.Play{
		ID: "1", Tenant: tenant, Issuer: iss, Flow: "refresh_token", Client: client,
		Artifact: a, Outage: outage.UnixNano(), Trigger: "breaker",
	})
	if err != nil {
		r.t.Fatal(err)
	}
	if no == nil {
		return ""
	}
	// An access token that is over is renewed; a session that is thrown away is not.
	if over := a.Kind == session.AccessToken && no.Code == "artifact_ended"; reply != nil || no.Definite != over || (no.Error == "invalid_grant") != over {
		r.t.Errorf("%s: a reply, or the client throws its session away: %+v %+v", no.Code, reply, no)
	}
	return no.Code
}

// ends makes a message say when its artifacts end at the primary.
func ends(m *backup.Learned, at time.Time) *backup.Learned {
	for i := range m.Sealed.Doors {
		m.Sealed.Doors[i].Ends = at.UnixNano()
	}
	return m
}

// The backup continues only what was alive by the primary's own clocks when the outage began (design, law 2): a token that
// had idled out or expired before yields nothing, whoever presents it and however long the outage lasts.
func TestWhatHadEndedBeforeTheOutage(t *testing.T) {
	const day = 24 * time.Hour
	hold := func(r *rig, outage time.Time, at time.Time) {
		r.learn(ends(r.learned("rt", "", outage.Add(-2*time.Hour)), at))
	}
	for name, c := range map[string]struct {
		learn  func(r *rig, outage time.Time)
		lasted time.Duration // the outage, when it is presented
		want   string
	}{
		"it ended an hour before":       {func(r *rig, o time.Time) { hold(r, o, o.Add(-time.Hour)) }, 0, "artifact_ended"},
		"it ended a moment before":      {func(r *rig, o time.Time) { hold(r, o, o.Add(-1)) }, 0, "artifact_ended"},
		"it ended at the very moment":   {func(r *rig, o time.Time) { hold(r, o, o) }, 0, "artifact_ended"},
		"it ended before, a day ago":    {func(r *rig, o time.Time) { hold(r, o, o.Add(-1)) }, day, "artifact_ended"},
		"it was alive":                  {func(r *rig, o time.Time) { hold(r, o, o.Add(1)) }, 0, ""},
		"it was alive, and ended since": {func(r *rig, o time.Time) { hold(r, o, o.Add(time.Minute)) }, day, ""},
		"its end was not told":          {func(r *rig, o time.Time) { r.learn(r.learned("rt", "", o.Add(-2*time.Hour))) }, 0, ""},
		"a refresh moved its end past the outage": {func(r *rig, o time.Time) {
			hold(r, o, o.Add(-time.Hour))
			r.learn(ends(r.learned("rt", "rt", o.Add(-90*time.Minute)), o.Add(time.Hour)))
		}, 0, ""},
		"a refresh said nothing of the end that was told before": {func(r *rig, o time.Time) {
			hold(r, o, o.Add(-time.Hour))
			r.learn(r.learned("rt", "rt", o.Add(-90*time.Minute)))
		}, 0, "artifact_ended"},
		"it ended, though not what it took the place of": {func(r *rig, o time.Time) {
			r.learn(ends(r.learned("first", "", o.Add(-3*time.Hour)), o.Add(time.Hour)))
			r.learn(ends(r.learned("rt", "first", o.Add(-2*time.Hour)), o.Add(-time.Hour)))
		}, 0, "artifact_ended"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			outage := r.now
			c.learn(r, outage)
			r.now = outage.Add(c.lasted)
			if got := r.playSince(r.artifact("rt"), outage); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// An older token that the primary still accepts does not outlive its own end, though it was alive when the outage began.
func TestASupersededTokenThatHasEnded(t *testing.T) {
	r := newRig(t)
	outage := r.now
	end := outage.Add(time.Hour)
	for i, token := range []string{"rt-1", "rt-2", "rt-3"} {
		presented := ""
		if i > 0 {
			presented = "rt-1" // again and again: the primary accepts superseded tokens
		}
		r.learn(ends(r.learned(token, presented, outage.Add(time.Duration(i-60)*time.Minute)), end))
	}
	for _, c := range []struct {
		at          time.Time
		token, want string
	}{
		{end.Add(-1), "rt-1", ""}, {end, "rt-1", "artifact_ended"}, {end.Add(time.Hour), "rt-1", "artifact_ended"},
		{end.Add(time.Hour), "rt-3", ""}, // the newest one: it was alive when the primary's clocks stopped
	} {
		r.now = c.at
		if got := r.playSince(r.artifact(c.token), outage); got != c.want {
			t.Errorf("%s, %v after its end: got %q, want %q", c.token, c.at.Sub(end), got, c.want)
		}
	}
}

// An access token ends at its end, outage or not.
func TestAnAccessTokenThatHasEnded(t *testing.T) {
	r := newRig(t)
	outage := r.now
	end := outage.Add(time.Hour)
	m := r.learned("rt", "", outage.Add(-time.Hour))
	seal := r.Sessions.Seal
	at := session.ArtifactKeys{
		Kind: session.AccessToken, Lookup: seal.Lookup(session.AccessToken, tenant, iss, "at"),
		Key: seal.ArtifactKey(session.AccessToken, tenant, iss, "", "at", nil), Ends: end.UnixNano(),
	}
	rec := &session.Record{Format: session.RecordFormat, Tenant: tenant, Issuer: iss, Client: "app", Subject: "alice", SID: "sid-1"}
	sealed, err := session.Seal(rec, nil, r.artifact("rt"), at)
	if err != nil {
		t.Fatal(err)
	}
	m.Sealed = *sealed
	r.learn(m)
	for now, ended := range map[time.Time]bool{end.Add(-1): false, end: true, end.Add(time.Minute): true} {
		r.now = now
		if got := r.playSince(at, outage); (got == "artifact_ended") != ended {
			t.Errorf("%v after its end: %q", now.Sub(end), got)
		}
	}
}
