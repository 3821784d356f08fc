package fleetbench

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what was measured.
type Report struct {
	Edges     int      `json:"edges"`
	OwnHubs   bool     `json:"own_hubs"`
	Hubs      int      `json:"hubs,omitempty"`
	Resources int      `json:"resources"`
	Scenarios []string `json:"scenarios"`
	Machine   string   `json:"machine"`
	Rows      []Row    `json:"rows"`
	// Notes are sentences about what was not measured, or how to read it.
	Notes []string `json:"notes,omitempty"`
}

// Row is one measure: a value, or the distribution of several.
type Row struct {
	Scenario string `json:"scenario"`
	What     string `json:"what"`
	// Unit is "ms", "µs", "bytes", "percent", or "" for a count.
	Unit  string   `json:"unit,omitempty"`
	Value *float64 `json:"value,omitempty"`
	// Count is the number of samples of a distribution.
	Count int      `json:"count,omitempty"`
	P50   *float64 `json:"p50,omitempty"`
	P90   *float64 `json:"p90,omitempty"`
	P99   *float64 `json:"p99,omitempty"`
	Max   *float64 `json:"max,omitempty"`
}

// Units of rows.
const (
	unitMillis  = "ms"
	unitMicros  = "µs"
	unitBytes   = "bytes"
	unitPercent = "percent"
	unitCount   = ""
)

func (r *Report) note(sentence string) { r.Notes = append(r.Notes, sentence) }

func (r *Report) value(scenario, what, unit string, v float64) {
	r.Rows = append(r.Rows, Row{Scenario: scenario, What: what, Unit: unit, Value: &v})
}

func (r *Report) took(scenario, what string, d time.Duration) {
	r.value(scenario, what, unitMillis, millis(d))
}

// times adds the distribution of durations; none adds nothing.
func (r *Report) times(scenario, what string, samples []time.Duration) {
	values := make([]float64, len(samples))
	for i, d := range samples {
		values[i] = millis(d)
	}
	r.spread(scenario, what, unitMillis, values)
}

// spread adds a distribution; none adds nothing.
func (r *Report) spread(scenario, what, unit string, samples []float64) {
	if len(samples) == 0 {
		return
	}
	s := slices.Sorted(slices.Values(samples))
	at := func(q float64) *float64 { return &s[quantile(len(s), q)] }
	r.Rows = append(r.Rows, Row{
		Scenario: scenario, What: what, Unit: unit, Count: len(s), P50: at(.5), P90: at(.9), P99: at(.99), Max: at(1),
	})
}

// quantile is the index of the smallest of n sorted samples that a share q of them does not exceed.
func quantile(n int, q float64) int {
	rank := int(q * float64(n))
	if float64(rank) < q*float64(n) {
		rank++
	}
	return min(max(rank, 1), n) - 1
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (r *Report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// write prints a table for people.
func (r *Report) write(w io.Writer) error {
	hubs := "an existing cluster"
	if r.OwnHubs {
		hubs = fmt.Sprintf("%d hub(s) of this run", r.Hubs)
	}
	fmt.Fprintf(w, "%d simulated edges, %d resources, %s; everything on this machine: %s\n\n", r.Edges, r.Resources, hubs, r.Machine)
	if !r.OwnHubs {
		fmt.Fprintln(w, "Of this machine only the edges' side is part of the measure.")
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "scenario\tmeasure\tvalue\tp50\tp90\tp99\tmax\tn\t")
	for _, row := range r.Rows {
		n := ""
		if row.Count > 0 {
			n = strconv.Itoa(row.Count)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", row.Scenario, row.What,
			show(row.Value, row.Unit), show(row.P50, row.Unit), show(row.P90, row.Unit), show(row.P99, row.Unit), show(row.Max, row.Unit), n)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(r.Notes) > 0 {
		fmt.Fprintln(w)
	}
	for _, n := range r.Notes {
		fmt.Fprintln(w, "note: "+n)
	}
	return nil
}

// show prints a number for people; nil is nothing.
func show(v *float64, unit string) string {
	if v == nil {
		return ""
	}
	format := func(n float64) string {
		digits := 0
		if n < 100 && n > -100 && n != float64(int(n)) {
			digits = 1
		}
		return strconv.FormatFloat(n, 'f', digits, 64)
	}
	switch unit {
	case unitBytes:
		switch {
		case *v >= 10<<20 || *v <= -10<<20:
			return format(*v/(1<<20)) + " MiB"
		case *v >= 10<<10 || *v <= -10<<10:
			return format(*v/(1<<10)) + " KiB"
		}
		return format(*v) + " B"
	case unitMillis:
		if *v >= 10_000 {
			return format(*v/1000) + " s"
		}
		return format(*v) + " ms"
	case unitPercent:
		return format(*v) + " %"
	}
	return strings.TrimSpace(format(*v) + " " + unit)
}

// machine describes what all of it ran on.
func machine() string {
	return fmt.Sprintf("%d CPUs, %s/%s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
}
