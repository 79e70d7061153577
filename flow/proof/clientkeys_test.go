package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

func selfSigned(key crypto.Signer) []byte {
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	return must(x509.CreateCertificate(rand.Reader, c, c, key.Public(), key))
}

// negated is n - s of P-256.
func negated(s []byte) []byte {
	n := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(s))
	return n.FillBytes(make([]byte, 32))
}

func TestClientKeys(t *testing.T) {
	ec := jwk(ecKey())
	small := func(bits int) map[string]any {
		n := new(big.Int).SetBit(must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))), bits-1, 1)
		return map[string]any{"kty": "RSA", "e": "AQAB", "n": b64(n.SetBit(n, 0, 1).Bytes())}
	}
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	raw := must(p224.PublicKey.Bytes())
	for _, c := range []struct {
		rule string
		key  map[string]any
		ok   bool
	}{
		{"RSA, 2048 bits", jwk(rsaKey()), true},
		{"RSA, 2047 bits", small(2047), false},
		{"RSA, 1024 bits", small(1024), false},
		{"RSA, 4096 bits", small(4096), true},
		{"RSA, 4097 bits", small(4097), false},
		{"RSA, 65536 bits", small(65536), false},
		{"RSA, e is one", jwk(rsaKey(), "e", "AQ"), false},
		{"RSA, e is even", jwk(rsaKey(), "e", "BA"), false},
		{"RSA, e is huge", jwk(rsaKey(), "e", b64([]byte{1, 0, 0, 0, 1})), false},
		{"RSA, n is even", jwk(rsaKey(), "n", b64(new(big.Int).Add(rsaKey().N, big.NewInt(1)).Bytes())), false},
		{"P-256", ec, true},
		{"P-384", jwk(ec384()), true},
		{"P-521", jwk(ec521()), true},
		{"P-224", map[string]any{"kty": "EC", "crv": "P-224", "x": b64(raw[1:29]), "y": b64(raw[29:])}, false},
		{"secp256k1", jwk(ecKey(), "crv", "secp256k1"), false},
		{"the wrong curve", jwk(ecKey(), "crv", "P-384"), false},
		{"a point that is not on the curve", jwk(ecKey(), "y", ec["x"]), false},
		{"the point at infinity", jwk(ecKey(), "x", b64(make([]byte, 32)), "y", b64(make([]byte, 32))), false},
		{"Ed25519", jwk(edKey()), true},
		{"Ed25519 of low order: zero", jwk(edKey(), "x", b64(make([]byte, 32))), false},
		{"Ed25519 of low order: one", jwk(edKey(), "x", b64(append([]byte{1}, make([]byte, 31)...))), false},
		{"Ed25519, too short", jwk(edKey(), "x", b64(make([]byte, 31))), false},
		{"X25519", jwk(edKey(), "crv", "X25519"), false},
		{"Ed448", jwk(edKey(), "crv", "Ed448"), false},
		{"symmetric", map[string]any{"kty": "oct", "k": b64(theSecret)}, false},
		{"private RSA", jwk(rsaKey(), "d", b64(rsaKey().D.Bytes())), false},
		{"private EC", jwk(ecKey(), "d", ec["x"]), false},
		{"for encryption", jwk(rsaKey(), "use", "enc"), false},
		{"for signatures", jwk(rsaKey(), "use", "sig"), true},
		{"use is no string", jwk(rsaKey(), "use", 1), false},
		{"key_ops without verify", jwk(rsaKey(), "key_ops", []string{"encrypt"}), false},
		{"key_ops with verify", jwk(rsaKey(), "key_ops", []string{"verify"}), true},
		{"alg of another type", jwk(rsaKey(), "alg", "ES256"), false},
		{"alg of another curve", jwk(ecKey(), "alg", "ES384"), false},
		{"alg HS256 on a public key", jwk(rsaKey(), "alg", "HS256"), false},
		{"kid is no string", jwk(rsaKey(), "kid", 1), false},
		{"no kty", jwk(rsaKey(), "kty", nil), false},
		{"x5c is no certificate", jwk(rsaKey(), "x5c", []string{"§"}), false},
		{"x5t#S256 is no hash", jwk(rsaKey(), "x5t#S256", "AAAA"), false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			k, err := ParseClientKeys(set(c.key, jwk(otherEC())))
			if err != nil {
				t.Fatal(err)
			}
			if usable := k.Len() == 2; usable != c.ok || k.Len()+len(k.PassedOver()) != 2 {
				t.Errorf("%d keys, passed over: %v", k.Len(), k.PassedOver())
			}
			if _, err = ParseClientKeys(set(c.key)); !c.ok {
				is(t, err, ClientKeysNone)
			}
		})
	}
}

