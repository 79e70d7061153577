package session

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"understudy/store"
)

// Habit is what a primary was seen to do for one client and set of scopes: names and forms, never a user's values.
type Habit struct {
	Refresh *Shape `cbor:"0,keyasint,omitempty"` // of a refresh reply; nil: none was seen
	// Rotation is what the primary was seen to do with a superseded refresh token: "refuses", "accepts", or "" while
	// not known.
	Rotation string `cbor:"1,keyasint,omitempty"`
	// Superseded are grants of which the primary refused a superseded refresh token since it last accepted one, without saying why.
	Superseded []ID  `cbor:"8,keyasint,omitempty"`
	At         int64 `cbor:"2,keyasint"` // Unix nanoseconds

	// Of a client whose refresh tokens end when they are not used for a while, and do not say when: for how long the primary
	// was seen to accept one that was not used (nanoseconds), and what refusals beyond that say of the end.
	IdleAccepted int64   `cbor:"6,keyasint,omitempty"`
	IdleRefused  []int64 `cbor:"7,keyasint,omitempty"` // the shortest, at most three, in order

	// Of an issuer: the newest not-before-policy that it was seen to tell (Unix seconds), and who showed it first.
	NotBefore int64 `cbor:"3,keyasint,omitempty"`
	Client    ID    `cbor:"4,keyasint,omitzero"`
	Subject   ID    `cbor:"5,keyasint,omitzero"`
}

// How many grants must be refused for that to be taken for rotation, because of each of them something else could be over: where
// nothing is known, and where the primary was seen to accept such tokens.
const rotationProofs, rotationDisproofs = 2, 3

// Accepts notes that the primary went on with a superseded refresh token. It is false where that is nothing new.
func (h *Habit) Accepts() bool {
	if h.Rotation == "accepts" && h.Superseded == nil {
		return false
	}
	h.Rotation, h.Superseded = "accepts", nil
	return true
}

// Refuses notes that the primary refused a superseded refresh token of a grant; sure, that it said that this is why. It is false
// where that is nothing new.
func (h *Habit) Refuses(grant ID, sure bool) bool {
	if h.Rotation == "refuses" || !sure && slices.Contains(h.Superseded, grant) {
		return false
	}
	h.Superseded = append(slices.Clone(h.Superseded), grant)
	if n := len(h.Superseded); sure || n >= rotationDisproofs || n >= rotationProofs && h.Rotation == "" {
		h.Rotation, h.Superseded = "refuses", nil
	}
	return true
}

// idleProofs is how many refusals it takes to believe that they were about idleness.
const idleProofs = 3

// Accepted notes that the primary accepted a refresh token that was not used for a time. It is false where that is nothing
// new.
func (h *Habit) Accepted(idle int64) bool {
	if idle <= h.IdleAccepted+h.IdleAccepted/8 {
		return false
	}
	h.IdleAccepted = idle
	h.IdleRefused = slices.DeleteFunc(slices.Clone(h.IdleRefused), func(n int64) bool { return n <= idle })
	return true
}

// Refused notes that the primary refused a refresh token that was not used for a time. It is false where that says nothing.
func (h *Habit) Refused(idle int64) bool {
	if idle <= h.IdleAccepted {
		return false
	}
	all := append(slices.Clone(h.IdleRefused), idle)
	slices.Sort(all)
	h.IdleRefused = all[:min(len(all), idleProofs)]
	return true
}

// Idle is how long a refresh token may stay unused, 0 where that is not known.
func (h *Habit) Idle() int64 {
	if len(h.IdleRefused) < idleProofs {
		return 0
	}
	return h.IdleRefused[idleProofs-1]
}

