package coverage

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// Text writes the table as a person reads it.
func (t *Table) Text(out io.Writer) {
	fmt.Fprintf(out, "Counted since %s; what the store remembers is older.\n", t.Since.Local().Format(time.DateTime))
	write := func(title string, rows []Row) {
		fmt.Fprintln(out)
		if len(rows) == 0 {
			fmt.Fprintf(out, "%s: none was seen yet\n", title)
			return
		}
		issuers := map[string]bool{}
		for i := range rows {
			issuers[rows[i].Issuer] = true
		}
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "%s\tFLOW\tCLIENT AUTHENTICATION\tSESSIONS\tSERVED NOW\tLOGOUT\tTHE REST\n", title)
		for i := range rows {
			rows[i].text(w, len(issuers) > 1)
		}
		w.Flush()
	}
	write("APPLICATION", t.Applications)
	for _, line := range t.Untold() {
		fmt.Fprintf(out, "\nNot notified of a logout in an outage: %s\n", line)
	}
	write("RESOURCE", t.Resources)
	if t.Full > 0 {
		fmt.Fprintf(out, "\nThe table is full: %d exchanges of others are in no row.\n", t.Full)
	}
}

func (r *Row) text(w io.Writer, issuer bool) {
	name := r.Application
	if name == "" {
		name = r.Resource
	}
	if name = plain(name); name == "" {
		name = "(none named)"
	}
	if r.Known != "" && !strings.EqualFold(r.Known, name) {
		name += " (" + r.Known + ")"
	}
	if issuer {
		name += " at " + plain(r.Issuer)
	}
	auth := strings.Join(r.ClientAuth, ", ")
	if auth == "" {
		auth = "–"
	}
	share, rest := "–", []string(nil)
	if r.Sessions > 0 {
		share = fmt.Sprintf("%.0f %%", r.Share*100)
		if r.Servable < r.Sessions && share == "100 %" {
			share = "99 %"
		}
	}
	if r.Expected != "" {
		rest = append(rest, "expected: "+r.Expected)
	}
	for _, a := range r.Unread {
		rest = append(rest, fmt.Sprintf("keys were not fetched from %s since `%s` was published: restart the application, or expect it to refuse", plain(a), r.Key))
	}
	for _, y := range r.Why {
		line := fmt.Sprintf("%d %s", y.Sessions, y.Reason)
		if y.Text != "" {
			line = fmt.Sprintf("%d: %s", y.Sessions, y.Text)
		}
		if y.Mend != "" {
			line += ": " + y.Mend
		}
		rest = append(rest, line)
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t", name, r.Flow, auth, r.Sessions, share, r.Logout)
	fmt.Fprintln(w, strings.Join(rest, "\n\t\t\t\t\t\t"))
}

// String says in words whether an application is told.
func (l *Logout) String() string {
	switch {
	case l == nil:
		return "–"
	case len(l.Told) == 0:
		return "not notified"
	case len(l.Told) > 1:
		return "told, by both channels"
	case l.Told[0] == FrontChannel:
		return "told, by a frame"
	}
	return "told"
}

// maxUntold bounds the applications that are named in a line.
const maxUntold = 10

// Untold are the applications that are not notified of a logout in an outage, in the words of a person, with the
// mend; nil: there are none.
func (t *Table) Untold() []string {
	names := map[string][]string{} // by mend
	for _, r := range t.Applications {
		if r.Logout != nil && len(r.Logout.Told) == 0 && !slices.Contains(names[r.Logout.Mend], plain(r.Application)) {
			names[r.Logout.Mend] = append(names[r.Logout.Mend], plain(r.Application))
		}
	}
	var out []string
	for _, mend := range slices.Sorted(maps.Keys(names)) {
		all := names[mend]
		slices.Sort(all)
		more := ""
		if n := len(all) - maxUntold; n > 0 {
			all, more = all[:maxUntold], fmt.Sprintf(" and %d more", n)
		}
		out = append(out, fmt.Sprintf("%s%s: %s", strings.Join(all, ", "), more, mend))
	}
	return out
}

// plain takes away what would act on a terminal: a name comes from a request.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}
