package audit

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

func TestLineIsWhatTheEncoderWouldWrite(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 0, 0, 123456789, time.FixedZone("", 3600))
	for _, e := range []Entry{entry("1", now), {Time: now}, {Time: now, Latency: 12345678.5, Client: "Müller & Söhne <x>"}} {
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		utc := e
		utc.Time, utc.Approved = e.Time.UTC(), e.Approved.UTC()
		if err := enc.Encode(utc); err != nil {
			t.Fatal(err)
		}
		got := string(e.append(nil))
		if got != want.String() {
			t.Errorf("got  %swant %s", got, want.String())
		}
		var back Entry
		if err := json.Unmarshal([]byte(got), &back); err != nil || !back.Time.Equal(e.Time) || back.Latency != e.Latency || back.Client != e.Client {
			t.Errorf("%+v came back as %+v, %v", e, back, err)
		}
	}
}

var hostile = []string{
	"a\",\"decision\":\"issued", "line\nbreak\r\n{\"time\":", "\x00\x1b[2J\x7f", "\xff\xfe\xc0\x80", "\u009b31m", "\u2028\u2029", "\u202egnp.exe",
	"\u2066x\u2069", "\\u0022", "é\U0001f600", strings.Repeat("A", 100000), strings.Repeat("€", 400), "x" + strings.Repeat("\xff", 600), "",
}

func checkLine(t *testing.T, s string) {
	e := Entry{
		Time: time.Unix(1, 0), ID: s, Tenant: s, Issuer: s, Flow: s, Client: s, Subject: s, Session: s, Address: s, Trigger: s,
		TokenIssuerType: s, Decision: "refused", Rule: s, Key: s,
	}
	line := e.append(nil)
	if !json.Valid(line) || bytes.Count(line, []byte("\n")) != 1 || len(line) > maxLine {
		t.Fatalf("%q gives %q", s, line)
	}
	for _, r := range string(bytes.TrimSuffix(line, []byte("\n"))) {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			t.Fatalf("%q gives %q, with %U in the clear", s, line, r)
		}
	}
	back, ok := parse(bytes.TrimSuffix(line, []byte("\n")))
	if !ok || back.Decision != "refused" || back.ID != strings.ToValidUTF8(bound(s), "\ufffd") && len([]rune(back.ID)) != len([]rune(bound(s))) {
		t.Fatalf("%q came back as %q", s, back.ID)
	}
	if f := (Filter{Client: s}); len(s) > 0 && strings.ToValidUTF8(s, "") == s && !f.wants(&back) {
		t.Fatalf("%q is not found by its own name", s)
	}
}

func TestNoTextBreaksOutOfItsLine(t *testing.T) {
	for _, s := range hostile {
		checkLine(t, s)
	}
	for _, ms := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, math.MaxFloat64} {
		if line := (&Entry{Latency: ms}).append(nil); !json.Valid(line) {
			t.Errorf("%v gives %s", ms, line)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(checkLine)
}
