package audit

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fileName is the name of a file of the log: sign-ins-2026-11-22.0001.jsonl, by the UTC day on which its lines were
// written and a number.
type fileName struct {
	day string
	seq int
}

const dayFormat = "2006-01-02"

func (n fileName) String() string { return fmt.Sprintf("sign-ins-%s.%04d.jsonl", n.day, n.seq) }

func (n fileName) compare(o fileName) int {
	return cmp.Or(strings.Compare(n.day, o.day), cmp.Compare(n.seq, o.seq))
}

func parseName(s string) (fileName, bool) {
	s, ok1 := strings.CutPrefix(s, "sign-ins-")
	s, ok2 := strings.CutSuffix(s, ".jsonl")
	day, num, ok3 := strings.Cut(s, ".")
	seq, err := strconv.Atoi(num)
	if _, bad := time.Parse(dayFormat, day); !ok1 || !ok2 || !ok3 || err != nil || bad != nil || seq < 1 {
		return fileName{}, false
	}
	return fileName{day, seq}, true
}

// list returns the files of the log in the order in which they were written.
func list(dir string) ([]fileName, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the sign-in log: %w", err)
	}
	var out []fileName
	for _, e := range entries {
		if n, ok := parseName(e.Name()); ok {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, fileName.compare)
	return out, nil
}

func dayBefore(day string) string {
	t, err := time.Parse(dayFormat, day)
	if err != nil {
		return ""
	}
	return t.AddDate(0, 0, -1).Format(dayFormat)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
