package coverage

import (
	"fmt"
	"io"
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
		fmt.Fprintf(w, "%s\tFLOW\tCLIENT AUTHENTICATION\tSESSIONS\tSERVED NOW\tTHE REST\n", title)
		for i := range rows {
			rows[i].text(w, len(issuers) > 1)
		}
		w.Flush()
	}
	write("APPLICATION", t.Applications)
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
	fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t", name, r.Flow, auth, r.Sessions, share)
	fmt.Fprintln(w, strings.Join(rest, "\n\t\t\t\t\t"))
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
