// Package session remembers sign-ins: sealed records, the doors through which artifacts open them, and the marks that
// revoke them.
//
// It owns the stored format and every rule about which of two facts wins. It refuses to keep an artifact: what was
// learned is sealed under keys that only the artifact gives. It may not import flow, backup or gateway.
package session

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Lifetime is how long after the primary's last approval a record may be used.
const Lifetime = 72 * time.Hour

// Record is one remembered sign-in of one device at one application: all that is needed to answer as the primary would.
// It is only ever stored sealed.
type Record struct {
	Format   int      `cbor:"0,keyasint"`
	Tenant   string   `cbor:"1,keyasint"`
	Issuer   string   `cbor:"2,keyasint"`
	Client   string   `cbor:"3,keyasint"`
	Subject  string   `cbor:"4,keyasint,omitempty"`
	SID      string   `cbor:"5,keyasint,omitempty"`
	Grant    string   `cbor:"6,keyasint"`           // grant_type of the exchange it was learned from
	Asked    []string `cbor:"7,keyasint,omitempty"` // scope that the exchange asked for
	Scope    []string `cbor:"8,keyasint,omitempty"` // scope that was granted
	Resource []string `cbor:"9,keyasint,omitempty"` // resource and audience parameters of the exchange

	// Response holds the members of the token response in their order; the values of tokens are left out (JSON null).
	Response Object `cbor:"10,keyasint,omitempty"`
	// Headers are the response headers worth repeating: CORS as given to Origin.
	Headers map[string]string `cbor:"11,keyasint,omitempty"`
	// First is true where the response came from another grant than refresh_token: a refresh reply may differ in shape.
	First bool `cbor:"12,keyasint,omitempty"`

	AccessToken *Token `cbor:"13,keyasint,omitempty"` // nil: there was none, or it is opaque
	IDToken     *Token `cbor:"14,keyasint,omitempty"`
	Opaque      *Look  `cbor:"15,keyasint,omitempty"` // of an opaque access token

	Facts Facts `cbor:"16,keyasint,omitempty"`

	// Redirect holds the parameters of the authorization response (RFC 6749, section 4.1.2) in their order, as JSON strings;
	// the values of state and of codes and tokens are left out (JSON null). Nil: the record is of no browser's.
	Redirect Object `cbor:"17,keyasint,omitempty"`
	// RedirectStatus is the HTTP status of the authorization response.
	RedirectStatus int `cbor:"18,keyasint,omitempty"`
	// Front are the tokens of the authorization response; nil: it had none.
	Front *Front `cbor:"19,keyasint,omitempty"`
	// SignedResponse is the JWT that the authorization response came in (JARM); nil: it came in none.
	SignedResponse *SignedResponse `cbor:"21,keyasint,omitempty"`
	// JKT is the thumbprint of the key to which the access token is bound (RFC 9449); "": to none.
	JKT string `cbor:"20,keyasint,omitempty"`
	// Certificate is the x5t#S256 of the client certificate to which a token is bound, or may be where that does not show (RFC
	// 8705); "": to none.
	Certificate string `cbor:"22,keyasint,omitempty"`
	// UserInfo is what the primary said at the UserInfo endpoint (OpenID Connect Core, section 5.3), signed where it has a header;
	// nil: the record is of a sign-in (see [UserInfoKey]).
	UserInfo *Token `cbor:"23,keyasint,omitempty"`
	// Nonced is set where the primary took a DPoP proof with a nonce for it (RFC 9449, sections 8 and 9): another is demanded again.
	Nonced bool `cbor:"24,keyasint,omitempty"`
}

// Front are the tokens of an authorization response, without signatures.
type Front struct {
	IDToken     *Token `cbor:"0,keyasint,omitempty"`
	AccessToken *Token `cbor:"1,keyasint,omitempty"`
	Opaque      *Look  `cbor:"2,keyasint,omitempty"`
}

// SignedResponse is how an authorization response is signed: as the token, whose claims without a value are another's, for so many
// seconds.
type SignedResponse struct {
	Token    Token `cbor:"0,keyasint"`
	Lifetime int64 `cbor:"1,keyasint"`
}

