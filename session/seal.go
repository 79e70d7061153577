package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"sync"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// Kind is the kind of an artifact: something a client holds and presents, never stored itself.
type Kind string

const (
	RefreshToken Kind = "refresh_token"
	AccessToken  Kind = "access_token"
	// Code is an authorization code. Its door opens nothing: it knows the grant that the code became, should it be
	// presented again.
	Code Kind = "code"
	// ClientSecret is a client's secret together with what it asks for by itself (client credentials).
	ClientSecret Kind = "client_secret"
	// ClientKey is what a client that proves itself with its registered key asks for by itself. It is no secret: its door hangs
	// on the deployment's key.
	ClientKey Kind = "client_key"
	// Browser is what a browser holds: the gateway's cookie together with the primary's session cookies. Its door wraps no data
	// key but the browser-session key (see [BrowserKey]).
	Browser Kind = "browser"
	// Application is what a browser may ask for at one application, under the browser-session key.
	Application Kind = "application"
	// OwnCode is an authorization code that the backup made.
	OwnCode Kind = "own_code"
	// PushedRequest is the request_uri of an authorization request that the backup took (RFC 9126).
	PushedRequest Kind = "pushed_request"
	// Activity is a session of the primary's (sid). Its door opens nothing: it says until when the session is alive.
	Activity Kind = "activity"
	// RedirectURI is a client's redirect URI. Its door opens nothing: it says that the primary has sent people there.
	RedirectURI Kind = "redirect_uri"
	// Participant is a client that took part in a session, or that a person signed in to. Its door opens nothing: it says how a
	// logout token to that client is signed.
	Participant Kind = "participant"
	// UserInfo is what the primary said at the UserInfo endpoint for a sign-in (see [UserInfoKey]).
	UserInfo Kind = "userinfo"
	// Client is a client's name. Its door opens nothing: it says that the primary approved a secret of this client, so that
	// it is worth the work to derive another.
	Client Kind = "client"
)

// Opens says whether an artifact of the kind opens a record for whoever presents it.
func (k Kind) Opens() bool {
	switch k {
	case Code, Client, Browser, PushedRequest, Activity, RedirectURI, Participant, UserInfo:
		return false
	}
	return true
}

// short says whether an artifact of the kind is over at its own end, and its door with it.
func (k Kind) short() bool { return k == AccessToken || k == OwnCode || k == PushedRequest }

// ID is a pseudonym or a random identifier; the zero ID means unknown.
type ID [16]byte

// Zero says whether the ID is unknown.
func (i ID) Zero() bool { return i == ID{} }

// String is for logs and metrics: enough to tell two apart.
func (i ID) String() string { return fmt.Sprintf("%x", i[:8]) }

// NewID returns a random identifier.
func NewID() (id ID) {
	rand.Read(id[:])
	return id
}

// ErrSealed is wrapped where a seal does not open: another key, another place, or changed bytes.
var ErrSealed = errors.New("the seal does not open")

// Sealer derives everything that needs the deployment's sealing key: pseudonyms, look-ups, and the seal of what is not
// under an artifact. It is safe for concurrent use and holds no key that signs.
//
//	sealing key (file outside the data directory)
//	  ├─ HKDF "pseudonym" ── HMAC ─▶ ID of a subject, session, client, device, and the look-up of an artifact
//	  ├─ HKDF "seal"      ── XChaCha20-Poly1305 ─▶ doors, marks, habits, successors   (24-byte random nonces: no bound on their number)
//	  ├─ HKDF "nonce"     ── HMAC ─▶ the DPoP nonce of a window of time
//	  └─ HKDF "artifact"  ── salt of HKDF(artifact) ─▶ the key of a door ─ AES-256-GCM ─▶ data key ─ AES-256-GCM ─▶ record
type Sealer struct {
	id        byte
	pseudonym *mac
	salt      []byte // of what is derived from an artifact
	artifact  *mac   // by it
	secret    *mac
	look      *mac
	nonce     *mac
	outer     cipher.AEAD
	dec       cbor.DecMode
}

