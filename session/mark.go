package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"understudy/store"
)

// What a mark is about.
type What byte

const (
	OfTenant  What = 't' // everything of a tenant
	OfSubject What = 'u'
	OfSession What = 's' // sid
	OfGrant   What = 'g' // a refresh token and all its successors
	OfClient  What = 'c'
	OfIssuer  What = 'i'
	OfPair    What = 'p' // a subject at one client: see Pair
	OfDevice  What = 'd' // a browser
)

// Pair is the pseudonym of a subject at one client; zero where one of them is.
func Pair(client, subject ID) (id ID) {
	if client.Zero() || subject.Zero() {
		return ID{}
	}
	for i := range id {
		id[i] = client[i] ^ subject[(i+1)%len(id)]
	}
	return id
}

// Mark says that sign-ins are over (design, law 3).
//
// A final mark at T blocks every record with begun ≤ T. An inferred mark at T blocks approved ≤ T and can be lifted with
// the others of its batch. Of two marks for the same thing the later one wins.
type Mark struct {
	Of    What   `cbor:"0,keyasint"`
	ID    ID     `cbor:"1,keyasint"`
	Final bool   `cbor:"2,keyasint"`
	At    int64  `cbor:"3,keyasint"` // Unix nanoseconds
	Cause string `cbor:"4,keyasint"` // "operator", "logout", "revocation", "refused", "reuse", "not_before", "marks_lost", "user_switch", "cookie_cleared"
	// Told is true where the primary itself knows: it approved a logout or refused an artifact.
	Told bool `cbor:"5,keyasint"`
	// Lifted is the time at which an operator lifted an inferred mark; it then blocks nothing.
	Lifted int64 `cbor:"6,keyasint,omitempty"`
}

// MarkLifetime is how long a final mark lives: as long as the longest session.
const MarkLifetime = 90 * 24 * time.Hour

func finality(final bool) byte {
	if final {
		return 'f'
	}
	return 'i'
}

func markPlace(tenant string, final bool, of What, id ID) []byte {
	return place(spaceMark, tenant, []byte{finality(final), byte(of)}, id[:])
}

// PutMark adds a mark to a batch. It is acknowledged only once the batch is durable.
func (s *Store) PutMark(b *store.Batch, tenant string, m Mark) error {
	k := markPlace(tenant, m.Final, m.Of, m.ID)
	v, err := s.Seal.sealCBOR(k, m)
	if err != nil {
		return fmt.Errorf("keep a mark: %w", err)
	}
	if err := s.marks.add(s, k); err != nil {
		return err
	}
	if m.Final && !m.Told {
		s.untold.note(tenant)
	}
	version := uint64(m.At)
	if m.Lifted != 0 {
		version++ // beats the mark that was lifted and no later one
	}
	b.Raise(k, version, v)
	return nil
}

// Mark keeps marks durably.
func (s *Store) Mark(ctx context.Context, tenant string, ms ...Mark) error {
	var b store.Batch
	for _, m := range ms {
		if err := s.PutMark(&b, tenant, m); err != nil {
			return err
		}
	}
	return s.KV.Apply(ctx, &b, store.Durable)
}

func (s *Store) mark(tenant string, final bool, of What, id ID) (*Mark, error) {
	k := markPlace(tenant, final, of, id)
	e, err := s.KV.Get(k)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load a mark: %w", err)
	}
	var m Mark
	if err := s.Seal.unsealCBOR(k, e.Value, &m); err != nil {
		return nil, fmt.Errorf("load a mark: %w", err)
	}
	if m.Of != of || m.ID != id || m.Final != final {
		return nil, fmt.Errorf("load a mark: %w: it is another's", ErrSealed)
	}
	return &m, nil
}

// Marked says whether there is a mark of the given finality about something that is not older than at.
func (s *Store) Marked(tenant string, final bool, of What, id ID, at int64) (bool, error) {
	if there, err := s.marks.has(s, spaceMark, fingerprintOf(tenantHash(tenant), finality(final), byte(of), id[:])); err != nil || !there {
		return false, err
	}
	m, err := s.mark(tenant, final, of, id)
	return m != nil && m.At >= at, err
}

// Blocking returns the marks that block a door, final ones first, or none. Where a mark cannot be read the error says
// so, and the answer is no.
func (s *Store) Blocking(tenant string, d *Door) ([]Mark, error) {
	var out []Mark
	h := hashOf(tenant)
	hash := h[:]
	for _, final := range [...]bool{true, false} {
		for _, of := range [...]struct {
			what What
			id   ID
		}{{OfTenant, ID{}}, {OfSubject, d.Subject}, {OfSession, d.Session}, {OfGrant, d.Grant}, {OfClient, d.Client}, {OfIssuer, d.Issuer}, {OfPair, Pair(d.Client, d.Subject)}, {OfDevice, d.Device}} {
			if of.id.Zero() && of.what != OfTenant {
				continue
			}
			there, err := s.marks.has(s, spaceMark, fingerprintOf(hash, finality(final), byte(of.what), of.id[:]))
			if err != nil {
				return nil, err
			}
			if !there {
				continue
			}
			m, err := s.mark(tenant, final, of.what, of.id)
			if err != nil {
				return nil, err
			}
			if m != nil && m.blocks(d) {
				out = append(out, *m)
			}
		}
	}
	return out, nil
}

func (m *Mark) blocks(d *Door) bool {
	switch {
	case m.Final:
		// A session that ended does not begin anew by a code that nobody had to sign in for.
		return d.Begun <= m.At || m.Of == OfSession && d.Guessed
	case m.Lifted != 0:
		return false
	}
	return d.Approved <= m.At
}

// Marks calls f with every mark of a tenant.
func (s *Store) Marks(ctx context.Context, tenant string, f func(Mark) error) error {
	from := place(spaceMark, tenant)
	return s.KV.Scan(ctx, from, after(from), func(key []byte, e store.Entry) error {
		var m Mark
		if err := s.Seal.unsealCBOR(key, e.Value, &m); err != nil {
			return err
		}
		return f(m)
	})
}

// Lift lifts the inferred marks of a tenant that were made in [from, to) with a cause ("" for any), in one durable batch,
// and returns how many. The refusals of a sick primary go this way, by hand; what the primary refuses again is marked
// again. Final marks are never lifted.
func (s *Store) Lift(ctx context.Context, tenant, cause string, from, to, now time.Time) (int, error) {
	var b store.Batch
	n := 0
	first := place(spaceMark, tenant, []byte{finality(false)})
	err := s.KV.Scan(ctx, first, after(first), func(key []byte, e store.Entry) error {
		var m Mark
		if err := s.Seal.unsealCBOR(key, e.Value, &m); err != nil {
			return err
		}
		if m.Final || m.Lifted != 0 || cause != "" && m.Cause != cause || m.At < from.UnixNano() || m.At >= to.UnixNano() {
			return nil
		}
		m.Lifted = now.UnixNano()
		n++
		return s.PutMark(&b, tenant, m)
	})
	if err != nil {
		return 0, fmt.Errorf("lift marks: %w", err)
	}
	if err := s.KV.Apply(ctx, &b, store.Durable); err != nil {
		return 0, fmt.Errorf("lift marks: %w", err)
	}
	return n, nil
}
