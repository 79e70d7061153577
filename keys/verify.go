package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"understudy/session"
)

// ErrToken says that a text is no valid token of this fence and class now. It never carries the text.
var ErrToken = errors.New("no valid token of the backup")

// maxToken bounds the size of a token, in bytes.
const maxToken = 256 << 10

// Verify checks a compact JWS of our own making: a key of the fence and the class that signs or has signed, the
// algorithm of the key and not of the header, the key's window, issuer, and the token's own times. It returns the
// claims and the kid. Audience, subject and everything else are the caller's. Errors wrap [ErrToken].
func (r *Ring) Verify(f Fence, class, token string) (session.Object, string, error) {
	claims, k, err := r.verify(f, class, token)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrToken, err)
	}
	return claims, k.ID, nil
}

func (r *Ring) verify(f Fence, class, token string) (session.Object, *Key, error) {
	if len(token) > maxToken {
		return nil, nil, errors.New("it is too long")
	}
	signed, sig64, ok := cutLast(token)
	head64, claims64, ok2 := strings.Cut(signed, ".")
	if !ok || !ok2 || strings.Contains(claims64, ".") {
		return nil, nil, errors.New("it has not three parts")
	}
	header, err := part(head64)
	if err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	k := byID(r.of(f), header.Text("kid"))
	now := r.o.Now()
	switch {
	case k == nil:
		return nil, nil, errors.New("its key is none of this issuer's")
	case k.Class != class:
		return nil, nil, errors.New("its key signs another class of tokens")
	case header.Text("alg") != k.Alg:
		return nil, nil, errors.New("its algorithm is not the key's")
	case header.Has("crit") || header.Has("b64"):
		return nil, nil, errors.New("its header has extensions that are not known here")
	case k.State == Next || now.Before(k.NotBefore.Add(-leeway)):
		return nil, nil, errors.New("its key does not sign yet")
	case k.State == Retired && !now.Before(k.Ends):
		return nil, nil, errors.New("its key has ended")
	}
	sig, err := decode(sig64)
	if err != nil || !k.verifies([]byte(signed), sig) {
		return nil, nil, errors.New("its signature is wrong")
	}
	claims, err := part(claims64)
	if err != nil {
		return nil, nil, fmt.Errorf("claims: %w", err)
	}
	if why := contradicts(class, header, claims); why != "" {
		return nil, nil, errors.New(why)
	}
	if claims.Text("iss") != f.Issuer {
		return nil, nil, errors.New("it is of another issuer")
	}
	return claims, k, k.times(claims, now)
}

// times checks a token's times against now and against the window in which its key signed.
func (k *Key) times(claims session.Object, now time.Time) error {
	exp, ok := claims.Number("exp")
	switch {
	case endless(k.Class) && !claims.Has("exp"):
	case !ok || !now.Before(time.Unix(exp, 0)):
		return errors.New("it has expired")
	case time.Unix(exp, 0).After(k.NotAfter.Add(k.Reach + leeway)):
		return errors.New("it ends after anything that its key signed")
	}
	for _, name := range []string{"iat", "nbf"} {
		if !claims.Has(name) {
			continue
		}
		n, ok := claims.Number(name)
		if !ok || time.Unix(n, 0).After(now.Add(leeway)) {
			return errors.New("it is not valid yet")
		}
		if name == "iat" && (time.Unix(n, 0).Before(k.NotBefore.Add(-leeway)) || time.Unix(n, 0).After(k.NotAfter.Add(leeway))) {
			return errors.New("it was made outside its key's window")
		}
	}
	return nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

var errPart = errors.New("not base64url of a JSON object")

// decode takes one spelling of the bytes only: no line ends, which the decoder would skip, no spare bits.
func decode(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errPart
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

func part(s string) (session.Object, error) {
	b, err := decode(s)
	if err != nil || !bytes.HasPrefix(b, []byte("{")) {
		return nil, errPart
	}
	o, err := session.ParseObject(b)
	if err != nil {
		return nil, errPart
	}
	return o, nil
}

func (k *Key) verifies(input, sig []byte) bool {
	var sum [64]byte
	d := digest(k.method.hash, input, &sum)
	switch pub := k.public.(type) {
	case *rsa.PublicKey:
		if o, ok := k.method.opts.(*rsa.PSSOptions); ok {
			return rsa.VerifyPSS(pub, o.Hash, d, sig, o) == nil
		}
		return rsa.VerifyPKCS1v15(pub, k.method.hash, d, sig) == nil
	case *ecdsa.PublicKey:
		n := k.method.size
		if len(sig) != 2*n {
			return false
		}
		return ecdsa.Verify(pub, d, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]))
	case ed25519.PublicKey:
		return ed25519.VerifyWithOptions(pub, input, sig, &ed25519.Options{Hash: crypto.Hash(0)}) == nil
	}
	return false
}
