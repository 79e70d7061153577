package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Problem is one wrong setting: where it stands and what to do.
type Problem struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"` // 0: it stands in no file
	Path string `json:"path,omitempty"` // "tenants[0].upstream.url"
	Text string `json:"text"`           // what is wrong, and what to do
}

func (p *Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	return b.String() + p.Text
}

// Problems returns every Problem in an error of this package.
func Problems(err error) []*Problem {
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		var out []*Problem
		for _, e := range many.Unwrap() {
			out = append(out, Problems(e)...)
		}
		return out
	}
	var p *Problem
	if errors.As(err, &p) {
		return []*Problem{p}
	}
	return nil
}

// Source says where each setting came from.
type Source struct {
	File  string
	lines map[string]int    // line of each path in the file
	env   map[string]string // variable of each path that was set by one
	flags map[string]string
}

// problem describes what is wrong with the setting at a path.
func (s *Source) problem(path, format string, a ...any) *Problem {
	p := &Problem{File: s.File, Path: path, Text: fmt.Sprintf(format, a...)}
	for at := path; ; {
		if f, ok := s.flags[at]; ok {
			p.File, p.Path = "", f
			return p
		}
		if v, ok := s.env[at]; ok {
			p.File, p.Path = "", v
			return p
		}
		if l, ok := s.lines[at]; ok {
			p.Line = l
			return p
		}
		i := strings.LastIndexAny(at, ".[")
		if i < 0 {
			return p
		}
		at = at[:i]
	}
}

const maxFile = 1 << 20

