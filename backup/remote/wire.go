package remote

import (
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"

	"understudy/backup"
	"understudy/flow"
	"understudy/session"
)

// The wire: POST /v1/METHOD, Content-Type application/cbor, one CBOR item (RFC 8949) each way. An answer with another
// status than 200 is the CBOR map {0: code}.
//
// Members that the reader does not know are passed over, so that old and new binaries work together; a member that
// restricts what the others allow needs a new method.
const (
	pathPrefix  = "/v1/"
	contentType = "application/cbor"
)

// Methods.
const (
	methodPing      = "ping"
	methodPlay      = "play"
	methodOpens     = "opens"
	methodLearn     = "learn"
	methodStanding  = "standing"
	methodHeld      = "held"
	methodBarred    = "barred"
	methodRefused   = "refused"
	methodStep      = "step"
	methodMarkGrant = "mark_grant"
	methodMark      = "mark"
	methodUntold    = "untold"
	methodSignedOut = "signed_out"
	methodKeys      = "public_keys"
)

const (
	smallMessage = 8 << 10   // messages of fixed members
	playMessage  = 256 << 10 // a request's scope and resources: no more than its body at the gateway
	markMessage  = 1 << 20
	learnMessage = 8 << 20
	maxAnswer    = 4 << 20
	maxLearned   = 512  // in one message
	maxMarks     = 4096 // in one message
)

type pingMessage struct{}

type playAnswer struct {
	Reply   *flow.Reply   `cbor:"0,keyasint,omitempty"`
	Refusal *flow.Refusal `cbor:"1,keyasint,omitempty"`
}

type opensMessage struct {
	Plays []flow.Play `cbor:"0,keyasint"`
}

type opensAnswer struct {
	Opens []bool `cbor:"0,keyasint"`
}

type untoldMessage struct {
	Tenant string `cbor:"0,keyasint"`
}

type standingMessage struct {
	Tenant string     `cbor:"0,keyasint"`
	Lookup session.ID `cbor:"1,keyasint"`
}

type stepMessage struct {
	Tenant    string            `cbor:"0,keyasint"`
	Lookup    session.ID        `cbor:"1,keyasint"`
	At        int64             `cbor:"2,keyasint"`
	Successor session.Successor `cbor:"3,keyasint"`
}

type markMessageBody struct {
	Tenant string         `cbor:"0,keyasint"`
	Marks  []session.Mark `cbor:"1,keyasint"`
}

type keysMessage struct {
	Tenant string   `cbor:"0,keyasint"`
	Issuer string   `cbor:"1,keyasint"`
	Algs   []string `cbor:"2,keyasint"`
}

type learnMessageBody struct {
	Learned []backup.Learned `cbor:"0,keyasint"`
}

type outcomeMessage struct {
	Unlearned string `cbor:"0,keyasint,omitempty"`
	Alarm     string `cbor:"1,keyasint,omitempty"`
}

type learnAnswer struct {
	Outcomes []outcomeMessage `cbor:"0,keyasint"`
}

type boolAnswer struct {
	Yes bool `cbor:"0,keyasint"`
}

// keysAnswer holds JWKs (RFC 7517) as JSON.
type keysAnswer struct {
	Keys [][]byte `cbor:"0,keyasint"`
}

type noAnswer struct{}

type errorAnswer struct {
	Code string `cbor:"0,keyasint"`
}

// codec encodes and decodes messages within limits. Text may be any bytes: what clients send (a User-Agent, a scope) need
// not be UTF-8.
type codec struct{ dec cbor.DecMode }

func newCodec() codec {
	m, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden, UTF8: cbor.UTF8DecodeInvalid,
		MaxNestedLevels: 10, MaxArrayElements: 4096, MaxMapPairs: 256,
	}.DecMode()
	if err != nil {
		panic(err) // only for options outside the library's bounds
	}
	return codec{m}
}

var errMessage = errors.New("not a message of this method")

// decode reads exactly one map. The error never carries its contents.
func (c codec) decode(b []byte, v any) error {
	if len(b) == 0 || b[0]>>5 != 5 {
		return errMessage
	}
	if err := c.dec.Unmarshal(b, v); err != nil {
		return errMessage
	}
	return nil
}

func (codec) encode(v any) ([]byte, error) {
	b, err := cbor.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode a message: %w", err)
	}
	return b, nil
}

// readAll reads at most limit bytes and fails where there are more.
func readAll(r io.Reader, limit, hint int64) ([]byte, error) {
	b := make([]byte, 0, min(max(hint, 512), limit)+1)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case int64(len(b)) > limit:
			return nil, errTooLarge
		case err == io.EOF:
			return b, nil
		case err != nil:
			return nil, err
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

var errTooLarge = errors.New("over the cap")
