package session

import (
	"crypto/rand"
	"fmt"
	"slices"

	"github.com/fxamacker/cbor/v2"
)

// BrowserKey is what the doors of one browser hang on, for one person at one issuer. It is kept only under what the browser
// holds: the gateway's cookie together with the primary's session cookies. When the primary replaces its cookies while the
// session goes on, the same key is kept under the new ones.
type BrowserKey struct {
	Key     []byte `cbor:"0,keyasint"` // 32 random bytes
	Subject string `cbor:"1,keyasint"`
	// Opened are the applications that the person was let into with this browser, the last first; at most MaxOpened. It is for a
	// page and no more: two gateways, or two tabs, that learn at once may each forget what the other learned, until the
	// application asks again.
	Opened []Opened `cbor:"2,keyasint,omitempty"`
}

// MaxOpened bounds the applications of one browser.
const MaxOpened = 20

// Opened is an application that the primary let a person into, with the keys of its door (see [BrowserKey.Application]).
type Opened struct {
	Client string `cbor:"0,keyasint"`           // client_id
	Start  string `cbor:"1,keyasint,omitempty"` // URL where it starts; "": not known
	Lookup ID     `cbor:"2,keyasint,omitzero"`  // of the door
	Key    []byte `cbor:"3,keyasint,omitempty"` // that opens it; nil: that it was let into is all that is known
	// Params are parameters of the request on which it depends whether it is answered.
	Params map[string]string `cbor:"4,keyasint,omitempty"`
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

// With returns the same key with an application before the others. The same client at the same place stands there once, and one of
// which nothing but its name is known takes no other's place.
func (k *BrowserKey) With(o Opened) *BrowserKey {
	if o.Key == nil && slices.ContainsFunc(k.Opened, func(other Opened) bool { return other.Client == o.Client }) {
		return k
	}
	out := &BrowserKey{Key: k.Key, Subject: k.Subject, Opened: []Opened{o}}
	for _, other := range k.Opened {
		same := other.Client == o.Client && (other.Start == o.Start || other.Key == nil)
		if !same && len(out.Opened) < MaxOpened {
			out.Opened = append(out.Opened, other)
		}
	}
	return out
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
