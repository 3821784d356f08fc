package rpc

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Admission is how much a hub does per second for edges of what costs it most. What exceeds it is refused as
// ReasonOverloaded, with when to come again, so that a fleet that comes back at once is let in at a pace at which admins
// are still served. 0 or less is no bound.
type Admission struct {
	// Streams bounds Watch.
	Streams float64
	// Certificates bounds Enroll and RenewCertificate together.
	Certificates float64
	// Fetches bounds FetchRelease at the leader; other hubs serve without one.
	Fetches float64
}

// spread is over what time so many edges have to come to be let in without being turned away.
func (a Admission) spread(edges int) time.Duration {
	if a.Streams <= 0 {
		return 0
	}
	return min(max(0, time.Duration((float64(edges)/a.Streams-burst)*float64(time.Second))), maxSpread)
}

const (
	// burst is how many seconds' worth of calls are let in at once after a quiet time.
	burst = 2
	// leastWait is how soon a refused edge may come again, and maxSpread how much later the last of many at most: what edges
	// allow a hub to tell them.
	leastWait = 500 * time.Millisecond
	maxSpread = 5 * time.Minute
)

// gate is a token bucket. It remembers how many it has turned away, since those will be back: they are told to spread
// over the time in which it can let them all in.
type gate struct {
	rate    float64 // per second; 0 or less: always open
	now     func() time.Time
	refused prometheus.Counter

	mu      sync.Mutex // guards what follows
	at      time.Time  // when the two were reckoned
	used    float64    // of the bucket's tokens
	waiting float64    // turned away and expected back
}

func newGate(rate float64, now func() time.Time, refused prometheus.Counter) *gate {
	return &gate{rate: rate, now: now, refused: refused, at: now()}
}

// admit returns nil, or why the call has to wait.
func (g *gate) admit() *Error {
	if g.rate <= 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	passed := max(0, now.Sub(g.at).Seconds()) * g.rate
	g.at = now
	g.used, g.waiting = max(0, g.used-passed), max(0, g.waiting-passed)
	if g.used+1 <= max(1, burst*g.rate) {
		g.used++
		return nil
	}
	g.refused.Inc()
	g.waiting++
	spread := time.Duration(g.waiting / g.rate * float64(time.Second))
	return &Error{Reason: ReasonOverloaded, RetryAfter: leastWait, RetryJitter: min(max(spread, leastWait), maxSpread),
		Message: "too many edges come at once: come again after the time given"}
}

// gates are those of a hub.
type gates struct{ streams, certificates, fetches *gate }

func newGates(a Admission, now func() time.Time, m *metrics) *gates {
	return &gates{
		streams:      newGate(a.Streams, now, m.turnedAway.WithLabelValues("streams")),
		certificates: newGate(a.Certificates, now, m.turnedAway.WithLabelValues("certificates")),
		fetches:      newGate(a.Fetches, now, m.turnedAway.WithLabelValues("fetches")),
	}
}
