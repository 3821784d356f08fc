package edgestore

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"gw/rpc/gwv1"
)

// Collector returns the metrics gw_spool_…, by plugin ID.
func (s *Spool) Collector() prometheus.Collector { return spoolCollector{s} }

type spoolCollector struct{ spool *Spool }

var (
	byPlugin     = []string{"plugin"}
	queueMetrics = []struct {
		desc *prometheus.Desc
		kind prometheus.ValueType
		of   func(q *gwv1.PluginQueue) uint64
	}{
		{prometheus.NewDesc("gw_spool_payloads_pending", "Payloads that wait for a hub.", byPlugin, nil), prometheus.GaugeValue, (*gwv1.PluginQueue).GetPending},
		{prometheus.NewDesc("gw_spool_payload_pending_bytes", "Bytes of payloads that wait for a hub.", byPlugin, nil), prometheus.GaugeValue, (*gwv1.PluginQueue).GetPendingBytes},
		{prometheus.NewDesc("gw_spool_payloads_accepted_total", "Payloads that were taken in.", byPlugin, nil), prometheus.CounterValue, (*gwv1.PluginQueue).GetAccepted},
		{prometheus.NewDesc("gw_spool_payloads_settled_total", "Payloads that a hub plugin has handled.", byPlugin, nil), prometheus.CounterValue, (*gwv1.PluginQueue).GetSettled},
		{prometheus.NewDesc("gw_spool_payloads_expired_total", "Payloads that were dropped because no hub settled them for a day.", byPlugin, nil), prometheus.CounterValue, (*gwv1.PluginQueue).GetExpired},
		{prometheus.NewDesc("gw_spool_payloads_refused_total", "Payloads that were refused because the spool was full.", byPlugin, nil), prometheus.CounterValue, (*gwv1.PluginQueue).GetRefused},
		{prometheus.NewDesc("gw_spool_dead_letters", "Payloads that no hub plugin wanted and that are kept.", byPlugin, nil), prometheus.GaugeValue, (*gwv1.PluginQueue).GetDeadLetters},
		{prometheus.NewDesc("gw_spool_dead_letters_dropped_total", "Dead letters that were dropped for their age or for room.", byPlugin, nil), prometheus.CounterValue, (*gwv1.PluginQueue).GetDeadLettersDropped},
	}
	oldestDesc = prometheus.NewDesc("gw_spool_payload_oldest_seconds", "How long the oldest payload has waited for a hub.", byPlugin, nil)
	lostDesc   = prometheus.NewDesc("gw_spool_payloads_lost_total", "Payloads known to be lost with a damaged spool.db.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c spoolCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range queueMetrics {
		descs <- m.desc
	}
	descs <- oldestDesc
	descs <- lostDesc
}

// Collect implements prometheus.Collector.
func (c spoolCollector) Collect(metrics chan<- prometheus.Metric) {
	for _, q := range c.spool.Queues() {
		plugin := strconv.FormatUint(uint64(q.PluginId), 10)
		for _, m := range queueMetrics {
			metrics <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.of(q)), plugin)
		}
		age := 0.0
		if q.Oldest != nil {
			age = c.spool.now().Sub(q.Oldest.AsTime()).Seconds()
		}
		metrics <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, age, plugin)
	}
	metrics <- prometheus.MustNewConstMetric(lostDesc, prometheus.CounterValue, float64(c.spool.Loss().Payloads))
}
