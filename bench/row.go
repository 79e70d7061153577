package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Row is one measured figure. Value, Bar, Limit and Peers are in Unit.
type Row struct {
	Figure string  `json:"figure"`
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	// Bar is the comparison that Value has to hold, for example ">= 830"; "" where there is none.
	Bar string `json:"bar"`
	// Holds is null where there is no bar.
	Holds *bool `json:"holds"`
	// Limit is what the machine allows at best, measured in the same run; null where nothing was.
	Limit *float64 `json:"limit"`
	// Peers are the values of others, measured in the same run.
	Peers map[string]float64 `json:"peers"`
	// Note says what the numbers do not.
	Note string `json:"note,omitempty"`
}

// atLeast gives the row a bar from below.
func (r Row) atLeast(bar float64) Row { return r.judged(">=", bar, r.Value >= bar) }

// atMost gives the row a bar from above.
func (r Row) atMost(bar float64) Row { return r.judged("<=", bar, r.Value <= bar) }

func (r Row) judged(sign string, bar float64, holds bool) Row {
	r.Bar, r.Holds = sign+" "+number(bar), &holds
	return r
}

// limited gives the row the machine's limit.
func (r Row) limited(v float64) Row { r.Limit = &v; return r }

// round keeps the JSON readable: four significant digits are more than these machines give.
func round(v float64) float64 {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return 0
	}
	f := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	if f <= 1 {
		return math.Round(v)
	}
	return math.Round(v*f) / f
}

func number(v float64) string { return strconv.FormatFloat(round(v), 'f', -1, 64) }

func newRow(name string, value float64, unit string) Row {
	return Row{Name: name, Value: round(value), Unit: unit, Peers: map[string]float64{}}
}

// beside adds a peer.
func (r Row) beside(name string, v float64) Row {
	r.Peers = maps.Clone(r.Peers)
	r.Peers[name] = round(v)
	return r
}

func (r Row) noted(format string, a ...any) Row { r.Note = fmt.Sprintf(format, a...); return r }

func (r Row) cells() []string {
	holds, limit := "–", "–"
	if r.Holds != nil {
		holds = map[bool]string{true: "yes", false: "NO"}[*r.Holds]
	}
	if r.Limit != nil {
		limit = number(*r.Limit)
	}
	var peers []string
	for _, n := range slices.Sorted(maps.Keys(r.Peers)) {
		peers = append(peers, n+": "+number(r.Peers[n]))
	}
	bar := strings.NewReplacer(">=", "≥", "<=", "≤").Replace(r.Bar)
	return []string{r.Figure, r.Name, number(r.Value) + " " + r.Unit, or(bar, "–"), holds, limit, or(strings.Join(peers, ", "), "–")}
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

var heads = []string{"figure", "name", "value", "bar", "holds", "limit", "peers"}

func table(w io.Writer, rows []Row) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(heads, "\t"))
	for _, r := range rows {
		fmt.Fprintln(tw, strings.Join(r.cells(), "\t"))
	}
	return tw.Flush()
}
