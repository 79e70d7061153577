package session

import (
	"crypto/rand"
	"fmt"
)

// UserInfoKey is what a record hangs on that holds what the primary said at the UserInfo endpoint: 32 random bytes, which every
// artifact of a sign-in opens beside its own record, and which go on when a refresh token takes the place of another. So what was
// told for one access token can be told for those that come after it, and is kept once.
type UserInfoKey []byte

// NewUserInfoKey makes a key for a new sign-in.
func NewUserInfoKey() UserInfoKey {
	k := make(UserInfoKey, 32)
	rand.Read(k)
	return k
}

// UserInfoOf is the key beside a data key; nil: there is none.
func UserInfoOf(data []byte) UserInfoKey {
	if len(data) != 2*dataKey {
		return nil
	}
	return data[dataKey:]
}

// UserInfoKeys name the door of what is kept under a UserInfo key.
func (s *Sealer) UserInfoKeys(tenant, issuer string, k UserInfoKey) ArtifactKeys {
	return ArtifactKeys{
		Kind: UserInfo, Lookup: s.Lookup(UserInfo, tenant, issuer, string(k)), Key: s.ArtifactKey(UserInfo, tenant, issuer, "", string(k), nil),
	}
}

// UserInfo is what the primary said at the UserInfo endpoint for a sign-in, and when it was asked. The error wraps [ErrNoRecord]
// where nothing is kept.
func (s *Store) UserInfo(tenant, issuer string, k UserInfoKey) (*Record, int64, error) {
	if k == nil {
		return nil, 0, ErrNoRecord
	}
	at := s.Seal.UserInfoKeys(tenant, issuer, k)
	d, err := s.Door(tenant, at.Lookup)
	if err != nil {
		return nil, 0, err
	}
	if d.Record.Zero() {
		return nil, 0, ErrNoRecord
	}
	data, err := d.Unwrap(tenant, at.Lookup, at.Key)
	if err != nil {
		return nil, 0, err
	}
	r, err := s.Record(tenant, d, data)
	if err == nil && (r.UserInfo == nil || r.Tenant != tenant || r.Issuer != issuer) {
		err = fmt.Errorf("%w: it is another record", ErrSealed)
	}
	return r, d.Approved, err
}
