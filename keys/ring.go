// Package keys holds the backup's signing keys and their fences.
//
// A key signs only for its tenant, issuer, algorithm and validity window, and only tokens of the classes it was made
// for; signing and verifying both check. It owns the key files. It refuses every other use: there is no fallback from
// one fence to another, and primary keys never come in here.
package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/renameio/v2"
	"golang.org/x/crypto/chacha20poly1305"
)

// Fence is whom a key signs for.
type Fence struct {
	Tenant string
	Issuer string
}

// State of a key.
type State string

const (
	Next    State = "next"    // published, not yet used
	Current State = "current" // signs
	Retired State = "retired" // published until what it signed has expired
)

// Key is one backup key.
type Key struct {
	ID        string // kid: "bk-" and the RFC 7638 thumbprint
	Alg       string // JWS algorithm (RFC 7518)
	State     State
	Published time.Time // since when it has been in the published set
	NotBefore time.Time // signs from here
	NotAfter  time.Time // signs until here; verifies an hour longer

	signer crypto.Signer
}

// ErrNoKey says that no key may sign for a fence, algorithm and class now.
var ErrNoKey = errors.New("no backup key may sign this")

// Ring holds the keys of all fences of one deployment. It is safe for concurrent use.
type Ring struct {
	dir string
	kek []byte
	now func() time.Time

	mu   sync.RWMutex // guards keys and the files
	keys map[Fence][]*Key
}

// Open reads the key files in dir. kek is the key-encryption key, 32 bytes, which lies outside the data directory.
func Open(dir string, kek []byte, now func() time.Time) (*Ring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the key directory: %w", err)
	}
	r := &Ring{dir: dir, kek: kek, now: now, keys: map[Fence][]*Key{}}
	files, err := filepath.Glob(filepath.Join(dir, "*.keys"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := r.load(f); err != nil {
			return nil, fmt.Errorf("load the key file %s: %w", f, err)
		}
	}
	return r, nil
}

type keyFile struct {
	Tenant, Issuer string
	Keys           []keyEntry
}

type keyEntry struct {
	ID, Alg                        string
	State                          State
	Published, NotBefore, NotAfter time.Time
	PKCS8                          []byte
}

func (r *Ring) path(f Fence) string {
	h := sha256.Sum256([]byte(f.Tenant + "\x00" + f.Issuer))
	return filepath.Join(r.dir, base64.RawURLEncoding.EncodeToString(h[:12])+".keys")
}

// Key files: "understudy-keys-1\n" nonce(24) XChaCha20-Poly1305(JSON of keyFile), with the file's name authenticated.
const magic = "understudy-keys-1\n"

func (r *Ring) seal(name string, plain []byte) []byte {
	k, _ := hkdf.Key(sha256.New, r.kek, nil, "understudy 1 key files", 32)
	a, err := chacha20poly1305.NewX(k)
	if err != nil {
		panic(err)
	}
	nonce := make([]byte, 24)
	rand.Read(nonce)
	return a.Seal(append([]byte(magic), nonce...), nonce, plain, []byte(name))
}

func (r *Ring) unseal(name string, b []byte) ([]byte, error) {
	if len(b) < len(magic)+24 || !bytes.HasPrefix(b, []byte(magic)) {
		return nil, errors.New("no key file of this program")
	}
	k, _ := hkdf.Key(sha256.New, r.kek, nil, "understudy 1 key files", 32)
	a, err := chacha20poly1305.NewX(k)
	if err != nil {
		panic(err)
	}
	b = b[len(magic):]
	plain, err := a.Open(nil, b[:24], b[24:], []byte(name))
	if err != nil {
		return nil, errors.New("it does not open with this key-encryption key: give the key that it was made with (sealing_key_file), or remove the file to begin with new keys")
	}
	return plain, nil
}

func (r *Ring) load(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	plain, err := r.unseal(filepath.Base(path), b)
	if err != nil {
		return err
	}
	var kf keyFile
	if err := json.Unmarshal(plain, &kf); err != nil {
		return err
	}
	f := Fence{kf.Tenant, kf.Issuer}
	for _, e := range kf.Keys {
		k, err := x509.ParsePKCS8PrivateKey(e.PKCS8)
		if err != nil {
			return fmt.Errorf("key %s: %w", e.ID, err)
		}
		s, ok := k.(crypto.Signer)
		if !ok {
			return fmt.Errorf("key %s cannot sign", e.ID)
		}
		r.keys[f] = append(r.keys[f], &Key{e.ID, e.Alg, e.State, e.Published, e.NotBefore, e.NotAfter, s})
	}
	return nil
}

// save writes the keys of a fence; r.mu is held.
func (r *Ring) save(f Fence) error {
	kf := keyFile{Tenant: f.Tenant, Issuer: f.Issuer}
	for _, k := range r.keys[f] {
		der, err := x509.MarshalPKCS8PrivateKey(k.signer)
		if err != nil {
			return fmt.Errorf("encode key %s: %w", k.ID, err)
		}
		kf.Keys = append(kf.Keys, keyEntry{k.ID, k.Alg, k.State, k.Published, k.NotBefore, k.NotAfter, der})
	}
	plain, err := json.Marshal(kf)
	if err != nil {
		return err
	}
	path := r.path(f)
	if err := renameio.WriteFile(path, r.seal(filepath.Base(path), plain), 0o600); err != nil {
		return fmt.Errorf("write the key file: %w", err)
	}
	return nil
}

// Ensure makes the key of an algorithm where the fence has none.
func (r *Ring) Ensure(f Fence, alg string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(r.keys[f], func(k *Key) bool { return k.Alg == alg && k.State == Current }) {
		return nil
	}
	s, err := generate(alg)
	if err != nil {
		return err
	}
	id, err := thumbprint(s.Public())
	if err != nil {
		return err
	}
	now := r.now()
	k := &Key{ID: id, Alg: alg, State: Current, Published: now, NotBefore: now, NotAfter: now.Add(90 * 24 * time.Hour), signer: s}
	r.keys[f] = append(r.keys[f], k)
	if err := r.save(f); err != nil {
		r.keys[f] = r.keys[f][:len(r.keys[f])-1]
		return err
	}
	return nil
}

func generate(alg string) (crypto.Signer, error) {
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

func thumbprint(pub crypto.PublicKey) (string, error) {
	jwk := jose.JSONWebKey{Key: pub}
	b, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("thumbprint of a key: %w", err)
	}
	return "bk-" + base64.RawURLEncoding.EncodeToString(b), nil
}

// Keys returns a copy of the keys of a fence.
func (r *Ring) Keys(f Fence) []Key {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []Key
	for _, k := range r.keys[f] {
		out = append(out, *k)
	}
	return out
}

// Public returns the public keys of a fence that belong into the published set now.
func (r *Ring) Public(f Fence) []jose.JSONWebKey {
	now := r.now()
	var out []jose.JSONWebKey
	for _, k := range r.Keys(f) {
		if k.State != Retired || now.Before(k.NotAfter.Add(time.Hour)) {
			out = append(out, jose.JSONWebKey{Key: k.signer.Public(), KeyID: k.ID, Algorithm: k.Alg, Use: "sig"})
		}
	}
	return out
}

// current returns the key that signs for a fence and algorithm now.
func (r *Ring) current(f Fence, alg string) (*Key, error) {
	now := r.now()
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, k := range r.keys[f] {
		if k.Alg == alg && k.State == Current && !now.Before(k.NotBefore) && now.Before(k.NotAfter) {
			return k, nil
		}
	}
	return nil, fmt.Errorf("%w: issuer %s, algorithm %.16q", ErrNoKey, f.Issuer, alg)
}
