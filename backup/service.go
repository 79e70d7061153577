// Package backup answers sign-ins while the primary cannot. It continues sessions that the primary already approved; it
// never starts one.
//
// Client authentication, artifact and record match, revocation, policy, signing and audit run here, for every flow, in
// that order. A flow gets a Permit only at the end of the row. It may not import gateway.
package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"understudy/audit"
	"understudy/backup/notice"
	"understudy/flow"
	"understudy/flow/oauth"
	"understudy/keys"
	"understudy/policy"
	"understudy/session"
)

// Service is the backup authentication service of one deployment.
type Service struct {
	Sessions *session.Store
	Keys     *keys.Ring
	Flows    []flow.Flow
	Policy   func(policy.Facts) policy.Decision
	Audit    *audit.Log
	Log      *slog.Logger
	Now      func() time.Time
	// Unkept keeps durably, beside the store, that marks of a tenant could not be kept in it; nil: nothing does. After a
	// restart [Service.Mend] makes up for them.
	Unkept func(tenant string) error

	// Notices tells relying parties of logouts; nil: nobody is told.
	Notices *notice.Outbox

	browserless absent   // sessions that no browser is known to have
	stopped     sync.Map // tenant → why the backup does not play for it (its marks cannot be kept)
}

// ErrStopped is wrapped where a mark is not kept, but the backup stopped playing for the tenant, and will not play what
// was approved until now after a restart either.
var ErrStopped = errors.New("the backup does not play for the tenant any more")

// answerCheck is one check of the row. It returns a refusal or nil.
type answerCheck func(ctx context.Context, a *attempt) *flow.Refusal

// attempt is one request on its way through the row.
type attempt struct {
	play   *flow.Play
	flow   flow.Flow
	door   *session.Door
	record *session.Record
	data   []byte // what the door opens: the record's data key, and the UserInfo key
	rule   string
	keys   []string
	now    time.Time
	asked  bool // only whether there would be an answer: nothing is signed
}

// Play answers a request, or says why not. An error means that the service itself failed; the caller then treats the
// request as refused with [flow.NotNow].
func (s *Service) Play(ctx context.Context, p *flow.Play) (*flow.Reply, *flow.Refusal, error) {
	began := s.Now()
	a := &attempt{play: p, now: began}
	reply, no := s.run(ctx, a)
	if !p.Shadow {
		if err := s.audit(a, no, began); err != nil {
			// Law 9: every answer leaves a line. No line, no answer.
			return nil, flow.NotNow("audit_failed"), err
		}
	}
	return reply, no, nil
}

func (s *Service) run(ctx context.Context, a *attempt) (*flow.Reply, *flow.Refusal) {
	for _, f := range s.Flows {
		if f.Name() == a.play.Flow {
			a.flow = f
		}
	}
	if a.flow == nil {
		return nil, flow.NotNow("unknown_flow")
	}
	for _, check := range []answerCheck{s.running, s.artifact, s.client, s.revocation, s.open, s.policy} {
		if no := check(ctx, a); no != nil {
			return nil, no
		}
	}
	return s.answer(ctx, a)
}

// running refuses where the backup cannot know who was revoked (law 3).
func (s *Service) running(_ context.Context, a *attempt) *flow.Refusal {
	if _, ok := s.stopped.Load(a.play.Tenant); ok {
		return flow.NotNow("stopped")
	}
	return nil
}

// artifact finds the door. It comes first only because the door knows which client it belongs to; nothing is opened.
func (s *Service) artifact(_ context.Context, a *attempt) *flow.Refusal {
	if a.play.Token != nil {
		return s.token(a)
	}
	d, err := s.Sessions.Door(a.play.Tenant, a.play.Artifact.Lookup)
	switch {
	case errors.Is(err, session.ErrNoRecord):
		return flow.NotNow("no_record")
	case err != nil:
		s.Log.Error("a door does not open", "tenant", a.play.Tenant, "error", err)
		return flow.NotNow("store_failed")
	}
	a.door = d
	switch {
	case d.Kind != a.play.Artifact.Kind:
		return flow.NotNow("no_record")
	case d.Record.Zero() && d.Unlearned == "revoked":
		return flow.No("revoked", http.StatusBadRequest, "invalid_grant")
	case d.Record.Zero():
		return flow.NotNow("not_learned")
	case a.now.UnixNano() >= d.Approved+int64(session.Lifetime):
		return flow.NotNow("expired")
	case d.Kind == session.OwnCode && d.Ends <= a.now.UnixNano():
		return flow.No("code_expired", http.StatusBadRequest, "invalid_grant")
	case d.Kind == session.Application && d.Ends != 0 && d.Ends <= a.play.Outage:
		return s.alive(a)
	case d.Kind != session.AccessToken && d.Kind != session.OwnCode && d.Kind != session.PushedRequest && d.Ends != 0 && d.Ends <= a.play.Outage:
		return flow.NotNow("artifact_ended")
	}
	if d.Ends == 0 && d.Kind == session.RefreshToken {
		h, err := s.Sessions.Habit(a.play.Tenant, d.Client)
		if err != nil {
			return flow.NotNow("store_failed")
		}
		if idle := h.Idle(); idle > 0 && d.Approved+idle <= a.play.Outage {
			return flow.NotNow("artifact_ended")
		}
	}
	return nil
}

