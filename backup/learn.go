package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/keys"
	"understudy/session"
	"understudy/store"
)

// Learned is what the gateway tells the backup of a successful exchange: sealed, so that neither the backup nor its
// disk can read it before the artifact is presented again. It can be sent to another process and applied twice.
type Learned struct {
	Tenant      string         `cbor:"0,keyasint"`
	Issuer      string         `cbor:"1,keyasint"`
	Flow        string         `cbor:"2,keyasint"`
	Sent        int64          `cbor:"3,keyasint"` // when the approved exchange was sent, Unix nanoseconds
	Interactive bool           `cbor:"4,keyasint"` // it ended a sign-in
	Presented   session.ID     `cbor:"5,keyasint"` // look-up of the artifact it was obtained with; zero: a first grant
	Sealed      session.Sealed `cbor:"6,keyasint"` // no record where Unlearned is set

	Client     session.ID `cbor:"7,keyasint"`
	Subject    session.ID `cbor:"8,keyasint"`
	Session    session.ID `cbor:"9,keyasint"`
	ClientAuth string     `cbor:"10,keyasint"`
	SecretID   session.ID `cbor:"11,keyasint"` // zero: public client

	Unlearned string `cbor:"12,keyasint"`
	// Replaced are look-ups of other artifacts that the client gave up with this exchange.
	Replaced []session.ID `cbor:"15,keyasint,omitempty"`

	HabitKey session.ID     `cbor:"13,keyasint"`
	Shape    *session.Shape `cbor:"14,keyasint,omitempty"`

	// NotBefore is a time before which the primary no longer honours what it issued to this client for this subject, Unix
	// seconds; 0: it named none.
	NotBefore int64 `cbor:"16,keyasint,omitempty"`
	// AuthTime is when the person signed in by the primary's clock, Unix seconds; 0: not told.
	AuthTime int64 `cbor:"17,keyasint,omitempty"`
	// Once stands for the client assertion that the primary took: it is used (see [flow.Proof]).
	Once  []byte `cbor:"18,keyasint,omitempty"`
	Until int64  `cbor:"19,keyasint,omitempty"`

	// Device stands for the browser that holds the artifacts; zero: no browser does.
	Device session.ID `cbor:"20,keyasint,omitzero"`
	// Kept are doors that open no record, of the same client, subject, session and device.
	Kept []session.SealedDoor `cbor:"21,keyasint,omitempty"`
	// Former stand for the browser as it was while other persons were signed in with it: that is over.
	Former []session.ID `cbor:"22,keyasint,omitempty"`
	// Signs are the algorithms by which the primary signs responses to this client that are no tokens, by the class of their keys.
	Signs map[string]string `cbor:"23,keyasint,omitempty"`
	// Notify is how a logout token to this client is made ("alg", "typ"); nil: it is told of no logout.
	Notify map[string]string `cbor:"24,keyasint,omitempty"`
}

// Outcome says what became of a Learned.
type Outcome struct {
	Unlearned string // why nothing is remembered, "" where it is
	Alarm     string // something an operator must see
}

// learnStep is how many exchanges are made ready while the ones before them are written.
const learnStep = 64

// Learn keeps what was learned, durably, and says for each what became of it. After an error some of it may be kept.
func (s *Service) Learn(ctx context.Context, ls []*Learned) ([]Outcome, error) {
	b := &learning{doors: map[doorAt]*session.Door{}}
	out := make([]Outcome, 0, len(ls))
	written := make(chan error, 1) // by the step before
	written <- nil
	var err error
	for len(out) < len(ls) && err == nil {
		step := ls[len(out):min(len(out)+learnStep, len(ls))]
		if err = s.use(ctx, step); err == nil {
			for _, l := range step {
				var o Outcome
				if o, err = s.learn(b, l); err != nil {
					break
				}
				out = append(out, o)
			}
		}
		if w := <-written; err == nil {
			err = w
		}
		if err != nil {
			written <- nil
			break
		}
		b.ends.Put(&b.Batch)
		batch, when := b.Batch, store.Soon
		b.Batch = store.Batch{}
		if len(out) == len(ls) {
			when = store.Durable // and with it the steps before, which lie before it in the log
		}
		go func() { written <- s.Sessions.KV.Apply(ctx, &batch, when) }()
	}
	if w := <-written; err == nil {
		err = w
	}
	if err != nil {
		return nil, fmt.Errorf("learn: %w", err)
	}
	for _, l := range ls {
		s.signs(l)
	}
	return out, nil
}

