// Package proof checks what a client shows to prove who it is and what it holds: client assertions (RFC 7523), DPoP
// proofs (RFC 9449), client certificates (RFC 8705) and signed request objects (RFC 9101).
//
// It is pure: no clock, no network, no store. What may be used once is returned as a [Once], for the caller to claim; a
// proof that was not claimed is not checked. It owns the typed set of a client's registered keys, [ClientKeys]: no key of
// the primary or of the backup can be put into it, and nothing else is taken for a client's key. It refuses what it does not
// know: algorithms that were not learned for the client, header extensions, keys that the proof brings itself (but for
// DPoP, whose proofs are about such a key).
//
// It may not import backup, gateway, keys or store.
package proof

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Code is why a proof was refused: a stable word for the sign-in log. Every error of this package wraps one, so that
// errors.Is(err, proof.DPoPNonce) holds; no error carries a token, a claim or a name out of a certificate.
type Code string

// Error implements error.
func (c Code) Error() string { return string(c) }

func (c Code) because(why string) error { return fmt.Errorf("%w: %s", c, why) }

// CodeOf returns the code that err wraps, or "".
func CodeOf(err error) Code {
	c, _ := errors.AsType[Code](err)
	return c
}

// Client assertions.
const (
	AssertionMalformed  Code = "assertion_malformed"   // no compact JWS of JSON objects with well-formed claims
	AssertionType       Code = "assertion_type"        // typ says that it is something else
	AssertionHeader     Code = "assertion_header"      // the header brings a key or an extension
	AssertionAlg        Code = "assertion_alg"         // an algorithm that is not the client's
	AssertionKeyUnknown Code = "assertion_key_unknown" // no registered key fits: fetch jwks_uri anew, then ask again
	AssertionSignature  Code = "assertion_signature"
	AssertionClient     Code = "assertion_client" // iss and sub are not both the client
	AssertionAudience   Code = "assertion_audience"
	AssertionExpired    Code = "assertion_expired"
	AssertionEarly      Code = "assertion_early"    // nbf or iat is in the future
	AssertionLifetime   Code = "assertion_lifetime" // it would be valid for too long
	AssertionID         Code = "assertion_id"       // jti is missing where it is demanded, or is no fit string
	AssertionReplayed   Code = "assertion_replayed" // for callers: its Once was claimed before
)

// DPoP proofs.
const (
	DPoPMissing   Code = "dpop_missing"
	DPoPRepeated  Code = "dpop_repeated" // more than one header
	DPoPMalformed Code = "dpop_malformed"
	DPoPType      Code = "dpop_type"
	DPoPHeader    Code = "dpop_header"
	DPoPAlg       Code = "dpop_alg"
	DPoPKey       Code = "dpop_key" // jwk is missing, private, symmetric, weak or of another kind than alg
	DPoPSignature Code = "dpop_signature"
	DPoPMethod    Code = "dpop_method"
	DPoPURL       Code = "dpop_url"
	DPoPExpired   Code = "dpop_expired" // iat is too long ago
	DPoPEarly     Code = "dpop_early"
	DPoPID        Code = "dpop_id"
	DPoPToken     Code = "dpop_token"    // ath is not the hash of the access token
	DPoPNonce     Code = "dpop_nonce"    // answer with use_dpop_nonce and a fresh DPoP-Nonce (RFC 9449, section 8)
	DPoPBinding   Code = "dpop_binding"  // the token is bound to another key
	DPoPReplayed  Code = "dpop_replayed" // for callers: its Once was claimed before
)

// Client certificates.
const (
	CertificateMissing    Code = "certificate_missing"
	CertificateRepeated   Code = "certificate_repeated" // more than one header: the proxy lets the client's own through
	CertificateMalformed  Code = "certificate_malformed"
	CertificateUnverified Code = "certificate_unverified" // nobody vouches for its issuer
	CertificateExpired    Code = "certificate_expired"    // or not valid yet
	CertificateSubject    Code = "certificate_subject"
	CertificateKeyUnknown Code = "certificate_key_unknown" // it is none of the registered: fetch jwks_uri anew
	CertificateBinding    Code = "certificate_binding"     // the token is bound to another certificate
	ConfirmationUnknown   Code = "confirmation_unknown"    // cnf binds the token in a way that cannot be checked
)

// Request objects.
const (
	RequestObjectMalformed  Code = "request_object_malformed"
	RequestObjectEncrypted  Code = "request_object_encrypted" // only the primary can read it
	RequestObjectType       Code = "request_object_type"
	RequestObjectHeader     Code = "request_object_header"
	RequestObjectAlg        Code = "request_object_alg"
	RequestObjectKeyUnknown Code = "request_object_key_unknown"
	RequestObjectSignature  Code = "request_object_signature"
	RequestObjectClient     Code = "request_object_client" // iss or client_id is another client
	RequestObjectAudience   Code = "request_object_audience"
	RequestObjectExpired    Code = "request_object_expired"
	RequestObjectEarly      Code = "request_object_early"
	RequestObjectLifetime   Code = "request_object_lifetime"
	RequestObjectID         Code = "request_object_id"
	RequestObjectNested     Code = "request_object_nested" // it has request or request_uri inside
)

// Registered keys.
const (
	ClientKeysMalformed Code = "client_keys_malformed"
	ClientKeysNone      Code = "client_keys_none" // no key of the set can be used
)

// Once is what makes a proof a thing of one use: the caller gives it to the store's Claim(Key, Until) after the check,
// and refuses where it was not the first. It holds neither the proof nor its jti.
type Once struct {
	Key   []byte
	Until time.Time // from then on the proof is refused by its own times, at nodes whose clocks are off by the leeway too
}

// once makes the key of what may be used once; parts scope it, each behind its length.
func once(until time.Time, kind string, parts ...string) Once {
	h := sha256.New()
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write([]byte(p))
	}
	return Once{Key: []byte("proof/" + kind + "/" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))), Until: until}
}

// bounded is d, where it is zero standard, and never more than most.
func bounded(d, standard, most time.Duration) time.Duration {
	if d == 0 {
		d = standard
	}
	return min(max(d, 0), most)
}

// leeway is how far clocks may differ: a minute unless said otherwise, at most five.
func leeway(d time.Duration) time.Duration { return bounded(d, time.Minute, 5*time.Minute) }
