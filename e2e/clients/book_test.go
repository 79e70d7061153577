package clients

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// cell is one of the matrix.
type cell struct{ client, class, fault string }

// book is what was measured.
type book struct {
	mu  sync.Mutex // guards what follows
	saw map[cell]string
	err map[cell]error
	// without is what was seen without a session that the backup knows, and reactions what was done then.
	without   map[cell]string
	reactions map[cell]reaction
	errNone   map[cell]error
}

func (b *book) note(c cell, saw string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.saw[c] = saw
	if err != nil {
		b.err[c] = errors.Join(b.err[c], err)
	}
}

func (b *book) noteNone(c cell, saw string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.without[c] = saw
	if err != nil {
		b.errNone[c] = err
	}
}

func (b *book) react(c cell, x reaction) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reactions[c] = x
}

// judge has a subtest for each cell, and prints the tables.
func (b *book) judge(t *testing.T) {
	run, want := 0, 0
	judge := func(name string, c cell, saws map[cell]string, errs map[cell]error, expected string) string {
		want++
		saw, ok := saws[c]
		if ok {
			run++
		}
		if !t.Run(fmt.Sprintf("%s %s %s %s", name, c.client, c.class, c.fault), func(t *testing.T) {
			if errs[c] != nil || saw != expected {
				t.Errorf("saw %q, want %q: %v", saw, expected, errs[c])
			}
		}) {
			saw = "FAILED"
		}
		return c.fault + ": " + saw
	}
	for _, r := range libraries() {
		for _, c := range classes() {
			if !r.asks(c.name) {
				continue
			}
			var row, without []string
			for _, f := range faults() {
				k := cell{r.name, c.name, f.name}
				row = append(row, judge("known", k, b.saw, b.err, expected(c.name, f.name)))
				if c.name == silent || c.name == token || c.name == userInfo {
					without = append(without, judge("unknown", k, b.without, b.errNone, unknown(c.name, f.name)))
				}
			}
			fmt.Printf("%s × %s, known: %s\n", r.name, c.name, strings.Join(row, ", "))
			if without != nil {
				fmt.Printf("%s × %s, unknown: %s\n", r.name, c.name, strings.Join(without, ", "))
			}
		}
	}
	fmt.Printf("combinations: %d run, %d expected\n", run, want)
	if run != want {
		t.Errorf("%d combinations run, %d expected", run, want)
	}
}