// Classes are the classes of keys that are needed for this client beside those of tokens, with their algorithms.
func (l *Learned) Classes() map[string]string {
	if l.Notify["alg"] == "" {
		return l.Signs
	}
	out := map[string]string{keys.LogoutToken: l.Notify["alg"]}
	maps.Copy(out, l.Signs)
	return out
}

// signs makes the keys for responses that are signed and for logout tokens, where there are none, so that they are published long
// before they are needed: few clients have use for them.
func (s *Service) signs(l *Learned) {
	f := keys.Fence{Tenant: l.Tenant, Issuer: l.Issuer}
	for class, alg := range l.Classes() {
		if err := s.Keys.Ensure(f, alg, class); err != nil {
			s.Log.Error("no key for responses can be made", "tenant", l.Tenant, "issuer", l.Issuer, "class", class, "algorithm", alg, "error", err)
		}
	}
}

// learning is a batch that knows the doors in it: a sign-in and its first refresh may come together.
type learning struct {
	store.Batch
	ends  session.Ends
	doors map[doorAt]*session.Door
}

// doorAt is where a door lies.
type doorAt struct {
	tenant string
	lookup session.ID
}

func (b *learning) door(s *session.Store, tenant string, lookup session.ID) (*session.Door, error) {
	if d, ok := b.doors[doorAt{tenant, lookup}]; ok {
		again := *d
		return &again, nil
	}
	return s.Door(tenant, lookup)
}

func (b *learning) put(s *session.Store, tenant string, lookup session.ID, version int64, d *session.Door) error {
	k := doorAt{tenant, lookup}
	if was, ok := b.doors[k]; !ok || max(was.Approved, was.Superseded) <= version {
		b.doors[k] = d
	}
	return s.PutDoorWith(&b.Batch, &b.ends, tenant, lookup, version, d)
}

// use keeps of the client assertions that the primary took that they are used.
func (s *Service) use(ctx context.Context, ls []*Learned) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range ls {
		if len(l.Once) > 0 {
			g.Go(func() error {
				_, err := s.Sessions.KV.Claim(ctx, onceKey(l.Tenant, l.Once), time.Unix(0, l.Until))
				return err
			})
		}
	}
	return g.Wait()
}

