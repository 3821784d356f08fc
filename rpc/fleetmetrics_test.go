package rpc

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"gw/rpc/gwv1"
)

// gauges are the fleet's, without those that have labels.
func (h *harness) gauges() map[string]float64 {
	h.t.Helper()
	r := prometheus.NewRegistry()
	must(h.t, r.Register(&fleetCollector{h.hub.core}))
	families, err := r.Gather()
	must(h.t, err)
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			if len(m.Label) == 0 {
				all[f.GetName()] = m.Gauge.GetValue()
			}
		}
	}
	return all
}

func TestMetricsTellHowLongReleasesTakeAndWhoIsLate(t *testing.T) {
	h := newHarness(t)
	if _, there := h.gauges()["gw_fleet_certificate_expiry_timestamp_seconds"]; there {
		t.Error("a certificate ends where there is no edge")
	}
	e := h.enroll("default", "e1")
	e.beat(t, h.target("default"))
	h.apply(api("default", "a", "/a"))
	h.push()
	h.clock.advance(2 * time.Second)
	e.beat(t, nil)
	if got := h.gauges(); got["gw_fleet_oldest_unsynced_seconds"] != 2 || got["gw_fleet_certificate_expiry_timestamp_seconds"] != float64(h.clock.now().Add(CertificateTTL-2*time.Second).Unix()) {
		t.Errorf("on its way: %v", got)
	}
	for range 2 { // said twice, counted once
		e.beat(t, h.target("default"))
	}
	// A new edge, and one that was away, are not late since the push, but since they came.
	late := h.enroll("default", "e2")
	h.clock.advance(time.Hour)
	late.beat(t, nil)
	h.clock.advance(time.Second)
	late.beat(t, h.target("default"))
	var m dto.Metric
	must(t, h.hub.core.metrics.loading.Write(&m))
	if n, sum := m.Histogram.GetSampleCount(), m.Histogram.GetSampleSum(); n != 2 || sum != 3 {
		t.Errorf("%d releases loaded in %v s, want 2 in 3", n, sum)
	}
	e.beat(t, h.target("default"))
	if got := h.gauges()["gw_fleet_oldest_unsynced_seconds"]; got != 0 {
		t.Errorf("all have it: %v", got)
	}
	// One that is gone is no reason to wake anybody about its certificate.
	_, err := late.Goodbye(t.Context(), &gwv1.GoodbyeRequest{SessionId: late.session})
	must(t, err)
	_, err = e.Goodbye(t.Context(), &gwv1.GoodbyeRequest{SessionId: e.session})
	must(t, err)
	if at, there := h.gauges()["gw_fleet_certificate_expiry_timestamp_seconds"]; there {
		t.Errorf("nobody is there, and a certificate ends at %v", at)
	}
}
