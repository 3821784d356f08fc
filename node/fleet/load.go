package fleet

import (
	"sync/atomic"
	"time"
)

const (
	// quickBeat is how long a heartbeat may take the leader, on average, before edges are told to beat less often.
	quickBeat = 100 * time.Millisecond
	// maxStretch is how many times longer their interval gets at most, however busy the leader is.
	maxStretch = 4
	// leastWeight is how many heartbeats the average is over, about, in a small fleet; in a larger one it is weightPerEdge
	// of every edge. A fleet that comes back at once, with two or so of each, doesn't decide it.
	leastWeight   = 64
	weightPerEdge = 4
)

// load is how long heartbeats take the leader: whatever keeps it busy shows there.
type load struct {
	average atomic.Int64 // nanoseconds
}

// took takes in how long a heartbeat of one of so many edges took.
func (l *load) took(d time.Duration, edges int) {
	weight := int64(max(leastWeight, weightPerEdge*edges))
	for {
		was := l.average.Load()
		now := was + (int64(d)-was)/weight
		if l.average.CompareAndSwap(was, now) {
			return
		}
	}
}

// stretch returns an interval as it is to be under the load.
func (l *load) stretch(interval time.Duration) time.Duration {
	average := time.Duration(l.average.Load())
	if average <= quickBeat {
		return interval
	}
	return time.Duration(min(float64(average)/float64(quickBeat), maxStretch) * float64(interval))
}

// Took notes how long a heartbeat took from its arrival to its answer. When they take long, Beat asks for fewer.
func (f *Fleet) Took(d time.Duration) {
	f.load.took(d, f.Size())
}
