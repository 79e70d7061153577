// Command bench measures Understudy's figures, P1 to P6 and P9 to P12, with the bars they have to hold and the programs they are
// compared with, in one run on one machine.
//
// It owns the load, the clocks and the page docs/performance.md. It refuses to judge by wall time where CPU time can be
// had, to repeat a request, and to count a reply that it has not checked. Nothing imports it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const usage = `Usage: go run ./bench [flags]

Measures Understudy on this machine. Rows go to standard output, what is going on to standard error.
The exit status is 0 when every bar that was measured holds, 1 when one does not, and 2 when a figure could not be measured.

Figures:
  P1  refresh grants in an outage, RS256-2048, against the signing limit, oidc-provider and Keycloak (25 minutes)
  P2  the same with ES256, against the signing limit
  P3  the gateway's CPU beside a bare httputil.ReverseProxy
  P4  requests failed and time added when Keycloak is killed or black-holed (10 minutes)
  P5  look-up and open among a million records
  P6  sealed records written per second, and the CPU to learn a token response
  P9  silent authorization and code redemption in an outage, against the refresh grant of P1
  P10 client_credentials in an outage, against the signing limit
  P11 introspection and UserInfo of the backup's opaque tokens in an outage
  P12 the gateway's CPU for a login's pages, beside a bare httputil.ReverseProxy

Examples:
  go run ./bench                        everything
  go run ./bench -only P3,P6 -json      two figures, as JSON
  go run ./bench -quick                 a smoke test of all but P1 and P4: its numbers mean nothing
  go run ./bench -write                 everything, and put the results into docs/performance.md
  go run ./bench -only P2 -profile DIR  keep CPU profiles of understudy under load

Flags:
`

// options are what a person chose.
type options struct {
	only     []string
	json     bool
	write    bool
	quick    bool
	profile  string
	sessions int
	records  int
	rounds   int
	warmKC   time.Duration
	duration time.Duration
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { fmt.Fprint(stderr, usage); f.PrintDefaults() }
	only := f.String("only", "", "figures to measure, separated by commas; empty: all (with -quick: all but P1 and P4)")
	f.BoolVar(&o.json, "json", false, "print one JSON array instead of a table")
	f.BoolVar(&o.write, "write", false, "put the results into docs/performance.md")
	f.BoolVar(&o.quick, "quick", false, "tiny sizes: shows that everything runs, measures nothing")
	f.StringVar(&o.profile, "profile", "", "keep CPU profiles of understudy in this directory (its figures are then no measurement)")
	f.IntVar(&o.sessions, "sessions", 0, "sessions in P1, P2, P9 and P11 (0: 10000; with -quick 64)")
	f.IntVar(&o.records, "records", 0, "records in P5 (0: 1000000; with -quick 5000)")
	f.IntVar(&o.rounds, "rounds", 0, "interleaved rounds, of which the median counts (0: 7; with -quick 1)")
	f.DurationVar(&o.duration, "duration", 0, "one round of load (0: 5s; with -quick 300ms)")
	f.DurationVar(&o.warmKC, "keycloak-warm-up", 4*time.Minute, "load on Keycloak in P1 before it is measured")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q: flags only, see -h", f.Arg(0))
	}
	def := func(p *int, full, quick int) {
		if *p == 0 {
			*p = full
			if o.quick {
				*p = quick
			}
		}
	}
	def(&o.sessions, 10_000, 64)
	def(&o.records, 1_000_000, 5_000)
	def(&o.rounds, 7, 1)
	if o.duration == 0 {
		o.duration = 5 * time.Second
		if o.quick {
			o.duration = 300 * time.Millisecond
		}
	}
	for _, n := range strings.FieldsFunc(*only, func(r rune) bool { return r == ',' || r == ' ' }) {
		if !slices.ContainsFunc(figures(), func(f figure) bool { return f.name == n }) {
			return o, fmt.Errorf("unknown figure %q: there are P1 to P6 and P9 to P12", n)
		}
		o.only = append(o.only, n)
	}
	if len(o.only) == 0 {
		for _, f := range figures() {
			if f.quick || !o.quick {
				o.only = append(o.only, f.name)
			}
		}
	}
	if o.write && (o.quick || o.profile != "") {
		return o, errors.New("-write is for measurements, not for -quick or -profile")
	}
	return o, nil
}

// figure is one of those that the usage names.
type figure struct {
	name    string
	title   string
	quick   bool // part of -quick
	measure func(context.Context, *lab) ([]Row, error)
}

func figures() []figure {
	return []figure{
		{"P1", "Refresh grants in an outage, two RS256-2048 signatures", false, measureP1},
		{"P2", "Refresh grants in an outage, two ES256 signatures", true, measureP2},
		{"P3", "What the gateway costs while the primary serves", true, measureP3},
		{"P4", "A primary that dies under load", false, measureP4},
		{"P5", "Look-up and open", true, measureP5},
		{"P6", "Writing and learning", true, measureP6},
		{"P9", "Silent authorization and code redemption in an outage, two RS256-2048 signatures", true, measureP9},
		{"P10", "Client credentials in an outage, one RS256-2048 signature", true, measureP10},
		{"P11", "Opaque tokens of the backup's", true, measureP11},
		{"P12", "What the gateway costs while people sign in", true, measureP12},
	}
}

// lab is what the figures of one run share.
type lab struct {
	options
	dir string // gone at the end
	log *log.Logger
	bin string // understudy, built
}

// run measures and returns the rows of the figures that could be measured.
func run(ctx context.Context, o options, stderr io.Writer) (rows []Row, err error) {
	dir, err := os.MkdirTemp("", "understudy-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	l := &lab{options: o, dir: dir, log: log.New(stderr, "", log.Ltime)}
	if o.profile != "" {
		if l.profile, err = filepath.Abs(o.profile); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(l.profile, 0o755); err != nil {
			return nil, err
		}
	}
	var errs []error
	for _, f := range figures() {
		if !slices.Contains(o.only, f.name) {
			continue
		}
		l.log.Printf("%s: %s", f.name, f.title)
		began := time.Now()
		rs, err := f.measure(ctx, l)
		if err != nil {
			errs = append(errs, fmt.Errorf("measure %s: %w", f.name, err))
		}
		for i := range rs {
			rs[i].Figure = f.name
		}
		rows = append(rows, rs...)
		l.log.Printf("%s: took %s", f.name, time.Since(began).Round(time.Second/10))
	}
	return rows, errors.Join(errs...)
}

func main() {
	if runChild() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	rows, err := run(ctx, o, os.Stderr)
	status := 0
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		status = 2
	}
	if o.json {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		err = e.Encode(rows)
	} else {
		err = table(os.Stdout, rows)
	}
	if err == nil && o.write {
		err = writePage(rows)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		status = 2
	}
	if status == 0 && slices.ContainsFunc(rows, func(r Row) bool { return r.Holds != nil && !*r.Holds }) && !o.quick && o.profile == "" {
		status = 1
	}
	os.Exit(status)
}
