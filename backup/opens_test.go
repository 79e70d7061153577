package backup_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/audit"
	"understudy/backup"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/policy"
	"understudy/session"
	"understudy/store"
)

// browsed is a message for what a person was let into with a browser, as a gateway makes it.
func (r *rig) browsed(client string, sent time.Time, ends time.Time, change ...func(*session.Record)) (*backup.Learned, *flow.Play) {
	r.t.Helper()
	seal, value := r.Sessions.Seal, "what the browser asks for at "+client
	rec := &session.Record{
		Format: session.RecordFormat, Tenant: tenant, Issuer: iss, Client: client, Subject: "alice", SID: "sid-1", Grant: "implicit", RedirectStatus: 302,
		Redirect: session.Object{{Name: "state", Value: []byte("null")}, {Name: "id_token", Value: []byte("null")}},
		Front: &session.Front{IDToken: &session.Token{
			Header: session.Object{{Name: "alg", Value: quoted("ES256")}, {Name: "kid", Value: quoted("k1")}},
			Claims: session.Object{{Name: "iss", Value: quoted(iss)}, {Name: "sub", Value: quoted("alice")}, {Name: "iat", Value: []byte("1000")}, {Name: "exp", Value: []byte("1060")}},
		}},
	}
	rec.IDToken = rec.Front.IDToken
	for _, c := range change {
		c(rec)
	}
	ks := session.ArtifactKeys{
		Kind: session.Application, Lookup: seal.Lookup(session.Application, tenant, iss, value),
		Key: seal.ArtifactKey(session.Application, tenant, iss, client, value, nil), Ends: ends.UnixNano(),
	}
	sealed, err := session.Seal(rec, nil, ks)
	if err != nil {
		r.t.Fatal(err)
	}
	m := &backup.Learned{
		Tenant: tenant, Issuer: iss, Flow: "authorization", Sent: sent.UnixNano(), Interactive: true, Sealed: *sealed, ClientAuth: "none", Presented: ks.Lookup,
		Client: seal.Pseudonym("client", tenant, iss, client), Subject: seal.Pseudonym("subject", tenant, iss, "alice"),
		Session: seal.Pseudonym("session", tenant, iss, "sid-1"), Device: session.ID{7},
	}
	ks.Ends = 0
	return m, &flow.Play{
		ID: "page-1", Tenant: tenant, Issuer: iss, Flow: "authorization", Client: flow.Proof{ID: client, Method: "none"}, Artifact: ks,
		Facts: session.Facts{Address: "192.0.2.1"}, Received: r.now.UnixNano(), Outage: r.now.UnixNano(), Trigger: "page",
		Params: map[string]string{"response_type": "id_token"},
	}
}