func (s *Service) learn(b *learning, l *Learned) (Outcome, error) {
	d := session.Door{
		Client: l.Client, Subject: l.Subject, Session: l.Session, ClientAuth: l.ClientAuth,
		Approved: l.Sent, Unlearned: l.Unlearned, Grant: l.Sealed.Record, Device: l.Device,
		Issuer: s.issuer(l.Tenant, l.Issuer),
	}
	if l.Interactive {
		// A code may come of a session that is hours old: it began when the person signed in.
		d.Begun, d.Guessed = begun(l.Sent, l.AuthTime)
	}
	var parent *session.Door
	var superseded int64 // since when the presented artifact had been superseded
	if !l.Presented.Zero() {
		p, err := b.door(s.Sessions, l.Tenant, l.Presented)
		switch {
		case err == nil:
			parent, superseded = p, p.Superseded
			d.Grant = p.Grant
			if !l.Interactive {
				d.Begun, d.Guessed = p.Begun, p.Guessed
			}
			if d.Unlearned == "" && p.Unlearned == "password" {
				d.Unlearned = p.Unlearned // a refresh keeps the origin of its family
			}
			if d.Subject.Zero() {
				d.Subject = p.Subject
			}
			if d.Session.Zero() {
				d.Session = p.Session
			}
			if d.Subject != p.Subject && !p.Subject.Zero() {
				return Outcome{Unlearned: "subject_changed", Alarm: "subject_changed"}, nil
			}
		case !errors.Is(err, session.ErrNoRecord):
			return Outcome{}, err
		}
	}
	d.Hash = binary.BigEndian.Uint32(d.Grant[:])
	if len(l.Sealed.Doors) == 0 { // only about the client: how it is answered, and that its secret was approved
		if err := s.keep(b, l, &d); err != nil {
			return Outcome{}, err
		}
		return Outcome{Unlearned: l.Unlearned}, s.learnClient(&b.Batch, l, 0, 0)
	}

	if err := s.notBefore(&b.Batch, l, &d); err != nil {
		return Outcome{}, err
	}
	marks, err := s.Sessions.Blocking(l.Tenant, &d)
	if err != nil {
		_ = s.stop(l.Tenant, err)
		return Outcome{Unlearned: "marks_unreadable"}, nil
	}
	for _, m := range marks {
		if m.Final {
			return s.learnOver(b, l, &d, m)
		}
	}
	if parent != nil && parent.Kind != session.RefreshToken && parent.Kind != session.Application && d.Unlearned == "" && !parent.Record.Zero() && l.Sent-parent.Approved < serviceStep {
		if was, err := s.Sessions.Blocking(l.Tenant, parent); err == nil && len(was) == 0 {
			return Outcome{}, nil
		}
	}
	if d.Unlearned == "" {
		d.Hour = s.Sessions.PutRecord(&b.Batch, l.Tenant, l.Sealed.Record, l.Sealed.Data, d.Expires())
		d.Record = l.Sealed.Record
	}
	same := slices.ContainsFunc(l.Sealed.Doors, func(sd session.SealedDoor) bool { return sd.Lookup == l.Presented })
	d.Answers = l.answers()
	if parent != nil && same {
		s.inPlaceOf(b, l, &d, parent)
	}
	kept := false
	for _, sd := range l.Sealed.Doors {
		nd := d
		nd.Kind, nd.Wrapped, nd.Ends = sd.Kind, sd.Wrapped, sd.Ends
		if sd.Lookup == l.Presented {
			if parent != nil && !parent.Record.Zero() && passing(d.Unlearned) {
				kept = true // what was approved before is still remembered
				continue
			}
			if nd.Ends == 0 && parent != nil {
				nd.Ends = parent.Ends // it goes on as it is: what was told of its end still holds
			}
		}
		if err := b.put(s.Sessions, l.Tenant, sd.Lookup, l.Sent, &nd); err != nil {
			return Outcome{}, err
		}
	}
	switch {
	case parent == nil || kept:
	case !same:
		if err := s.supersede(b, l, l.Presented, parent); err != nil {
			return Outcome{}, err
		}
	case parent.Record == l.Sealed.Record || parent.Approved > l.Sent: // applied again, an old one drops nothing
	default:
		s.Sessions.DropRecord(&b.Batch, l.Tenant, &session.Door{Record: parent.Former, Hour: parent.FormerHour})
		if d.Former.Zero() {
			s.Sessions.DropRecord(&b.Batch, l.Tenant, parent)
		}
	}
	if err := s.keep(b, l, &d); err != nil {
		return Outcome{}, err
	}
	for _, lookup := range l.Replaced {
		p, err := b.door(s.Sessions, l.Tenant, lookup)
		if errors.Is(err, session.ErrNoRecord) {
			continue
		}
		if err != nil {
			return Outcome{}, err
		}
		if err := s.supersede(b, l, lookup, p); err != nil {
			return Outcome{}, err
		}
	}
	idle := int64(0)
	if parent != nil && superseded == 0 && parent.Ends == 0 && parent.Kind == session.RefreshToken {
		idle = l.Sent - parent.Approved
	}
	if err := s.learnClient(&b.Batch, l, superseded, idle); err != nil {
		return Outcome{}, err
	}
	return Outcome{Unlearned: d.Unlearned}, nil
}

