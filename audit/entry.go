package audit

import (
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// Entry is one line of the sign-in log; docs/audit.md documents it. Members are only ever added.
type Entry struct {
	Time            time.Time `json:"time"`   // when the request came, UTC
	ID              string    `json:"id"`     // of the request; the gateway's log has it too
	Tenant          string    `json:"tenant"` // as configured
	Issuer          string    `json:"issuer,omitempty"`
	Flow            string    `json:"flow"`              // name of the flow, or "operator"
	Client          string    `json:"client,omitempty"`  // client_id; of a refused request: as presented
	Subject         string    `json:"subject,omitempty"` // sub; empty where no record was opened
	Session         string    `json:"session,omitempty"` // sid
	Address         string    `json:"address,omitempty"` // the client's
	Trigger         string    `json:"trigger,omitempty"` // why the primary's answer was not used: a rule of docs/failures.md
	TokenIssuerType string    `json:"tokenIssuerType"`   // "backup" or "none"
	Decision        string    `json:"decision"`          // "issued", "refused", "demanded", "revoked", "shown"
	Rule            string    `json:"rule"`              // stable code: of the refusal, or of the policy that let it pass
	Key             string    `json:"keyId,omitempty"`   // kids of the keys that signed, parted by blanks
	Approved        time.Time `json:"approved,omitzero"` // when the primary last approved what the answer continues
	Told            []string  `json:"told,omitempty"`    // of a logout: clients that are told of it
	Untold          []string  `json:"untold,omitempty"`  // of a logout: clients that took part in the session and are not told
	Opens           []string  `json:"opens,omitempty"`   // of a page: clients that a person is told to open
	Latency         float64   `json:"latencyMs"`         // of the decision, in milliseconds
}

// maxText bounds a text of a line, in bytes: what a stranger sends must not fill the disk.
const maxText = 512

// append appends the entry as one line of JSON. Whatever the texts hold, it is one line, valid, and harmless to show.
func (e *Entry) append(b []byte) []byte {
	b = appendTime(append(b, `{"time":`...), e.Time)
	b = appendText(append(b, `,"id":`...), e.ID)
	b = appendText(append(b, `,"tenant":`...), e.Tenant)
	b = appendSome(b, `,"issuer":`, e.Issuer)
	b = appendText(append(b, `,"flow":`...), e.Flow)
	b = appendSome(b, `,"client":`, e.Client)
	b = appendSome(b, `,"subject":`, e.Subject)
	b = appendSome(b, `,"session":`, e.Session)
	b = appendSome(b, `,"address":`, e.Address)
	b = appendSome(b, `,"trigger":`, e.Trigger)
	b = appendText(append(b, `,"tokenIssuerType":`...), e.TokenIssuerType)
	b = appendText(append(b, `,"decision":`...), e.Decision)
	b = appendText(append(b, `,"rule":`...), e.Rule)
	b = appendSome(b, `,"keyId":`, e.Key)
	if !e.Approved.IsZero() {
		b = appendTime(append(b, `,"approved":`...), e.Approved)
	}
	b = appendTexts(b, `,"told":[`, e.Told)
	b = appendTexts(b, `,"untold":[`, e.Untold)
	b = appendTexts(b, `,"opens":[`, e.Opens)
	ms := e.Latency
	if math.IsNaN(ms) || math.IsInf(ms, 0) {
		ms = 0
	}
	b = strconv.AppendFloat(append(b, `,"latencyMs":`...), ms, 'f', -1, 64)
	return append(b, '}', '\n')
}

func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

func appendSome(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return appendText(append(b, name...), s)
}

// maxTexts bounds a list of texts.
const maxTexts = 32

func appendTexts(b []byte, name string, list []string) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, name...)
	for i, s := range list[:min(len(list), maxTexts)] {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, s)
	}
	return append(b, ']')
}

// bound cuts a text that is too long, and says so with an ellipsis.
func bound(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText - len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// appendText quotes a text (RFC 8259). Beyond what JSON asks for, it escapes what a terminal obeys (DEL, the C1
// controls), what some readers take for the end of a line (U+2028, U+2029) and what turns text around (the bidirectional
// controls). Bytes that are no UTF-8 become U+FFFD.
func appendText(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	s = bound(s)
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			b = append(b, c)
			i++
			continue
		}
		if c == '"' || c == '\\' {
			b = append(b, '\\', c)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		if r == utf8.RuneError || r < 0xa0 || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
			continue
		}
		b = utf8.AppendRune(b, r)
	}
	return append(b, '"')
}
