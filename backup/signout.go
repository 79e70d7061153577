package backup

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"understudy/audit"
	"understudy/backup/notice"
	"understudy/keys"
	"understudy/session"
)

// SignOut is the end of a session, or of all of a person's sessions, of which relying parties are to be told because the primary
// is away or does not know.
type SignOut struct {
	Tenant  string `cbor:"0,keyasint"`
	Issuer  string `cbor:"1,keyasint"`
	Subject string `cbor:"2,keyasint,omitempty"` // sub
	SID     string `cbor:"3,keyasint,omitempty"` // sid; "": all sessions of the subject
	At      int64  `cbor:"4,keyasint"`           // Unix nanoseconds
	// Clients are names of relying parties of the gateway's configuration, beside the backup's own. They name nobody's address:
	// where a logout token is posted to stands in the backup's configuration alone.
	Clients []string `cbor:"5,keyasint,omitempty"`
}

// Parties are the relying parties of a session that ended.
type Parties struct {
	Took []string `cbor:"0,keyasint"` // took part in it
	Told []string `cbor:"1,keyasint"` // of these, will be told over the back channel
}

// participantPlace is where it is kept that a client took part in a session, or that a person signed in to it: of is the
// pseudonym of the session or of the subject. Who took part is asked by client, so that nothing has to be searched.
func (s *Service) participantPlace(tenant, issuer string, of, client session.ID) session.ID {
	return s.Sessions.Seal.Pseudonym("participant", tenant, issuer, string(of[:])+string(client[:]))
}

// participantStep is how much older than an exchange it may be what is kept of a participant: not every refresh is a write.
const participantStep = int64(time.Hour)

// participant keeps that a client took part.
func (s *Service) participant(b *learning, l *Learned, d *session.Door) error {
	for _, of := range []session.ID{d.Session, d.Subject} {
		if of.Zero() || d.Client.Zero() {
			continue
		}
		at := s.participantPlace(l.Tenant, l.Issuer, of, d.Client)
		was, err := b.door(s.Sessions, l.Tenant, at)
		if err != nil && !errors.Is(err, session.ErrNoRecord) {
			return err
		}
		if err == nil && l.Sent < was.Approved+participantStep && (was.Bound["alg"] != "" || l.Notify["alg"] == "") {
			continue
		}
		nd := *d
		nd.Record, nd.Hour, nd.Wrapped, nd.Ends = session.ID{}, 0, nil, 0
		nd.Kind, nd.Bound = session.Participant, l.Notify
		if err := b.put(s.Sessions, l.Tenant, at, l.Sent, &nd); err != nil {
			return err
		}
	}
	return nil
}

// maxParties bounds the relying parties of one question.
const maxParties = 1000

// SignedOut tells the relying parties of a session that it ended: those that can be are told over the back channel, soon, and
// for an hour where they don't answer. It says who took part. The marks are kept before.
func (s *Service) SignedOut(_ context.Context, in *SignOut) (Parties, error) {
	var out Parties
	seal := s.Sessions.Seal
	of := seal.Pseudonym("session", in.Tenant, in.Issuer, in.SID)
	if in.SID == "" {
		of = seal.Pseudonym("subject", in.Tenant, in.Issuer, in.Subject)
	}
	names := slices.Clone(in.Clients[:min(len(in.Clients), maxParties)])
	if s.Notices != nil {
		names = append(names, s.Notices.Names(in.Tenant)...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		d, err := s.Sessions.Door(in.Tenant, s.participantPlace(in.Tenant, in.Issuer, of, seal.Pseudonym("client", in.Tenant, in.Issuer, name)))
		if errors.Is(err, session.ErrNoRecord) || err == nil && d.Kind != session.Participant {
			continue
		}
		if err != nil {
			return out, fmt.Errorf("look for who took part in a session: %w", err)
		}
		out.Took = append(out.Took, name)
		if s.tells(in, name, d) {
			out.Told = append(out.Told, name)
		}
	}
	return out, nil
}

// tells puts a notice for a relying party. It is false where it cannot be told.
func (s *Service) tells(in *SignOut, name string, d *session.Door) bool {
	if s.Notices == nil || d.Bound["alg"] == "" {
		return false
	}
	c, ok := s.Notices.Client(in.Tenant, name)
	if !ok || c.SessionRequired && in.SID == "" || in.SID == "" && in.Subject == "" {
		return false
	}
	err := s.Notices.Put(&notice.Notice{
		Tenant: in.Tenant, Issuer: in.Issuer, Client: name, Subject: in.Subject, SID: in.SID, Alg: d.Bound["alg"], Typ: d.Bound["typ"],
		JTI: rand.Text(), At: in.At,
	})
	if err != nil {
		s.Log.Error("a relying party will not be told of a logout", "tenant", in.Tenant, "client", name, "error", err)
	}
	return err == nil
}

// logoutTokenLife is short: the token is posted at once (OpenID Connect Back-Channel Logout, section 4).
const logoutTokenLife = 2 * time.Minute

// LogoutToken makes the token of a notice (OpenID Connect Back-Channel Logout, section 2.4).
func (s *Service) LogoutToken(n *notice.Notice) (token, kid string, err error) {
	now := s.Now()
	text := func(v string) []byte {
		b, _ := json.Marshal(v) // of a string
		return b
	}
	number := func(t time.Time) []byte { return strconv.AppendInt(nil, t.Unix(), 10) }
	header := session.Object{{Name: "alg", Value: text(n.Alg)}, {Name: "typ", Value: text("logout+jwt")}, {Name: "kid", Value: text("")}}
	claims := session.Object{
		{Name: "exp", Value: number(now.Add(logoutTokenLife))}, {Name: "iat", Value: number(now)}, {Name: "jti", Value: text(n.JTI)},
		{Name: "iss", Value: text(n.Issuer)}, {Name: "aud", Value: text(n.Client)},
	}
	for _, m := range []struct{ name, value string }{{"sub", n.Subject}, {"typ", n.Typ}, {"sid", n.SID}} {
		if m.value != "" {
			claims = append(claims, session.Member{Name: m.name, Value: text(m.value)})
		}
	}
	claims = append(claims, session.Member{Name: "events", Value: []byte(`{"http://schemas.openid.net/event/backchannel-logout":{}}`)})
	return s.Keys.Sign(keys.Fence{Tenant: n.Tenant, Issuer: n.Issuer}, keys.LogoutToken, header, claims)
}

// Noticed leaves the line of a notice that is over (design, law 9).
func (s *Service) Noticed(n *notice.Notice, told bool, kid string) {
	e := audit.Entry{
		Time: s.Now(), ID: n.JTI, Tenant: n.Tenant, Issuer: n.Issuer, Flow: "backchannel_logout", Client: n.Client, Subject: n.Subject,
		Session: n.SID, TokenIssuerType: "backup", Decision: "issued", Rule: "logout_told", Key: kid,
		Latency: float64(s.Now().Sub(time.Unix(0, n.At)).Microseconds()) / 1000,
	}
	if !told {
		e.TokenIssuerType, e.Decision, e.Rule = "none", "refused", "logout_untold"
		s.Log.Warn("a relying party was not told of a logout", "tenant", n.Tenant, "client", n.Client)
	}
	if err := s.Audit.Write(e); err != nil {
		s.Log.Error("a logout token has no line in the sign-in log", "tenant", n.Tenant, "id", e.ID, "error", err)
	}
}
