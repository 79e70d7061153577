package proof

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"understudy/session"
)

// kind is one kind of signed proof. Its codes begin with its name.
type kind struct {
	name     string
	maxBytes int
	types    []string // of typ, in lower case; "": none is needed
	// keyMember is the one member with a key that the header may not have beside jku and x5u.
	keyMember string
}

func (k kind) refuse(rule, why string) error { return Code(k.name + "_" + rule).because(why) }

// jws is a compact JWS whose form was checked, and nothing else yet.
type jws struct {
	kind           kind
	raw            string
	header, claims session.Object
	alg            string
}

// read takes a proof apart and checks what its header says, but for the algorithm.
func (k kind) read(s string) (*jws, error) {
	j, err := k.split(s)
	if err != nil {
		return nil, err
	}
	// crit and b64 change what is signed, cty and zip what it means (RFC 7515, sections 4.1.10 and 4.1.11; RFC 7797).
	// A key that the proof brings proves nothing. x5c is passed over, because some clients always send it.
	refused := append([]string{"crit", "b64", "cty", "zip", "jku", "x5u"}, k.keyMember)
	for _, name := range refused {
		if j.header.Has(name) {
			return nil, k.refuse("header", "its header has "+name)
		}
	}
	if typ := j.typ(); !slices.Contains(k.types, typ) || typ == "" && j.header.Has("typ") {
		return nil, k.refuse("type", "its typ is missing, or another")
	}
	return j, nil
}

// split takes a proof apart. It is taken in one spelling only (RFC 7515, section 3.1): three parts of unpadded base64url
// without spare bits, JSON objects in which no name occurs twice.
func (k kind) split(s string) (*jws, error) {
	if len(s) > k.maxBytes {
		return nil, k.refuse("malformed", "it is too long")
	}
	parts := strings.SplitN(s, ".", 6)
	if len(parts) == 5 && k.name == requestObject {
		return nil, RequestObjectEncrypted.because("only the primary can read it")
	}
	if len(parts) != 3 {
		return nil, k.refuse("malformed", "it is no JWS in compact form")
	}
	header, err1 := object(parts[0])
	claims, err2 := object(parts[1])
	_, err3 := decode(parts[2])
	if errors.Join(err1, err2, err3) != nil {
		return nil, k.refuse("malformed", "a part is not base64url, or not one JSON object in which each name occurs once")
	}
	return &jws{kind: k, raw: s, header: header, claims: claims, alg: header.Text("alg")}, nil
}

// typ is the type without what may be left out (RFC 7515, section 4.1.9).
func (j *jws) typ() string {
	return strings.TrimPrefix(strings.ToLower(j.header.Text("typ")), "application/")
}

// decode takes one spelling of the bytes: no line ends, which the decoder would skip, no spare bits.
func decode(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line end")
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

func object(s string) (session.Object, error) {
	b, err := decode(s)
	if err != nil || !bytes.HasPrefix(b, []byte("{")) {
		return nil, errors.New("no object")
	}
	return session.ParseObject(b)
}

// allow checks the algorithm against those learned for the client and those of the family.
func (j *jws) allow(learned, family []string) error {
	same := func(a string) bool { return a == j.alg || isEdDSA(a) && isEdDSA(j.alg) }
	if !slices.Contains(family, j.alg) || !slices.ContainsFunc(learned, same) {
		return j.kind.refuse("alg", "its algorithm is none that was learned for the client")
	}
	return nil
}

// signedBy checks the signature: key is a public key for the algorithm, or a [Secret].
func (j *jws) signedBy(key any) bool {
	switch k := key.(type) {
	case Secret:
		key = []byte(k)
	case ed25519.PublicKey:
		key = edVerifier(k)
	}
	s, err := jose.ParseSignedCompact(j.raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(j.alg)})
	if err != nil {
		return false
	}
	_, err = s.Verify(key)
	return err == nil
}

// edVerifier verifies Ed25519 under both of its names: EdDSA (RFC 8037) and Ed25519 (RFC 9864), which is what current
// JavaScript clients write and the library does not know.
type edVerifier ed25519.PublicKey

func (v edVerifier) VerifyPayload(payload, signature []byte, alg jose.SignatureAlgorithm) error {
	if !isEdDSA(string(alg)) || !ed25519.Verify(ed25519.PublicKey(v), payload, signature) {
		return jose.ErrCryptoFailure
	}
	return nil
}

func isEdDSA(alg string) bool { return alg == "EdDSA" || alg == "Ed25519" }

func symmetric() []string { return []string{"HS256", "HS384", "HS512"} }

func asymmetric() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
}

