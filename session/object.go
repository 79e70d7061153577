package session

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Object is a JSON object with its members in the order in which they came. Values stay as the bytes that came, so that
// numbers, escapes and shapes (a string aud stays a string) survive.
type Object []Member

// Member is one name and its value as JSON text.
type Member struct {
	Name  string         `cbor:"n"`
	Value jsontext.Value `cbor:"v"`
}

const (
	maxObjectBytes = 1 << 20
	maxMembers     = 512
	maxDepth       = 32
)

// ErrObject is wrapped by every complaint of ParseObject. It never carries the text.
var ErrObject = errors.New("not a JSON object that is taken here")

// ParseObject parses one JSON object of at most 1 MiB, 512 members and 32 levels, in which no name occurs twice.
func ParseObject(b []byte) (Object, error) {
	if len(b) > maxObjectBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrObject, len(b))
	}
	if deep(b) {
		return nil, fmt.Errorf("%w: more than %d levels", ErrObject, maxDepth)
	}
	d := jsontext.NewDecoder(bytes.NewReader(b))
	t, err := d.ReadToken()
	if err != nil || t.Kind() != '{' {
		return nil, fmt.Errorf("%w: it does not begin as one", ErrObject)
	}
	o := make(Object, 0, 16)
	for d.PeekKind() == '"' {
		t, err := d.ReadToken()
		if err != nil {
			return nil, fmt.Errorf("%w: member %d has no name, or one that was there before", ErrObject, len(o)+1)
		}
		name := t.String()
		v, err := d.ReadValue()
		if err != nil {
			return nil, fmt.Errorf("%w: the value of member %d", ErrObject, len(o)+1)
		}
		if len(o) == maxMembers {
			return nil, fmt.Errorf("%w: more than %d members", ErrObject, maxMembers)
		}
		o = append(o, Member{name, bytes.Clone(v)})
	}
	if t, err := d.ReadToken(); err != nil || t.Kind() != '}' {
		return nil, fmt.Errorf("%w: it does not end as one", ErrObject)
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows it", ErrObject)
	}
	return o, nil
}

// deep says whether brackets nest deeper than maxDepth; brackets in strings count too, up to a bound that no real
// token comes near.
func deep(b []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
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