// RecordFormat is the newest Record.Format.
const RecordFormat = 1

// Token is a learned JWT without its signature.
type Token struct {
	Header Object `cbor:"0,keyasint"`
	Claims Object `cbor:"1,keyasint"`
}

// Lifetime is exp − iat in seconds, 0 where one is missing.
func (t *Token) Lifetime() int64 {
	exp, ok1 := t.Claims.Number("exp")
	iat, ok2 := t.Claims.Number("iat")
	if !ok1 || !ok2 {
		return 0
	}
	return exp - iat
}

// Look is the form of an opaque token: how to make another that looks the same, not the token.
type Look struct {
	Prefix  string `cbor:"0,keyasint"` // up to and including the last '_' or ':' within the first 16 characters
	Length  int    `cbor:"1,keyasint"` // in characters, with the prefix
	Charset string `cbor:"2,keyasint"` // "base64url", "hex", "uuid"
}

// Facts are what policy will want to know about the approved request.
type Facts struct {
	Address   string `cbor:"0,keyasint,omitempty"` // client's IP address
	UserAgent string `cbor:"1,keyasint,omitempty"`
	Origin    string `cbor:"2,keyasint,omitempty"`
}

// Door is what is kept of one artifact. It is stored sealed under the deployment's key at
//
//	'd' tenant(8) look-up(16)  →  versioned value: Sealer.Seal(place = the key, CBOR of Door)
//
// and opens, with the artifact's key, the record at
//
//	'r' tenant(8) hour(4) record(16)  →  AES-256-GCM under the data key (place = tenant(8) record(16), CBOR of Record)
//
// The version is the time of the newest thing that happened to it, so that writes commute.
type Door struct {
	Kind    Kind   `cbor:"0,keyasint"`
	Record  ID     `cbor:"1,keyasint"` // zero: nothing was learned, Unlearned says why
	Hour    uint32 `cbor:"2,keyasint"` // bucket in which the record lies
	Wrapped []byte `cbor:"3,keyasint"` // the data key under the artifact's key (place = the door's place)

	Grant   ID `cbor:"4,keyasint"` // the grant: a refresh token and all its successors
	Client  ID `cbor:"5,keyasint"`
	Subject ID `cbor:"6,keyasint"`
	Session ID `cbor:"7,keyasint"`

	ClientAuth string `cbor:"8,keyasint"`  // client authentication method that was approved ("none", "client_secret_basic", …)
	Unlearned  string `cbor:"9,keyasint"`  // why nothing was learned from this family, e.g. "password"
	Begun      int64  `cbor:"10,keyasint"` // Unix nanoseconds; 0: unknown, before everything
	Approved   int64  `cbor:"11,keyasint"` // when the last approved exchange was sent
	Ends       int64  `cbor:"12,keyasint"` // the artifact's own end at the primary; 0: not told
	Superseded int64  `cbor:"13,keyasint"` // since when a newer artifact has taken its place; 0: it is the newest
	Hash       uint32 `cbor:"14,keyasint"` // stable for the grant: splits traffic in a ramp
	Issuer     ID     `cbor:"15,keyasint,omitzero"`
	// Guessed is set where the primary did not say when the person signed in: Begun is when the code was redeemed.
	Guessed bool `cbor:"16,keyasint,omitempty"`
	// Device stands for the browser that holds the artifact; zero: it is no browser's.
	Device ID `cbor:"17,keyasint,omitzero"`
	// Bound are the parameters of the authorization request that a code of the backup's answers.
	Bound map[string]string `cbor:"18,keyasint,omitempty"`
	// Answers is until when access tokens lead to the same record; it outlives until then what takes its place. 0: none do.
	Answers int64 `cbor:"19,keyasint,omitempty"`
	// Former is the record in whose place this one came, in the bucket FormerHour, kept for the access tokens that lead to it; zero:
	// there is none. A third takes its place.
	Former     ID     `cbor:"20,keyasint,omitzero"`
	FormerHour uint32 `cbor:"21,keyasint,omitempty"`
}

