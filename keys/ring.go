// Package keys holds the backup's signing keys and their fences.
//
// A key signs only for its tenant, issuer, algorithm, token class and validity window; signing and verifying both
// check. It owns the key files, the life of a key (next, current, retired, destroyed) and the choice of who computes
// RSA signatures. It refuses every other use: there is no fallback from one fence to another, and neither primary,
// signal nor client keys come in here. It may import session only.
package keys

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Fence is whom a key signs for.
type Fence struct {
	Tenant string
	Issuer string
}

// Classes of tokens. Each has keys of its own: that an ID token is no access token is then in its signature, whatever
// its claims look like.
const (
	AccessToken = "access_token"
	IDToken     = "id_token"
	// AuthorizationResponse keys are made when a client is seen to ask for such a response.
	AuthorizationResponse = "authorization_response"
	// LogoutToken keys are made when a client is seen that is told of logouts.
	LogoutToken = "logout_token"
	// UserInfo and Introspection keys are made when somebody is seen to be answered in a JWT there.
	UserInfo      = "userinfo"
	Introspection = "introspection"
)

func known(class string) bool {
	switch class {
	case AccessToken, IDToken, AuthorizationResponse, LogoutToken, UserInfo, Introspection:
		return true
	}
	return false
}

// endless says whether what is signed in a class may say of no end: it answers one request.
func endless(class string) bool { return class == UserInfo || class == Introspection }

// State of a key.
type State string

const (
	// Next is published and does not sign yet; no token of it is valid.
	Next State = "next"
	// Current signs.
	Current State = "current"
	// Retired signs no more: its private half is gone. It is published until everything it signed has expired.
	Retired State = "retired"
)

// Key is one backup key. A Key in a ring is never changed, only replaced.
type Key struct {
	ID        string // "bk-" and the RFC 7638 thumbprint
	Alg       string // RFC 7518
	Class     string
	State     State
	Published time.Time // since when it has been in the published set
	NotBefore time.Time // signs from here; a next key: not earlier than this
	NotAfter  time.Time // signs until here; zero for a next key
	Ends      time.Time // a retired key: when it is destroyed
	// Reach is the longest lifetime of a token that it signed, rounded up to days; at least a day.
	Reach time.Duration

	public  crypto.PublicKey
	private crypto.Signer // for the key file; nil once retired
	signer  crypto.Signer // signs; nil once retired
	method  method
}

// ErrNoKey says that no key may sign what was asked for.
var ErrNoKey = errors.New("no backup key may sign this")

// minAhead is how long verifiers may hold an old key set (their caches; 24 h covers the slowest known).
const minAhead = 24 * time.Hour

// Options of a ring. The zero value works.
type Options struct {
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Period is how long a key signs before the next takes its place; zero: 60 days.
	Period time.Duration
	// Window is how long a key may sign at most, if rotation is late; zero: one and a half periods.
	Window time.Duration
	// Ahead is how long a next key is published before its first use; zero: 24 h, and never less.
	Ahead time.Duration
	// GoRSA computes RSA signatures with Go's implementation even where OpenSSL is there.
	GoRSA bool
	// Log receives what rotation could not do; nil: nothing.
	Log *slog.Logger
}

func (o Options) resolve() (Options, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Period == 0 {
		o.Period = 60 * 24 * time.Hour
	}
	if o.Window == 0 {
		o.Window = o.Period + o.Period/2
	}
	if o.Ahead == 0 {
		o.Ahead = minAhead
	}
	switch {
	case o.Ahead < minAhead:
		return o, fmt.Errorf("a backup key must be published for at least %v before it signs, not %v", minAhead, o.Ahead)
	case o.Period < 2*o.Ahead:
		return o, fmt.Errorf("a backup key must sign for at least %v (twice the time it is published before), not %v", 2*o.Ahead, o.Period)
	case o.Window < o.Period:
		return o, fmt.Errorf("a backup key's window (%v) is shorter than its period (%v)", o.Window, o.Period)
	}
	return o, nil
}

// snapshot is every key by fence. It is replaced as a whole and never changed, so that signing takes no lock.
type snapshot map[Fence][]*Key

// Ring holds the keys of all fences of one deployment. It is safe for concurrent use.
type Ring struct {
	dir  string
	kek  []byte
	o    Options
	lock *os.File

	openssl *openSSL // nil: RSA is Go's
	why     string   // openssl is nil

	keys    atomic.Pointer[snapshot]
	version atomic.Uint64
	scratch sync.Pool // *scratch
	nudge   chan struct{}

	mu    sync.Mutex     // serialises changes of keys and the files
	dirty map[Fence]bool // the file is behind the memory
}

