package admin

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"understudy/coverage"
	"understudy/keys"
)

// Names come with requests: whatever they are, no series occurs twice, their number is bounded, and each can be shown.
func TestCoverageMetricsAreBounded(t *testing.T) {
	b := coverage.NewBook(time.Now)
	for i := range 300 {
		b.Add(coverage.Seen{Tenant: "staff", Issuer: "https://i", Client: fmt.Sprintf("%s%03d", strings.Repeat("é", 100), i), Flow: "refresh_token", Asked: []string{"a"}})
		b.Add(coverage.Seen{Tenant: "staff", Issuer: "https://i", Client: fmt.Sprintf("\xff%d", i), Flow: "refresh_token", Reason: "cnf", Asked: []string{"a"}})
	}
	seen, got := map[string]bool{}, map[string]float64{}
	applications := 0
	covered("staff", b.Table("staff", nil, nil, Reason), func(name, _ string, v float64, kv ...string) {
		k := name + strings.Join(kv, "\x00")
		if seen[k] {
			t.Errorf("%q is there twice", k)
		}
		if !utf8.ValidString(k) {
			t.Errorf("%q is no text", k)
		}
		if seen[k], got[name] = true, v; name == "coverage_application_sessions" {
			applications++
		}
	})
	if applications != maxApplications || got["coverage_sessions"] != 600 || got["coverage_servable"] != 300 || got["coverage_unserved"] != 300 {
		t.Errorf("%d applications, %v", applications, got)
	}
}

func TestTheYoungestKeySigns(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	k := &Keys{Keys: []keys.Info{
		{Tenant: "staff", Issuer: "i", ID: "old", State: keys.Current, Published: at},
		{Tenant: "staff", Issuer: "i", ID: "young", State: keys.Current, Published: at.Add(time.Hour)},
		{Tenant: "staff", Issuer: "i", ID: "next", State: keys.Next, Published: at.Add(2 * time.Hour)},
		{Tenant: "other", Issuer: "i", ID: "other", State: keys.Current, Published: at.Add(3 * time.Hour)},
	}}
	if got := k.signing("staff"); len(got) != 1 || got["i"].ID != "young" {
		t.Errorf("%v", got)
	}
	if got := (*Keys)(nil).signing("staff"); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

// Every reason has words, and every reason of the coverage table is one.
func TestReasonsHaveWords(t *testing.T) {
	for _, code := range []string{
		coverage.OtherScopes, coverage.OtherParameters, coverage.AsksPerson, "no_session_cookie", "no_refresh_token", "symmetric_signature", "request_object", "password",
	} {
		if text, mend := Reason(code); text == "" || mend == "" {
			t.Errorf("%s is without words", code)
		}
	}
	if text, mend := Reason("unheard of"); text != "" || mend != "" {
		t.Errorf("%q, %q", text, mend)
	}
}
