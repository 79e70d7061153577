package gateway

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// algFits says whether a JWS algorithm can be used with a public key.
func algFits(alg string, pub crypto.PublicKey) bool {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		return alg == map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// verify checks a compact JWS against one key of the primary, and nothing but its algorithm.
func verify(token, alg string, k primaryKey) bool {
	if !algFits(alg, k.pub) || k.alg != "" && k.alg != alg {
		return false
	}
	j, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
	if err != nil {
		return false
	}
	_, err = j.Verify(k.pub)
	return err == nil
}