const sealFormat = 1

// NewSealer takes the deployment's sealing key of at least 32 random bytes.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) < 32 {
		return nil, fmt.Errorf("the sealing key has %d bytes and needs 32 or more", len(key))
	}
	derive := func(info string) []byte {
		k, err := hkdf.Key(sha256.New, key, nil, "understudy 1 "+info, 32)
		if err != nil {
			panic(err) // only for lengths over 8160 bytes
		}
		return k
	}
	outer, err := chacha20poly1305.NewX(derive("seal"))
	if err != nil {
		return nil, err
	}
	// What is decoded was sealed here; the limits hold even if that should fail some day.
	dec, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 16, MaxArrayElements: 4096, MaxMapPairs: 1024,
		IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		UTF8: cbor.UTF8DecodeInvalid, // a User-Agent may hold any bytes
	}.DecMode()
	if err != nil {
		return nil, err
	}
	return &Sealer{
		dec: dec,
		id:  derive("id")[0], pseudonym: newMAC(derive("pseudonym")), salt: derive("artifact"), artifact: newMAC(derive("artifact")),
		secret: newMAC(derive("secret")), look: newMAC(derive("look")), nonce: newMAC(derive("nonce")), outer: outer,
	}, nil
}

// KeyID tells sealing keys apart; every seal begins with it.
func (s *Sealer) KeyID() byte { return s.id }

