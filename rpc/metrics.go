package rpc

import (
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"gw/rpc/gwv1"
)

// metrics counts calls. What they are labelled with is bounded: procedures of the schema, and the codes there are.
type metrics struct {
	requests *prometheus.CounterVec   // by service, method, code
	seconds  *prometheus.HistogramVec // by service, method
	passedOn *prometheus.CounterVec   // by service, method, outcome
}

// newMetrics registers the metrics of a hub; a nil registerer registers nothing.
func newMetrics(r prometheus.Registerer, k *core) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gw_rpc_requests_total", Help: "Calls served by this hub, by how they ended.",
		}, []string{"service", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gw_rpc_duration_seconds", Help: "How long unary calls served by this hub took.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"service", "method"}),
		passedOn: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gw_rpc_forwarded_total", Help: "Tries to have a call served by the leader, by how they ended.",
		}, []string{"service", "method", "outcome"}),
	}
	if r == nil {
		return m, nil
	}
	for _, p := range k.procedures { // so that a rate can be told from the first call on
		m.requests.WithLabelValues(p.service, p.method, "ok")
		if p.unary() {
			m.seconds.WithLabelValues(p.service, p.method)
		}
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.passedOn, &fleetCollector{k}} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// answered counts a call; code is "ok" or a code's name.
func (m *metrics) answered(p procedure, code string, took time.Duration) {
	m.requests.WithLabelValues(p.service, p.method, code).Inc()
	if p.unary() && code != connect.CodeUnauthenticated.String() {
		m.seconds.WithLabelValues(p.service, p.method).Observe(took.Seconds())
	}
}

func (m *metrics) forwarded(p procedure, end outcome) {
	m.passedOn.WithLabelValues(p.service, p.method, string(end)).Inc()
}

// fleetCollector counts edges by their connection when it is asked. Only the leader knows them: other hubs tell nothing,
// so that a sum over all hubs is right.
type fleetCollector struct{ k *core }

var fleetEdges = prometheus.NewDesc("gw_fleet_edges", "Edges by their connection; told by the leader only.", []string{"connection"}, nil)

// Describe implements prometheus.Collector.
func (c *fleetCollector) Describe(to chan<- *prometheus.Desc) { to <- fleetEdges }

// Collect implements prometheus.Collector.
func (c *fleetCollector) Collect(to chan<- prometheus.Metric) {
	if !c.k.store.Leading() {
		return
	}
	sum := &gwv1.FleetSummary{}
	for _, e := range c.k.viewFleet(c.k.store.State()).edges {
		tally(sum, e.shown)
	}
	for name, n := range map[string]uint32{"connected": sum.Connected, "stale": sum.Stale, "disconnected": sum.Disconnected} {
		to <- prometheus.MustNewConstMetric(fleetEdges, prometheus.GaugeValue, float64(n), name)
	}
}
