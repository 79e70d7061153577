package keys

import (
	"bytes"
	"crypto"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/unix"
)

// A key file holds the keys of one fence:
//
//	"understudy-keys-2\n" nonce(24) XChaCha20-Poly1305(JSON of keyFile)
//
// under HKDF(key-encryption key), with the file's name authenticated: a file renamed to another fence's does not open.
const magic = "understudy-keys-2\n"

const suffix = ".keys"

type keyFile struct {
	Tenant, Issuer string
	Keys           []keyEntry
}

type keyEntry struct {
	ID, Alg, Class                 string
	State                          State
	Published, NotBefore, NotAfter time.Time
	Ends                           time.Time
	Reach                          time.Duration
	PKIX                           []byte `json:",omitempty"` // of a retired key
	PKCS8                          []byte `json:",omitempty"` // of any other
}

func (r *Ring) path(f Fence) string {
	h := sha256.Sum256([]byte(f.Tenant + "\x00" + f.Issuer))
	return filepath.Join(r.dir, base64.RawURLEncoding.EncodeToString(h[:12])+suffix)
}

// errSealed never carries what the file holds.
var errSealed = errors.New("it does not open with this key-encryption key: give the key that it was made with (sealing_key_file), or remove the file to begin with new keys")

func (r *Ring) seal(name string, plain []byte) ([]byte, error) {
	k, err := hkdf.Key(sha256.New, r.kek, nil, "understudy 1 key files", chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	a, err := chacha20poly1305.NewX(k)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	rand.Read(nonce)
	return a.Seal(append([]byte(magic), nonce...), nonce, plain, []byte(name)), nil
}

func (r *Ring) unseal(name string, b []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(b, []byte(magic))
	if !ok && bytes.HasPrefix(b, []byte("understudy-keys-")) {
		return nil, errors.New("it was made by another version of this program, whose format is not read here: start that version, or remove the file to begin with new keys")
	}
	if !ok || len(rest) < chacha20poly1305.NonceSizeX {
		return nil, errors.New("it is no key file: put back what was there, or remove it to begin with new keys")
	}
	k, err := hkdf.Key(sha256.New, r.kek, nil, "understudy 1 key files", chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	a, err := chacha20poly1305.NewX(k)
	if err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, rest[:chacha20poly1305.NonceSizeX], rest[chacha20poly1305.NonceSizeX:], []byte(name))
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

func (r *Ring) loadAll() (snapshot, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("read the key directory: %w", err)
	}
	s := snapshot{}
	for _, e := range entries {
		path := filepath.Join(r.dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), ".") && strings.Contains(e.Name(), suffix):
			// What a kill during a write left behind: keys that may have been removed since.
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("remove an unfinished key file: %w", err)
			}
		case filepath.Ext(path) == suffix:
			if err := r.load(s, path); err != nil {
				return nil, fmt.Errorf("load the key file %s: %w", path, err)
			}
		}
	}
	return s, nil
}

func (r *Ring) load(s snapshot, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	plain, err := r.unseal(filepath.Base(path), b)
	if err != nil {
		return err
	}
	defer clear(plain)
	var kf keyFile
	if json.Unmarshal(plain, &kf) != nil {
		return errors.New("its content is not what this program writes") // json's own words could quote the content
	}
	f := Fence{kf.Tenant, kf.Issuer}
	if r.path(f) != filepath.Clean(path) {
		return errors.New("it belongs to another tenant and issuer than its name says")
	}
	for _, e := range kf.Keys {
		k := &Key{
			ID: e.ID, Alg: e.Alg, Class: e.Class, State: e.State, Published: e.Published, NotBefore: e.NotBefore,
			NotAfter: e.NotAfter, Ends: e.Ends, Reach: e.Reach,
		}
		if err := k.parse(e); err != nil {
			return err
		}
		if err := r.adopt(k); err != nil {
			return err
		}
		s[f] = append(s[f], k)
	}
	return nil
}

func (k *Key) parse(e keyEntry) error {
	defer clear(e.PKCS8)
	switch e.State {
	case Retired:
		pub, err := x509.ParsePKIXPublicKey(e.PKIX)
		if err != nil {
			return fmt.Errorf("key %s does not parse", e.ID)
		}
		k.public = pub
	case Next, Current:
		p, err := x509.ParsePKCS8PrivateKey(e.PKCS8)
		if err != nil {
			return fmt.Errorf("key %s does not parse", e.ID)
		}
		s, ok := p.(crypto.Signer)
		if !ok {
			return fmt.Errorf("key %s cannot sign", e.ID)
		}
		k.private, k.public = s, s.Public()
	default:
		return fmt.Errorf("key %s is in no known state", e.ID)
	}
	if id, err := thumbprint(k.public); err != nil || id != k.ID {
		return fmt.Errorf("key %s is not the key that its name says", e.ID)
	}
	return nil
}

// save writes the keys of a fence, durably and all or nothing; r.mu is held.
func (r *Ring) save(f Fence, ks []*Key) error {
	kf := keyFile{Tenant: f.Tenant, Issuer: f.Issuer}
	for _, k := range ks {
		e := keyEntry{
			ID: k.ID, Alg: k.Alg, Class: k.Class, State: k.State, Published: k.Published, NotBefore: k.NotBefore,
			NotAfter: k.NotAfter, Ends: k.Ends, Reach: k.Reach,
		}
		var err error
		if k.State == Retired {
			e.PKIX, err = x509.MarshalPKIXPublicKey(k.public)
		} else {
			e.PKCS8, err = x509.MarshalPKCS8PrivateKey(k.private)
			defer clear(e.PKCS8)
		}
		if err != nil {
			return fmt.Errorf("encode key %s: %w", k.ID, err)
		}
		kf.Keys = append(kf.Keys, e)
	}
	plain, err := json.Marshal(kf)
	if err != nil {
		return fmt.Errorf("encode the key file: %w", err)
	}
	defer clear(plain)
	path := r.path(f)
	sealed, err := r.seal(filepath.Base(path), plain)
	if err != nil {
		return fmt.Errorf("seal the key file: %w", err)
	}
	if err := renameio.WriteFile(path, sealed, 0o600, renameio.WithTempDir(r.dir)); err != nil {
		return fmt.Errorf("write the key file: %w", err)
	}
	if err := syncDir(r.dir); err != nil {
		return fmt.Errorf("write the key file: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockDir takes the directory for this process; the lock ends with the process at the latest.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the key directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("the keys in %s are in use by another process: stop it, or give this one a data directory of its own", dir)
		}
		return nil, fmt.Errorf("lock the key directory %s: %w", dir, err)
	}
	return f, nil
}

// without returns ks but the one.
func without(ks []*Key, k *Key) []*Key {
	return slices.DeleteFunc(slices.Clone(ks), func(o *Key) bool { return o == k })
}
