package backup_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"understudy/audit"
	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/keys"
	"understudy/policy"
	"understudy/session"
	"understudy/store"
)

// bench is a backup with a real store and real keys, and a clock of its own.
type rig struct {
	*backup.Service
	t   testing.TB
	now time.Time
}

const (
	tenant = "staff"
	iss    = "https://login.example/realms/main"
)

func newRig(t testing.TB) *rig {
	t.Helper()
	db, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	seal, err := session.NewSealer(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, now: time.Now()}
	clock := func() time.Time { return r.now }
	ring, err := keys.Open(t.TempDir(), bytes.Repeat([]byte{2}, 32), keys.Options{Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ring.Close() })
	signins, err := audit.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { signins.Close() })
	r.Service = &backup.Service{
		Sessions: &session.Store{KV: db, Seal: seal}, Keys: ring, Flows: []flow.Flow{oauth.Refresh{}},
		Policy: policy.PermitAll, Audit: signins, Log: slog.New(slog.DiscardHandler), Now: clock,
	}
	if _, err := r.PublicKeys(t.Context(), tenant, iss, []string{"ES256"}); err != nil {
		t.Fatal(err)
	}
	return r
}

func quoted(s string) []byte { return session.Quote(s) }

// learned is a message for a public client's sign-in or refresh.
func (r *rig) learned(token, presented string, sent time.Time) *backup.Learned {
	seal := r.Sessions.Seal
	rec := &session.Record{
		Format: session.RecordFormat, Tenant: tenant, Issuer: iss, Client: "app", Subject: "alice", SID: "sid-1", Grant: "refresh_token",
		Response: session.Object{{Name: "access_token", Value: []byte("null")}, {Name: "refresh_token", Value: []byte("null")}, {Name: "token_type", Value: quoted("Bearer")}, {Name: "expires_in", Value: []byte("60")}},
		AccessToken: &session.Token{
			Header: session.Object{{Name: "alg", Value: quoted("ES256")}, {Name: "kid", Value: quoted("k1")}},
			Claims: session.Object{{Name: "iss", Value: quoted(iss)}, {Name: "sub", Value: quoted("alice")}, {Name: "iat", Value: []byte("1000")}, {Name: "exp", Value: []byte("1060")}},
		},
	}
	sealed, err := session.Seal(rec, nil, r.artifact(token))
	if err != nil {
		r.t.Fatal(err)
	}
	m := &backup.Learned{
		Tenant: tenant, Issuer: iss, Flow: "refresh_token", Sent: sent.UnixNano(), Interactive: presented == "", Sealed: *sealed,
		Client: seal.Pseudonym("client", tenant, iss, "app"), Subject: seal.Pseudonym("subject", tenant, iss, "alice"),
		Session: seal.Pseudonym("session", tenant, iss, "sid-1"), ClientAuth: "none",
	}
	if presented != "" {
		m.Presented = seal.Lookup(session.RefreshToken, tenant, iss, presented)
	}
	return m
}

func (r *rig) artifact(token string) session.ArtifactKeys {
	seal := r.Sessions.Seal
	return session.ArtifactKeys{
		Kind: session.RefreshToken, Lookup: seal.Lookup(session.RefreshToken, tenant, iss, token),
		Key: seal.ArtifactKey(session.RefreshToken, tenant, iss, "app", token, nil),
	}
}