// fits says whether an asymmetric algorithm is one for a public key (RFC 7518, section 3.1; RFC 8037).
func fits(alg string, public crypto.PublicKey) bool {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		return alg == map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]
	case ed25519.PublicKey:
		return isEdDSA(alg)
	}
	return false
}

// signedByOne checks the signature against the registered keys. They are narrowed by kid; a registered key without one
// fits every kid.
func (j *jws) signedByOne(keys *ClientKeys) (thumbprint string, err error) {
	kid, tried := j.header.Text("kid"), false
	if j.header.Has("kid") && kid == "" {
		return "", j.kind.refuse("malformed", "its kid is no string")
	}
	for _, k := range keys.all() {
		if kid != "" && k.id != "" && k.id != kid || !fits(j.alg, k.public) ||
			k.alg != "" && k.alg != j.alg && !(isEdDSA(k.alg) && isEdDSA(j.alg)) {
			continue
		}
		if tried = true; j.signedBy(k.public) {
			return k.thumbprint, nil
		}
	}
	if !tried {
		return "", j.kind.refuse("key_unknown", "no registered key has its kid and its algorithm")
	}
	return "", j.kind.refuse("signature", "no registered key of the client made its signature")
}

// date reads a NumericDate (RFC 7519, section 2), which may have a fraction. There is none where at is zero.
func (j *jws) date(name string) (at time.Time, err error) {
	v := j.claims.Get(name)
	if v == nil {
		return time.Time{}, nil
	}
	n, err := strconv.ParseFloat(string(v), 64)
	if err != nil || n < 1 || n > 253402300799 { // the year 9999
		return time.Time{}, j.kind.refuse("malformed", name+" is no date")
	}
	whole, part := math.Modf(n)
	return time.Unix(int64(whole), int64(part*1e9)), nil
}

// times reads exp, iat and nbf, and checks that it is not expired, and was made before now.
func (j *jws) times(now time.Time, leeway time.Duration) (exp, iat time.Time, err error) {
	exp, err1 := j.date("exp")
	iat, err2 := j.date("iat")
	nbf, err3 := j.date("nbf")
	switch err := errors.Join(err1, err2, err3); {
	case err != nil:
		return exp, iat, err
	case !exp.IsZero() && !now.Before(exp):
		return exp, iat, j.kind.refuse("expired", "it has expired")
	case iat.After(now.Add(leeway)) || nbf.After(now.Add(leeway)):
		return exp, iat, j.kind.refuse("early", "it is not valid yet: compare the clocks")
	}
	return exp, iat, nil
}

// audience reads aud: a string or an array of strings (RFC 7519, section 4.1.3).
func (j *jws) audience() ([]string, error) {
	v := j.claims.Get("aud")
	if v.Kind() == '"' {
		return []string{j.claims.Text("aud")}, nil
	}
	list := texts(v)
	if len(list) == 0 {
		return nil, j.kind.refuse("audience", "it names no audience")
	}
	return list, nil
}

// texts reads an array of strings and nothing but strings, else it is nil.
func texts(v jsontext.Value) []string {
	var list []*string
	if v.Kind() != '[' || json.Unmarshal(v, &list) != nil {
		return nil
	}
	var out []string
	for _, s := range list {
		if s == nil {
			return nil
		}
		out = append(out, *s)
	}
	return out
}

// maxID bounds a jti, in bytes.
const maxID = 1 << 10

// jti reads the identifier that makes a proof unique.
func (j *jws) jti(demanded bool) (string, error) {
	id := j.claims.Text("jti")
	if len(id) > maxID || id == "" && (demanded || j.claims.Has("jti")) {
		return "", j.kind.refuse("id", "its jti is missing, or not a string of 1 to 1024 bytes")
	}
	return id, nil
}

// signed is what the signature covers. The signature itself can have several spellings (ECDSA), this has one.
func (j *jws) signed() string { return j.raw[:strings.LastIndexByte(j.raw, '.')] }

// Claimed is what a signed proof says of itself. None of it is verified: it is for finding the client and its keys, and
// for learning, from an exchange that the primary approved, how the client proves itself.
type Claimed struct {
	Issuer, Subject string
	Alg, KeyID      string
	Type            string // as written
}

// Peek reads what a client assertion or a request object of at most 32 KiB says of itself. Errors wrap
// [RequestObjectMalformed] or [RequestObjectEncrypted].
func Peek(proof string) (Claimed, error) {
	j, err := kind{name: requestObject, maxBytes: maxRequestObject}.split(proof)
	if err != nil {
		return Claimed{}, err
	}
	return Claimed{
		Issuer: j.claims.Text("iss"), Subject: j.claims.Text("sub"),
		Alg: j.alg, KeyID: j.header.Text("kid"), Type: j.header.Text("typ"),
	}, nil
}