func TestClientKeysForm(t *testing.T) {
	good := string(set(jwk(ecKey())))
	many := make([]map[string]any, 33)
	for i := range many {
		many[i] = jwk(ecKey())
	}
	for rule, s := range map[string]string{
		"empty":                   "",
		"a page":                  "<!DOCTYPE html>",
		"a key, no set":           text(jwk(ecKey())),
		"keys is no array":        `{"keys":{}}`,
		"keys twice":              `{"keys":[],` + good[1:],
		"a member twice in one":   strings.Replace(good, `"crv"`, `"kty":"oct","crv"`, 1),
		"more than 32":            string(set(many...)),
		"larger than 64 KiB":      strings.Replace(good, "{", `{"x":"`+strings.Repeat("x", 64<<10)+`",`, 1),
		"something behind":        good + good,
		"cut":                     good[:len(good)-2],
		"deeper than 32 levels":   `{"keys":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`,
		"an array, not an object": "[" + good + "]",
	} {
		t.Run(rule, func(t *testing.T) {
			k, err := ParseClientKeys([]byte(s))
			is(t, err, ClientKeysMalformed)
			if k.Len() != 0 || k.PassedOver() != nil {
				t.Error("there are keys nevertheless")
			}
		})
	}
	_, err := ParseClientKeys([]byte(`{"keys":[]}`))
	is(t, err, ClientKeysNone)
	_, err = ParseClientKeys([]byte(`{"keys":[1,"x",null,[]]}`))
	is(t, err, ClientKeysNone)
	if s := fmt.Sprintf("%v %s %+v %#v", theSecret, theSecret, theSecret, theSecret); strings.Contains(s, "s3cret") {
		t.Errorf("a secret is printed: %s", s)
	}
}

// A kid narrows, and never widens: the key must be one of the set.
func TestClientKeysByKid(t *testing.T) {
	s := func(kid string, key *rsa.PrivateKey) string {
		return compact("RS256", `{"alg":"RS256","kid":"`+kid+`"}`, text(assertion()), key)
	}
	two := keysOf(jwk(rsaKey(), "kid", "a"), jwk(otherRSA(), "kid", "b"))
	same := keysOf(jwk(rsaKey(), "kid", "a"), jwk(otherRSA(), "kid", "a"))
	bare := keysOf(jwk(rsaKey()))
	for _, c := range []struct {
		rule string
		s    string
		keys *ClientKeys
		want Code
	}{
		{"its own kid", s("a", rsaKey()), two, ""},
		{"the other's kid", s("b", rsaKey()), two, AssertionSignature},
		{"nobody's kid", s("c", rsaKey()), two, AssertionKeyUnknown},
		{"two keys of one kid, the first", s("a", rsaKey()), same, ""},
		{"two keys of one kid, the second", s("a", otherRSA()), same, ""},
		{"registered without kid", s("c", rsaKey()), bare, ""},
		{"registered without kid, another's signature", s("c", otherRSA()), bare, AssertionSignature},
	} {
		_, err := demanded().PrivateKeyJWT(c.s, c.keys, now)
		if t.Run(c.rule, func(t *testing.T) { is(t, err, c.want) }); c.want == "" && err != nil {
			t.Fatal(err)
		}
	}
}
