package rpc

import (
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"gw/node/fleet"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// metrics counts calls. What they are labelled with is bounded: procedures of the schema, and the codes there are.
type metrics struct {
	requests *prometheus.CounterVec   // by service, method, code
	seconds  *prometheus.HistogramVec // by service, method
	passedOn *prometheus.CounterVec   // by service, method, outcome
	// turnedAway are calls of edges that were refused as overloaded, by gate.
	turnedAway *prometheus.CounterVec

	heartbeats prometheus.Counter
	loading    prometheus.Histogram
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
		turnedAway: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gw_rpc_overloaded_total", Help: "Calls of edges that this hub told to come again later, by what there were too many of.",
		}, []string{"of"}),
		heartbeats: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gw_fleet_heartbeats_total", Help: "Heartbeats of edges that this hub took in.",
		}),
		loading: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "gw_fleet_push_to_loaded_seconds",
			Help:    "From a push, or from when the edge connected if that was later, to its word that it has loaded the release; one per edge and release, told by the leader that heard it.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}),
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
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.passedOn, m.turnedAway, m.heartbeats, m.loading, &fleetCollector{k}} {
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

// heard counts a heartbeat, and how long the edge took to load the target if this is the first word of it. before is what
// was known of the edge until then.
func (m *metrics) heard(before fleet.Running, known bool, r *gwv1.HeartbeatRequest, target *state.Release, now time.Time) {
	m.heartbeats.Inc()
	same := before.Epoch == r.LoadedEpoch && before.Release == r.LoadedRelease
	if !known || same || target == nil || r.LoadedEpoch != target.Epoch || r.LoadedRelease != target.Number {
		return
	}
	since := time.Unix(0, target.CreatedAt)
	if before.Since.After(since) {
		since = before.Since
	}
	m.loading.Observe(max(now.Sub(since), 0).Seconds())
}
