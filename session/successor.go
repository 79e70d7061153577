package session

import (
	"errors"
	"fmt"

	"understudy/store"
)

// Successor is kept of an exchange whose request was sent and whose reply the client never saw.
type Successor struct {
	// State is "pending" (the reply may still come), "kept" (it came; Sealed holds the new refresh token under the old
	// one), "delivered" (a later reply reached the client: the old token goes its own way again), or "ambiguous" (it
	// never came).
	State  string `cbor:"0,keyasint"`
	Sealed []byte `cbor:"1,keyasint,omitempty"`
	At     int64  `cbor:"2,keyasint"` // when the exchange was sent, Unix nanoseconds
	By     ID     `cbor:"3,keyasint"` // the gateway process that waits for the reply
}

// States of a Successor.
const (
	Pending   = "pending"
	Kept      = "kept"
	Delivered = "delivered"
	Ambiguous = "ambiguous"
)

// SuccessorPlace is authenticated by the seal of a successor token under the old one.
func SuccessorPlace(tenant string, lookup ID) []byte {
	return place(spaceSuccessor, tenant, lookup[:])
}

// Successor returns what is kept for the old token's look-up, or nil.
func (s *Store) Successor(tenant string, lookup ID) (*Successor, error) {
	k := SuccessorPlace(tenant, lookup)
	if there, err := s.successors.has(s, spaceSuccessor, fingerprint(k)); err != nil || !there {
		return nil, err
	}
	e, err := s.KV.Get(k)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load a successor: %w", err)
	}
	var v Successor
	if err := s.Seal.unsealCBOR(k, e.Value, &v); err != nil {
		return nil, fmt.Errorf("load a successor: %w", err)
	}
	return &v, nil
}

// PutSuccessor adds to a batch. version is the time of the step, in Unix nanoseconds.
func (s *Store) PutSuccessor(b *store.Batch, tenant string, lookup ID, version int64, v Successor) error {
	k := SuccessorPlace(tenant, lookup)
	sealed, err := s.Seal.sealCBOR(k, v)
	if err != nil {
		return fmt.Errorf("keep a successor: %w", err)
	}
	if err := s.successors.add(s, k); err != nil {
		return err
	}
	b.Raise(k, uint64(version), sealed)
	return nil
}
