package admin

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Text writes the status as a person reads it.
func (st *Status) Text(w io.Writer) {
	p := func(format string, a ...any) { fmt.Fprintf(w, format+"\n", a...) }
	p("understudy %s, role %s, running for %s", st.Version, st.Role, span(st.Now.Sub(st.Started)))
	for _, x := range st.Problems {
		p("")
		p("PROBLEM %s: %s", x.Code, x.Text)
		p("  what to do: %s", x.Mend)
	}
	for i := range st.Tenants {
		p("")
		st.Tenants[i].text(p, st.Now)
	}
	if st.Keys != nil {
		p("")
		st.Keys.text(p, st.Now)
	}
	p("")
	p("%d connections, %d closed because there were too many; %d of %d exchanges wait to be learned", st.Connections, st.Shed, st.Waiting, st.MostWaiting)
}

// CoverageText writes the coverage tables as a person reads them.
func (st *Status) CoverageText(w io.Writer) {
	for i, t := range st.Tenants {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "tenant %s\n", t.Name)
		if t.Coverage == nil {
			fmt.Fprintln(w, "  it is not counted here: ask the gateway's process")
			continue
		}
		if r := t.Records; r != nil && r.Problem != "" {
			fmt.Fprintf(w, "What is remembered cannot be counted: %s\n", r.Problem)
		}
		t.Coverage.Text(w)
	}
}

func (t *TenantStatus) text(p func(string, ...any), now time.Time) {
	p("tenant %s: %s in front of %s", t.Name, strings.Join(t.Hosts, ", "), t.Upstream)
	for _, class := range slices.Sorted(maps.Keys(t.Endpoints)) {
		e := t.Endpoints[class]
		line := fmt.Sprintf("  %-14s %s", class, e.Mode)
		switch e.Mode {
		case "normal":
			line += ": the primary answers"
		case "outage":
			line += ": the backup answers"
		default:
			line += fmt.Sprintf(": the primary has %d %% of the sessions", e.Share)
		}
		line += ", breaker " + e.Breaker
		if !e.Since.IsZero() {
			line += fmt.Sprintf(", outage since %s (%s)", e.Since.Local().Format(time.DateTime), span(now.Sub(e.Since)))
		}
		if e.Cause != "" && e.Mode != "normal" {
			line += ", because of " + e.Cause
		}
		p("%s", line)
		if e.ProbeError != "" {
			p("                 last probe: %s", e.ProbeError)
		}
		switch e.Alarm {
		case "":
		case "returning_sessions_refused":
			p("                 ALARM: the primary refuses returning sessions (%d of %d): the way back is halted. See the primary, then understudy resume", e.Refused, e.Returned)
		case "probe_disagrees":
			p("                 ALARM: probes fail while sign-ins are answered: the probe is wrong; set health.probe_client")
		default:
			p("                 ALARM: %s", e.Alarm)
		}
	}
	if len(t.Issuers) == 0 {
		p("  no issuer is known yet: the primary was not reached, or nobody has asked")
	}
	for _, is := range t.Issuers {
		line := fmt.Sprintf("  issuer %s: %s, metadata found good %s ago", is.Issuer, strings.Join(is.Algorithms, " "), span(now.Sub(is.Fetched)))
		if is.Problem != "" {
			line += "; NOT PROTECTED: " + is.Problem
		}
		p("%s", line)
		if len(is.Held) > 0 {
			p("                 ALARM: the primary signs with %s, which it no longer publishes: mend its key set, or understudy keys accept", strings.Join(is.Held, ", "))
		}
	}
	if r := t.Records; r != nil {
		r.text(p)
	}
	var learned []string
	for _, f := range slices.Sorted(maps.Keys(t.Learned)) {
		learned = append(learned, fmt.Sprintf("%d %s", t.Learned[f], f))
	}
	p("  learned since the start: %s", or(strings.Join(learned, ", "), "nothing yet"))
	for _, u := range t.NotLearned {
		p("  not learned: %d %s%s", u.N, u.Reason, parts(u.Text, u.Mend))
	}
	if t.Coverage != nil {
		for _, line := range t.Coverage.Untold() {
			p("  not notified of a logout in an outage: %s", line)
		}
	}
	list := func(what string, cs []Count) {
		for _, c := range cs {
			p("  %s: %d %s", what, c.N, strings.Join(c.Labels, " "))
		}
	}
	list("answered by the backup", t.Answered)
	list("refused by the backup", t.Refused)
	list("failures of the primary", t.Failures)
	if t.Failed > 0 {
		p("  answered by nobody: %d", t.Failed)
	}
	p("  ambiguous: %d (the primary may have rotated the token and its reply is lost); late replies kept: %d", t.Ambiguous, t.Late)
	list("shadow", t.Shadow)
	list("shadow differs in", t.Difference)
}

func (r *Records) text(p func(string, ...any)) {
	if r.Problem != "" {
		p("  what is remembered cannot be counted: %s", r.Problem)
		return
	}
	line := fmt.Sprintf("  %d sign-ins remembered", r.Records)
	for _, kind := range slices.Sorted(maps.Keys(r.Doors)) {
		line += fmt.Sprintf("; %s: %d known, %d servable now", kind, r.Doors[kind], r.Servable[kind])
	}
	if r.Broken > 0 {
		line += fmt.Sprintf("; %d UNREADABLE", r.Broken)
	}
	p("%s", line)
	for _, why := range slices.Sorted(maps.Keys(r.Not)) {
		p("  not servable: %d %s", r.Not[why], why)
	}
}

func parts(text, mend string) string {
	switch {
	case text == "":
		return ""
	case mend == "":
		return ": " + text
	}
	return ": " + text + "; " + mend
}

func or(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

func (k *Keys) text(p func(string, ...any), now time.Time) {
	why := ""
	if k.SignerWhy != "" {
		why = " (" + k.SignerWhy + ")"
	}
	p("backup keys: %d, RSA signatures by %s%s", len(k.Keys), k.Signer, why)
	for _, x := range k.Keys {
		line := fmt.Sprintf("  %-8s %-6s %-12s %s  tenant %s, issuer %s, published %s ago", x.State, x.Alg, x.Class, x.ID, x.Tenant, x.Issuer, span(now.Sub(x.Published)))
		if x.Young {
			line += "; YOUNG: verifiers that cache key sets may not know it yet"
		}
		if !x.NotAfter.IsZero() {
			line += ", signs until " + x.NotAfter.Local().Format(time.DateOnly)
		}
		if x.Fallbacks > 0 {
			line += fmt.Sprintf(", %d signatures fell back to Go's", x.Fallbacks)
		}
		p("%s", line)
	}
}

// Text writes the keys as a person reads them.
func (k *Keys) Text(w io.Writer, now time.Time) {
	k.text(func(format string, a ...any) { fmt.Fprintf(w, format+"\n", a...) }, now)
}

// span is a duration in the two greatest units that matter.
func span(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return d.String()
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}