// alive refuses where a browser's session had ended by the primary's clocks when the outage began, although something else
// kept it alive for longer than what was told at the application.
func (s *Service) alive(a *attempt) *flow.Refusal {
	if a.door.Session.Zero() {
		return flow.NotNow("artifact_ended")
	}
	d, err := s.Sessions.Door(a.play.Tenant, a.door.Session)
	switch {
	case err != nil && !errors.Is(err, session.ErrNoRecord):
		return flow.NotNow("store_failed")
	case err != nil, d.Kind != session.Activity, d.Ends <= a.play.Outage:
		return flow.NotNow("artifact_ended")
	}
	return nil
}

// client checks the client authentication against what the primary approved: the same client, by the same method or a
// stronger one. A confidential client's secret is proved by opening the door; here it is checked that the primary has
// not refused it since.
func (s *Service) client(ctx context.Context, a *attempt) *flow.Refusal {
	p, d := a.play.Client, a.door
	if d.Kind == session.AccessToken {
		if p.ID == "" {
			return nil // a bearer token: whoever presents it
		}
		return s.caller(ctx, a)
	}
	if s.Sessions.Seal.Pseudonym("client", a.play.Tenant, a.play.Issuer, p.ID) != d.Client {
		return flow.No("client_mismatch", http.StatusBadRequest, "invalid_grant")
	}
	if d.Kind == session.Application {
		return nil // an authorization request is nobody's proof; its code is redeemed with one
	}
	if d.ClientAuth == "none" {
		if p.Method != "none" {
			return flow.NotNow("client_method") // a public client does not become confidential by itself
		}
		return nil
	}
	switch d.ClientAuth {
	case "private_key_jwt", "client_secret_jwt":
		return s.assertion(ctx, a)
	case "tls_client_auth", "self_signed_tls_client_auth":
		return s.certificate(a)
	}
	return s.secret(a, d.Client)
}

// assertion checks that a key of the client's, which the primary took and has not refused since, signed an assertion which
// nobody has used yet, at the primary or here.
func (s *Service) assertion(ctx context.Context, a *attempt) *flow.Refusal {
	if a.play.Client.Method != a.door.ClientAuth {
		return flow.No("client_unauthenticated", http.StatusUnauthorized, "invalid_client")
	}
	return s.asserted(ctx, a, a.door.Client)
}

// asserted checks a client's assertion by itself.
func (s *Service) asserted(ctx context.Context, a *attempt, client session.ID) *flow.Refusal {
	p := a.play.Client
	if len(p.Once) == 0 {
		return flow.NotNow("assertion_refused") // the primary might be less strict
	}
	if _, no := s.approved(a, client); no != nil || a.play.Shadow {
		return no
	}
	return s.spends(ctx, a)
}

// spends takes the use of an assertion, which has one.
func (s *Service) spends(ctx context.Context, a *attempt) *flow.Refusal {
	p := a.play.Client
	first, err := s.Sessions.KV.Claim(ctx, onceKey(a.play.Tenant, p.Once), time.Unix(0, p.Until))
	switch {
	case err != nil:
		s.Log.Error("the use of an assertion cannot be kept", "tenant", a.play.Tenant, "error", err)
		return flow.NotNow("store_failed")
	case !first:
		return flow.No("assertion_replayed", http.StatusUnauthorized, "invalid_client")
	}
	return nil
}

// onceKey is where it is kept that something of one use was used.
func onceKey(tenant string, once []byte) []byte {
	return append([]byte(session.Joined("once", tenant)), once...)
}

