package backup

import (
	"time"

	"understudy/session"
	"understudy/store"
)

// issuer is the pseudonym of an issuer.
func (s *Service) issuer(tenant, issuer string) session.ID {
	return s.Sessions.Seal.Pseudonym("issuer", tenant, issuer, issuer)
}

// notBefore keeps what a primary's not-before-policy says (Keycloak): the greatest of the realm's, the client's and the
// user's. So it speaks of this subject at this client; where another subject shows the same at another client, it is the
// issuer's, and speaks of everybody.
func (s *Service) notBefore(b *store.Batch, l *Learned, d *session.Door) error {
	at := l.NotBefore * int64(time.Second)
	if l.NotBefore <= 0 || at >= l.Sent || at <= l.Sent-int64(session.Lifetime) {
		return nil // nothing that lives is as old, or it is of another clock
	}
	mark := func(of session.What, id session.ID) error {
		if id.Zero() {
			return nil
		}
		if there, err := s.Sessions.Marked(l.Tenant, false, of, id, at); err != nil || there {
			return err
		}
		return s.Sessions.PutMark(b, l.Tenant, session.Mark{Of: of, ID: id, At: at, Cause: "not_before", Told: true})
	}
	if err := mark(session.OfPair, session.Pair(d.Client, d.Subject)); err != nil {
		return err
	}
	h, err := s.Sessions.Habit(l.Tenant, d.Issuer)
	if err != nil {
		return err
	}
	switch {
	case l.NotBefore > h.NotBefore:
		h.NotBefore, h.Client, h.Subject, h.At = l.NotBefore, d.Client, d.Subject, l.Sent
		return s.Sessions.PutHabit(b, l.Tenant, d.Issuer, h)
	case l.NotBefore == h.NotBefore && h.Client != d.Client && h.Subject != d.Subject && !h.Subject.Zero() && !d.Subject.Zero():
		return mark(session.OfIssuer, d.Issuer)
	}
	return nil
}
