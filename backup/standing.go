package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"understudy/flow"
	"understudy/session"
	"understudy/store"
)

// Standing is what the gateway must know of an artifact before it sends it to the primary.
type Standing struct {
	Known bool       `cbor:"0,keyasint"`
	Grant session.ID `cbor:"1,keyasint"`
	Hash  uint32     `cbor:"2,keyasint"` // stable for the grant
	// Revoked is set where a final mark blocks the grant and the primary could not have heard of it.
	Revoked bool `cbor:"3,keyasint"`
	// Told is set where a final mark blocks the grant that the primary knows of.
	Told      bool               `cbor:"4,keyasint"`
	Successor *session.Successor `cbor:"5,keyasint,omitempty"`
	Client    session.ID         `cbor:"6,keyasint"`          // to whom it was issued
	Subject   session.ID         `cbor:"7,keyasint,omitzero"` // whose it is
	// Doubted is set where an inferred mark blocks the grant: the primary is known to have refused it, or something like it.
	Doubted bool `cbor:"8,keyasint,omitempty"`
	// Wrapped is what a refresh token opens, under it (see [session.Unwrap]).
	Wrapped []byte `cbor:"9,keyasint,omitempty"`
}

// Standing looks an artifact up. It opens nothing.
func (s *Service) Standing(_ context.Context, tenant string, lookup session.ID) (Standing, error) {
	var st Standing
	succ, err := s.Sessions.Successor(tenant, lookup)
	if err != nil {
		return st, err
	}
	st.Successor = succ
	d, err := s.Sessions.Door(tenant, lookup)
	if errors.Is(err, session.ErrNoRecord) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	st.Known, st.Grant, st.Hash, st.Client, st.Subject = true, d.Grant, d.Hash, d.Client, d.Subject
	if d.Kind == session.RefreshToken {
		st.Wrapped = d.Wrapped
	}
	marks, err := s.Sessions.Blocking(tenant, d)
	if err != nil {
		return st, err
	}
	for _, m := range marks {
		if m.Final {
			st.Revoked = st.Revoked || !m.Told
			st.Told = st.Told || m.Told
		} else {
			st.Doubted = true
		}
	}
	return st, nil
}

// Held is what is kept of what a browser or the bearer of an access token holds.
type Held struct {
	// Wrapped is the browser-session key under it (see [session.BrowserKey]), or what an access token opens (see
	// [session.Unwrap]); nil: nothing is kept, or it is over.
	Wrapped []byte     `cbor:"0,keyasint"`
	Subject session.ID `cbor:"1,keyasint"`
	Session session.ID `cbor:"2,keyasint"`
	Device  session.ID `cbor:"3,keyasint"`
	// Bound is a pushed request's.
	Bound map[string]string `cbor:"4,keyasint,omitempty"`
	// Client is whose the pushed request is, or to whom the access token was issued.
	Client session.ID `cbor:"5,keyasint,omitzero"`
	// Record and Data are the sealed record of the sign-in that the access token came of.
	Record session.ID `cbor:"6,keyasint,omitzero"`
	// Begun is when the browser's session began, Unix nanoseconds; 0: unknown.
	Begun int64  `cbor:"8,keyasint,omitempty"`
	Data  []byte `cbor:"7,keyasint,omitempty"`
}

// replacedGrace is how long what a browser held still opens when the primary has replaced its cookies: for requests that were
// under way.
const replacedGrace = time.Minute

// Held looks up what a browser or the bearer of an access token holds. It opens nothing.
func (s *Service) Held(_ context.Context, tenant string, lookup session.ID) (Held, error) {
	d, err := s.Sessions.Door(tenant, lookup)
	if errors.Is(err, session.ErrNoRecord) {
		return Held{}, nil
	}
	if err != nil {
		return Held{}, err
	}
	now := s.Now().UnixNano()
	if d.Kind == session.PushedRequest && now < d.Ends {
		return Held{Bound: d.Bound, Client: d.Client}, nil
	}
	if d.Kind == session.AccessToken && now < d.Ends {
		data, err := s.Sessions.SealedRecord(tenant, d)
		if errors.Is(err, session.ErrNoRecord) {
			return Held{}, nil
		}
		return Held{Wrapped: d.Wrapped, Subject: d.Subject, Session: d.Session, Client: d.Client, Record: d.Record, Data: data}, err
	}
	if d.Kind != session.Browser || now >= d.Approved+int64(session.Lifetime) || d.Ends != 0 && d.Ends <= now ||
		d.Superseded != 0 && now > d.Superseded+int64(replacedGrace) {
		return Held{}, nil
	}
	marks, err := s.Sessions.Blocking(tenant, d)
	if err != nil || len(marks) > 0 {
		return Held{}, err
	}
	return Held{Wrapped: d.Wrapped, Subject: d.Subject, Session: d.Session, Device: d.Device, Begun: d.Begun}, nil
}