// approved is what is known of a client's proof (its secret, key or certificate), which the primary approved and has not refused
// since.
func (s *Service) approved(a *attempt, client session.ID) (*session.Secret, *flow.Refusal) {
	mine, err := s.Sessions.Secret(a.play.Tenant, client, a.play.Client.SecretID)
	switch {
	case err != nil:
		s.Log.Error("a client's proof cannot be read", "tenant", a.play.Tenant, "error", err)
		return nil, flow.NotNow("store_failed")
	case mine == nil:
		return nil, flow.NotNow("client_unknown_secret")
	case mine.Refused >= mine.Approved:
		return nil, flow.NotNow("client_secret_refused")
	}
	return mine, nil
}

// secret checks that the primary approved the presented secret of a client, and has not refused it since, nor approved
// another one long ago.
func (s *Service) secret(a *attempt, client session.ID) *flow.Refusal {
	p := a.play.Client
	if p.SecretID.Zero() {
		return flow.No("client_unauthenticated", http.StatusUnauthorized, "invalid_client")
	}
	mine, no := s.approved(a, client)
	if no != nil {
		return no
	}
	last, err := s.Sessions.Secret(a.play.Tenant, client, session.ID{})
	if err != nil {
		return flow.NotNow("store_failed")
	}
	if last != nil && last.ID != mine.ID && last.Approved > mine.Approved &&
		a.now.UnixNano() > max(last.First, mine.Approved)+int64(session.SecretAfter) {
		return flow.NotNow("client_secret_replaced")
	}
	return nil
}

// revocation asks for marks, and whether the artifact has been superseded.
func (s *Service) revocation(ctx context.Context, a *attempt) *flow.Refusal {
	if a.door.Kind == session.AccessToken && a.door.Ends <= a.now.UnixNano() { // who asks about it has been authenticated
		return flow.No("artifact_ended", http.StatusBadRequest, "invalid_grant")
	}
	marks, err := s.Sessions.Blocking(a.play.Tenant, a.door)
	if err == nil && a.door.Kind == session.AccessToken {
		marks, err = s.ofToken(a, marks)
	}
	if err == nil && a.play.Behalf != nil {
		marks, err = s.ofBehalf(a.play, marks)
	}
	if err != nil {
		_ = s.stop(a.play.Tenant, err)
		return flow.NotNow("marks_unreadable")
	}
	if len(marks) > 0 {
		if marks[0].Final {
			return flow.No("revoked", http.StatusBadRequest, "invalid_grant")
		}
		if marks[0].Cause == "cookie_cleared" {
			return flow.NotNow("cookie_cleared") // some sessions go on without a browser
		}
		return flow.No("refused_by_primary", http.StatusBadRequest, "invalid_grant")
	}
	return s.superseded(ctx, a)
}

// unknownGrace is how long a superseded token still opens where it is not known what the primary does with one.
const unknownGrace = time.Minute

func (s *Service) superseded(ctx context.Context, a *attempt) *flow.Refusal {
	d := a.door
	if d.Superseded == 0 || d.Kind == session.AccessToken {
		return nil
	}
	h, err := s.Sessions.Habit(a.play.Tenant, d.Client)
	if err != nil {
		return flow.NotNow("store_failed")
	}
	switch h.Rotation {
	case "accepts":
		if d.Ends != 0 && d.Ends <= a.now.UnixNano() {
			return flow.NotNow("artifact_ended")
		}
		return nil
	case "refuses":
		// Reuse detection (RFC 9700, section 4.14.2): one of the two who hold a token of this grant stole it.
		if !a.play.Shadow {
			m := session.Mark{Of: session.OfGrant, ID: d.Grant, Final: true, At: a.now.UnixNano(), Cause: "reuse"}
			if err := s.Sessions.Mark(context.WithoutCancel(ctx), a.play.Tenant, m); err != nil {
				_ = s.stop(a.play.Tenant, err)
				return flow.NotNow("marks_unwritable")
			}
		}
		return flow.No("reuse", http.StatusBadRequest, "invalid_grant")
	}
	if a.now.UnixNano() > d.Superseded+int64(unknownGrace) {
		return flow.NotNow("superseded")
	}
	return nil
}