// begun is when a session began that an exchange shows, and whether that is only guessed: the primary did not say when the person
// signed in.
func begun(sent, authTime int64) (at int64, guessed bool) {
	if authTime > 0 {
		return min(sent, authTime*int64(time.Second)), false
	}
	return sent, true
}

// keep puts the doors that open no record, and ends what another person's browser could open.
func (s *Service) keep(b *learning, l *Learned, d *session.Door) error {
	if l.Notify != nil {
		if err := s.participant(b, l, d); err != nil {
			return err
		}
	}
	for _, k := range l.Kept {
		if k.Kind == session.Activity {
			s.browserless.remove(k.Lookup)
		}
		nd := *d
		nd.Record, nd.Hour, nd.Kind, nd.Wrapped, nd.Ends = session.ID{}, 0, k.Kind, k.Wrapped, k.Ends
		if err := b.put(s.Sessions, l.Tenant, k.Lookup, l.Sent, &nd); err != nil {
			return err
		}
	}
	for _, device := range l.Former {
		m := session.Mark{Of: session.OfDevice, ID: device, Final: true, At: l.Sent, Cause: "user_switch", Told: true}
		if err := s.Sessions.PutMark(&b.Batch, l.Tenant, m); err != nil {
			return err
		}
	}
	if len(l.Kept) > 0 {
		return nil
	}
	// A refresh token that goes on says that its session does, and so the browsers that are signed in with it.
	for _, sd := range l.Sealed.Doors {
		if sd.Kind == session.RefreshToken && sd.Ends != 0 && !l.Session.Zero() {
			return s.active(b, l, sd.Ends)
		}
	}
	return nil
}

// activeStep is how much longer a session must be alive for that to be written down again.
const activeStep = int64(30 * time.Second)

// active keeps until when a session with a browser is alive.
func (s *Service) active(b *learning, l *Learned, ends int64) error {
	if s.browserless.has(l.Session, s.Now()) {
		return nil
	}
	d, err := b.door(s.Sessions, l.Tenant, l.Session)
	switch {
	case errors.Is(err, session.ErrNoRecord):
		s.browserless.add(l.Session, s.Now())
		return nil
	case err != nil:
		return err
	case d.Kind != session.Activity || ends < d.Ends+activeStep:
		return nil
	}
	d.Ends, d.Approved = ends, max(l.Sent, d.Approved)
	return b.put(s.Sessions, l.Tenant, l.Session, d.Approved, d)
}

// learnOver remembers of an exchange whose session a final mark has ended only that: what it gave is refused here too.
func (s *Service) learnOver(b *learning, l *Learned, d *session.Door, m session.Mark) (Outcome, error) {
	o := Outcome{Unlearned: "revoked"}
	if m.Told {
		o.Alarm = "approved_after_revocation"
	}
	d.Unlearned = o.Unlearned
	for _, sd := range l.Sealed.Doors {
		if sd.Lookup == l.Presented {
			continue // as it was: the mark blocks it
		}
		nd := *d
		nd.Kind, nd.Ends = sd.Kind, sd.Ends
		if err := b.put(s.Sessions, l.Tenant, sd.Lookup, l.Sent, &nd); err != nil {
			return Outcome{}, err
		}
	}
	return o, nil
}

// serviceStep is how often it is written down again what a client got for itself: some ask many times a second.
const serviceStep = int64(10 * time.Second)

// passing says whether a reason not to learn a reply says nothing about the session itself.
func passing(why string) bool {
	switch why {
	case "unknown_key", "client_proof", "keys_not_mergeable":
		return true
	}
	return false
}

