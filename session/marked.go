package session

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	"understudy/store"
)

// marked remembers where marks (or successors) may lie, so that the many places at which none does cost no look into the store. It may
// name places that hold none any more; it never lacks one: it is read from the store before the first question, and
// every one is added before it is written.
type marked struct {
	mu     sync.RWMutex // guards what follows
	loaded bool
	places map[uint64]struct{}
}

// fingerprint of a mark's key: the pseudonym in it is random enough. The tenant and what the mark is about are mixed in.
func fingerprint(key []byte) uint64 {
	n := len(key)
	return fingerprintOf(key[1:9], key[n-18], key[n-17], key[n-16:])
}

func fingerprintOf(tenant []byte, finality, what byte, id []byte) uint64 {
	return binary.BigEndian.Uint64(id) ^ binary.BigEndian.Uint64(tenant) ^ uint64(finality)<<8 ^ uint64(what)
}

// has says whether something may lie at a place of the space, by the fingerprint of its key.
func (m *marked) has(s *Store, space byte, f uint64) (bool, error) {
	m.mu.RLock()
	loaded := m.loaded
	_, ok := m.places[f]
	m.mu.RUnlock()
	if loaded {
		return ok, nil
	}
	if err := m.load(s, space); err != nil {
		return false, err
	}
	return m.has(s, space, f)
}

func (m *marked) add(s *Store, key []byte) error {
	if err := m.load(s, key[0]); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.places[fingerprint(key)] = struct{}{}
	return nil
}

func (m *marked) load(s *Store, space byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.loaded {
		return nil
	}
	places := map[uint64]struct{}{}
	err := s.KV.Scan(context.Background(), []byte{space}, []byte{space + 1}, func(key []byte, _ store.Entry) error {
		if len(key) < 1+8+16 || len(key) > 1+8+2+16 {
			return fmt.Errorf("%w: a key of %d bytes among marks or successors", ErrSealed, len(key))
		}
		places[fingerprint(key)] = struct{}{}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the marks and successors: %w", err)
	}
	m.places, m.loaded = places, true
	return nil
}