// SignIn is somebody's sign-in that the primary approved: who, where, and when the person signed in.
type SignIn struct {
	Tenant   string     `cbor:"0,keyasint"`
	Issuer   string     `cbor:"1,keyasint"`
	Client   session.ID `cbor:"2,keyasint"`
	Subject  session.ID `cbor:"3,keyasint"`
	Session  session.ID `cbor:"4,keyasint"`
	AuthTime int64      `cbor:"5,keyasint"` // Unix seconds; 0: not told
	Sent     int64      `cbor:"6,keyasint"` // Unix nanoseconds
	// Behalf is the token for which it was given; nil: there was none.
	Behalf *flow.Behalf `cbor:"7,keyasint,omitempty"`
}

// Barred says whether a sign-in must not go out although the primary approved it: a final mark, of which the primary could not
// have heard, ended the session that it came of.
func (s *Service) Barred(_ context.Context, in *SignIn) (bool, error) {
	d := session.Door{
		Client: in.Client, Subject: in.Subject, Session: in.Session, Issuer: s.issuer(in.Tenant, in.Issuer), Approved: in.Sent,
	}
	d.Begun, d.Guessed = begun(in.Sent, in.AuthTime)
	marks, err := s.Sessions.Blocking(in.Tenant, &d)
	if err == nil && in.Behalf != nil {
		var more []session.Mark
		more, err = s.behalfMarks(in.Tenant, in.Issuer, in.Behalf)
		marks = append(marks, more...)
	}
	for _, m := range marks {
		if m.Final && !m.Told {
			return true, err
		}
	}
	return false, err
}

// Step moves what is kept of an exchange without a reply to another state, durably. at is the time of the step.
func (s *Service) Step(ctx context.Context, tenant string, lookup session.ID, at int64, v session.Successor) error {
	var b store.Batch
	if err := s.Sessions.PutSuccessor(&b, tenant, lookup, at, v); err != nil {
		return err
	}
	if err := s.Sessions.KV.Apply(ctx, &b, store.Durable); err != nil {
		return fmt.Errorf("keep a successor: %w", err)
	}
	return nil
}

// Mark keeps marks durably; when it returns nil they hold everywhere.
func (s *Service) Mark(ctx context.Context, tenant string, ms ...session.Mark) error {
	ctx = context.WithoutCancel(ctx) // a caller who goes away does not undo a revocation, and is no failure of the store
	if err := s.Sessions.Mark(ctx, tenant, ms...); err != nil {
		return fmt.Errorf("keep a revocation: %w", s.stop(tenant, err))
	}
	return nil
}

// Untold says whether something of the tenant was ended for good of which the primary may not know: what it goes on to give out may be
// of that.
func (s *Service) Untold(ctx context.Context, tenant string) (bool, error) {
	return s.Sessions.Untold(ctx, tenant)
}

// GrantMark asks for the end of an artifact's grant.
type GrantMark struct {
	Tenant string     `cbor:"0,keyasint"`
	Lookup session.ID `cbor:"1,keyasint"` // of the artifact
	At     int64      `cbor:"2,keyasint"` // Unix nanoseconds
	Cause  string     `cbor:"3,keyasint"`
	Told   bool       `cbor:"4,keyasint"` // the primary knows
	// Session ends the artifact's session too: for good with the cause "logout", else it is only inferred.
	Session bool `cbor:"5,keyasint"`
	// Client is who asks; another's artifact is not marked. Zero: it does not matter.
	Client session.ID `cbor:"6,keyasint,omitzero"`
	// Inferred is set where it is not certain that the grant is over.
	Inferred bool `cbor:"7,keyasint,omitempty"`
}

// Marks are what ends a grant and, where that is asked for, its session.
func (g *GrantMark) Marks(grant, sid session.ID) []session.Mark {
	ms := []session.Mark{{Of: session.OfGrant, ID: grant, Final: !g.Inferred, At: g.At, Cause: g.Cause, Told: g.Told}}
	if g.Session && !sid.Zero() {
		ms = append(ms, session.Mark{Of: session.OfSession, ID: sid, Final: g.Cause == "logout" && !g.Inferred, At: g.At, Cause: g.Cause, Told: g.Told})
	}
	return ms
}

// MarkGrant marks the grant of an artifact. It returns false where the artifact is not known, or another client's.
func (s *Service) MarkGrant(ctx context.Context, g *GrantMark) (bool, error) {
	d, err := s.Sessions.Door(g.Tenant, g.Lookup)
	if errors.Is(err, session.ErrNoRecord) || err == nil && !g.Client.Zero() && d.Client != g.Client {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, s.Mark(ctx, g.Tenant, g.Marks(d.Grant, d.Session)...)
}
