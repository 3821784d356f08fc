package rpc

import (
	"github.com/prometheus/client_golang/prometheus"

	"gw/rpc/gwv1"
)

// fleetCollector tells of the edges when it is asked. Only the leader knows them: other hubs tell nothing, so that a sum
// over all hubs is right.
type fleetCollector struct{ k *core }

var (
	fleetEdges = prometheus.NewDesc("gw_fleet_edges", "Edges by their connection; told by the leader only.", []string{"connection"}, nil)
	fleetSync  = prometheus.NewDesc("gw_fleet_sync_edges", "Edges by their config sync; told by the leader only.", []string{"sync"}, nil)
	fleetLate  = prometheus.NewDesc("gw_fleet_oldest_unsynced_seconds",
		"How long ago the release was pushed that an edge which is there has not loaded, at most; 0: all have. Told by the leader only.", nil, nil)
	fleetExpiry = prometheus.NewDesc("gw_fleet_certificate_expiry_timestamp_seconds",
		"When the first certificate ends of the edges that are there; absent if none is. Told by the leader only.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *fleetCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{fleetEdges, fleetSync, fleetLate, fleetExpiry} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *fleetCollector) Collect(to chan<- prometheus.Metric) {
	if !c.k.store.Leading() {
		return
	}
	sum, late, expiry := &gwv1.FleetSummary{}, 0.0, 0.0
	edges := c.k.viewFleet(c.k.store.State()).edges
	for i := range edges {
		e := &edges[i]
		tally(sum, e)
		if e.Connection == gwv1.Connection_CONNECTION_DISCONNECTED {
			continue
		}
		if t := e.wanted.target; t.Number > 0 && !e.onTarget() {
			late = max(late, e.among.now.Sub(t.PushedAt).Seconds())
		}
		if ends := e.certificateEnds(); !ends.IsZero() && (expiry == 0 || float64(ends.Unix()) < expiry) {
			expiry = float64(ends.Unix())
		}
	}
	for name, n := range map[string]uint32{"connected": sum.Connected, "stale": sum.Stale, "disconnected": sum.Disconnected} {
		to <- prometheus.MustNewConstMetric(fleetEdges, prometheus.GaugeValue, float64(n), name)
	}
	for name, n := range map[string]uint32{"in_sync": sum.InSync, "pending": sum.Pending, "stale": sum.SyncStale, "unknown": sum.Unknown} {
		to <- prometheus.MustNewConstMetric(fleetSync, prometheus.GaugeValue, float64(n), name)
	}
	to <- prometheus.MustNewConstMetric(fleetLate, prometheus.GaugeValue, late)
	if expiry > 0 {
		to <- prometheus.MustNewConstMetric(fleetExpiry, prometheus.GaugeValue, expiry)
	}
}
