package session

import (
	"crypto/rand"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// BrowserKey is what the doors of one browser hang on, for one person at one issuer. It is kept only under what the browser
// holds: the gateway's cookie together with the primary's session cookies. When the primary replaces its cookies while the
// session goes on, the same key is kept under the new ones.
type BrowserKey struct {
	Key     []byte `cbor:"0,keyasint"` // 32 random bytes
	Subject string `cbor:"1,keyasint"`
}

// NewBrowserKey makes a key for a person who was not signed in with this browser before.
func NewBrowserKey(subject string) *BrowserKey {
	k := &BrowserKey{Key: make([]byte, 32), Subject: subject}
	rand.Read(k.Key)
	return k
}

// Application is the artifact of what the browser asks for at one application; the texts say what that is.
func (k *BrowserKey) Application(what ...string) string {
	return Joined(append([]string{string(k.Key), k.Subject}, what...)...)
}

// Device stands for the browser while this person is signed in with it.
func (s *Sealer) Device(tenant, issuer string, k *BrowserKey) ID {
	return s.Pseudonym("device", tenant, issuer, string(k.Key))
}

// Wrap returns the key as it is kept in the door of what the browser holds.
func (k *BrowserKey) Wrap(tenant string, to ArtifactKeys) ([]byte, error) {
	b, err := cbor.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("encode a browser-session key: %w", err)
	}
	return SealUnder(to.Key, doorPlace(tenant, to.Lookup), b), nil
}

// UnwrapBrowser opens what [BrowserKey.Wrap] made. The error wraps ErrSealed where the browser holds something else.
func (s *Sealer) UnwrapBrowser(tenant string, from ArtifactKeys, wrapped []byte) (*BrowserKey, error) {
	b, err := OpenUnder(from.Key, doorPlace(tenant, from.Lookup), wrapped)
	if err != nil {
		return nil, fmt.Errorf("open a browser-session key: %w", err)
	}
	var k BrowserKey
	if err := s.dec.Unmarshal(b, &k); err != nil || len(k.Key) != 32 {
		return nil, fmt.Errorf("open a browser-session key: %w: it is no key", ErrSealed)
	}
	return &k, nil
}
