package main

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// refusals counts the codes of the refusals in the sign-in log of an understudy: what stands behind a reply that was not
// right.
func refusals(dir string) string {
	time.Sleep(2 * time.Second) // it is written in groups
	files, _ := filepath.Glob(filepath.Join(dir, "data", "audit", "*"))
	counts := map[string]int{}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			if text(s.Bytes(), "decision") != "issued" {
				counts[text(s.Bytes(), "rule")]++
			}
		}
		f.Close()
	}
	var out []string
	for _, rule := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, fmt.Sprintf("%s %d times", rule, counts[rule]))
	}
	return "refusals in the sign-in log: " + or(strings.Join(out, ", "), "none")
}
