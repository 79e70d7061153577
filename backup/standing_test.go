package backup_test

import (
	"testing"
	"time"

	"understudy/backup"
	"understudy/session"
	"understudy/store"
)

// What the gateway is told of an artifact's marks decides what becomes of it: one of which the primary could not have heard is
// never presented there, one that the primary knows of is, and an inferred one is only a doubt.
func TestStandingTellsMarksApart(t *testing.T) {
	for name, c := range map[string]struct {
		final, told            bool
		revoked, knows, doubts bool
	}{
		"the primary could not have heard": {final: true, revoked: true},
		"the primary knows":                {final: true, told: true, knows: true},
		"the primary refused something":    {told: true, doubts: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.learn(r.learned("rt", "", r.now.Add(-time.Hour)))
			m := session.Mark{Of: session.OfSubject, ID: r.Sessions.Seal.Pseudonym("subject", tenant, iss, "alice"), Final: c.final, Told: c.told, At: r.now.UnixNano(), Cause: "logout"}
			if err := r.Mark(t.Context(), tenant, m); err != nil {
				t.Fatal(err)
			}
			st, err := r.Standing(t.Context(), tenant, r.artifact("rt").Lookup)
			if err != nil || !st.Known || st.Revoked != c.revoked || st.Told != c.knows || st.Doubted != c.doubts {
				t.Errorf("%+v %v", st, err)
			}
		})
	}
}

// A sign-in that the primary approved goes out, unless the session that it came of is over by a final mark of which the primary could
// not have heard.
func TestBarred(t *testing.T) {
	for name, c := range map[string]struct {
		mark     session.Mark
		at       time.Duration // after the mark
		authTime time.Duration
		want     bool
	}{
		"final, and unheard":         {session.Mark{Final: true}, time.Minute, -time.Minute, true},
		"the primary knows":          {session.Mark{Final: true, Told: true}, time.Minute, -time.Minute, false},
		"inferred":                   {session.Mark{}, -time.Minute, -time.Hour, false},
		"the person signed in since": {session.Mark{Final: true}, time.Minute, 30 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			seal := r.Sessions.Seal
			m := c.mark
			m.Of, m.ID, m.At, m.Cause = session.OfSession, seal.Pseudonym("session", tenant, iss, "sid-1"), r.now.UnixNano(), "logout"
			if err := r.Mark(t.Context(), tenant, m); err != nil {
				t.Fatal(err)
			}
			got, err := r.Barred(t.Context(), &backup.SignIn{
				Tenant: tenant, Issuer: iss, Client: seal.Pseudonym("client", tenant, iss, "app"), Subject: seal.Pseudonym("subject", tenant, iss, "alice"),
				Session: m.ID, AuthTime: r.now.Add(c.authTime).Unix(), Sent: r.now.Add(c.at).UnixNano(),
			})
			if err != nil || got != c.want {
				t.Errorf("%v %v", got, err)
			}
		})
	}
}

// Who asks for the end of a grant ends its own alone; what was asked for as inferred or told stays so, and a session ends for good by a
// logout only.
func TestMarkGrant(t *testing.T) {
	for name, c := range map[string]struct {
		ask     func(*backup.GrantMark, *rig)
		known   bool
		rt      string // what becomes of the grant, and of another of the same session
		another string
	}{
		"a revocation":         {func(g *backup.GrantMark, _ *rig) {}, true, "revoked", ""},
		"of nobody's token":    {func(g *backup.GrantMark, r *rig) { g.Lookup = r.artifact("x").Lookup }, false, "", ""},
		"by its client":        {func(g *backup.GrantMark, r *rig) { g.Client = r.Sessions.Seal.Pseudonym("client", tenant, iss, "app") }, true, "revoked", ""},
		"by another client":    {func(g *backup.GrantMark, r *rig) { g.Client = r.Sessions.Seal.Pseudonym("client", tenant, iss, "evil") }, false, "", ""},
		"inferred":             {func(g *backup.GrantMark, _ *rig) { g.Inferred = true }, true, "refused_by_primary", ""},
		"with its session":     {func(g *backup.GrantMark, _ *rig) { g.Session = true }, true, "revoked", "refused_by_primary"},
		"a logout":             {func(g *backup.GrantMark, _ *rig) { g.Session, g.Cause = true, "logout" }, true, "revoked", "revoked"},
		"a logout, inferred":   {func(g *backup.GrantMark, _ *rig) { g.Session, g.Cause, g.Inferred = true, "logout", true }, true, "refused_by_primary", "refused_by_primary"},
		"a logout of no grant": {func(g *backup.GrantMark, r *rig) { g.Session, g.Cause, g.Client = true, "logout", session.ID{9} }, false, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.learn(r.learned("rt", "", r.now.Add(-time.Hour)), r.learned("another", "", r.now.Add(-time.Hour)))
			g := &backup.GrantMark{Tenant: tenant, Lookup: r.artifact("rt").Lookup, At: r.now.UnixNano(), Cause: "revocation"}
			c.ask(g, r)
			if known, err := r.MarkGrant(t.Context(), g); err != nil || known != c.known {
				t.Errorf("%v %v", known, err)
			}
			r.want("rt", c.rt)
			r.want("another", c.another)
		})
	}
}

