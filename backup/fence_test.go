package backup_test

import (
	"testing"
	"time"

	"understudy/backup"
	"understudy/flow"
	"understudy/session"
)

// ask plays a request that differs from the ordinary one, and returns the refusal's code, or "".
func (r *rig) ask(token string, change func(*flow.Play)) string {
	r.t.Helper()
	p := &flow.Play{
		ID: "1", Tenant: tenant, Issuer: iss, Flow: "refresh_token", Client: flow.Proof{ID: "app", Method: "none"},
		Artifact: r.artifact(token), Outage: r.now.UnixNano(), Trigger: "breaker",
	}
	change(p)
	_, no, err := r.Play(r.t.Context(), p)
	if err != nil {
		r.t.Fatal(err)
	}
	if no != nil {
		return no.Code
	}
	return ""
}

// A client proves itself as the primary approved it, with a secret that the primary has neither refused nor replaced since.
func TestSecretsThatThePrimaryGaveUp(t *testing.T) {
	old, young := session.ID{7}, session.ID{8}
	with := func(method string, secret session.ID) func(*flow.Play) {
		return func(p *flow.Play) { p.Client.Method, p.Client.SecretID = method, secret }
	}
	basic := func(secret session.ID) func(*flow.Play) { return with("client_secret_basic", secret) }
	learn := func(r *rig, token string, secret session.ID, ago time.Duration) {
		m := r.learned(token, "", r.now.Add(-ago))
		m.ClientAuth, m.SecretID = "client_secret_basic", secret
		r.learn(m)
	}
	refuse := func(r *rig, secret session.ID, ago time.Duration) {
		err := r.Refused(t.Context(), &backup.Refused{
			Tenant: tenant, Client: r.Sessions.Seal.Pseudonym("client", tenant, iss, "app"), SecretID: secret, Error: "invalid_client",
			Sent: r.now.Add(-ago).UnixNano(),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		do   func(r *rig)
		as   func(*flow.Play)
		want string
	}{
		"the secret that was approved":        {nil, basic(old), ""},
		"in another way":                      {nil, with("client_secret_post", old), ""},
		"another secret":                      {nil, basic(young), "client_unknown_secret"},
		"none":                                {nil, with("none", session.ID{}), "client_unauthenticated"},
		"it was refused since":                {func(r *rig) { refuse(r, old, time.Minute) }, basic(old), "client_secret_refused"},
		"it was refused before":               {func(r *rig) { refuse(r, old, 4*time.Hour) }, basic(old), ""},
		"another was refused":                 {func(r *rig) { learn(r, "y", young, time.Minute); refuse(r, young, 0) }, basic(old), ""},
		"another was approved an hour ago":    {func(r *rig) { learn(r, "y", young, 2*time.Hour) }, basic(old), "client_secret_replaced"},
		"another was approved a while ago":    {func(r *rig) { learn(r, "y", young, 30*time.Minute) }, basic(old), ""},
		"the other, which was approved since": {func(r *rig) { learn(r, "rt", young, 2*time.Hour) }, basic(young), ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			learn(r, "rt", old, 3*time.Hour)
			if c.do != nil {
				c.do(r)
			}
			if got := r.ask("rt", c.as); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Each fence by itself: what one lets through by mistake, another must not have to stop.
func TestFences(t *testing.T) {
	r := newRig(t)
	at := r.now.Add(-time.Hour)
	r.learn(r.learned("rt", "", at))
	as := func(token string, change func(*session.Record)) *backup.Learned {
		m := r.learned(token, "", at)
		rec := &session.Record{Format: session.RecordFormat, Tenant: tenant, Issuer: iss, Client: "app", Subject: "alice"}
		change(rec)
		sealed, err := session.Seal(rec, nil, r.artifact(token))
		if err != nil {
			t.Fatal(err)
		}
		m.Sealed = *sealed
		return m
	}
	for name, c := range map[string]struct {
		token  string
		before *backup.Learned
		ask    func(*flow.Play)
		want   string
	}{
		"the ordinary request": {"rt", nil, func(*flow.Play) {}, ""},
		"another client":       {"rt", nil, func(p *flow.Play) { p.Client.ID = "other" }, "client_mismatch"},
		"another kind":         {"rt", nil, func(p *flow.Play) { p.Artifact.Kind = session.AccessToken }, "no_record"},
		"a public client that is confidential now": {"rt", nil, func(p *flow.Play) {
			p.Client.Method, p.Client.SecretID = "client_secret_basic", session.ID{7}
		}, "client_method"},
		"another key":                {"rt", nil, func(p *flow.Play) { p.Artifact.Key = r.artifact("x").Key }, "seal"},
		"a key that is none":         {"rt", nil, func(p *flow.Play) { p.Artifact.Key = nil }, "seal"},
		"another flow":               {"rt", nil, func(p *flow.Play) { p.Flow = "x" }, "unknown_flow"},
		"a record of another tenant": {"other tenant", as("other tenant", func(x *session.Record) { x.Tenant = "guests" }), func(*flow.Play) {}, "seal"},
		"a record of another issuer": {"other issuer", as("other issuer", func(x *session.Record) { x.Issuer = "https://x.example" }), func(*flow.Play) {}, "record_mismatch"},
		"a record of another client": {"other client", as("other client", func(x *session.Record) { x.Client = "x" }), func(*flow.Play) {}, "record_mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.before != nil {
				r.learn(c.before)
			}
			if got := r.ask(c.token, c.ask); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Marks find what they are about, also where they come late.
func TestWhatMarksBlock(t *testing.T) {
	device := session.ID{9}
	for name, c := range map[string]struct {
		do   func(r *rig, at time.Time)
		want string
	}{
		"nothing": {func(*rig, time.Time) {}, ""},
		"a browser whose person is another now": {func(r *rig, at time.Time) {
			if err := r.Mark(t.Context(), tenant, session.Mark{Of: session.OfDevice, ID: device, Final: true, At: r.now.UnixNano(), Cause: "user_switch"}); err != nil {
				t.Fatal(err)
			}
		}, "revoked"},
		// The primary did not say when the person signed in: it may have been before the logout.
		"a logout before a code that nobody had to sign in for": {func(r *rig, at time.Time) {
			r.mark(session.OfSession, "session", "sid-1", true, at.Add(-time.Minute))
		}, "revoked"},
		"another session's logout": {func(r *rig, at time.Time) { r.mark(session.OfSession, "session", "sid-2", true, r.now) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			at := r.now.Add(-time.Hour)
			first, next := r.learned("rt-1", "", at), r.learned("rt", "rt-1", at.Add(time.Minute))
			first.Device, next.Device = device, device
			r.learn(first)
			r.learn(next)
			c.do(r, at)
			r.want("rt", c.want)
		})
	}
}

// A mark that an operator lifted stays lifted when it arrives once more, and one that is newer blocks.
func TestALiftedMark(t *testing.T) {
	r := newRig(t)
	at := r.now.Add(-time.Hour)
	r.learn(r.learned("rt", "", at))
	refused := at.Add(time.Minute)
	r.mark(session.OfSubject, "subject", "alice", false, refused)
	r.want("rt", "refused_by_primary")
	n, err := r.Sessions.Lift(t.Context(), tenant, "", refused, refused.Add(time.Nanosecond), r.now)
	if err != nil || n != 1 {
		t.Fatal(n, err)
	}
	r.want("rt", "")
	r.mark(session.OfSubject, "subject", "alice", false, refused)
	r.want("rt", "")
	r.mark(session.OfSubject, "subject", "alice", false, refused.Add(2*time.Nanosecond))
	r.want("rt", "refused_by_primary")
}

// An approval that arrives once more, after newer ones of the same token, takes nothing of theirs away.
func TestAnOldApprovalDropsNothing(t *testing.T) {
	r := newRig(t)
	at := r.now.Add(-time.Hour)
	old := r.learned("rt", "rt", at.Add(time.Minute))
	r.learn(r.learned("rt", "", at))
	r.learn(old)
	r.learn(r.learned("rt", "rt", at.Add(2*time.Minute)))
	r.learn(old)
	r.want("rt", "")
}

// What is bound to a key goes on for who proves that key, once with each proof (RFC 9449, section 11.1); and where the requester may have
// brought the failure about, only for who calls itself what it did when the primary approved it.
func TestWhatIsBound(t *testing.T) {
	r := newRig(t)
	at := r.now.Add(-time.Hour)
	for token, jkt := range map[string]string{"bound": "mine", "free": ""} {
		m := r.learned(token, "", at)
		rec := &session.Record{
			Format: session.RecordFormat, Tenant: tenant, Issuer: iss, Client: "app", Subject: "alice", JKT: jkt, Facts: session.Facts{UserAgent: "app/1"},
		}
		sealed, err := session.Seal(rec, nil, r.artifact(token))
		if err != nil {
			t.Fatal(err)
		}
		m.Sealed = *sealed
		r.learn(m)
	}
	proves := func(key, proof string) func(*flow.Play) {
		return func(p *flow.Play) {
			p.Client.JKT, p.Client.Possessed, p.Client.PossessedUntil = key, []byte(proof), r.now.Add(time.Minute).UnixNano()
		}
	}
	shadow := func(p *flow.Play) { proves("mine", "1")(p); p.Shadow = true }
	in := func(agent string) func(*flow.Play) {
		return func(p *flow.Play) { p.Doubt, p.Facts.UserAgent = true, agent }
	}
	past := r.ask("free", func(*flow.Play) {}) // as far as such a record leads
	for _, c := range []struct {
		rule, token string
		ask         func(*flow.Play)
		want        string
	}{
		{"no proof", "bound", func(*flow.Play) {}, "dpop_mismatch"},
		{"of another key", "bound", proves("other", "0"), "dpop_mismatch"},
		{"for nobody's eyes", "bound", shadow, past},
		{"of its key", "bound", proves("mine", "1"), past},
		{"the same again", "bound", proves("mine", "1"), "dpop_replayed"},
		{"another", "bound", proves("mine", "2"), past},
		{"what is bound to none", "free", proves("other", "2"), past},
		{"in doubt, as it was", "free", in("app/1"), past},
		{"in doubt, as another", "free", in("waf-bait"), "doubtful"},
	} {
		if got := r.ask(c.token, c.ask); got != c.want {
			t.Errorf("%s: got %q, want %q", c.rule, got, c.want)
		}
	}
}