// Shape is the form of a token response.
type Shape struct {
	Members     []string    `cbor:"0,keyasint"`
	AccessToken *TokenShape `cbor:"1,keyasint,omitempty"`
	IDToken     *TokenShape `cbor:"2,keyasint,omitempty"`
	// Lifetimes are the lifetimes that were seen, in seconds, by the member of the response ("expires_in", …; for a token
	// exp − iat). Primaries that read their clock twice give a second or two less now and then.
	Lifetimes map[string]int64 `cbor:"3,keyasint,omitempty"`
}

// jitter is how many seconds a lifetime may vary by because a clock was read twice.
const jitter = 2

// Steady is a learned lifetime without the jitter of the one reply that it was learned from: the greatest that the
// primary gave this client, where that is as good as the same.
func (s *Shape) Steady(member string, learned int64) int64 {
	if s == nil {
		return learned
	}
	if n := s.Lifetimes[member]; n > learned && n-learned <= jitter {
		return n
	}
	return learned
}

// Merge keeps of the lifetimes seen before those that differ from the newer ones only by jitter, and are greater.
func (s *Shape) Merge(before *Shape) {
	for m, n := range s.Lifetimes {
		s.Lifetimes[m] = before.Steady(m, n)
	}
}

// Equal says whether two shapes are the same.
func (s *Shape) Equal(o *Shape) bool {
	if s == nil || o == nil {
		return s == o
	}
	return slices.Equal(s.Members, o.Members) && maps.Equal(s.Lifetimes, o.Lifetimes) &&
		s.AccessToken.equal(o.AccessToken) && s.IDToken.equal(o.IDToken)
}

func (t *TokenShape) equal(o *TokenShape) bool {
	if t == nil || o == nil {
		return t == o
	}
	return t.JTI == o.JTI && t.Alg == o.Alg && slices.Equal(t.Header, o.Header) && slices.Equal(t.Claims, o.Claims)
}

// TokenShape is the form of a JWT.
type TokenShape struct {
	Header []string `cbor:"0,keyasint"`
	Claims []string `cbor:"1,keyasint"`
	// JTI is the constant beginning of the jti, up to its last ':'.
	JTI string `cbor:"2,keyasint,omitempty"`
	// Alg is the algorithm of its signature, where no token that was learned says so.
	Alg string `cbor:"3,keyasint,omitempty"`
}

// Habit returns what is known, or an empty one.
func (s *Store) Habit(tenant string, key ID) (*Habit, error) {
	k := place(spaceHabit, tenant, key[:])
	if h, ok := s.habits.get(k); ok {
		return &h, nil // a copy: callers set its members
	}
	e, err := s.KV.Get(k)
	if errors.Is(err, store.ErrNotFound) {
		return &Habit{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load a habit: %w", err)
	}
	var h Habit
	if err := s.Seal.unsealCBOR(k, e.Value, &h); err != nil {
		return nil, fmt.Errorf("load a habit: %w", err)
	}
	s.habits.read(k, h.At, h)
	return &h, nil
}

// PutHabit adds a habit to a batch.
func (s *Store) PutHabit(b *store.Batch, tenant string, key ID, h *Habit) error {
	k := place(spaceHabit, tenant, key[:])
	v, err := s.Seal.sealCBOR(k, h)
	if err != nil {
		return fmt.Errorf("keep a habit: %w", err)
	}
	s.habits.put(k, h.At, *h)
	b.Raise(k, uint64(h.At), v)
	return nil
}

// HabitOf is where the habit of a name is kept.
func (s *Sealer) HabitOf(tenant, issuer, name string) ID {
	return s.Pseudonym("habit", tenant, issuer, "\x00"+name)
}

// HabitKey is where the habit for a record's client and scope is kept; what a client does by itself is apart from what it
// does for a person.
func (s *Sealer) HabitKey(r *Record) ID {
	key := r.Client + "\x00" + strings.Join(r.Scope, " ")
	if r.Grant == "client_credentials" {
		key += "\x00" + r.Grant
	}
	return s.Pseudonym("habit", r.Tenant, r.Issuer, key)
}
