package gateway

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the gateway's series. Those of a target are resolved once and then kept by it, so that a request never
// looks one up by its labels.
type metrics struct {
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	upstreams *prometheus.CounterVec
	tokens    *prometheus.CounterVec
	answers   *prometheus.CounterVec

	mu      sync.Mutex
	targets map[string]*targetMetrics // "API/orders"; "" is what reached no target
}

// targetMetrics are the series of one target.
type targetMetrics struct {
	requests      [6]prometheus.Counter // by the first digit of the status
	duration      prometheus.Observer
	upstreamError prometheus.Counter
	total, failed atomic.Uint64 // the same as numbers: requests, and those whose upstream failed
	// Of LLMs only.
	prompt, completion prometheus.Counter
	reported, absent   prometheus.Counter
}

func newMetrics(g *Gateway, reg prometheus.Registerer) *metrics {
	labels := []string{"kind", "target"}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gw_requests_total",
			Help: "Requests served, by target and class of status."}, []string{"kind", "target", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gw_request_duration_seconds",
			Help:    "Time from a request's header to the end of its response.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 300}}, labels),
		upstreams: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gw_upstream_errors_total",
			Help: "Requests whose upstream could not be reached, was too slow or broke off."}, labels),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gw_llm_tokens_total",
			Help: "Tokens that vendors reported."}, []string{"target", "type"}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gw_llm_responses_total",
			Help: "Responses of vendors, by whether they reported usage."}, []string{"target", "usage"}),
		targets: map[string]*targetMetrics{},
	}
	if reg == nil {
		return m
	}
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gw_requests_in_flight",
		Help: "Requests being served."}, func() float64 { return float64(g.inFlight.Load()) })
	dropped := prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "gw_access_log_dropped_total",
		Help: "Lines of the access log that were dropped because it could not be written fast enough."},
		func() float64 { return float64(g.log.droppedLines()) })
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.upstreams, m.tokens, m.answers, inFlight, dropped} {
		if err := reg.Register(c); err != nil {
			g.logger.Error("register metrics", "error", err)
		}
	}
	return m
}

func (l *accessLog) droppedLines() uint64 {
	if l == nil {
		return 0
	}
	return l.dropped.Load()
}

var classes = [6]string{"0xx", "1xx", "2xx", "3xx", "4xx", "5xx"}

// of returns the series of a target, nil for what reached none.
func (m *metrics) of(t *target) *targetMetrics {
	kind, name, ref := "", "", ""
	if t != nil {
		kind, name, ref = t.kind.String(), t.name, t.ref
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if tm := m.targets[ref]; tm != nil {
		return tm
	}
	tm := &targetMetrics{
		duration:      m.duration.WithLabelValues(kind, name),
		upstreamError: m.upstreams.WithLabelValues(kind, name),
	}
	for i, class := range classes {
		if i > 0 {
			tm.requests[i] = m.requests.WithLabelValues(kind, name, class)
		}
	}
	if t != nil && t.kind == kindLLM {
		tm.prompt, tm.completion = m.tokens.WithLabelValues(name, "prompt"), m.tokens.WithLabelValues(name, "completion")
		tm.reported, tm.absent = m.answers.WithLabelValues(name, "reported"), m.answers.WithLabelValues(name, "absent")
	}
	m.targets[ref] = tm
	return tm
}

// sweep forgets the series of targets that keep doesn't name.
func (m *metrics) sweep(keep map[string]struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for ref := range m.targets {
		if _, ok := keep[ref]; ok || ref == "" {
			continue
		}
		kind, name, _ := strings.Cut(ref, "/")
		labels := prometheus.Labels{"kind": kind, "target": name}
		m.requests.DeletePartialMatch(labels)
		m.duration.DeletePartialMatch(labels)
		m.upstreams.DeletePartialMatch(labels)
		if kind == "LLM" {
			m.tokens.DeletePartialMatch(prometheus.Labels{"target": name})
			m.answers.DeletePartialMatch(prometheus.Labels{"target": name})
		}
		delete(m.targets, ref)
	}
}

// record counts a finished exchange.
func (x *exchange) record(seconds float64) {
	tm := x.series
	tm.requests[min(max(x.status/100, 1), 5)].Inc()
	tm.duration.Observe(seconds)
	tm.total.Add(1)
	if x.upstreamFailed {
		tm.failed.Add(1)
		tm.upstreamError.Inc()
	}
	if tm.reported == nil || !x.answered {
		return
	}
	u := x.scan.Usage()
	if !u.Reported {
		tm.absent.Inc()
		return
	}
	tm.reported.Inc()
	tm.prompt.Add(float64(u.Prompt))
	tm.completion.Add(float64(u.Completion))
}
