package proof

import (
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"

	"understudy/session"
)

// DPoP says what is demanded of the DPoP proof of one request (RFC 9449, section 4.3).
type DPoP struct {
	Issuer string // scopes the jti
	Method string // of the request, as it came
	URL    string // of the request, as the client sees it: the endpoint's from the metadata, not one made of Host
	// Algs are those that the primary takes (dpop_signing_alg_values_supported); where empty, every proof is refused.
	Algs []string
	// AccessToken is the token that the request presents at a protected resource; "" at the token endpoint.
	AccessToken string
	// Thumbprint is the jkt to which the presented code or token is bound; "" where nothing is bound yet.
	Thumbprint string
	// Nonce says whether a nonce is one of ours that is still good; nil: none is demanded.
	Nonce  func(nonce string) bool
	Window time.Duration // how old a proof may be; 0: two minutes; at most five
	Leeway time.Duration // how far ahead the client's clock may be; 0: a minute; at most five
}

// Possession is a DPoP proof that was verified.
type Possession struct {
	Thumbprint string // of the key (RFC 7638, SHA-256): what cnf.jkt says of a token bound to it
	Alg        string
	Once       Once // to be claimed
	Claims     session.Object
}

const maxDPoP = 8 << 10

// Check verifies the one DPoP header of a request. Errors wrap a DPoP code; [DPoPMissing] where there is no header.
func (d DPoP) Check(h http.Header, now time.Time) (*Possession, error) {
	switch proofs := h.Values("DPoP"); len(proofs) {
	case 0:
		return nil, DPoPMissing.because("there is no DPoP header")
	case 1:
		return d.check(proofs[0], now)
	}
	return nil, DPoPRepeated.because("there is more than one DPoP header")
}

func (d DPoP) check(proof string, now time.Time) (*Possession, error) {
	j, err := kind{name: "dpop", maxBytes: maxDPoP, types: []string{"dpop+jwt"}, keyMember: "x5c"}.read(proof)
	if err != nil {
		return nil, err
	}
	if err := j.allow(d.Algs, asymmetric()); err != nil {
		return nil, err
	}
	thumbprint, err := j.embedded()
	if err != nil {
		return nil, err
	}
	if method, ok := j.claims.Text("htm"), j.claims.Has("htm"); !ok || method != d.Method {
		return nil, DPoPMethod.because("it is for another method")
	}
	if !sameURL(j.claims.Text("htu"), d.URL) {
		return nil, DPoPURL.because("it is for another URL")
	}
	_, iat, err := j.times(now, leeway(d.Leeway))
	window := bounded(d.Window, 2*time.Minute, 5*time.Minute)
	switch {
	case err != nil:
		return nil, err
	case now.Sub(iat) > window: // of what has none, too
		return nil, DPoPExpired.because("iat is missing or too long ago: compare the clocks")
	}
	id, err := j.jti(true)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(d.AccessToken))
	if d.AccessToken != "" && j.claims.Text("ath") != base64.RawURLEncoding.EncodeToString(sum[:]) {
		return nil, DPoPToken.because("it was not made for this access token")
	}
	if d.Thumbprint != "" && d.Thumbprint != thumbprint {
		return nil, DPoPBinding.because("the token is bound to another key")
	}
	if d.Nonce != nil && !d.Nonce(j.claims.Text("nonce")) {
		return nil, DPoPNonce.because("its nonce is missing or not fresh")
	}
	return &Possession{
		Thumbprint: thumbprint, Alg: j.alg, Claims: j.claims,
		Once: once(iat.Add(window+leeway(d.Leeway)), "dpop", d.Issuer, thumbprint, id),
	}, nil
}

// embedded verifies the signature with the key in the header and returns its thumbprint.
func (j *jws) embedded() (string, error) {
	o, err := session.ParseObject(j.header.Get("jwk"))
	if err != nil {
		return "", DPoPKey.because("its header has no jwk")
	}
	public, err := publicKey(o)
	if err != nil {
		return "", DPoPKey.because("its jwk cannot be used: " + err.Error())
	}
	if !fits(j.alg, public) {
		return "", DPoPKey.because("its jwk is not one for its algorithm")
	}
	if !j.signedBy(public) {
		return "", DPoPSignature.because("the key of its jwk did not make its signature")
	}
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", DPoPKey.because("its jwk has no thumbprint")
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}
