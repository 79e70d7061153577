package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

func TestParseObjectKeepsEverything(t *testing.T) {
	in := ` { "z" : 1.50e3 ,"a":"\u00e9\/\"", "n":12345678901234567890.000, "aud":"one","list" : [ 1 , {"b":[]} ], "e":{}, "":null,"\u0061b":true}` + "\n"
	o, err := ParseObject([]byte(in))
	must(t, err)
	want := Object{
		{"z", []byte("1.50e3")}, {"a", []byte(`"\u00e9\/\""`)}, {"n", []byte("12345678901234567890.000")}, {"aud", []byte(`"one"`)},
		{"list", []byte(`[ 1 , {"b":[]} ]`)}, {"e", []byte("{}")}, {"", []byte("null")}, {"ab", []byte("true")},
	}
	if fmt.Sprint(o) != fmt.Sprint(want) {
		t.Errorf("got  %s\nwant %s", o, want)
	}
	again, err := ParseObject(o.Append(nil))
	must(t, err)
	if fmt.Sprint(again) != fmt.Sprint(want) {
		t.Errorf("after writing and reading: %s", again)
	}
	stored, err := cbor.Marshal(o)
	must(t, err)
	var back Object
	must(t, cbor.Unmarshal(stored, &back))
	if fmt.Sprint(back) != fmt.Sprint(want) {
		t.Errorf("after storing: %s", back)
	}
}

func TestParseObjectRefuses(t *testing.T) {
	members := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"m%d":0`, i)
		}
		return "{" + b.String()[1:] + "}"
	}
	nested := func(n int) string { return `{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + "}" }
	for name, c := range map[string]struct {
		in string
		ok bool
	}{
		"empty object":             {"{}", true},
		"nothing":                  {"", false},
		"array":                    {"[]", false},
		"string":                   {`"{}"`, false},
		"a name twice":             {`{"a":1,"a":1}`, false},
		"a name twice, escaped":    {`{"a":1,"\u0061":1}`, false},
		"a name twice, deeper":     {`{"x":[{"a":1,"a":2}]}`, false},
		"something follows":        {`{} {}`, false},
		"a byte follows":           {`{}x`, false},
		"white space follows":      {"{}\r\n\t ", true},
		"cut off":                  {`{"a":1`, false},
		"trailing comma":           {`{"a":1,}`, false},
		"comment":                  {`{/**/}`, false},
		"single quotes":            {`{'a':1}`, false},
		"not a number":             {`{"a":NaN}`, false},
		"leading zero":             {`{"a":01}`, false},
		"invalid UTF-8":            {"{\"a\":\"\xff\"}", false},
		"lone surrogate":           {`{"a":"\ud800"}`, false},
		"byte order mark":          {"\ufeff{}", false},
		"512 members":              {members(512), true},
		"513 members":              {members(513), false},
		"32 levels":                {nested(32), true},
		"33 levels":                {nested(33), false},
		"brackets in a string":     {`{"a":"` + strings.Repeat("[", 100) + `"}`, true},
		"brackets after an escape": {`{"a":"\"` + strings.Repeat("[", 100) + `"}`, true},
		"1 MiB":                    {`{"a":"` + strings.Repeat("x", 1<<20-8) + `"}`, true},
		"1 MiB and a byte":         {`{"a":"` + strings.Repeat("x", 1<<20-7) + `"}`, false},
	} {
		_, err := ParseObject([]byte(c.in))
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrObject) {
			t.Errorf("%s: %v", name, err)
		}
	}
	const secret = "s3cr3t-value"
	if _, err := ParseObject([]byte(`{"` + secret + `":"` + secret + `","` + secret + `":1}`)); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("the complaint carries the text: %v", err)
	}
}

func TestNumbersAndTexts(t *testing.T) {
	for in, want := range map[string]struct {
		n  int64
		ok bool
	}{
		`1`: {1, true}, `-1`: {-1, true}, `"300"`: {300, true}, `9223372036854775807`: {9223372036854775807, true},
		`9223372036854775808`: {}, `1.0`: {}, `1e3`: {}, `"1e3"`: {}, `""`: {}, `null`: {}, `[1]`: {}, `" 1"`: {}, `"0x10"`: {}, `true`: {},
	} {
		o := Object{{"v", []byte(in)}}
		if n, ok := o.Number("v"); ok != want.ok || ok && n != want.n {
			t.Errorf("Number(%s) = %d, %v", in, n, ok)
		}
	}
	for in, want := range map[string]string{
		`"a"`: `["a"]`, `["a","b"]`: `["a" "b"]`, `[]`: `[]`, `["a",1,"b"]`: `["a"]`, `1`: `[]`, `{"a":"b"}`: `[]`, `["\u0061"]`: `["a"]`, `null`: `[]`,
	} {
		o := Object{{"v", []byte(in)}}
		if got := fmt.Sprintf("%q", o.Texts("v")); got != want {
			t.Errorf("Texts(%s) = %s, want %s", in, got, want)
		}
	}
}

func FuzzParseObject(f *testing.F) {
	for _, s := range []string{`{"a":1,"b":"x","c":["y",{"d":null}]}`, ` {"\u0061":-1.5e+3 } `, `{"a":{"a":{}}}`, `{"exp":"300","aud":["a","b"]}`, "{", `{"a":"\\"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseObject(b)
		if err != nil {
			return
		}
		if !json.Valid(b) {
			t.Fatalf("taken, and it is not JSON: %q", b)
		}
		var std map[string]json.RawMessage
		if err := json.Unmarshal(b, &std); err != nil || len(std) != len(o) {
			t.Fatalf("%d members, encoding/json finds %d: %v", len(o), len(std), err)
		}
		for _, m := range o {
			if v, ok := std[m.Name]; !ok || !bytes.Equal(v, m.Value) {
				t.Fatalf("%q is %q, encoding/json says %q", m.Name, m.Value, v)
			}
			o.Number(m.Name)
			o.Texts(m.Name)
			o.Text(m.Name)
		}
		again, err := ParseObject(o.Append(nil))
		if err != nil || len(again) != len(o) {
			t.Fatalf("written and not read again: %v", err)
		}
		stored, err := cbor.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		var back Object
		if err := cbor.Unmarshal(stored, &back); err != nil || fmt.Sprint(back) != fmt.Sprint(o) {
			t.Fatalf("stored as %x: %v", stored, err)
		}
	})
}

func FuzzNumberTexts(f *testing.F) {
	for _, s := range []string{`1`, `"300"`, `["a","b"]`, `"`, `[`, `["`, ``, `[1`, `"\`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, v []byte) { // a value that was not parsed here, from a record
		o := Object{{"v", v}}
		o.Number("v")
		o.Texts("v")
		o.Text("v")
	})
}