// open opens the record with the artifact's key; for a confidential client this is where its secret is proved.
func (s *Service) open(ctx context.Context, a *attempt) *flow.Refusal {
	if a.record != nil {
		return nil
	}
	var r *session.Record
	data, err := a.door.Unwrap(a.play.Tenant, a.play.Artifact.Lookup, a.play.Artifact.Key)
	if err == nil {
		r, err = s.Sessions.Record(a.play.Tenant, a.door, data)
	}
	switch {
	case errors.Is(err, session.ErrNoRecord):
		return flow.NotNow("no_record")
	case errors.Is(err, session.ErrSealed):
		return flow.NotNow("seal")
	case err != nil:
		s.Log.Error("a record does not open", "tenant", a.play.Tenant, "error", err)
		return flow.NotNow("store_failed")
	}
	if r.Tenant != a.play.Tenant || r.Issuer != a.play.Issuer || a.door.Kind != session.AccessToken && r.Client != a.play.Client.ID {
		return flow.NotNow("record_mismatch")
	}
	a.record, a.data = r, data
	if a.play.Doubt && r.Facts.UserAgent != a.play.Facts.UserAgent {
		return flow.NotNow("doubtful") // some primaries and what stands before them fail for what a request calls itself
	}
	if no := bound(a); no != nil {
		return no
	}
	return s.possession(ctx, a)
}

// possession checks that the client proved to possess the key to which the token is bound (RFC 9449), once with this proof.
func (s *Service) possession(ctx context.Context, a *attempt) *flow.Refusal {
	p, want := a.play.Client, a.record.JKT
	if jkt := a.door.Bound["jkt"]; jkt != "" && a.door.Kind == session.AccessToken {
		want = jkt
	}
	if a.flow.Endpoint() == flow.Pushed {
		want = p.JKT // whichever: what comes of the request is bound to it
	}
	switch {
	case a.door.Kind == session.Application, a.flow.Endpoint() == flow.Introspection:
		return nil // nobody proves anything, or who asks about somebody else's token
	case want == "":
		return nil // it is bound to nothing, and a proof beside it is none that the primary looked at
	case a.door.Kind == session.OwnCode && p.JKT == "":
		return flow.NotNow("dpop_unlearned")
	case a.door.Kind == session.AccessToken && want != p.JKT:
		return flow.No("dpop_mismatch", http.StatusUnauthorized, "invalid_grant")
	case a.door.Kind != session.OwnCode && want != p.JKT:
		return flow.No("dpop_mismatch", http.StatusBadRequest, "invalid_dpop_proof")
	case a.play.Shadow:
		return nil
	}
	if no := s.challenge(a); no != nil { // before anything is used up
		return no
	}
	first, err := s.Sessions.KV.Claim(ctx, onceKey(a.play.Tenant, p.Possessed), time.Unix(0, p.PossessedUntil))
	switch {
	case err != nil:
		s.Log.Error("the use of a proof cannot be kept", "tenant", a.play.Tenant, "error", err)
		return flow.NotNow("store_failed")
	case !first:
		return flow.No("dpop_replayed", http.StatusBadRequest, "invalid_dpop_proof")
	}
	return nil
}

func (s *Service) policy(_ context.Context, a *attempt) *flow.Refusal {
	d := s.Policy(policy.Facts{
		Tenant: a.play.Tenant, Flow: a.play.Flow, Client: a.record.Client, Subject: a.record.Subject,
		Now: a.play.Facts, Approved: a.record.Facts,
	})
	a.rule = d.Rule
	if !d.Permit {
		return flow.No(d.Rule, http.StatusBadRequest, "interaction_required")
	}
	return nil
}

// answer makes the permit, lets the flow answer, and remembers the tokens that it made.
func (s *Service) answer(ctx context.Context, a *attempt) (*flow.Reply, *flow.Refusal) {
	habit, err := s.Sessions.Habit(a.play.Tenant, s.Sessions.Seal.HabitKey(a.record))
	if err != nil {
		return nil, flow.NotNow("store_failed")
	}
	fence := keys.Fence{Tenant: a.play.Tenant, Issuer: a.play.Issuer}
	permit := &flow.Permit{
		Play: a.play, Record: a.record, Habit: habit, Now: a.now, Fill: session.NewID().String() + session.NewID().String(),
		Sign: func(class string, header, claims session.Object) (string, error) {
			if a.asked {
				if !s.Keys.Signs(fence, class, header.Text("alg")) {
					return "", keys.ErrNoKey
				}
				return "", nil
			}
			t, kid, err := s.Keys.Sign(fence, class, header, claims)
			if err != nil {
				s.Log.Error("cannot sign", "tenant", fence.Tenant, "issuer", fence.Issuer, "class", class, "error", err)
				return "", err
			}
			a.keys = append(a.keys, kid)
			return t, nil
		},
		HabitOf: func(name string) (*session.Habit, error) {
			return s.Sessions.Habit(a.play.Tenant, s.Sessions.Seal.HabitOf(a.play.Tenant, a.play.Issuer, name))
		},
		UserInfo: func() (*session.Record, int64, error) {
			return s.Sessions.UserInfo(a.play.Tenant, a.play.Issuer, session.UserInfoOf(a.data))
		},
		Opaque: func(l session.Look) string { return oauth.Opaque(l, s.Sessions.Seal.Look) },
		Bound:  a.door.Bound,
	}
	if a.door.Ends != 0 {
		permit.Ends = time.Unix(0, a.door.Ends)
	}
	reply, no := a.flow.Answer(permit)
	if no != nil {
		return nil, no
	}
	reply.Grant = a.door.Grant
	if a.play.Shadow {
		return reply, nil
	}
	if a.door.Kind == session.OwnCode {
		if no := s.spend(ctx, a); no != nil {
			return nil, no
		}
	}
	if err := s.keepIssued(ctx, a, reply.Issued); err != nil {
		s.Log.Error("an issued token cannot be kept", "tenant", fence.Tenant, "error", err)
		return nil, flow.NotNow("store_failed")
	}
	if a.play.Facts.Origin == a.record.Facts.Origin {
		for k, v := range a.record.Headers {
			if strings.HasPrefix(k, "Access-Control-") {
				reply.Header.Set(k, v)
				reply.Header.Set("Vary", "Origin")
			}
		}
	}
	return reply, nil
}