func parts(b []byte, ps ...string) []byte {
	for _, p := range ps {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	return b
}

// Joined is texts as one, each behind its length, so that no two lists are the same.
func Joined(ps ...string) string {
	var b [256]byte // most are shorter
	return string(parts(b[:0], ps...))
}

func (s *Sealer) mac(key *mac, ps ...string) []byte {
	return key.sum(parts(make([]byte, 0, 256), ps...))
}

// mac is a key of HMAC-SHA-256 with its states, which are worth keeping.
type mac struct{ pool sync.Pool }

func (m *mac) sum(b []byte) []byte {
	h := m.pool.Get().(hash.Hash)
	defer m.pool.Put(h)
	h.Reset()
	h.Write(b)
	return h.Sum(nil)
}

func newMAC(key []byte) *mac {
	return &mac{sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

// Pseudonym returns the keyed pseudonym of a value ("subject", "session", "client", "device", …) at a tenant and issuer.
func (s *Sealer) Pseudonym(what, tenant, issuer, value string) (id ID) {
	if value == "" {
		return ID{}
	}
	copy(id[:], s.mac(s.pseudonym, what, tenant, issuer, value))
	return id
}

// Lookup returns where the door of an artifact lies.
func (s *Sealer) Lookup(k Kind, tenant, issuer, artifact string) (id ID) {
	copy(id[:], s.mac(s.pseudonym, "artifact", string(k), tenant, issuer, artifact))
	return id
}

// Look is a keyed check value with which an opaque token of our own is recognised by form.
func (s *Sealer) Look(text string) []byte { return s.mac(s.look, text) }

// Nonce is the challenge (RFC 9449, section 8) of an issuer's n-th window of time: every node of the deployment makes the same, nothing
// is kept of it, and nobody else can make it.
func (s *Sealer) Nonce(tenant, issuer string, n int64) string {
	return base64.RawURLEncoding.EncodeToString(s.mac(s.nonce, tenant, issuer, strconv.FormatInt(n, 10)))
}

// ArtifactKey derives the key of a door. secretKey is what [Sealer.SecretKey] made of the client's secret, nil for a
// public client: a confidential client's door needs both.
func (s *Sealer) ArtifactKey(k Kind, tenant, issuer, client, artifact string, secretKey []byte) []byte {
	var prk []byte
	if secretKey == nil { // the same salt each time: HKDF-Extract (RFC 5869, section 2.2) is its HMAC
		prk = s.artifact.sum([]byte(artifact))
	} else {
		var err error
		if prk, err = hkdf.Extract(sha256.New, []byte(artifact), append(append(make([]byte, 0, 64), s.salt...), secretKey...)); err != nil {
			panic(err)
		}
	}
	key, err := hkdf.Expand(sha256.New, prk, Joined("door", string(k), tenant, issuer, client), 32)
	if err != nil {
		panic(err)
	}
	return key
}

// Told stands for what the primary said of a token (its look-up) to a caller, by client_id; "": to whoever bears it.
func (s *Sealer) Told(tenant, issuer string, token ID, caller string) ID {
	return s.Pseudonym("told", tenant, issuer, Joined(string(token[:]), caller))
}

// SecretKey is the slow derivation of a client secret (Argon2id, 19 MiB, two passes: OWASP's minimum), because secrets
// can be guessable. It takes tens of milliseconds of a core; callers bound how many run.
func (s *Sealer) SecretKey(tenant, issuer, client, secret string) []byte {
	return argon2.IDKey([]byte(secret), s.mac(s.secret, "salt", tenant, issuer, client), 2, 19<<10, 1, 32)
}

// SecretID is where it is kept that the primary accepted a secret.
func (s *Sealer) SecretID(secretKey []byte) (id ID) {
	copy(id[:], s.mac(s.secret, "id", string(secretKey)))
	return id
}

// Seal seals under the deployment's key. place is authenticated: a seal opens only where it was put.
func (s *Sealer) Seal(place, plain []byte) []byte {
	out := make([]byte, 2+24, 2+24+len(plain)+16)
	out[0], out[1] = sealFormat, s.id
	rand.Read(out[2:])
	return s.outer.Seal(out, out[2:26], plain, append([]byte{sealFormat, s.id}, place...))
}

// Unseal opens what Seal sealed.
func (s *Sealer) Unseal(place, sealed []byte) ([]byte, error) {
	if len(sealed) < 2+24+16 || sealed[0] != sealFormat {
		return nil, fmt.Errorf("%w: not of format %d", ErrSealed, sealFormat)
	}
	if sealed[1] != s.id {
		return nil, fmt.Errorf("%w: sealed under key %02x, this is key %02x", ErrSealed, sealed[1], s.id)
	}
	b, err := s.outer.Open(nil, sealed[2:26], sealed[26:], append([]byte{sealFormat, s.id}, place...))
	if err != nil {
		return nil, fmt.Errorf("%w: its bytes were changed or moved", ErrSealed)
	}
	return b, nil
}

func (s *Sealer) sealCBOR(place []byte, v any) ([]byte, error) {
	b, err := cbor.Marshal(v)
	if err != nil {
		return nil, err
	}
	return s.Seal(place, b), nil
}

func (s *Sealer) unsealCBOR(place, sealed []byte, v any) error {
	b, err := s.Unseal(place, sealed)
	if err != nil {
		return err
	}
	return s.dec.Unmarshal(b, v)
}

func gcm(key []byte) cipher.AEAD {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // only for a wrong key length
	}
	a, err := cipher.NewGCMWithRandomNonce(b)
	if err != nil {
		panic(err)
	}
	return a
}

// SealUnder seals under a key that is derived from an artifact.
func SealUnder(key, place, plain []byte) []byte {
	return gcm(key).Seal(nil, nil, plain, place)
}

// OpenUnder opens what SealUnder sealed. A key that is none (another process may have sent it) opens nothing.
func OpenUnder(key, place, sealed []byte) ([]byte, error) {
	if len(key) != sha256.Size {
		return nil, fmt.Errorf("%w: a key of %d bytes", ErrSealed, len(key))
	}
	b, err := gcm(key).Open(nil, nil, sealed, place)
	if err != nil {
		return nil, fmt.Errorf("%w: another artifact or client, or changed bytes", ErrSealed)
	}
	return b, nil
}