func (r *rig) learn(ms ...*backup.Learned) []backup.Outcome {
	r.t.Helper()
	o, err := r.Learn(context.Background(), ms)
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

// play returns the refusal's code, or "".
func (r *rig) play(token string) string {
	r.t.Helper()
	_, no, err := r.Play(context.Background(), &flow.Play{
		ID: "1", Tenant: tenant, Issuer: iss, Flow: "refresh_token", Client: flow.Proof{ID: "app", Method: "none"},
		Artifact: r.artifact(token), Outage: r.now.UnixNano(), Trigger: "breaker",
	})
	if err != nil {
		r.t.Fatal(err)
	}
	if no != nil {
		return no.Code
	}
	return ""
}

func (r *rig) mark(of session.What, what, value string, final bool, at time.Time) {
	r.t.Helper()
	m := session.Mark{Of: of, ID: r.Sessions.Seal.Pseudonym(what, tenant, iss, value), Final: final, At: at.UnixNano(), Cause: "operator"}
	if err := r.Mark(context.Background(), tenant, m); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) want(token, code string) {
	r.t.Helper()
	if got := r.play(token); got != code {
		r.t.Errorf("%s: got %q, want %q", token, got, code)
	}
}

// A sign-in and its refresh may reach the backup in one batch: they are one grant.
func TestASignInAndItsRefreshInOneBatchAreOneGrant(t *testing.T) {
	r := newRig(t)
	at := r.now.Add(-time.Hour)
	r.learn(r.learned("rt-1", "", at), r.learned("rt-2", "rt-1", at.Add(time.Minute)), r.learned("rt-3", "rt-2", at.Add(2*time.Minute)))
	grants := map[session.ID]bool{}
	for _, token := range []string{"rt-1", "rt-2", "rt-3"} {
		st, err := r.Standing(t.Context(), tenant, r.artifact(token).Lookup)
		if err != nil || !st.Known {
			t.Fatalf("%s: %+v %v", token, st, err)
		}
		grants[st.Grant] = true
	}
	if len(grants) != 1 {
		t.Errorf("%d grants", len(grants))
	}
	r.want("rt-3", "")
	r.want("rt-1", "superseded") // over a minute ago, and it is not known what this primary does with one
}

func TestLearnedMessagesMayBeAppliedTwiceAndLate(t *testing.T) {
	r := newRig(t)
	at := r.now.Add(-time.Hour)
	first, again := r.learned("rt", "", at), r.learned("rt", "rt", at.Add(time.Minute)) // the same token goes on
	r.learn(first)
	r.learn(again)
	r.learn(again)
	r.learn(first)
	r.want("rt", "")
	d, err := r.Sessions.Door(tenant, r.artifact("rt").Lookup)
	if err != nil || d.Approved != at.Add(time.Minute).UnixNano() {
		t.Errorf("approved %v, %v", d, err)
	}
}

func TestWhatMayGoOn(t *testing.T) {
	hour := func(n int) func(*rig) time.Time {
		return func(r *rig) time.Time { return r.now.Add(time.Duration(n) * time.Hour) }
	}
	for name, c := range map[string]struct {
		approved func(*rig) time.Time
		do       func(*rig)
		want     string
	}{
		"approved an hour ago":                          {hour(-1), nil, ""},
		"approved 71 hours ago":                         {hour(-71), nil, ""},
		"approved 72 hours ago":                         {hour(-72), nil, "expired"},
		"its subject ended after it began":              {hour(-1), func(r *rig) { r.mark(session.OfSubject, "subject", "alice", true, r.now) }, "revoked"},
		"its subject ended at the very moment it began": {hour(-1), func(r *rig) { r.mark(session.OfSubject, "subject", "alice", true, r.now.Add(-time.Hour)) }, "revoked"},
		"its subject ended before it began":             {hour(-1), func(r *rig) { r.mark(session.OfSubject, "subject", "alice", true, r.now.Add(-2*time.Hour)) }, ""},
		"another subject ended":                         {hour(-1), func(r *rig) { r.mark(session.OfSubject, "subject", "bob", true, r.now) }, ""},
		"its session ended":                             {hour(-1), func(r *rig) { r.mark(session.OfSession, "session", "sid-1", true, r.now) }, "revoked"},
		"its client ended":                              {hour(-1), func(r *rig) { r.mark(session.OfClient, "client", "app", true, r.now) }, "revoked"},
		"everything of the tenant ended":                {hour(-1), func(r *rig) { r.mark(session.OfTenant, "", "", true, r.now) }, "revoked"},
		"refused by the primary after it was approved":  {hour(-1), func(r *rig) { r.mark(session.OfSubject, "subject", "alice", false, r.now) }, "refused_by_primary"},
		"refused by the primary before it was approved": {hour(-1), func(r *rig) { r.mark(session.OfSubject, "subject", "alice", false, r.now.Add(-2*time.Hour)) }, ""},
		"an earlier mark does not undo a later one": {hour(-1), func(r *rig) {
			r.mark(session.OfSubject, "subject", "alice", true, r.now)
			r.mark(session.OfSubject, "subject", "alice", true, r.now.Add(-3*time.Hour))
		}, "revoked"},
		"the token itself was refused":                {hour(-1), func(r *rig) { r.refuse("rt", "invalid_grant") }, "refused_by_primary"},
		"another client's refusal of it says nothing": {hour(-1), func(r *rig) { r.refuseAs("rt", "invalid_grant", "other") }, ""},
		"learned anew after the refusal": {hour(-1), func(r *rig) {
			r.refuse("rt", "invalid_grant")
			r.now = r.now.Add(time.Second)
			r.learn(r.learned("rt", "rt", r.now))
		}, ""},
		"ended for good, then refreshed at a primary that had not heard": {hour(-1), func(r *rig) {
			r.mark(session.OfSubject, "subject", "alice", true, r.now)
			r.now = r.now.Add(time.Second)
			if o := r.learn(r.learned("rt", "rt", r.now)); o[0].Unlearned != "revoked" {
				r.t.Errorf("learned again: %+v", o)
			}
		}, "revoked"},
		"ended for good, then signed in anew": {hour(-1), func(r *rig) {
			r.mark(session.OfSubject, "subject", "alice", true, r.now)
			r.now = r.now.Add(time.Second)
			r.learn(r.learned("rt", "", r.now))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.learn(r.learned("rt", "", c.approved(r)))
			if c.do != nil {
				c.do(r)
			}
			r.want("rt", c.want)
		})
	}
}

func (r *rig) refuse(token, code string) { r.refuseAs(token, code, "app") }

func (r *rig) refuseAs(token, code, client string) {
	r.t.Helper()
	err := r.Refused(context.Background(), &backup.Refused{
		Tenant: tenant, Lookup: r.artifact(token).Lookup, Client: r.Sessions.Seal.Pseudonym("client", tenant, iss, client), Error: code, Sent: r.now.UnixNano(),
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// Reuse detection: where the primary was seen to refuse a superseded token, one that comes again ends the whole grant.
func TestASupersededTokenThatComesAgainEndsTheGrant(t *testing.T) {
	r := newRig(t)
	at := r.now.Add(-time.Hour)
	// Other grants of the client show what this primary does.
	r.replays(at, "a")
	r.learn(r.learned("b-1", "", at))
	r.learn(r.learned("b-2", "b-1", at.Add(time.Minute)))
	r.want("b-1", "superseded") // of one, something else may have been over
	r.want("b-2", "")
	r.replays(at, "c")
	r.want("b-1", "reuse")
	r.want("b-2", "revoked")
}

// replays are superseded tokens that the primary refuses, each of another grant.
func (r *rig) replays(at time.Time, grants ...string) {
	r.t.Helper()
	for _, g := range grants {
		r.learn(r.learned(g+"-1", "", at))
		r.learn(r.learned(g+"-2", g+"-1", at.Add(time.Minute)))
		r.refuse(g+"-1", "invalid_grant")
	}
}

// A superseded token that is refused because its session, its user or itself is over says nothing about rotation: where it were
// taken for that, honest clients that keep their first token would be signed out for good.
func TestWhatIsNoRotation(t *testing.T) {
	refuse := func(over session.What, reused bool) func(r *rig, token string) {
		return func(r *rig, token string) {
			if err := r.Refused(t.Context(), &backup.Refused{
				Tenant: tenant, Lookup: r.artifact(token).Lookup, Client: r.Sessions.Seal.Pseudonym("client", tenant, iss, "app"), Error: "invalid_grant",
				Sent: r.now.UnixNano(), Over: over, Reused: reused,
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	accepts := func(r *rig, at time.Time) { // the primary goes on with a superseded token
		r.learn(r.learned("x-1", "", at))
		r.learn(r.learned("x-2", "x-1", at.Add(time.Minute)))
		r.learn(r.learned("x-3", "x-1", at.Add(2*time.Minute)))
	}
	for name, c := range map[string]struct {
		before func(r *rig, at time.Time)
		refuse func(r *rig, token string)
		grants int
		want   string
	}{
		"the session is over": {refuse: refuse(session.OfSession, false), grants: 5, want: "refused_by_primary"},
		"the user is":         {refuse: refuse(session.OfSubject, false), grants: 5, want: "refused_by_primary"},
		"the grant was marked before": {refuse: func(r *rig, token string) {
			r.mark(session.OfSubject, "subject", "alice", false, r.now.Add(-time.Second))
			refuse(0, false)(r, token)
		}, grants: 5, want: "refused_by_primary"},
		"a refusal without a reason":     {refuse: refuse(0, false), grants: 1, want: "superseded"},
		"two":                            {refuse: refuse(0, false), grants: 2, want: "reuse"},
		"one that says that it was used": {refuse: refuse(0, true), grants: 1, want: "reuse"},
		"two, where they are accepted":   {before: accepts, refuse: refuse(0, false), grants: 2, want: ""},
		"three, where they are":          {before: accepts, refuse: refuse(0, false), grants: 3, want: "reuse"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			at := r.now.Add(-time.Hour)
			if c.before != nil {
				c.before(r, at)
			}
			for i := range c.grants {
				g := fmt.Sprint("g", i)
				r.learn(r.learned(g+"-1", "", at))
				r.learn(r.learned(g+"-2", g+"-1", at.Add(time.Minute)))
				c.refuse(r, g+"-1")
			}
			r.learn(r.learned("b-1", "", at))
			r.learn(r.learned("b-2", "b-1", at.Add(time.Minute)))
			r.want("b-1", c.want)
		})
	}
}

// Where it was seen to accept them, all doors stay open.
func TestSupersededTokensThatThePrimaryAccepts(t *testing.T) {
	r := newRig(t)
	at := r.now.Add(-time.Hour)
	r.learn(r.learned("a-1", "", at))
	r.learn(r.learned("a-2", "a-1", at.Add(time.Minute)))
	r.learn(r.learned("a-3", "a-1", at.Add(2*time.Minute))) // a superseded token was accepted
	for _, token := range []string{"a-1", "a-2", "a-3"} {
		r.want(token, "")
	}
}

// A family that began with a password is never played, whatever refreshes follow.
func TestAPasswordsFamilyIsNeverPlayed(t *testing.T) {
	r := newRig(t)
	m := r.learned("rt-1", "", r.now.Add(-time.Hour))
	m.Unlearned, m.Interactive = "password", false
	r.learn(m)
	if o := r.learn(r.learned("rt-2", "rt-1", r.now.Add(-time.Minute))); o[0].Unlearned != "password" {
		t.Errorf("learned: %+v", o)
	}
	r.want("rt-2", "not_learned")
}

// A refresh whose first grant was not seen is older than every final mark.
func TestAnUnknownBeginningIsBeforeEverything(t *testing.T) {
	r := newRig(t)
	r.mark(session.OfSubject, "subject", "alice", true, r.now.Add(-1000*time.Hour))
	if o := r.learn(r.learned("rt-2", "rt-never-seen", r.now)); o[0].Unlearned != "revoked" {
		t.Errorf("learned: %+v", o)
	}
	r.want("rt-2", "revoked")
}

// A session that a final mark ended begins anew only when the person signed in anew: a code may come of a live cookie.
func TestACodeOfAnEndedSessionBeginsNothing(t *testing.T) {
	for _, c := range []struct {
		rule     string
		of       session.What
		authTime time.Duration // after the mark; 0: not told
		want     string
	}{
		{"subject ended, signed in before", session.OfSubject, -time.Minute, "revoked"},
		{"subject ended, signed in at that very second", session.OfSubject, 300 * time.Millisecond, "revoked"},
		{"subject ended, signed in after", session.OfSubject, 2 * time.Second, ""},
		{"subject ended, nobody says when it was signed in", session.OfSubject, 0, ""},
		{"session ended, signed in before", session.OfSession, -time.Minute, "revoked"},
		{"session ended, signed in after", session.OfSession, 2 * time.Second, ""},
		{"session ended, nobody says when it was signed in", session.OfSession, 0, "revoked"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			r := newRig(t)
			at := r.now.Truncate(time.Second).Add(300 * time.Millisecond)
			kind, value := "subject", "alice"
			if c.of == session.OfSession {
				kind, value = "session", "sid-1"
			}
			r.mark(c.of, kind, value, true, at)
			m := r.learned("rt-2", "", at.Add(4*time.Second))
			if c.authTime != 0 {
				m.AuthTime = at.Add(c.authTime).Unix()
			}
			r.now = at.Add(5 * time.Second)
			if o := r.learn(m); o[0].Unlearned != c.want {
				t.Errorf("learned: %+v", o)
			}
			r.want("rt-2", c.want)
		})
	}
}

// A reply that cannot be judged (signed by an unknown key, say) does not undo what was learned before.
func TestAReplyThatCannotBeJudgedUndoesNothing(t *testing.T) {
	r := newRig(t)
	r.learn(r.learned("rt", "", r.now.Add(-time.Hour)))
	m := r.learned("rt", "rt", r.now)
	m.Unlearned = "unknown_key"
	r.learn(m)
	r.want("rt", "")
	m = r.learned("rt", "rt", r.now)
	m.Unlearned = "dpop" // the session itself is another now
	r.learn(m)
	r.want("rt", "not_learned")
}

// A caller who goes away neither undoes a revocation nor makes the backup stop: that is no failure of the store.
func TestACallerWhoGoesAwayDoesNotStopTheBackup(t *testing.T) {
	r := newRig(t)
	r.learn(r.learned("alice", "", r.now.Add(-time.Hour)), r.learned("rt", "", r.now.Add(-time.Hour)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := session.Mark{Of: session.OfGrant, ID: session.NewID(), Final: true, At: r.now.UnixNano(), Cause: "operator"}
	if err := r.Mark(ctx, tenant, m); err != nil {
		t.Error(err)
	}
	if err := r.Refused(ctx, &backup.Refused{Tenant: tenant, Lookup: r.artifact("alice").Lookup, Client: r.Sessions.Seal.Pseudonym("client", tenant, iss, "app"), Error: "invalid_grant", Sent: r.now.UnixNano()}); err != nil {
		t.Error(err)
	}
	r.want("rt", "")
	r.want("alice", "refused_by_primary")
}

// An algorithm for which no key can be made takes nothing away from the others.
func TestAnAlgorithmWithoutABackupKey(t *testing.T) {
	r := newRig(t)
	ks, err := r.PublicKeys(t.Context(), tenant, iss, []string{"RSA-OAEP", "ES256K", "ES384"})
	if err != nil {
		t.Fatal(err)
	}
	algs := map[string]bool{}
	for _, k := range ks {
		algs[k.Algorithm] = true
	}
	if !algs["ES384"] || !algs["ES256"] || len(algs) != 2 {
		t.Errorf("keys for %v", algs)
	}
}