// stop ends the play for a tenant and returns the error for whoever asked for a mark.
func (s *Service) stop(tenant string, cause error) error {
	if _, was := s.stopped.LoadOrStore(tenant, cause.Error()); !was {
		s.Log.Error("the backup stops playing: revocations cannot be kept or read", "tenant", tenant, "error", cause)
	}
	if s.Unkept == nil {
		return cause
	}
	if err := s.Unkept(tenant); err != nil {
		s.Log.Error("it is not kept that revocations are missing: do not restart before the disk is mended", "tenant", tenant, "error", err)
		return cause
	}
	return fmt.Errorf("%w: %w", ErrStopped, cause)
}

// Stopped are the tenants for which the backup does not play any more, and why.
func (s *Service) Stopped() map[string]string {
	out := map[string]string{}
	s.stopped.Range(func(tenant, why any) bool {
		out[tenant.(string)] = why.(string)
		return true
	})
	return out
}

// Mend marks what was approved until now of tenants whose marks could not be kept before a restart: the primary must
// approve it again. The marks are inferred; an operator who knows better lifts them.
func (s *Service) Mend(ctx context.Context, tenants ...string) error {
	for _, t := range tenants {
		if err := s.Mark(ctx, t, session.Mark{Of: session.OfTenant, At: s.Now().UnixNano(), Cause: "marks_lost", Told: true}); err != nil {
			return err
		}
		s.Log.Warn("revocations were lost: what was learned so far waits for the primary's approval", "tenant", t)
	}
	return nil
}

func (s *Service) audit(a *attempt, no *flow.Refusal, began time.Time) error {
	e := audit.Entry{
		Time: began, ID: a.play.ID, Tenant: a.play.Tenant, Issuer: a.play.Issuer, Flow: a.play.Flow, Client: a.play.Client.ID,
		Address: a.play.Facts.Address, Trigger: a.play.Trigger, TokenIssuerType: "backup", Decision: "issued", Rule: a.rule,
		Latency: float64(s.Now().Sub(began).Microseconds()) / 1000,
	}
	if a.record != nil {
		e.Client, e.Subject, e.Session = a.record.Client, a.record.Subject, a.record.SID
	}
	if a.door != nil {
		e.Approved = time.Unix(0, a.door.Approved)
	}
	if len(a.keys) > 0 {
		e.Key = strings.Join(a.keys, " ")
	}
	if no != nil {
		e.TokenIssuerType, e.Decision, e.Rule, e.Key = "none", "refused", no.Code, ""
		if no.Demands() {
			e.Decision = "demanded"
		}
	}
	return s.Audit.Write(e)
}

// PublicKeys returns the backup's public keys for an issuer, and makes those that are missing for the algorithms that
// its primary uses.
func (s *Service) PublicKeys(_ context.Context, tenant, issuer string, algs []string) ([]jose.JSONWebKey, error) {
	f := keys.Fence{Tenant: tenant, Issuer: issuer}
	for _, alg := range algs {
		switch err := s.Keys.Ensure(f, alg); {
		case errors.Is(err, keys.ErrNoKey): // tokens of this algorithm are not continued; the others are
			s.Log.Warn("the primary has a key for which no backup key can be made", "tenant", tenant, "issuer", issuer, "algorithm", alg)
		case err != nil:
			return nil, err
		}
	}
	return s.Keys.Public(f), nil
}
