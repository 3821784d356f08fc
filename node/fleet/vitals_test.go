package fleet

import (
	"math"
	"runtime"
	"strconv"
	"testing"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/latency"
)

func TestRatesAreTheDifferenceOfTwoVitals(t *testing.T) {
	before := &gwv1.Vitals{UptimeMs: 1000, RequestsTotal: 10, ErrorsTotal: 1, RefusedTotal: 2, CpuSecondsTotal: 1, Cpus: 4, Latency: []uint64{10}}
	counts := make([]uint64, latency.Buckets)
	counts[0], counts[20] = 10, 100 // a hundred new ones, all of one bucket
	after := &gwv1.Vitals{UptimeMs: 11_000, RequestsTotal: 110, ErrorsTotal: 6, RefusedTotal: 12, CpuSecondsTotal: 11, Cpus: 4, Latency: counts}
	r, ok := RatesOf(before, after)
	if !ok || r.Window != 10*time.Second || r.Requests != 10 || r.Errors != 0.5 || r.Refused != 1 || r.CPU != 0.25 {
		t.Errorf("got %+v, %v", r, ok)
	}
	for name, q := range map[string]time.Duration{"p50": r.P50, "p95": r.P95, "p99": r.P99} {
		if q < latency.Bound(19) || q > latency.Bound(20) {
			t.Errorf("%s is %v, want within the one bucket that rose", name, q)
		}
	}
	if r.P50 > r.P95 || r.P95 > r.P99 {
		t.Errorf("quantiles fall: %v, %v, %v", r.P50, r.P95, r.P99)
	}
	idle, ok := RatesOf(after, &gwv1.Vitals{UptimeMs: 12_000, RequestsTotal: 110, ErrorsTotal: 6, RefusedTotal: 12, CpuSecondsTotal: 11, Latency: counts})
	if !ok || idle.Requests != 0 || idle.P50 >= 0 {
		t.Errorf("nothing happened: %+v, %v", idle, ok)
	}
}

func TestVitalsThatAreNotOfOneProcessGiveNoRates(t *testing.T) {
	before := &gwv1.Vitals{UptimeMs: 1000, RequestsTotal: 10, ErrorsTotal: 1, RefusedTotal: 1, CpuSecondsTotal: 1}
	for name, after := range map[string]*gwv1.Vitals{
		"none":           nil,
		"no time passed": {UptimeMs: 1000, RequestsTotal: 10, ErrorsTotal: 1, RefusedTotal: 1, CpuSecondsTotal: 1},
		"requests fell":  {UptimeMs: 2000, RequestsTotal: 9, ErrorsTotal: 1, RefusedTotal: 1, CpuSecondsTotal: 1},
		"errors fell":    {UptimeMs: 2000, RequestsTotal: 10, RefusedTotal: 1, CpuSecondsTotal: 1},
		"refused fell":   {UptimeMs: 2000, RequestsTotal: 10, ErrorsTotal: 1, CpuSecondsTotal: 1},
		"CPU fell":       {UptimeMs: 2000, RequestsTotal: 10, ErrorsTotal: 1, RefusedTotal: 1},
	} {
		if r, ok := RatesOf(before, after); ok {
			t.Errorf("%s: got %+v", name, r)
		}
	}
	// Nonsense is shown as such and does no harm.
	most := &gwv1.Vitals{UptimeMs: math.MaxUint64, RequestsTotal: math.MaxUint64, CpuSecondsTotal: math.MaxFloat64, Latency: []uint64{math.MaxUint64, math.MaxUint64}}
	if r, ok := RatesOf(&gwv1.Vitals{}, most); !ok || r.Window <= 0 || r.P50 < 0 {
		t.Errorf("got %+v, %v", r, ok)
	}
}

func TestRatesSpanMoreThanAMoment(t *testing.T) {
	f, c := newFleet()
	reports := func(uptime time.Duration, requests uint64) {
		t.Helper()
		c.advance(time.Millisecond)
		r := beat("s", uint64(uptime.Milliseconds()))
		r.Vitals = &gwv1.Vitals{UptimeMs: uint64(uptime.Milliseconds()), RequestsTotal: requests}
		f.Beat(edgeID("e"), "a", r, Certificate{})
	}
	reports(30*time.Second, 300)
	if f.Live("e").Rates != nil || f.Vitals("e").GetRequestsTotal() != 300 {
		t.Fatalf("after one heartbeat: rates %+v of %v", f.Live("e").Rates, f.Vitals("e"))
	}
	reports(60*time.Second, 600)
	if r := f.Live("e").Rates; r == nil || r.Requests != 10 {
		t.Fatalf("after two: %+v", r)
	}
	reports(60*time.Second+20*time.Millisecond, 700) // a push came; 5,000/s would be nonsense
	if r := f.Live("e").Rates; r.Window < minWindow || r.Requests > 15 {
		t.Errorf("after a beat out of turn: %+v", r)
	}
	reports(60*time.Second+40*time.Millisecond, 700)
	reports(90*time.Second, 900)
	if r := f.Live("e").Rates; r.Window > 31*time.Second || math.Abs(r.Requests-200.0/30) > 4 {
		t.Errorf("a heartbeat later: %+v", r)
	}
	if f.Live("e").Heartbeat.Vitals != nil {
		t.Error("vitals are kept twice")
	}
}

// An edge that says what it does and has been through much costs the leader some kilobytes.
func TestALeadersMemoryPerEdgeIsSmall(t *testing.T) {
	const edges = 2000
	f, c := newFleet()
	before := heap()
	for i := range edges {
		id := edgeID("edge-" + strconv.Itoa(i))
		for n := range uint64(20) {
			_, release, _ := f.OpenStream(id, "0123456789abcdef0123456789abcdef", "10.0.0.1:40000")
			r := beat("0123456789abcdef0123456789abcdef", n+1)
			counts := make([]uint64, latency.Buckets)
			for j := range counts {
				counts[j] = uint64(j) << n
			}
			r.Vitals = &gwv1.Vitals{UptimeMs: 30_000 * (n + 1), RequestsTotal: 1 << n, Latency: counts, RssBytes: 1 << 30, DiskFreeBytes: 1 << 40, DiskTotalBytes: 1 << 41}
			f.Beat(id, "10.0.0.1:40000", r, Certificate{})
			release()
		}
		c.advance(time.Millisecond)
	}
	per := int(heap()-before) / edges
	t.Logf("%d bytes per edge", per)
	if per > 8<<10 {
		t.Errorf("%d bytes per edge, want at most 8 KiB", per)
	}
	runtime.KeepAlive(f)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