// Open reads the key files in dir, which belongs to one process at a time. kek is the key-encryption key, 32 bytes,
// which lies outside the data directory. The caller closes the ring.
func Open(dir string, kek []byte, o Options) (*Ring, error) {
	o, err := o.resolve()
	if err != nil {
		return nil, err
	}
	if len(kek) != 32 {
		return nil, fmt.Errorf("the key-encryption key has %d bytes, not 32", len(kek))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the key directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	r := &Ring{dir: dir, kek: slices.Clone(kek), o: o, lock: lock, nudge: make(chan struct{}, 1), dirty: map[Fence]bool{}}
	r.scratch.New = func() any { return new(scratch) }
	if o.GoRSA {
		r.why = "switched off"
	} else if r.openssl, err = loadOpenSSL(); err != nil {
		r.why = err.Error()
	}
	s, err := r.loadAll()
	if err != nil {
		lock.Close()
		return nil, err
	}
	r.keys.Store(&s)
	return r, nil
}

// Close gives the directory back. Nothing signs afterwards.
func (r *Ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.keys.Swap(&snapshot{})
	for _, ks := range *old {
		for _, k := range ks {
			k.destroy()
		}
	}
	return r.lock.Close()
}

// of returns the keys of a fence.
func (r *Ring) of(f Fence) []*Key { return (*r.keys.Load())[f] }

// put makes ks the keys of a fence, for everybody, at once; r.mu is held.
func (r *Ring) put(f Fence, ks []*Key) {
	s := maps.Clone(*r.keys.Load())
	s[f] = ks
	r.keys.Store(&s)
	r.version.Add(1)
}

// Version changes whenever a published set may have changed.
func (r *Ring) Version() uint64 { return r.version.Load() }

// Public returns the public keys of a fence that belong into the published set now.
func (r *Ring) Public(f Fence) []jose.JSONWebKey {
	now := r.o.Now()
	var out []jose.JSONWebKey
	for _, k := range r.of(f) {
		if k.State != Retired || now.Before(k.Ends) {
			out = append(out, jose.JSONWebKey{Key: k.public, KeyID: k.ID, Algorithm: k.Alg, Use: "sig"})
		}
	}
	return out
}

// current returns the key that signs for a fence, class and algorithm now.
func (s snapshot) current(f Fence, class, alg string, now time.Time) *Key {
	for _, k := range s[f] {
		if k.Class == class && k.Alg == alg && k.State == Current && !now.Before(k.NotBefore) && now.Before(k.NotAfter) {
			return k
		}
	}
	return nil
}

func byID(ks []*Key, id string) *Key {
	for _, k := range ks {
		if k.ID == id {
			return k
		}
	}
	return nil
}

// Young says that the key signs although verifiers may hold a key set from before it was published: a fence's very
// first key, or the successor of one that was removed.
func (k *Key) Young(now time.Time) bool {
	return k.State == Current && now.Before(k.Published.Add(minAhead))
}

// Info is what is told of a key: nothing secret.
type Info struct {
	Tenant    string    `json:"tenant"`
	Issuer    string    `json:"issuer"`
	ID        string    `json:"kid"`
	Alg       string    `json:"alg"`
	Class     string    `json:"class"`
	State     State     `json:"state"`
	Published time.Time `json:"published"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	Ends      time.Time `json:"ends,omitzero"`    // a retired key leaves the published set
	Due       time.Time `json:"due,omitzero"`     // the current key: when the next takes its place, if all goes well
	Young     bool      `json:"young,omitempty"`  // signs before all verifiers can know it
	Signer    string    `json:"signer,omitempty"` // "go" or "openssl 3.x.y"; empty: it has no private half any more
	// Fallbacks is how many signatures OpenSSL failed to make and Go made in its place.
	Fallbacks uint64 `json:"fallbacks,omitempty"`
}

// List returns every key, ordered by tenant, issuer, algorithm, class and time of publication.
func (r *Ring) List() []Info {
	now := r.o.Now()
	var out []Info
	for f, ks := range *r.keys.Load() {
		for _, k := range ks {
			i := Info{
				Tenant: f.Tenant, Issuer: f.Issuer, ID: k.ID, Alg: k.Alg, Class: k.Class, State: k.State, Published: k.Published,
				NotBefore: k.NotBefore, NotAfter: k.NotAfter, Ends: k.Ends, Young: k.Young(now),
			}
			if k.State == Current {
				i.Due = k.NotBefore.Add(r.o.Period)
			}
			if k.signer != nil {
				i.Signer = "go"
				if s, ok := k.signer.(*opensslSigner); ok {
					i.Signer, i.Fallbacks = s.name(), s.fallbacks.Load()
				}
			}
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b Info) int {
		for _, p := range [][2]string{{a.Tenant, b.Tenant}, {a.Issuer, b.Issuer}, {a.Alg, b.Alg}, {a.Class, b.Class}} {
			if c := cmp.Compare(p[0], p[1]); c != 0 {
				return c
			}
		}
		return a.Published.Compare(b.Published)
	})
	return out
}

// Signer names the RSA implementation that new and loaded keys are given: "openssl 3.x.y", or "go" and why.
func (r *Ring) Signer() (name, why string) {
	if r.openssl == nil {
		return "go", r.why
	}
	return r.openssl.version, ""
}

// generate makes a private key for an algorithm.
func generate(ctx context.Context, alg string) (crypto.Signer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch alg {
	case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "EdDSA":
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	}
	return nil, fmt.Errorf("%w: algorithm %.16q has no backup key", ErrNoKey, alg)
}

// adopt gives a key what it signs with.
func (r *Ring) adopt(k *Key) error {
	m, ok := methods()[k.Alg]
	if !ok {
		return fmt.Errorf("%w: algorithm %.16q has no backup key", ErrNoKey, k.Alg)
	}
	k.method = m
	if !m.fits(k.public) {
		return fmt.Errorf("key %s is no key for %s", k.ID, k.Alg)
	}
	k.signer = k.private
	if rk, ok := k.private.(*rsa.PrivateKey); ok && r.openssl != nil {
		s, err := r.openssl.newSigner(rk)
		if err != nil {
			r.o.Log.Warn("a backup key signs with Go's RSA: OpenSSL's does not pass the test", "key", k.ID, "error", err)
			return nil
		}
		k.signer = s
	}
	return nil
}

// destroy drops the private half.
func (k *Key) destroy() {
	if s, ok := k.signer.(*opensslSigner); ok {
		s.close()
	}
}

func thumbprint(pub crypto.PublicKey) (string, error) {
	jwk := jose.JSONWebKey{Key: pub}
	b, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("thumbprint of a key: %w", err)
	}
	return "bk-" + base64.RawURLEncoding.EncodeToString(b), nil
}