// supersede notes on a door that a newer artifact has taken its place.
func (s *Service) supersede(b *learning, l *Learned, lookup session.ID, d *session.Door) error {
	if d.Superseded != 0 {
		return nil
	}
	d.Superseded = l.Sent
	return b.put(s.Sessions, l.Tenant, lookup, max(l.Sent, d.Approved+1), d)
}

// learnClient keeps what the exchange shows about the client: an accepted secret, the shape of its replies, and what
// becomes of superseded tokens.
func (s *Service) learnClient(b *store.Batch, l *Learned, superseded, idle int64) error {
	if !l.SecretID.Zero() {
		was, err := s.Sessions.Secret(l.Tenant, l.Client, l.SecretID)
		if err != nil {
			return err
		}
		if was == nil {
			was = &session.Secret{ID: l.SecretID, First: l.Sent}
		}
		if l.Sent > was.Approved+secretStep || was.Refused >= was.Approved && l.Sent > was.Refused {
			was.Method, was.Approved = l.ClientAuth, l.Sent
			if err := s.Sessions.PutSecret(b, l.Tenant, l.Client, *was); err != nil {
				return err
			}
		}
	}
	if l.Shape != nil {
		h, err := s.Sessions.Habit(l.Tenant, l.HabitKey)
		if err != nil {
			return err
		}
		l.Shape.Merge(h.Refresh)
		if !l.Shape.Equal(h.Refresh) {
			h.Refresh, h.At = l.Shape, l.Sent
			if err := s.Sessions.PutHabit(b, l.Tenant, l.HabitKey, h); err != nil {
				return err
			}
		}
	}
	if superseded != 0 && superseded < l.Sent {
		return s.habit(b, l.Tenant, l.Client, l.Sent, (*session.Habit).Accepts)
	}
	if idle > 0 {
		return s.habit(b, l.Tenant, l.Client, l.Sent, func(h *session.Habit) bool { return h.Accepted(idle) })
	}
	return nil
}

// habit changes what is known of a client; f says whether it changed anything.
func (s *Service) habit(b *store.Batch, tenant string, client session.ID, at int64, f func(*session.Habit) bool) error {
	h, err := s.Sessions.Habit(tenant, client)
	if err != nil || !f(h) {
		return err
	}
	h.At = max(at, h.At+1)
	return s.Sessions.PutHabit(b, tenant, client, h)
}

// secretStep is how often it is written down again that a secret was accepted.
const secretStep = int64(5 * time.Minute)

// Refused is what the gateway tells the backup when the primary refused an artifact or a client.
type Refused struct {
	Tenant   string     `cbor:"0,keyasint"`
	Lookup   session.ID `cbor:"1,keyasint"` // of the presented artifact
	Client   session.ID `cbor:"2,keyasint"`
	SecretID session.ID `cbor:"3,keyasint"`
	Error    string     `cbor:"4,keyasint"` // OAuth 2.0 error code
	Sent     int64      `cbor:"5,keyasint"`
	// Over is what the primary said is over beside the grant: session.OfSubject, session.OfSession; 0: nothing.
	Over session.What `cbor:"6,keyasint,omitempty"`
	// Once stands for the client assertion that was presented (see [flow.Proof]); the gateway verified it.
	Once  []byte `cbor:"7,keyasint,omitempty"`
	Until int64  `cbor:"8,keyasint,omitempty"`
	// Reused is set where the primary said that a newer artifact has taken the place of this one.
	Reused bool `cbor:"9,keyasint,omitempty"`
}

