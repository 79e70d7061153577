package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"understudy/session"
)

const (
	// MaxClientKeys bounds a key set, in bytes: fetch no more than that and one byte from a jwks_uri.
	MaxClientKeys = 64 << 10
	// maxKeys bounds the keys of a set, and so the signatures that one proof can make us verify.
	maxKeys = 32
	// RSA keys have at least these bits; the library takes none of more than 4096.
	minRSA = 2048
)

// Secret is a client_secret that signs assertions (client_secret_jwt). It is a type of its own so that the bytes of a
// public key are never taken for one, and is not printed.
type Secret []byte

func (Secret) String() string   { return "[secret]" }
func (Secret) GoString() string { return "[secret]" }

// ClientKeys is the set of public keys that one client registered (RFC 7591, section 2: jwks, jwks_uri). Only
// [ParseClientKeys] fills one; nil and the zero value hold none, and verify nothing. It is not changed after that and may
// be used by many at once.
type ClientKeys struct {
	keys   []clientKey
	passed []string
}

type clientKey struct {
	public      crypto.PublicKey
	id, alg     string
	thumbprint  string // RFC 7638, SHA-256
	certificate []byte // SHA-256 of the registered certificate, where there is one
}

func (k *ClientKeys) all() []clientKey {
	if k == nil {
		return nil
	}
	return k.keys
}

// Len is the number of keys that can be used.
func (k *ClientKeys) Len() int { return len(k.all()) }

// PassedOver says in words, one line a key, which keys of the set cannot be used.
func (k *ClientKeys) PassedOver() []string {
	if k == nil {
		return nil
	}
	return slices.Clone(k.passed)
}

// ParseClientKeys reads a JWK Set (RFC 7517, section 5) of at most [MaxClientKeys] bytes and 32 keys. Keys that cannot be
// used are passed over: encryption keys, symmetric ones, private ones (who publishes one has lost it), RSA of less than
// 2048 or more than 4096 bits, curves other than P-256, P-384, P-521 and Ed25519. Errors wrap [ClientKeysMalformed] and
// [ClientKeysNone].
func ParseClientKeys(jwks []byte) (*ClientKeys, error) {
	if len(jwks) > MaxClientKeys {
		return nil, ClientKeysMalformed.because("the key set is larger than 64 KiB")
	}
	set, err := session.ParseObject(jwks)
	var list []jsontext.Value
	if v := set.Get("keys"); err != nil || v.Kind() != '[' || json.Unmarshal(v, &list) != nil || len(list) > maxKeys {
		return nil, ClientKeysMalformed.because(`it is no object with an array "keys" of at most 32`)
	}
	out := &ClientKeys{}
	for _, v := range list {
		if k, err := registered(v); err != nil {
			out.passed = append(out.passed, err.Error())
		} else {
			out.keys = append(out.keys, k)
		}
	}
	if len(out.keys) == 0 {
		return nil, ClientKeysNone.because("no key of the set can be used")
	}
	return out, nil
}

func registered(v jsontext.Value) (clientKey, error) {
	o, err := session.ParseObject(v)
	if err != nil {
		return clientKey{}, errors.New("it is no object")
	}
	k := clientKey{id: o.Text("kid"), alg: o.Text("alg")}
	use, ops := o.Text("use"), texts(o.Get("key_ops"))
	switch {
	case o.Has("use") && use != "sig" || o.Has("key_ops") && !slices.Contains(ops, "verify"):
		return k, errors.New("it is not for signatures")
	case o.Has("kid") && k.id == "":
		return k, errors.New("its kid is no string")
	}
	if k.public, err = publicKey(o); err != nil {
		return k, err
	}
	if o.Has("alg") && !fits(k.alg, k.public) {
		return k, errors.New("its alg is not one for its type")
	}
	sum, err := (&jose.JSONWebKey{Key: k.public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return k, errors.New("it has no thumbprint")
	}
	k.thumbprint = base64.RawURLEncoding.EncodeToString(sum)
	return k, k.readCertificate(o)
}

// readCertificate keeps which certificate was registered with the key (RFC 8705, section 2.2.2).
func (k *clientKey) readCertificate(o session.Object) error {
	switch {
	case o.Has("x5c"):
		chain := texts(o.Get("x5c"))
		if len(chain) == 0 {
			return errors.New("its x5c is no array of certificates")
		}
		der, err := base64.StdEncoding.DecodeString(chain[0])
		if err != nil {
			return errors.New("its x5c is not base64")
		}
		sum := sha256.Sum256(der)
		k.certificate = sum[:]
	case o.Has("x5t#S256"):
		sum, err := decode(o.Text("x5t#S256"))
		if err != nil || len(sum) != sha256.Size {
			return errors.New("its x5t#S256 is no hash")
		}
		k.certificate = sum
	}
	return nil
}

// publicKey reads the public key of a JWK (RFC 7517), and nothing else of it.
func publicKey(o session.Object) (crypto.PublicKey, error) {
	var bare session.Object
	for _, m := range o {
		switch m.Name {
		case "d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv":
			return nil, errors.New("it has members of a private or symmetric key")
		case "kty", "crv", "n", "e", "x", "y":
			bare = append(bare, m)
		}
	}
	var jwk jose.JSONWebKey
	if jwk.UnmarshalJSON(bare.Append(nil)) != nil || !jwk.Valid() || !jwk.IsPublic() {
		return nil, errors.New("it is no public key of a type and size that is taken here")
	}
	switch k := jwk.Key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA || k.N.Bit(0) == 0 || k.E&1 == 0 || k.E > 1<<31-1 {
			return nil, errors.New("it is an RSA key of less than 2048 bits, or a broken one")
		}
		return k, nil
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return k, nil
	}
	return nil, errors.New("it is of another type")
}
