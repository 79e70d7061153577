package session

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Object is a JSON object with its members in the order in which they came. Values stay as the bytes that came, so that
// numbers, escapes and shapes (a string aud stays a string) survive.
type Object []Member

// Member is one name and its value as JSON text.
type Member struct {
	Name  string
	Value jsontext.Value
}

const (
	maxObjectBytes = 1 << 20
	maxMembers     = 512
	maxDepth       = 32
)

// ErrObject is wrapped by every complaint of ParseObject. It never carries the text.
var ErrObject = errors.New("not a JSON object that is taken here")

// ParseObject parses one JSON object of at most 1 MiB, 512 members and 32 levels, in which no name occurs twice. The object
// shares b, which must not change any more.
func ParseObject(b []byte) (Object, error) {
	if len(b) > maxObjectBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrObject, len(b))
	}
	if v := jsontext.Value(b); !v.IsValid() || v.Kind() != '{' {
		return nil, fmt.Errorf("%w: it is not well-formed, a name occurs twice, or something follows it", ErrObject)
	}
	return split(b[skip(b, 0):])
}

// split cuts a well-formed JSON object into its members, which share its bytes.
func split(b []byte) (Object, error) {
	o := make(Object, 0, 24)
	whole := string(b) // names are pieces of it: twenty of them, and one allocation
	for i := 1; ; {
		if i = skip(b, i); b[i] == '}' {
			return o, nil
		}
		if b[i] == ',' {
			i = skip(b, i+1)
		}
		if len(o) == maxMembers {
			return nil, fmt.Errorf("%w: more than %d members", ErrObject, maxMembers)
		}
		end, _ := value(b, i)
		name := whole[i+1 : end-1]
		if strings.IndexByte(name, '\\') >= 0 {
			name = text(b[i:end])
		}
		i = skip(b, skip(b, end)+1) // the colon
		end, depth := value(b, i)
		if depth >= maxDepth {
			return nil, fmt.Errorf("%w: more than %d levels", ErrObject, maxDepth)
		}
		o = append(o, Member{name, b[i:end:end]})
		i = end
	}
}

func skip(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t' {
		i++
	}
	return i
}

// value is the end of the value that begins at i, and how deep it nests.
func value(b []byte, i int) (end, deepest int) {
	switch b[i] {
	case '"':
		return quoted(b, i), 0
	case '{', '[':
		depth := 0
		for ; ; i++ {
			switch b[i] {
			case '"':
				i = quoted(b, i) - 1
			case '{', '[':
				depth++
				deepest = max(deepest, depth)
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1, deepest
				}
			}
		}
	}
	for {
		switch b[i] {
		case ',', '}', ']', ' ', '\n', '\r', '\t':
			return i, 0
		}
		i++
	}
}

// quoted is the end of the string that begins at i.
func quoted(b []byte, i int) int {
	for i++; ; i++ {
		i += bytes.IndexByte(b[i:], '"')
		n := 0
		for b[i-1-n] == '\\' {
			n++
		}
		if n%2 == 0 {
			return i + 1
		}
	}
}

// MarshalCBOR encodes the object as one byte string of names and values, each behind its length.
func (o Object) MarshalCBOR() ([]byte, error) {
	n := 0
	for _, m := range o {
		n += len(m.Name) + len(m.Value) + 6
	}
	b := make([]byte, 5, 5+n)
	for _, m := range o {
		b = binary.AppendUvarint(b, uint64(len(m.Name)))
		b = append(b, m.Name...)
		b = binary.AppendUvarint(b, uint64(len(m.Value)))
		b = append(b, m.Value...)
	}
	b[0] = 0x5a // byte string with a length of four bytes (RFC 8949, section 3.1)
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-5))
	return b, nil
}

