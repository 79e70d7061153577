package clients

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/idptest"
)

var update = flag.Bool("update", false, "write what was measured into docs/clients.md")

const (
	begins = "<!-- measured: go test ./e2e/clients -update -->\n"
	ends   = "<!-- end of what was measured -->\n"
)

// compare holds the tables of docs/clients.md against what was measured.
func (b *book) compare(t *testing.T) {
	t.Helper()
	name := filepath.Join(idptest.Root(), "docs", "clients.md")
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	before, rest, ok := strings.Cut(page, begins)
	_, after, also := strings.Cut(rest, ends)
	if !ok || !also {
		t.Fatalf("%s has no place for what was measured", name)
	}
	now := before + begins + b.tables() + ends + after
	if now == page {
		return
	}
	if !*update || t.Failed() {
		t.Errorf("%s does not say what was measured:\n%s", name, b.tables())
		return
	}
	if err := os.WriteFile(name, []byte(now), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tables are what was measured, in Markdown.
func (b *book) tables() string {
	var w strings.Builder
	header := func(first string, names ...string) {
		fmt.Fprintf(&w, "\n| %s | %s |\n|---|%s\n", first, strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	}
	var names []string
	for _, f := range faults() {
		names = append(names, f.name)
	}
	matrix := func(title string, saw map[cell]string, all ...string) {
		header(title, names...)
		for _, c := range all {
			fmt.Fprintf(&w, "| %s |", c)
			for _, f := range names {
				var seen []string
				for _, r := range libraries() {
					if s, ok := saw[cell{r.name, c, f}]; ok && !strings.Contains(strings.Join(seen, ", "), s) {
						seen = append(seen, s)
					}
				}
				fmt.Fprintf(&w, " %s |", strings.Join(seen, ", "))
			}
			w.WriteByte('\n')
		}
	}
	matrix("known to the backup", b.saw, discovery, keySet, authorization, silent, token, userInfo)
	matrix("not known", b.without, silent, token, userInfo)
	header("client", "what happens at the token endpoint", "what it sees", "what the application is told", "requests for one call",
		fmt.Sprintf("for %d more at once", moreCalls), "new tokens with the same session when the primary serves again")
	for _, r := range libraries() {
		var rows []string
		of := map[string][]string{}
		for _, f := range append(faults(), replies()...) {
			c := cell{r.name, token, f.name}
			x := b.reactions[c]
			more := fmt.Sprint(x.more)
			if f.Kind == idptest.BlackHole {
				more = "none: it waits"
			}
			row := fmt.Sprintf("%s | `%s` | %d | %s | %s", strings.ReplaceAll(b.without[c], "\"", ""), x.says, x.once, more, x.back)
			if of[row] == nil {
				rows = append(rows, row)
			}
			of[row] = append(of[row], f.name)
		}
		for _, row := range rows {
			fmt.Fprintf(&w, "| %s | %s | %s |\n", r.name, strings.Join(of[row], "; "), row)
		}
	}
	w.WriteByte('\n')
	return w.String()
}
