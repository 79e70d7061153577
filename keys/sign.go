package keys

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"understudy/session"
)

// scratch is what one signature needs beside its result.
type scratch struct {
	json, out []byte
	sum       [sha512.Size]byte
}

// Header members that name or carry the primary's key (RFC 7515, sections 4.1.2 to 4.1.8): beside our signature they
// would be false.
var foreignKey = [...]string{"jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256"}

// Signs says whether there is a key with which a token of the class would be signed now.
func (r *Ring) Signs(f Fence, class, alg string) bool {
	return r.keys.Load().current(f, class, alg, r.o.Now()) != nil
}

// Sign makes a compact JWS (RFC 7515) of the class: the header's members as they are, but kid is the backup key's and
// members that describe the primary's key are left out. The claims' iss must be the fence's issuer, and exp must lie in
// the future; what answers one request, UserInfo or introspection, may have none. It returns the kid too. Errors wrap
// [ErrNoKey] where no key may sign this, and carry no claim.
func (r *Ring) Sign(f Fence, class string, header, claims session.Object) (token, kid string, err error) {
	now := r.o.Now()
	lifetime, err := signable(f, class, header, claims, now)
	if err != nil {
		return "", "", err
	}
	alg := header.Text("alg")
	for range 3 {
		s := r.keys.Load()
		k := s.current(f, class, alg, now)
		if k == nil {
			break
		}
		if lifetime > k.Reach {
			if err := r.extend(f, k.ID, lifetime); err != nil {
				return "", "", fmt.Errorf("keep how long a token of %s lives: %w", k.ID, err)
			}
			continue
		}
		token, err := r.sign(k, header, claims)
		if err == nil && r.still(s, f, k) {
			return token, k.ID, nil
		}
		if err != nil && r.still(s, f, k) {
			return "", "", fmt.Errorf("sign with %s: %w", k.ID, err)
		}
		// The key was removed or retired meanwhile: what it made must not go out.
	}
	return "", "", fmt.Errorf("%w: issuer %s, class %s, algorithm %.16q", ErrNoKey, f.Issuer, class, alg)
}

// still says whether k signs after all, where keys may have changed since s was loaded.
func (r *Ring) still(s *snapshot, f Fence, k *Key) bool {
	now := r.keys.Load()
	if now == s {
		return true
	}
	c := byID((*now)[f], k.ID)
	return c != nil && c.State == Current
}

func signable(f Fence, class string, header, claims session.Object, now time.Time) (time.Duration, error) {
	if !known(class) {
		return 0, fmt.Errorf("%w: token class %.32q", ErrNoKey, class)
	}
	if claims.Text("iss") != f.Issuer || f.Issuer == "" {
		return 0, fmt.Errorf("%w: the claims are of another issuer than the key", ErrNoKey)
	}
	if why := contradicts(class, header, claims); why != "" {
		return 0, fmt.Errorf("%w: as %s: %s", ErrNoKey, class, why)
	}
	if header.Has("crit") || header.Has("b64") { // RFC 7515, section 4.1.11; RFC 7797
		return 0, fmt.Errorf("%w: its header has extensions that are not known here", ErrNoKey)
	}
	if endless(class) && !claims.Has("exp") {
		return minReach, nil
	}
	exp, ok := claims.Number("exp")
	lifetime := time.Unix(exp, 0).Sub(now)
	if !ok || lifetime <= 0 || lifetime > maxLifetime {
		return 0, fmt.Errorf("%w: the token's end is missing, past, or more than %v away", ErrNoKey, maxLifetime)
	}
	return lifetime, nil
}

func (r *Ring) sign(k *Key, header, claims session.Object) (string, error) {
	sc := r.scratch.Get().(*scratch)
	defer r.scratch.Put(sc)
	enc := base64.RawURLEncoding
	sc.json = appendHeader(sc.json[:0], header, k.ID)
	sc.out = enc.AppendEncode(sc.out[:0], sc.json)
	sc.out = append(sc.out, '.')
	sc.json = claims.Append(sc.json[:0])
	sc.out = enc.AppendEncode(sc.out, sc.json)
	sig, err := k.signature(sc)
	if err != nil {
		return "", err
	}
	sc.out = append(sc.out, '.')
	sc.out = enc.AppendEncode(sc.out, sig)
	return string(sc.out), nil
}

func appendHeader(b []byte, header session.Object, kid string) []byte {
	b = append(b, '{')
	seen := false
	for _, m := range header {
		if slices.Contains(foreignKey[:], m.Name) {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b, _ = jsontext.AppendQuote(b, m.Name)
		b = append(b, ':')
		if m.Name == "kid" {
			seen = true
			b, _ = jsontext.AppendQuote(b, kid)
		} else {
			b = append(b, m.Value...)
		}
	}
	if !seen {
		b = append(b, `,"kid":`...) // alg is there, or there would be no key
		b, _ = jsontext.AppendQuote(b, kid)
	}
	return append(b, '}')
}

// signature signs sc.out.
func (k *Key) signature(sc *scratch) ([]byte, error) {
	sig, err := k.signer.Sign(rand.Reader, digest(k.method.hash, sc.out, &sc.sum), k.method.opts)
	if err != nil || k.method.size == 0 {
		return sig, err
	}
	return rawECDSA(sig, k.method.size)
}

// digest hashes input into sum, or returns it as it is for an algorithm that hashes by itself.
func digest(h crypto.Hash, input []byte, sum *[sha512.Size]byte) []byte {
	switch h {
	case crypto.SHA256:
		s := sha256.Sum256(input)
		return sum[:copy(sum[:], s[:])]
	case crypto.SHA384:
		s := sha512.Sum384(input)
		return sum[:copy(sum[:], s[:])]
	case crypto.SHA512:
		s := sha512.Sum512(input)
		return sum[:copy(sum[:], s[:])]
	}
	return input
}

// rawECDSA turns the ASN.1 form of a signature into the fixed-length one of RFC 7518, section 3.4.
func rawECDSA(der []byte, size int) ([]byte, error) {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	var r, s []byte
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !seq.ReadASN1Integer(&r) || !seq.ReadASN1Integer(&s) || len(r) > size || len(s) > size {
		return nil, errors.New("the signature is not in ASN.1 form")
	}
	out := make([]byte, 2*size)
	copy(out[size-len(r):], r)
	copy(out[2*size-len(s):], s)
	return out, nil
}