// answersStep is how much longer than asked for a record is kept for its access tokens, so that this is seldom written down.
const answersStep = int64(time.Hour)

// Leads notes that a token which leads to the same record lives until then, and returns the version to put the door with: that
// follows what happened to the door, and loses to whatever will. It is false where nothing is to be put.
func (d *Door) Leads(until int64) (version int64, changed bool) {
	if until <= d.Answers || d.Kind.short() {
		return 0, false
	}
	d.Answers = until + answersStep
	since := max(d.Approved, d.Superseded)
	return since + max(1, (d.Answers-since)/answersStep), true
}

// Expires is when the door and its record are forgotten.
func (d *Door) Expires() time.Time {
	t := d.Approved + int64(Lifetime)
	if (d.Superseded != 0 || d.Kind.short()) && d.Ends != 0 && d.Ends < t {
		t = d.Ends
	}
	return time.Unix(0, t)
}

// Sealed is what leaves the gateway: a record that nobody can read without one of the artifacts.
type Sealed struct {
	Record ID           `cbor:"0,keyasint"`
	Data   []byte       `cbor:"1,keyasint"`
	Doors  []SealedDoor `cbor:"2,keyasint"`
}

// SealedDoor is one artifact's way into a Sealed.
type SealedDoor struct {
	Kind    Kind   `cbor:"0,keyasint"`
	Lookup  ID     `cbor:"1,keyasint"`
	Wrapped []byte `cbor:"2,keyasint"`
	Ends    int64  `cbor:"3,keyasint"`
}

// ArtifactKeys name one artifact without it: where its door lies and what opens it.
type ArtifactKeys struct {
	Kind   Kind   `cbor:"0,keyasint"`
	Lookup ID     `cbor:"1,keyasint"`
	Key    []byte `cbor:"2,keyasint"`
	Ends   int64  `cbor:"3,keyasint"` // Unix nanoseconds, 0: not told
}

// Seal seals a record so that any of the artifacts opens it, and what is kept under its UserInfo key with it; nil: there is none.
func Seal(r *Record, userInfo UserInfoKey, artifacts ...ArtifactKeys) (*Sealed, error) {
	plain, err := cbor.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode a record: %w", err)
	}
	data := make([]byte, dataKey, dataKey+len(userInfo))
	rand.Read(data)
	out := &Sealed{Record: NewID()}
	out.Data = SealUnder(data, recordPlace(r.Tenant, out.Record), plain)
	data = append(data, userInfo...)
	for _, a := range artifacts {
		out.Doors = append(out.Doors, SealedDoor{
			Kind: a.Kind, Lookup: a.Lookup, Ends: a.Ends,
			Wrapped: SealUnder(a.Key, doorPlace(r.Tenant, a.Lookup), data),
		})
	}
	return out, nil
}

// dataKey is the length of a record's key; a UserInfo key may follow it.
const dataKey = 32

// Unwrap returns the data key of the record behind a door, and the UserInfo key behind it. The error wraps ErrSealed where the key
// is not the door's.
func (d *Door) Unwrap(tenant string, lookup ID, key []byte) ([]byte, error) {
	return Unwrap(tenant, d.Wrapped, ArtifactKeys{Lookup: lookup, Key: key})
}

// Unwrap opens what [Wrap] made.
func Unwrap(tenant string, wrapped []byte, from ArtifactKeys) ([]byte, error) {
	data, err := OpenUnder(from.Key, doorPlace(tenant, from.Lookup), wrapped)
	if err == nil && len(data) < dataKey {
		err = fmt.Errorf("%w: it is no key", ErrSealed)
	}
	if err != nil {
		return nil, fmt.Errorf("open a door: %w", err)
	}
	return data, nil
}

// Wrap returns another artifact's way to what a door opens.
func Wrap(tenant string, data []byte, to ArtifactKeys) []byte {
	return SealUnder(to.Key, doorPlace(tenant, to.Lookup), data)
}
