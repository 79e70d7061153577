package gateway

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"math/rand/v2"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"understudy/session"
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

// signed says whether a token is signed by the primary, or by the backup for it. A logout token is signed too, and is no evidence
// of a sign-in: relying parties hold it (OpenID Connect Back-Channel Logout, section 2.6).
func (is *issuer) signed(token string, t *session.Token) bool {
	if t.Claims.Has("events") || strings.EqualFold(strings.TrimPrefix(t.Header.Text("typ"), "application/"), "logout+jwt") {
		return false
	}
	kid, alg := t.Header.Text("kid"), t.Header.Text("alg")
	if k, ok := is.keys[kid]; ok {
		return verify(token, alg, k)
	}
	for _, k := range is.ours {
		if k.KeyID == kid && k.Algorithm == alg {
			j, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
			if err != nil {
				return false
			}
			_, err = j.Verify(k.Key)
			return err == nil
		}
	}
	return false
}

// sample is how many replies go by for one whose signature is verified although its key has been seen to sign.
const sample = 64

// vouched says whether the ID token of a reply is signed by a key that the primary publishes. The TLS connection to the
// primary vouches for the reply itself: key id and algorithm are always checked, signatures at every new key and for a
// sample. Without TLS every signature is checked, but on loopback.
func (g *Gateway) vouched(ctx context.Context, v *visit, o *outcome) bool {
	id := o.object.Text("id_token")
	if id == "" || v.issuer.problem != "" {
		return true
	}
	head, rest, _ := strings.Cut(id, ".")
	b, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil || strings.Count(rest, ".") != 1 {
		return true // encrypted: not ours to read, and not learned
	}
	header, err := session.ParseObject(b)
	if err != nil {
		return true
	}
	alg, kid := header.Text("alg"), header.Text("kid")
	if kid == "" || alg == "" || alg == "none" || strings.HasPrefix(alg, "HS") {
		return true // nothing to compare with; not learned either
	}
	k, err := v.tenant.meta.key(ctx, v.issuer.at, kid)
	if err != nil || !algFits(alg, k.pub) || k.alg != "" && k.alg != alg {
		return false
	}
	seen := v.issuer.ID + "\x00" + kid
	if _, ok := v.tenant.verified.Load(seen); ok && v.tenant.vouches() && rand.IntN(sample) != 0 {
		return true
	}
	if !verify(id, alg, k) {
		return false
	}
	v.tenant.verified.Store(seen, struct{}{})
	return true
}
