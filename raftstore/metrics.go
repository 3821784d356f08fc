package raftstore

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is what the store counts while it works; what it can tell when asked, Collect asks.
type metrics struct {
	commit, logWrite, snapshot prometheus.Histogram
	snapshotBytes, snapshotAt  prometheus.Gauge
}

func newMetrics() *metrics {
	buckets := prometheus.ExponentialBuckets(0.0005, 2, 15) // 0.5 ms to 8 s
	return &metrics{
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "gw_raft_commit_duration_seconds", Help: "Time from a proposal to its result.", Buckets: buckets}),
		logWrite: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "gw_store_log_write_duration_seconds", Help: "Time to write log entries to disk, fsync included.", Buckets: buckets}),
		snapshot: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "gw_store_snapshot_duration_seconds", Help: "Time to write and verify a snapshot.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 15)}),
		snapshotBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "gw_store_snapshot_bytes", Help: "Size of the newest snapshot written."}),
		snapshotAt: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "gw_store_snapshot_timestamp_seconds", Help: "When the newest snapshot was written, Unix time; 0: none since the start."}),
	}
}

func (m *metrics) snapshotWritten(took time.Duration, size int64) {
	m.snapshot.Observe(took.Seconds())
	m.snapshotBytes.Set(float64(size))
	m.snapshotAt.SetToCurrentTime()
}

func (m *metrics) counted() []prometheus.Collector {
	return []prometheus.Collector{m.commit, m.logWrite, m.snapshot, m.snapshotBytes, m.snapshotAt}
}

// gauge is a value that is asked for when metrics are collected.
type gauge struct {
	desc *prometheus.Desc
	read func(*Store) (value float64, ok bool)
}

func newGauge(name, help string, read func(*Store) (float64, bool)) gauge {
	return gauge{prometheus.NewDesc(name, help, nil, nil), read}
}

func known(n uint64) (float64, bool) { return float64(n), true }

// gauges are the store's values by name. A value that is not known is left out.
var gauges = []gauge{
	newGauge("gw_raft_term", "Newest term this hub knows of.", func(s *Store) (float64, bool) { return known(s.Term()) }),
	newGauge("gw_raft_commit_index", "Log index up to which entries are known to be committed.",
		func(s *Store) (float64, bool) { return known(s.CommitIndex()) }),
	newGauge("gw_raft_applied_index", "Log index of the newest state of this hub.",
		func(s *Store) (float64, bool) { return known(s.State().Index()) }),
	newGauge("gw_raft_leader", "1 if this hub leads, else 0.", func(s *Store) (float64, bool) {
		if s.Leading() {
			return 1, true
		}
		return 0, true
	}),
	newGauge("gw_raft_peers", "Members of the cluster, this hub and learners included.", func(s *Store) (float64, bool) {
		m, err := s.Members()
		return float64(len(m)), err == nil
	}),
	newGauge("gw_raft_voters", "Members that vote.", func(s *Store) (float64, bool) {
		m, err := s.Members()
		_, voters, _ := tolerance(m, 0)
		return float64(voters), err == nil
	}),
	newGauge("gw_raft_failure_tolerance", "Voters that answer and may fail before changes can't be made; only on the leader.",
		func(s *Store) (float64, bool) {
			n, ok := s.FailureTolerance()
			return float64(n), ok
		}),
	newGauge("gw_raft_last_contact_seconds", "Time since the leader last spoke to this hub; 0 on the leader.",
		func(s *Store) (float64, bool) {
			d := s.LeaderContact()
			return d.Seconds(), d >= 0
		}),
	newGauge("gw_store_log_bytes", "Size of the log's file.", func(s *Store) (float64, bool) {
		n, err := s.place.logSize()
		return float64(n), err == nil
	}),
	newGauge("gw_store_disk_free_bytes", "Room left on the store's disk.", func(s *Store) (float64, bool) {
		free, _, err := s.space.now()
		return float64(free), err == nil
	}),
	newGauge("gw_store_ballast_bytes", "Room on the store's disk that is kept in reserve.", func(s *Store) (float64, bool) {
		return known(s.ballast.bytes())
	}),
	newGauge("gw_store_disk_total_bytes", "Size of the store's disk.", func(s *Store) (float64, bool) {
		_, total, err := s.space.now()
		return float64(total), err == nil
	}),
}

// collector shows a store to Prometheus.
type collector struct{ store *Store }

var _ prometheus.Collector = collector{}

// Collector returns the store's metrics. It may be used until the process ends, also after Close.
func (s *Store) Collector() prometheus.Collector { return collector{s} }

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, g := range gauges {
		to <- g.desc
	}
	for _, m := range c.store.metrics.counted() {
		m.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	for _, g := range gauges {
		if v, ok := g.read(c.store); ok {
			to <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, v)
		}
	}
	for _, m := range c.store.metrics.counted() {
		m.Collect(to)
	}
}