// UnmarshalCBOR decodes what MarshalCBOR encoded.
func (o *Object) UnmarshalCBOR(b []byte) error {
	if len(b) < 5 || b[0] != 0x5a || int(binary.BigEndian.Uint32(b[1:])) != len(b)-5 || len(b) > maxObjectBytes {
		if len(b) == 1 && b[0] == 0xf6 { // null
			*o = nil
			return nil
		}
		return fmt.Errorf("%w: not as it was stored", ErrObject)
	}
	b = bytes.Clone(b[5:])
	whole := string(b) // as in split
	field := func() ([]byte, bool) {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > uint64(len(b)-k) {
			return nil, false
		}
		v := b[k : k+int(n) : k+int(n)]
		b = b[k+int(n):]
		return v, true
	}
	if len(b) == 0 {
		*o = nil // as omitted
		return nil
	}
	out := make(Object, 0, 24)
	for len(b) > 0 {
		name, ok1 := field()
		at := len(whole) - len(b) // behind the name
		v, ok2 := field()
		if !ok1 || !ok2 || len(out) == maxMembers {
			return fmt.Errorf("%w: not as it was stored", ErrObject)
		}
		out = append(out, Member{whole[at-len(name) : at], v})
	}
	*o = out
	return nil
}

// Append appends the object as compact JSON text.
func (o Object) Append(b []byte) []byte {
	b = append(b, '{')
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b, _ = jsontext.AppendQuote(b, m.Name)
		b = append(b, ':')
		b = append(b, m.Value...)
	}
	return append(b, '}')
}

// Get returns a member's value, or nil.
func (o Object) Get(name string) jsontext.Value {
	for i := range o {
		if o[i].Name == name {
			return o[i].Value
		}
	}
	return nil
}

// Has says whether there is such a member.
func (o Object) Has(name string) bool { return o.Get(name) != nil }

// Text returns a member's value where it is a string, else "".
func (o Object) Text(name string) string { return text(o.Get(name)) }

// Filled says whether a member is a string that is not empty.
func (o Object) Filled(name string) bool {
	v := o.Get(name)
	return len(v) > 2 && v[0] == '"'
}

// Number returns a member's value where it is a whole number (or a string of digits, which some providers send).
func (o Object) Number(name string) (int64, bool) {
	v := o.Get(name)
	s := string(v)
	if len(v) > 1 && v[0] == '"' {
		s = text(v)
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// Texts returns a member's value where it is a string or an array of strings.
func (o Object) Texts(name string) []string {
	v := o.Get(name)
	switch {
	case len(v) == 0:
		return nil
	case v[0] == '"':
		return []string{text(v)}
	case v[0] != '[':
		return nil
	}
	d := jsontext.NewDecoder(bytes.NewReader(v))
	if _, err := d.ReadToken(); err != nil {
		return nil
	}
	var out []string
	for d.PeekKind() == '"' {
		t, err := d.ReadToken()
		if err != nil {
			return nil
		}
		out = append(out, t.String())
	}
	return out
}

// Set replaces a member's value where the name is there, else appends it.
func (o *Object) Set(name string, v jsontext.Value) {
	for i := range *o {
		if (*o)[i].Name == name {
			(*o)[i].Value = v
			return
		}
	}
	*o = append(*o, Member{name, v})
}

// Without returns a copy that lacks the names.
func (o Object) Without(names ...string) Object {
	out := make(Object, 0, len(o))
	for _, m := range o {
		if !slices.Contains(names, m.Name) {
			out = append(out, m)
		}
	}
	return out
}

// Names returns the names in order.
func (o Object) Names() []string {
	out := make([]string, len(o))
	for i, m := range o {
		out[i] = m.Name
	}
	return out
}

// Clone returns a copy whose members can be set without touching o. Values are shared and must not be changed in place.
func (o Object) Clone() Object { return slices.Clone(o) }

// Quote returns a string as JSON text.
func Quote(s string) jsontext.Value {
	b, err := jsontext.AppendQuote(nil, s)
	if err != nil { // invalid UTF-8 is replaced
		return b
	}
	return b
}

func text(v jsontext.Value) string {
	if len(v) < 2 || v[0] != '"' {
		return ""
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return string(v[1 : len(v)-1])
	}
	b, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return ""
	}
	return string(b)
}