// Marks are what a refusal of an artifact infers about its door.
func (r *Refused) Marks(grant, sid, subject session.ID) []session.Mark {
	ms := []session.Mark{{Of: session.OfGrant, ID: grant, At: r.Sent, Cause: "refused", Told: true}}
	switch {
	case r.Over == session.OfSubject && !subject.Zero():
		ms = append(ms, session.Mark{Of: session.OfSubject, ID: subject, At: r.Sent, Cause: "refused", Told: true})
	case r.Over == session.OfSession && !sid.Zero():
		ms = append(ms, session.Mark{Of: session.OfSession, ID: sid, At: r.Sent, Cause: "refused", Told: true})
	}
	return ms
}

// refusal keeps what a refused refresh token shows of its client's: that those which were superseded are refused, or those which
// were not used for a while. One that is over for another reason shows neither.
func (s *Service) refusal(b *store.Batch, r *Refused, d *session.Door) error {
	if d.Kind != session.RefreshToken || r.Over != 0 {
		return nil
	}
	marks, err := s.Sessions.Blocking(r.Tenant, d)
	if err != nil || len(marks) > 0 { // it was known to be over
		return err
	}
	switch {
	case d.Superseded != 0 && d.Superseded < r.Sent && (r.Reused || d.Ends == 0 || r.Sent < d.Ends):
		return s.habit(b, r.Tenant, d.Client, r.Sent, func(h *session.Habit) bool { return h.Refuses(d.Grant, r.Reused) })
	case d.Superseded == 0 && d.Ends == 0:
		return s.habit(b, r.Tenant, d.Client, r.Sent, func(h *session.Habit) bool { return h.Refused(r.Sent - d.Approved) })
	}
	return nil
}

// Refused keeps durably that the primary refused: inferred marks on the grant and what else it said is over
// (invalid_grant), or on the client's secret (invalid_client); of a client that has none, on all that this person holds there. What is
// not known here is not kept.
func (s *Service) Refused(ctx context.Context, r *Refused) error {
	var b store.Batch
	switch ofClient := r.Error == "invalid_client" || r.Error == "unauthorized_client"; {
	case ofClient && !r.SecretID.Zero():
		if len(r.Once) > 0 { // what was used before is refused for that, and says nothing about the client's key
			first, err := s.Sessions.KV.Claim(ctx, onceKey(r.Tenant, r.Once), time.Unix(0, r.Until))
			if err != nil {
				return fmt.Errorf("keep a refusal: %w", err)
			}
			if !first {
				return nil
			}
		}
		was, err := s.Sessions.Secret(r.Tenant, r.Client, r.SecretID)
		if err != nil || was == nil {
			return err
		}
		was.Refused = max(was.Refused, r.Sent)
		if err := s.Sessions.PutSecret(&b, r.Tenant, r.Client, *was); err != nil {
			return err
		}
	default:
		d, err := s.Sessions.Door(r.Tenant, r.Lookup)
		if errors.Is(err, session.ErrNoRecord) || err == nil && d.Client != r.Client {
			return nil
		}
		if err != nil {
			return err
		}
		ofClient = ofClient && d.Kind != session.Application // else it is about what the browser asked for
		if ofClient && d.ClientAuth != "none" {
			return nil // who did not prove to be the client says nothing about what it holds
		}
		if err := s.refusal(&b, r, d); err != nil {
			return err
		}
		ms := r.Marks(d.Grant, d.Session, d.Subject)
		if pair := session.Pair(d.Client, d.Subject); ofClient && !pair.Zero() {
			// The client is refused, whatever this person holds there. Of others it is not said: one holder of a token could have
			// brought it about.
			ms = append(ms, session.Mark{Of: session.OfPair, ID: pair, At: r.Sent, Cause: "refused", Told: true})
		}
		for _, m := range ms {
			if err := s.Sessions.PutMark(&b, r.Tenant, m); err != nil {
				return err
			}
		}
	}
	if err := s.Sessions.KV.Apply(context.WithoutCancel(ctx), &b, store.Durable); err != nil {
		return fmt.Errorf("keep a refusal: %w", s.stop(r.Tenant, err))
	}
	return nil
}
