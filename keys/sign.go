package keys

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"understudy/session"
)

// Classes of tokens that backup keys sign.
var classes = map[string]bool{"access_token": true, "id_token": true}

// Sign makes a compact JWS (RFC 7515) of the class: the header's members as they are, but kid is the backup key's, and
// the claims' iss must be the fence's issuer. It returns the kid too.
func (r *Ring) Sign(f Fence, class string, header, claims session.Object) (token, kid string, err error) {
	if !classes[class] {
		return "", "", fmt.Errorf("%w: token class %q", ErrNoKey, class)
	}
	if iss := claims.Text("iss"); iss != f.Issuer {
		return "", "", fmt.Errorf("%w: the claims are of another issuer than the key", ErrNoKey)
	}
	alg := header.Text("alg")
	k, err := r.current(f, alg)
	if err != nil {
		return "", "", err
	}
	header = header.Clone()
	header.Set("kid", session.Quote(k.ID))
	enc := base64.RawURLEncoding
	hb, cb := header.Append(make([]byte, 0, 256)), claims.Append(make([]byte, 0, 2048))
	out := make([]byte, 0, enc.EncodedLen(len(hb))+enc.EncodedLen(len(cb))+700)
	out = enc.AppendEncode(out, hb)
	out = append(out, '.')
	out = enc.AppendEncode(out, cb)
	sig, err := signature(k.signer, alg, out)
	if err != nil {
		return "", "", fmt.Errorf("sign with %s: %w", k.ID, err)
	}
	out = append(out, '.')
	return string(enc.AppendEncode(out, sig)), k.ID, nil
}

func hashOf(alg string) crypto.Hash {
	switch {
	case strings.HasSuffix(alg, "256"):
		return crypto.SHA256
	case strings.HasSuffix(alg, "384"):
		return crypto.SHA384
	case strings.HasSuffix(alg, "512"):
		return crypto.SHA512
	}
	return 0
}

func signature(s crypto.Signer, alg string, input []byte) ([]byte, error) {
	h := hashOf(alg)
	digest := input
	var opts crypto.SignerOpts = h
	if h != 0 {
		w := h.New()
		w.Write(input)
		digest = w.Sum(nil)
	}
	if strings.HasPrefix(alg, "PS") {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h}
	}
	sig, err := s.Sign(rand.Reader, digest, opts)
	if err != nil || !strings.HasPrefix(alg, "ES") {
		return sig, err
	}
	return rawECDSA(sig, map[string]int{"ES256": 32, "ES384": 48, "ES512": 66}[alg])
}

// rawECDSA turns the ASN.1 form of a signature into the fixed-length one of RFC 7518, section 3.4.
func rawECDSA(der []byte, size int) ([]byte, error) {
	var r, s big.Int
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !seq.ReadASN1Integer(&r) || !seq.ReadASN1Integer(&s) {
		return nil, fmt.Errorf("signature is no ASN.1 sequence")
	}
	out := make([]byte, 2*size)
	r.FillBytes(out[:size])
	s.FillBytes(out[size:])
	return out, nil
}