// Parse reads a file's bytes strictly. name is for messages.
func Parse(name string, b []byte) (*Config, *Source, error) {
	s := &Source{File: name, lines: map[string]int{}}
	c := &Config{}
	if len(b) > maxFile {
		return nil, nil, s.problem("", "it has over %d bytes: that is no configuration file", maxFile)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return c, s, nil // empty: all defaults
	case err != nil:
		return nil, nil, s.problem("", "it is no YAML: %s", oneLine(err))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, nil, s.problem("", "there is more than one YAML document in it: remove what stands behind the second ---")
	}
	d := &decoder{s: s}
	n := &doc
	if n.Kind == yaml.DocumentNode {
		if len(n.Content) != 1 {
			return c, s, nil
		}
		n = n.Content[0]
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return c, s, nil // only comments
	}
	d.value(n, reflect.ValueOf(c).Elem(), "")
	if len(d.errs) > 0 {
		return nil, nil, errors.Join(d.errs...)
	}
	return c, s, nil
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// decoder puts YAML nodes into a struct; it is stricter than the library's: every message has a path and a line.
type decoder struct {
	s    *Source
	errs []error
}

func (d *decoder) fail(n *yaml.Node, path, format string, a ...any) {
	d.errs = append(d.errs, &Problem{File: d.s.File, Line: n.Line, Path: path, Text: fmt.Sprintf(format, a...)})
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if path != "" {
		d.s.lines[path] = n.Line
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.fail(n, path, "anchors and aliases are not used here: write the value out")
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // "key:" with nothing behind it is the default
	}
	switch {
	case v.Kind() == reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.value(n, p.Elem(), path)
		v.Set(p)
	case v.Kind() == reflect.Struct:
		d.object(n, v, path)
	case v.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.fail(n, path, "a list is needed here: begin each entry with \"- \"")
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, e := range n.Content {
			d.value(e, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	case n.Kind != yaml.ScalarNode:
		d.fail(n, path, "%s is needed here, not a list or more keys", kindName(v))
	default:
		if err := setText(v, n.Value); err != nil {
			d.fail(n, path, "%s", err)
		}
	}
}

func (d *decoder) object(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		what := path
		if what == "" {
			what = "the file"
		}
		d.fail(n, path, "%s needs keys here: %s", what, strings.Join(keys(v.Type()), ", "))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, e := n.Content[i], n.Content[i+1]
		at := join(path, k.Value)
		if l, ok := seen[k.Value]; ok {
			d.fail(k, at, "this key stands at line %d already: remove one of the two", l)
			continue
		}
		seen[k.Value] = k.Line
		f, ok := field(v, k.Value)
		if !ok {
			d.unknown(k, v.Type(), path)
			continue
		}
		d.value(e, f, at)
		d.s.lines[at] = k.Line
	}
}

// unknown refuses a key, naming the nearest one that exists.
func (d *decoder) unknown(k *yaml.Node, t reflect.Type, path string) {
	known := keys(t)
	what := fmt.Sprintf("unknown key %.64q", k.Value)
	if near := nearest(k.Value, known); near != "" {
		d.fail(k, path, "%s: did you mean %q?", what, near)
		return
	}
	if at := elsewhere(k.Value, reflect.TypeFor[Config](), ""); at != "" {
		d.fail(k, path, "%s: it belongs at %q", what, at)
		return
	}
	d.fail(k, path, "%s: the keys here are %s", what, strings.Join(known, ", "))
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func keys(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		out = append(out, t.Field(i).Tag.Get("yaml"))
	}
	return out
}

func field(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == key {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// elsewhere finds a key in other parts of the file.
func elsewhere(key string, t reflect.Type, path string) string {
	if t.Kind() == reflect.Slice {
		t = t.Elem()
		path += "[]"
	}
	if t.Kind() != reflect.Struct {
		return ""
	}
	for i := range t.NumField() {
		f := t.Field(i)
		at := join(path, f.Tag.Get("yaml"))
		if f.Tag.Get("yaml") == key {
			return at
		}
		if s := elsewhere(key, f.Type, at); s != "" {
			return s
		}
	}
	return ""
}

// nearest returns the known key that a typing error may have meant, or "".
func nearest(key string, known []string) string {
	best, dist := "", 0
	norm := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }
	for _, k := range known {
		if n := distance(norm(key), k); best == "" || n < dist {
			best, dist = k, n
		}
	}
	if dist > max(2, len(best)/3) || len(key) > 64 {
		return ""
	}
	return best
}

// distance is the number of letters to insert, delete or replace (Levenshtein).
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			n := diag
			if a[i] != b[j] {
				n++
			}
			diag = row[j+1]
			row[j+1] = min(n, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func kindName(v reflect.Value) string {
	if v.Type() == reflect.TypeFor[time.Duration]() {
		return "a duration such as 500ms, 5s or 1m"
	}
	switch v.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "a text"
}

// setText sets a scalar from its text. Messages repeat no value: it may be a secret in the wrong place.
func setText(v reflect.Value, text string) error {
	bad := fmt.Errorf("%s is needed here", kindName(v))
	if v.Type() == reflect.TypeFor[time.Duration]() {
		x, err := time.ParseDuration(text)
		if err != nil {
			return bad
		}
		v.SetInt(int64(x))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		switch strings.ToLower(text) {
		case "true":
			v.SetBool(true)
		case "false":
			v.SetBool(false)
		default:
			return bad
		}
	case reflect.Int, reflect.Int64:
		x, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, 64)
		if err != nil {
			return bad
		}
		v.SetInt(x)
	case reflect.Float64:
		x, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return bad
		}
		v.SetFloat(x)
	default:
		panic("config: a field of kind " + v.Kind().String())
	}
	return nil
}

// setList sets a list of scalars from a text with commas.
func setList(v reflect.Value, text string) error {
	out := reflect.MakeSlice(v.Type(), 0, 4)
	for e := range strings.SplitSeq(text, ",") {
		if e = strings.TrimSpace(e); e == "" {
			continue
		}
		x := reflect.New(v.Type().Elem()).Elem()
		if err := setText(x, e); err != nil {
			return err
		}
		out = reflect.Append(out, x)
	}
	v.Set(out)
	return nil
}
