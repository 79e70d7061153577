package remote_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"understudy/backup"
	"understudy/backup/remote"
	"understudy/flow"
	"understudy/session"
)

// away returns an address where nobody listens, for a backup that comes later.
func away(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func learn(t *testing.T, cl *remote.Client, ls ...*backup.Learned) {
	t.Helper()
	outs, err := cl.Learn(t.Context(), ls)
	if err != nil || len(outs) != len(ls) {
		t.Fatal(outs, err)
	}
	for _, o := range outs {
		if o.Unlearned != "spooled" {
			t.Fatalf("outcome %+v", o)
		}
	}
}

func empty(cl *remote.Client) func() bool {
	return func() bool { c := cl.Counts(); return c.Learned == 0 && c.Marks == 0 }
}

// noting notes the order in which things reach a backup.
type noting struct {
	remote.Backup
	mu    sync.Mutex
	calls []string
	sent  []int64
}

func (n *noting) note(s string) {
	n.mu.Lock()
	n.calls = append(n.calls, s)
	n.mu.Unlock()
}

func (n *noting) Learn(ctx context.Context, ls []*backup.Learned) ([]backup.Outcome, error) {
	n.note("learn")
	n.mu.Lock()
	for _, l := range ls {
		n.sent = append(n.sent, l.Sent)
	}
	n.mu.Unlock()
	return n.Backup.Learn(ctx, ls)
}

func (n *noting) Mark(ctx context.Context, tenant string, ms ...session.Mark) error {
	n.note("mark")
	return n.Backup.Mark(ctx, tenant, ms...)
}

func TestSpoolIsDeliveredInOrderMarksFirst(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	addr, dir := away(t), t.TempDir()
	cl, stop := remote.StartClient(t, a, addr, dir)
	s := remote.NewSignIn(t)
	start := time.Now().Add(-time.Minute)
	tokens := []string{"rt-0", "rt-1", "rt-2", "rt-3", "rt-4"}
	for i, tok := range tokens {
		presented := ""
		if i > 0 {
			presented = tokens[i-1]
		}
		learn(t, cl, s.Learned(t, presented, tok, start.Add(time.Duration(i)*time.Second)))
	}
	m := session.Mark{Of: session.OfSubject, ID: s.Seal.Pseudonym("subject", s.Tenant, s.Issuer, "mallory"), Final: true, At: time.Now().UnixNano(), Cause: "operator"}
	if err := cl.Mark(t.Context(), s.Tenant, m); !errors.Is(err, remote.ErrSpooled) {
		t.Fatalf("a mark that is only spooled: %v", err)
	}
	stop() // the gateway starts anew
	cl, _ = remote.StartClient(t, a, addr, dir)
	if c := cl.Counts(); c.Learned != len(tokens) || c.Marks != 1 || c.Oldest.IsZero() || time.Since(c.Oldest) > time.Minute {
		t.Fatalf("after a restart: %+v", c)
	}
	real := remote.StartService(t)
	svc := &noting{Backup: real}
	remote.StartServer(t, a, addr, svc)
	remote.Eventually(t, "the spool is delivered", empty(cl))
	svc.mu.Lock()
	if svc.calls[0] != "mark" {
		t.Errorf("calls %v", svc.calls)
	}
	if len(svc.sent) != len(tokens) || !slices.IsSorted(svc.sent) {
		t.Errorf("order %v", svc.sent)
	}
	svc.mu.Unlock()
	// One grant from the first token to the last, although all came at once.
	first, err := real.Standing(t.Context(), s.Tenant, s.Keys(tokens[0]).Lookup)
	if err != nil || !first.Known {
		t.Fatal(first, err)
	}
	last, err := real.Standing(t.Context(), s.Tenant, s.Keys(tokens[4]).Lookup)
	if err != nil || last.Grant != first.Grant {
		t.Errorf("the grant of the last token is %v, of the first %v (%v)", last.Grant, first.Grant, err)
	}
	if reply, no, err := cl.Play(t.Context(), s.Play(tokens[4])); reply == nil || !bytes.Contains(reply.Body, []byte("access_token")) {
		t.Errorf("play: %+v, %v", no, err)
	}
	// Directly from now on.
	if outs, err := cl.Learn(t.Context(), []*backup.Learned{s.Learned(t, tokens[4], "rt-5", time.Now())}); err != nil || outs[0].Unlearned != "" {
		t.Errorf("directly: %v, %v", outs, err)
	}
}

// A session that begins, or goes on, and ends while the backup is away is not learned when it is back.
func TestEndedWhileTheBackupIsAway(t *testing.T) {
	for _, c := range []struct {
		name  string
		known bool // the backup knows the first token already
		end   func(t *testing.T, cl *remote.Client, s *remote.SignIn, at int64)
	}{
		{"revoked with the newest token", false, func(t *testing.T, cl *remote.Client, s *remote.SignIn, at int64) {
			if _, err := cl.MarkGrant(t.Context(), &backup.GrantMark{Tenant: s.Tenant, Lookup: s.Keys("rt-2").Lookup, At: at, Cause: "revocation", Told: true, Session: false}); err != nil {
				t.Fatal(err)
			}
		}},
		{"revoked with the newest token, first known before", true, func(t *testing.T, cl *remote.Client, s *remote.SignIn, at int64) {
			if _, err := cl.MarkGrant(t.Context(), &backup.GrantMark{Tenant: s.Tenant, Lookup: s.Keys("rt-2").Lookup, At: at, Cause: "revocation", Told: true, Session: false}); err != nil {
				t.Fatal(err)
			}
		}},
		{"revoked with the oldest token", false, func(t *testing.T, cl *remote.Client, s *remote.SignIn, at int64) {
			if _, err := cl.MarkGrant(t.Context(), &backup.GrantMark{Tenant: s.Tenant, Lookup: s.Keys("rt-0").Lookup, At: at, Cause: "revocation", Told: true, Session: false}); err != nil {
				t.Fatal(err)
			}
		}},
		{"logged out", false, func(t *testing.T, cl *remote.Client, s *remote.SignIn, at int64) {
			if _, err := cl.MarkGrant(t.Context(), &backup.GrantMark{Tenant: s.Tenant, Lookup: s.Keys("rt-1").Lookup, At: at, Cause: "logout", Told: true, Session: true}); err != nil {
				t.Fatal(err)
			}
		}},
		{"refused by the primary", false, func(t *testing.T, cl *remote.Client, s *remote.SignIn, at int64) {
			r := &backup.Refused{Tenant: s.Tenant, Lookup: s.Keys("rt-2").Lookup, Client: s.Seal.Pseudonym("client", s.Tenant, s.Issuer, s.Client), Error: "invalid_grant", Sent: at}
			if err := cl.Refused(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}},
		{"refused by the primary, first known before", true, func(t *testing.T, cl *remote.Client, s *remote.SignIn, at int64) {
			r := &backup.Refused{Tenant: s.Tenant, Lookup: s.Keys("rt-2").Lookup, Client: s.Seal.Pseudonym("client", s.Tenant, s.Issuer, s.Client), Error: "invalid_grant", Sent: at}
			if err := cl.Refused(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}},
		{"ended by an operator", false, func(t *testing.T, cl *remote.Client, s *remote.SignIn, at int64) {
			m := session.Mark{Of: session.OfSubject, ID: s.Seal.Pseudonym("subject", s.Tenant, s.Issuer, s.Subject), Final: true, At: at, Cause: "operator"}
			if err := cl.Mark(t.Context(), s.Tenant, m); !errors.Is(err, remote.ErrSpooled) {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := remote.NewAuthority(t, t.TempDir())
			addr, dir := away(t), t.TempDir()
			svc := remote.StartService(t)
			s := remote.NewSignIn(t)
			bystander := remote.NewSignIn(t)
			bystander.Subject, bystander.SID = "bob", "sid-2"
			first := s.Learned(t, "", "rt-0", time.Now().Add(-time.Minute))
			cl, stop := remote.StartClient(t, a, addr, dir)
			if c.known {
				if _, err := svc.Learn(t.Context(), []*backup.Learned{first}); err != nil {
					t.Fatal(err)
				}
			} else {
				learn(t, cl, first)
			}
			learn(t, cl, s.Learned(t, "rt-0", "rt-1", time.Now().Add(-50*time.Second)), s.Learned(t, "rt-1", "rt-2", time.Now().Add(-40*time.Second)))
			learn(t, cl, bystander.Learned(t, "", "bt-0", time.Now().Add(-30*time.Second)))
			c.end(t, cl, s, time.Now().UnixNano())
			stop()
			cl, _ = remote.StartClient(t, a, addr, dir)
			remote.StartServer(t, a, addr, svc)
			// Not for a moment: asked from the first on. What the backup had learned before it went away it plays for other
			// gateways until the mark arrives; for this one, never.
			for done := false; !done; {
				done = empty(cl)()
				for _, token := range []string{"rt-0", "rt-1", "rt-2"} {
					for _, b := range []remote.Backup{svc, cl} {
						if token == "rt-0" && c.known && b == remote.Backup(svc) && !done {
							continue
						}
						if reply, _, _ := b.Play(t.Context(), s.Play(token)); reply != nil {
							t.Fatalf("%s was answered", token)
						}
					}
				}
			}
			if reply, no, err := cl.Play(t.Context(), bystander.Play("bt-0")); reply == nil {
				t.Errorf("somebody else's session: %+v, %v", no, err)
			}
		})
	}
}

// The wrong client's refusal ends nobody's session, in the spool either.
func TestAnotherClientsRefusalMarksNothing(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	addr := away(t)
	cl, _ := remote.StartClient(t, a, addr, t.TempDir())
	s := remote.NewSignIn(t)
	learn(t, cl, s.Learned(t, "", "rt-0", time.Now().Add(-time.Minute)))
	r := &backup.Refused{Tenant: s.Tenant, Lookup: s.Keys("rt-0").Lookup, Client: s.Seal.Pseudonym("client", s.Tenant, s.Issuer, "thief"), Error: "invalid_grant", Sent: time.Now().UnixNano()}
	if err := cl.Refused(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	remote.StartServer(t, a, addr, remote.StartService(t))
	remote.Eventually(t, "the spool is delivered", empty(cl))
	if reply, no, err := cl.Play(t.Context(), s.Play("rt-0")); reply == nil {
		t.Errorf("%+v, %v", no, err)
	}
}

// stubborn is a backup that plays and takes no marks.
type stubborn struct{ remote.Backup }

func (stubborn) Mark(context.Context, string, ...session.Mark) error { return errors.New("no") }

func TestNoPlayBeforeTheMarks(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	svc := remote.StartService(t)
	s := remote.NewSignIn(t)
	if _, err := svc.Learn(t.Context(), []*backup.Learned{s.Learned(t, "", "rt-0", time.Now().Add(-time.Minute))}); err != nil {
		t.Fatal(err)
	}
	srv := remote.StartServer(t, a, "", stubborn{svc})
	cl, _ := remote.StartClient(t, a, srv.Addr, t.TempDir(), func(c *remote.ClientConfig) { c.Timeouts.Play = 200 * time.Millisecond })
	if reply, no, err := cl.Play(t.Context(), s.Play("rt-0")); reply == nil {
		t.Fatal(no, err)
	}
	m := session.Mark{Of: session.OfSubject, ID: s.Seal.Pseudonym("subject", s.Tenant, s.Issuer, s.Subject), Final: true, At: time.Now().UnixNano()}
	if err := cl.Mark(t.Context(), s.Tenant, m); !errors.Is(err, remote.ErrSpooled) {
		t.Fatal(err)
	}
	if opens, err := cl.Opens(t.Context(), []*flow.Play{s.Play("rt-0"), s.Play("rt-0")}); err != nil || !slices.Equal(opens, []bool{false, false}) {
		t.Errorf("a page: %v, %v", opens, err)
	}
	reply, no, err := cl.Play(t.Context(), s.Play("rt-0"))
	if reply != nil || no == nil || no.Code != "spool_behind" || no.Definite {
		t.Errorf("%v, %+v, %v", reply, no, err)
	}
	srv.Stop()
	remote.StartServer(t, a, srv.Addr, svc)
	remote.Eventually(t, "the mark is delivered", empty(cl))
	if _, no, err := cl.Play(t.Context(), s.Play("rt-0")); no == nil || no.Code != "revoked" {
		t.Errorf("%+v, %v", no, err)
	}
}

func TestFullSpoolDropsTheOldestLearnedAndNoMark(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	addr := away(t)
	cl, _ := remote.StartClient(t, a, addr, t.TempDir(), func(c *remote.ClientConfig) { c.SpoolMaxBytes = 16 << 10 })
	s := remote.NewSignIn(t)
	for i := range 40 {
		s.SID = string(rune('a' + i))
		learn(t, cl, s.Learned(t, "", "rt-"+s.SID, time.Now()))
	}
	c := cl.Counts()
	if c.Dropped == 0 || c.Bytes > 16<<10 || uint64(c.Learned)+c.Dropped != 40 {
		t.Fatalf("%+v", c)
	}
	marks := 0
	for range 200 {
		m := session.Mark{Of: session.OfGrant, ID: session.NewID(), Final: true, At: time.Now().UnixNano()}
		if err := cl.Mark(t.Context(), s.Tenant, m); !errors.Is(err, remote.ErrSpooled) {
			if !errors.Is(err, remote.ErrSpoolFull) {
				t.Fatal(err)
			}
			break
		}
		marks++
	}
	if c := cl.Counts(); c.Learned != 0 || c.Marks != marks || marks == 200 || c.Held != 0 {
		t.Errorf("%d marks, %+v", marks, c)
	}
	// A revocation that passes by and is kept nowhere holds its tenant, and no other, also when the backup is back.
	if _, err := cl.MarkGrant(t.Context(), &backup.GrantMark{Tenant: s.Tenant, Lookup: session.NewID(), At: time.Now().UnixNano(), Cause: "revocation", Told: true, Session: false}); !errors.Is(err, remote.ErrSpoolFull) {
		t.Fatal(err)
	}
	svc := remote.StartService(t)
	remote.StartServer(t, a, addr, svc)
	remote.Eventually(t, "the marks are delivered", empty(cl))
	if _, no, err := cl.Play(t.Context(), s.Play("rt-a")); err != nil || no == nil || no.Code != "stopped" {
		t.Errorf("%+v, %v", no, err)
	}
	s.Tenant = "other"
	if _, no, err := cl.Play(t.Context(), s.Play("rt-a")); err != nil || no == nil || no.Code != "no_record" {
		t.Errorf("another tenant: %+v, %v", no, err)
	}
	if c := cl.Counts(); c.Lost != 1 || c.Held != 1 {
		t.Errorf("%+v", c)
	}
}

func TestTooOldIsDropped(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	addr := away(t)
	cl, _ := remote.StartClient(t, a, addr, t.TempDir())
	s := remote.NewSignIn(t)
	learn(t, cl, s.Learned(t, "", "rt-0", time.Now().Add(-session.Lifetime)), s.Learned(t, "", "rt-1", time.Now().Add(-time.Minute)))
	svc := remote.StartService(t)
	remote.StartServer(t, a, addr, svc)
	remote.Eventually(t, "the spool is delivered", empty(cl))
	if c := cl.Counts(); c.Dropped != 1 || c.Delivered != 1 {
		t.Errorf("%+v", c)
	}
}

// poison is a backup that fails on one exchange.
type poison struct {
	remote.Backup
	bad session.ID
}

func (p *poison) Learn(ctx context.Context, ls []*backup.Learned) ([]backup.Outcome, error) {
	for _, l := range ls {
		if l.Sealed.Record == p.bad {
			return nil, errors.New("no")
		}
	}
	return p.Backup.Learn(ctx, ls)
}

func TestStepsThatWaitArePartOfTheStanding(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	addr := away(t)
	cl, _ := remote.StartClient(t, a, addr, t.TempDir())
	look := session.NewID()
	for i, state := range []string{session.Pending, session.Kept} {
		if err := cl.Step(t.Context(), "acme", look, int64(i+1), session.Successor{State: state, Sealed: []byte{1}, At: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := cl.Standing(t.Context(), "acme", look); !errors.Is(err, remote.ErrAway) || st.Successor == nil || st.Successor.State != session.Kept {
		t.Errorf("%+v, %v", st, err)
	}
	svc := remote.StartService(t)
	remote.StartServer(t, a, addr, svc)
	remote.Eventually(t, "the steps are delivered", empty(cl))
	if st, err := svc.Standing(t.Context(), "acme", look); err != nil || st.Successor == nil || st.Successor.State != session.Kept {
		t.Errorf("%+v, %v", st, err)
	}
}

// A stolen spool tells nothing: no name, no pseudonym.
func TestNothingReadableLiesInTheSpool(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	dir := t.TempDir()
	cl, stop := remote.StartClient(t, a, away(t), dir)
	s := remote.NewSignIn(t)
	s.Tenant, s.Issuer, s.Client = "tenant-that-is-named", "https://issuer-that-is-named.test", "client-that-is-named"
	l := s.Learned(t, "", "refresh-token-that-is-secret", time.Now())
	learn(t, cl, l)
	if _, err := cl.MarkGrant(t.Context(), &backup.GrantMark{Tenant: s.Tenant, Lookup: l.Sealed.Doors[0].Lookup, At: 1, Cause: "cause-that-is-named", Told: true, Session: true}); err != nil {
		t.Fatal(err)
	}
	stop()
	found := 0
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found += len(b)
		for _, secret := range [][]byte{[]byte("that-is-named"), []byte("that-is-secret"), l.Subject[:], l.Client[:], l.Sealed.Doors[0].Lookup[:], l.Sealed.Record[:], l.Sealed.Data[:16]} {
			if bytes.Contains(b, secret) {
				t.Errorf("%s holds %q", path, secret)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if found == 0 {
		t.Error("nothing was written")
	}
	// Under another sealing key nothing opens: the gateway starts, and no tenant is played.
	cert, key := a.Issue(t, remote.GatewayName, time.Now().Add(time.Hour))
	other, err := session.NewSealer(bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	cl, err = remote.NewClient(remote.ClientConfig{URL: "https://" + away(t), CertFile: cert, KeyFile: key, CAFile: a.File(), SpoolDir: dir}, other, remote.Quiet(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if c := cl.Counts(); c.Lost != 1 || c.Held != 1 || c.Learned != 0 {
		t.Errorf("%+v", c)
	}
	if _, no, err := cl.Play(t.Context(), s.Play("rt")); no == nil || no.Code != "stopped" {
		t.Errorf("%+v, %v", no, err)
	}
}

func TestOneBadExchangeHoldsUpNoOther(t *testing.T) {
	a := remote.NewAuthority(t, t.TempDir())
	addr := away(t)
	s := remote.NewSignIn(t)
	bad, good := s.Learned(t, "", "rt-bad", time.Now()), s.Learned(t, "", "rt-good", time.Now())
	var mu sync.Mutex
	ahead := time.Duration(0)
	cert, key := a.Issue(t, remote.GatewayName, time.Now().Add(time.Hour))
	cl, err := remote.NewClient(remote.ClientConfig{
		URL: "https://" + addr, CertFile: cert, KeyFile: key, CAFile: a.File(), ServerName: remote.ServerName, SpoolDir: t.TempDir(), Timeouts: remote.Timeouts{Probe: 10 * time.Millisecond},
	}, s.Seal, remote.Quiet(), func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- cl.Run(ctx) }()
	defer func() { cancel(); <-done; cl.Close() }()
	learn(t, cl, bad, good)
	svc := remote.StartService(t)
	remote.StartServer(t, a, addr, &poison{svc, bad.Sealed.Record})
	remote.Eventually(t, "the backup is found", func() bool { return !cl.Away() })
	if c := cl.Counts(); c.Rejected != 0 || c.Learned != 2 {
		t.Errorf("given up at once: %+v", c)
	}
	remote.Eventually(t, "the bad one is given up, the good one delivered", func() bool {
		mu.Lock()
		ahead += time.Minute
		mu.Unlock()
		c := cl.Counts()
		return c.Rejected == 1 && c.Delivered == 1
	})
	if st, err := svc.Standing(t.Context(), s.Tenant, s.Keys("rt-good").Lookup); err != nil || !st.Known {
		t.Errorf("%+v, %v", st, err)
	}
}