// What a person is told to open is what each check of the row lets pass, and nothing is done by asking.
func TestOpens(t *testing.T) {
	mark := func(r *rig, of session.What, id session.ID, final bool) {
		if err := r.Mark(t.Context(), tenant, session.Mark{Of: of, ID: id, Final: final, At: r.now.UnixNano(), Cause: "operator"}); err != nil {
			t.Fatal(err)
		}
	}
	named := func(r *rig, what, value string) session.ID {
		return r.Sessions.Seal.Pseudonym(what, tenant, iss, value)
	}
	const both, one, none = 2, 1, 0
	for name, c := range map[string]struct {
		do   func(r *rig, ps []*flow.Play)
		want int
	}{
		"signed in":                       {func(*rig, []*flow.Play) {}, both},
		"a logout":                        {func(r *rig, _ []*flow.Play) { mark(r, session.OfSession, named(r, "session", "sid-1"), true) }, none},
		"the browser is another person's": {func(r *rig, _ []*flow.Play) { mark(r, session.OfDevice, session.ID{7}, true) }, none},
		"the person is ended":             {func(r *rig, _ []*flow.Play) { mark(r, session.OfSubject, named(r, "subject", "alice"), true) }, none},
		"the primary cleared its cookie":  {func(r *rig, _ []*flow.Play) { mark(r, session.OfDevice, session.ID{7}, false) }, none},
		"one client is ended":             {func(r *rig, _ []*flow.Play) { mark(r, session.OfClient, named(r, "client", "wiki"), true) }, one},
		"one had ended before the outage": {func(r *rig, ps []*flow.Play) { later(r, ps, 2*time.Hour) }, one},
		"it was approved too long ago":    {func(r *rig, ps []*flow.Play) { later(r, ps, 73*time.Hour) }, none},
		"policy wants the person": {func(r *rig, _ []*flow.Play) {
			r.Policy = func(policy.Facts) policy.Decision { return policy.Decision{Rule: "strict"} }
		}, none},
		"policy wants the person at one": {func(r *rig, _ []*flow.Play) { r.Policy = notAt("wiki") }, one},
		"one wants a sign-in that is new": {func(_ *rig, ps []*flow.Play) {
			ps[1].Params = map[string]string{"response_type": "id_token", "max_age": "60"}
		}, one},
		"the keys of one are not its own":  {func(_ *rig, ps []*flow.Play) { ps[1].Artifact.Key = ps[0].Artifact.Key }, one},
		"one is asked for another client":  {func(_ *rig, ps []*flow.Play) { ps[1].Client.ID = "mail" }, one},
		"one is not known":                 {func(_ *rig, ps []*flow.Play) { ps[1].Artifact.Lookup = session.NewID() }, one},
		"no key signs for one":             {func(r *rig, _ []*flow.Play) { r.keyless("wiki") }, one},
		"the tenant is not played for":     {func(r *rig, _ []*flow.Play) { r.fail() }, none},
		"the program is not the learned's": {func(_ *rig, ps []*flow.Play) { ps[0].Doubt, ps[0].Facts.UserAgent = true, "another" }, one},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			dir := t.TempDir()
			signins, err := audit.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { signins.Close() })
			var signed []string
			r.Audit, r.Flows = signins, append(r.Flows, pen{&signed})
			mail, p1 := r.browsed("mail", r.now, r.now.Add(100*time.Hour))
			wiki, p2 := r.browsed("wiki", r.now, r.now.Add(time.Hour))
			if o := r.learn(mail, wiki); o[0].Unlearned != "" || o[1].Unlearned != "" {
				t.Fatal(o)
			}
			ps := []*flow.Play{p1, p2}
			r.now = r.now.Add(time.Minute)
			c.do(r, ps)
			kv := &writes{KV: r.Sessions.KV}
			r.Sessions.KV = kv
			have, err := r.Opens(t.Context(), ps)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, yes := range have {
				if yes {
					n++
				}
			}
			if n != c.want || len(have) != 2 {
				t.Errorf("%v, want %d", have, c.want)
			}
			if strings.Join(signed, "") != "" {
				t.Errorf("to ask made %q", signed)
			}
			if kv.n != 0 {
				t.Errorf("to ask wrote %d times", kv.n)
			}
			var lines []audit.Entry
			if err := audit.Read(t.Context(), dir, audit.Filter{}, false, func(e audit.Entry) error { lines = append(lines, e); return nil }); err != nil {
				t.Fatal(err)
			}
			if len(lines) != 1 {
				t.Fatalf("%d lines: %+v", len(lines), lines)
			}
			if e := lines[0]; len(e.Opens) != n || e.ID != "page-1" || e.Decision != "shown" || e.Rule != "applications" || e.Key != "" || e.TokenIssuerType != "none" ||
				e.Address != "192.0.2.1" || (n > 0) != (e.Subject == "alice" && e.Session == "sid-1") {
				t.Errorf("the line %+v", e)
			}
			if n == both && !slices.Equal(lines[0].Opens, []string{"mail", "wiki"}) {
				t.Errorf("opens %q", lines[0].Opens)
			}
		})
	}
}

// pen is the flow, and keeps what it had signed.
type pen struct{ signed *[]string }

func (pen) Name() string                      { return oauth.Authorization{}.Name() }
func (pen) Endpoint() flow.Endpoint           { return flow.Authorization }
func (pen) Match(*flow.Request) flow.Exchange { return nil }
func (x pen) Answer(p *flow.Permit) (*flow.Reply, *flow.Refusal) {
	sign := p.Sign
	p.Sign = func(class string, header, claims session.Object) (string, error) {
		token, err := sign(class, header, claims)
		*x.signed = append(*x.signed, token)
		return token, err
	}
	return oauth.Authorization{}.Answer(p)
}

// keyless has a client's tokens signed with an algorithm for which there is no key.
func (r *rig) keyless(client string) {
	m, _ := r.browsed(client, r.now, r.now.Add(time.Hour), func(rec *session.Record) {
		rec.Front.IDToken.Header = session.Object{{Name: "alg", Value: quoted("PS512")}, {Name: "kid", Value: quoted("k1")}}
	})
	r.learn(m)
}

