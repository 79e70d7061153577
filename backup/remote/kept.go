package remote

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"

	"understudy/store"
)

// hold says until when a tenant is not played.
type hold struct {
	Tenant string `cbor:"0,keyasint"`
	Until  int64  `cbor:"1,keyasint"` // Unix nanoseconds
}

// everyTenant stands for all where it is not known whose mark was lost. No tenant has this name.
const everyTenant = ""

func keptKey(space byte, parts ...string) []byte {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return append([]byte{space}, h.Sum(nil)[:16]...)
}

// lost notes that a mark of a tenant is kept nowhere: the backup is not asked to play for the tenant through this gateway
// until every record that the mark could have blocked has expired (law 3).
func (s *spool) lost(tenant string) {
	until := s.now().Add(holdLasting)
	s.mu.Lock()
	s.holds[tenant] = until
	s.counts.Lost++
	s.mu.Unlock()
	key := keptKey(keptHold, tenant)
	if v, err := s.sealed(key, hold{tenant, until.UnixNano()}); err == nil {
		var b store.Batch
		b.Raise(key, uint64(until.UnixNano()), v)
		// On a full disk this fails too; memory holds it as long as the process lives.
		_ = s.db.Apply(context.Background(), &b, store.Durable)
	}
}

func (s *spool) held(tenant string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	return now.Before(s.holds[tenant]) || now.Before(s.holds[everyTenant])
}

// putKeys keeps the backup's public keys as last seen. They are sealed: nobody who can write here adds one.
func (s *spool) putKeys(ctx context.Context, tenant, issuer string, raw [][]byte) error {
	key := keptKey(keptKeys, tenant, issuer)
	v, err := s.sealed(key, keysAnswer{raw})
	if err != nil {
		return err
	}
	var b store.Batch
	b.Raise(key, uint64(s.now().UnixNano()), v)
	return s.db.Apply(ctx, &b, store.Soon)
}

// keys returns the backup's public keys as last seen; store.ErrNotFound where none were.
func (s *spool) keys(tenant, issuer string) ([][]byte, time.Time, error) {
	key := keptKey(keptKeys, tenant, issuer)
	e, err := s.db.Get(key)
	if err != nil {
		return nil, time.Time{}, err
	}
	var a keysAnswer
	if err := s.open(key, e.Value, &a); err != nil {
		return nil, time.Time{}, err
	}
	return a.Keys, time.Unix(0, int64(e.Version)), nil
}

var errKeys = errors.New("what should be public keys is none")

// parseKeys reads JWKs and refuses any that is not a public key with an id.
func parseKeys(raw [][]byte) ([]jose.JSONWebKey, error) {
	out := make([]jose.JSONWebKey, len(raw))
	for i, r := range raw {
		if err := out[i].UnmarshalJSON(r); err != nil {
			return nil, errKeys
		}
		if !out[i].Valid() || !out[i].IsPublic() || out[i].KeyID == "" {
			return nil, errKeys
		}
	}
	return out, nil
}
