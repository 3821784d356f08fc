package fleet

import (
	"time"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/latency"
)

// minWindow is the least time between two heartbeats that rates are made from: an edge also beats when something
// happens, and what it did in a moment says little.
const minWindow = 5 * time.Second

// Rates are what an edge does, from two of its heartbeats.
type Rates struct {
	// Window is how long the two lie apart, by the edge's own clock.
	Window time.Duration
	// Requests, Errors and Refused are per second.
	Requests, Errors, Refused float64
	// Latency quantiles; negative if there was no request.
	P50, P95, P99 time.Duration
	// CPU is the share of the CPUs that the edge may use.
	CPU float64
}

// RatesOf returns what happened between two vitals of one process; ok is false if they aren't that, or leave no time
// between them.
func RatesOf(before, after *gwv1.Vitals) (r Rates, ok bool) {
	if after.GetUptimeMs() <= before.GetUptimeMs() || after.RequestsTotal < before.RequestsTotal ||
		after.ErrorsTotal < before.ErrorsTotal || after.RefusedTotal < before.RefusedTotal || after.CpuSecondsTotal < before.CpuSecondsTotal {
		return r, false
	}
	r.Window = time.Duration(min(after.UptimeMs-before.UptimeMs, 1<<40)) * time.Millisecond
	seconds := r.Window.Seconds()
	r.Requests = float64(after.RequestsTotal-before.RequestsTotal) / seconds
	r.Errors = float64(after.ErrorsTotal-before.ErrorsTotal) / seconds
	r.Refused = float64(after.RefusedTotal-before.RefusedTotal) / seconds
	r.CPU = (after.CpuSecondsTotal - before.CpuSecondsTotal) / seconds / float64(max(after.Cpus, 1))
	counts := make([]uint64, len(after.Latency))
	for i, n := range after.Latency {
		if i < len(before.Latency) {
			n -= min(n, before.Latency[i])
		}
		counts[i] = n
	}
	r.P50, r.P95, r.P99 = quantile(counts, 0.5), quantile(counts, 0.95), quantile(counts, 0.99)
	return r, true
}

func quantile(counts []uint64, q float64) time.Duration {
	if d, ok := latency.Quantile(counts, q); ok {
		return d
	}
	return -1
}

// doing is what a process reported of what it does. It is kept for every edge, so it is kept small: the two vitals are
// some hundred bytes each.
type doing struct {
	before, latest []byte // encoded gwv1.Vitals; nil if there were none
	beforeUptime   uint64
	latestUptime   uint64
	rates          *Rates // of the newest two that lie far enough apart; never changed
}

// report takes in the vitals of a heartbeat; nil says nothing.
func (d *doing) report(v *gwv1.Vitals) {
	if v == nil {
		return
	}
	encoded, err := proto.Marshal(v)
	if err != nil {
		return // text that isn't UTF-8, of which vitals have none
	}
	if d.latest != nil && time.Duration(d.latestUptime-min(d.beforeUptime, d.latestUptime))*time.Millisecond >= minWindow || d.before == nil {
		d.before, d.beforeUptime = d.latest, d.latestUptime
	}
	d.latest, d.latestUptime = encoded, v.UptimeMs
	if before := decodeVitals(d.before); before != nil {
		if rates, ok := RatesOf(before, v); ok && rates.Window >= minWindow {
			d.rates = &rates
		}
	}
}

// vitals are those reported last.
func (d *doing) vitals() *gwv1.Vitals { return decodeVitals(d.latest) }

func decodeVitals(b []byte) *gwv1.Vitals {
	v := &gwv1.Vitals{}
	if b == nil || proto.Unmarshal(b, v) != nil {
		return nil
	}
	return v
}