// What a browser or a bearer holds opens for as long as it lives, and not once it is over, replaced a while ago, or marked.
func TestHeld(t *testing.T) {
	const hour = time.Hour
	for name, c := range map[string]struct {
		kind                 session.Kind
		approved, ends, next time.Duration // from now; ends, next: 0 for never
		marked               bool
		want                 bool
	}{
		"a browser":                              {kind: session.Browser, approved: -hour, want: true},
		"one that was approved too long ago":     {kind: session.Browser, approved: -session.Lifetime},
		"one that may just still":                {kind: session.Browser, approved: 1 - session.Lifetime, want: true},
		"one whose session ends later":           {kind: session.Browser, approved: -hour, ends: 1, want: true},
		"one whose session is over":              {kind: session.Browser, approved: -hour, ends: -1},
		"cookies that were replaced just now":    {kind: session.Browser, approved: -hour, next: -time.Minute, want: true},
		"cookies that were replaced a while ago": {kind: session.Browser, approved: -hour, next: -time.Minute - 1},
		"one that is marked":                     {kind: session.Browser, approved: -hour, marked: true},
		"a pushed request":                       {kind: session.PushedRequest, approved: -hour, ends: 1, want: true},
		"one that is over":                       {kind: session.PushedRequest, approved: -hour, ends: -1},
		"an access token":                        {kind: session.AccessToken, approved: -hour, ends: 1, want: true},
		"an access token that is over":           {kind: session.AccessToken, approved: -hour, ends: -1},
		"a refresh token":                        {kind: session.RefreshToken, approved: -hour},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			since := func(d time.Duration) int64 {
				if d == 0 {
					return 0
				}
				return r.now.Add(d).UnixNano()
			}
			d := session.Door{
				Kind: c.kind, Wrapped: []byte("w"), Approved: since(c.approved), Ends: since(c.ends), Superseded: since(c.next), Begun: since(c.approved),
				Subject: session.ID{3}, Bound: map[string]string{"form": "x"}, Record: session.NewID(),
			}
			var b store.Batch
			d.Hour = r.Sessions.PutRecord(&b, tenant, d.Record, []byte("sealed"), d.Expires())
			if err := r.Sessions.PutDoor(&b, tenant, session.ID{1}, d.Approved, &d); err != nil {
				t.Fatal(err)
			}
			if err := r.Sessions.KV.Apply(t.Context(), &b, store.Durable); err != nil {
				t.Fatal(err)
			}
			if c.marked {
				if err := r.Mark(t.Context(), tenant, session.Mark{Of: session.OfSubject, ID: d.Subject, At: r.now.UnixNano(), Cause: "refused"}); err != nil {
					t.Fatal(err)
				}
			}
			h, err := r.Held(t.Context(), tenant, session.ID{1})
			if err != nil || (h.Wrapped != nil || h.Bound != nil) != c.want {
				t.Errorf("%+v %v", h, err)
			}
		})
	}
}