// later lets time pass, and the outage begin then.
func later(r *rig, ps []*flow.Play, d time.Duration) {
	r.now = r.now.Add(d)
	for _, p := range ps {
		p.Outage = r.now.UnixNano()
	}
}

func notAt(client string) func(policy.Facts) policy.Decision {
	return func(f policy.Facts) policy.Decision {
		return policy.Decision{Permit: f.Client != client, Rule: "strict"}
	}
}

// fail has a mark fail to be kept.
func (r *rig) fail() {
	was := r.Sessions.KV
	r.Sessions.KV = full{was}
	_ = r.Mark(r.t.Context(), tenant, session.Mark{Of: session.OfSubject, ID: session.ID{1}, At: 1})
	r.Sessions.KV = was
}

type full struct{ store.KV }

func (full) Apply(context.Context, *store.Batch, store.Durability) error { return errors.New("full") }

// writes counts what is written.
type writes struct {
	store.KV
	n int
}

func (w *writes) Apply(ctx context.Context, b *store.Batch, how store.Durability) error {
	w.n++
	return w.KV.Apply(ctx, b, how)
}

func (w *writes) Claim(ctx context.Context, key []byte, until time.Time) (bool, error) {
	w.n++
	return w.KV.Claim(ctx, key, until)
}

// Who asks for too much, for two browsers at once, or for what no browser holds is told nothing; nor is anybody where the line cannot
// be written (design, law 9).
func TestOpensRefuses(t *testing.T) {
	r := newRig(t)
	r.Flows = append(r.Flows, oauth.Authorization{})
	_, p := r.browsed("mail", r.now, time.Time{})
	with := func(change func(p *flow.Play)) *flow.Play {
		q := *p
		change(&q)
		return &q
	}
	for name, ps := range map[string][]*flow.Play{
		"nothing":           nil,
		"too much":          slices.Repeat([]*flow.Play{p}, session.MaxOpened+1),
		"another tenant":    {p, with(func(p *flow.Play) { p.Tenant = "other" })},
		"another issuer":    {p, with(func(p *flow.Play) { p.Issuer = "https://other.example" })},
		"another request":   {p, with(func(p *flow.Play) { p.ID = "page-2" })},
		"a refresh token":   {with(func(p *flow.Play) { p.Artifact.Kind, p.Flow = session.RefreshToken, "refresh_token" })},
		"an access token's": {p, with(func(p *flow.Play) { p.Artifact.Kind = session.AccessToken })},
	} {
		if have, err := r.Opens(t.Context(), ps); err == nil || have != nil {
			t.Errorf("%s: %v", name, have)
		}
	}
	if _, err := r.Opens(t.Context(), []*flow.Play{p}); err != nil {
		t.Fatal(err)
	}
	r.Audit.Close()
	if have, err := r.Opens(t.Context(), []*flow.Play{p}); err == nil || have != nil {
		t.Errorf("without a line: %v", have)
	}
}

// benched is what a person was let into, n times.
func benched(b *testing.B, n int, change ...func(*session.Record)) (*rig, []*flow.Play) {
	r := newRig(b)
	r.Flows = append(r.Flows, oauth.Authorization{})
	if _, err := r.PublicKeys(b.Context(), tenant, iss, []string{"RS256"}); err != nil {
		b.Fatal(err)
	}
	var ps []*flow.Play
	for i := range n {
		m, p := r.browsed(fmt.Sprintf("app-%d", i), r.now, r.now.Add(time.Hour), change...)
		r.learn(m)
		ps = append(ps, p)
	}
	return r, ps
}

// What the page costs the backup, beside what it costs to let somebody in.
func BenchmarkOpens(b *testing.B) {
	for _, n := range []int{1, 5, session.MaxOpened} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, ps := benched(b, n)
			for b.Loop() {
				if have, err := r.Opens(b.Context(), ps); err != nil || slices.Contains(have, false) {
					b.Fatal(have, err)
				}
			}
		})
	}
	for name, change := range map[string]func(*session.Record){
		"let in by a code": func(rec *session.Record) { rec.Redirect[1].Name, rec.Front = "code", nil },
		"let in by a token, RS256": func(rec *session.Record) {
			rec.Front.IDToken.Header = session.Object{{Name: "alg", Value: quoted("RS256")}, {Name: "kid", Value: quoted("k1")}}
		},
	} {
		b.Run(name, func(b *testing.B) {
			r, ps := benched(b, 1, change)
			for b.Loop() {
				if _, no, err := r.Play(b.Context(), ps[0]); err != nil || no != nil {
					b.Fatal(no, err)
				}
			}
		})
	}
}
