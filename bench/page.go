package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"understudy/idptest"
)

// The page is written by hand but for what stands between the markers of a figure, which -write replaces for the figures
// that were measured.
func begins(f string) string { return "<!-- " + f + ": written by go run ./bench -write -->" }
func ends(f string) string   { return "<!-- end of " + f + " -->" }

func pagePathOf() string { return filepath.Join(idptest.Root(), "docs", "performance.md") }

func writePage(rows []Row) error {
	old, err := os.ReadFile(pagePathOf())
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	page, err := fill(string(old), rows, machine())
	if err != nil {
		return err
	}
	if err := os.WriteFile(pagePathOf(), []byte(page), 0o644); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

// fill puts the rows into the page, each between the markers of its figure.
func fill(page string, rows []Row, where string) (string, error) {
	by := map[string][]Row{}
	for _, r := range rows {
		by[r.Figure] = append(by[r.Figure], r)
	}
	for f, rs := range by {
		head, rest, ok := strings.Cut(page, begins(f))
		if !ok {
			return "", fmt.Errorf("the page has no %q", begins(f))
		}
		_, tail, ok := strings.Cut(rest, ends(f))
		if !ok {
			return "", fmt.Errorf("the page has no %q behind its beginning", ends(f))
		}
		page = head + begins(f) + "\n" + section(rs, where) + ends(f) + tail
	}
	return page, nil
}

func section(rows []Row, where string) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "| what | value | bar | holds | limit | peers |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r.cells()[1:], " | "))
	}
	b.WriteByte('\n')
	for _, r := range rows {
		if r.Note != "" {
			fmt.Fprintf(&b, "- *%s*: %s\n", r.Name, r.Note)
		}
	}
	fmt.Fprintf(&b, "\nMeasured %s\n", where)
	return b.String()
}
