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
	// loadWeight is how many heartbeats the average is over, about.
	loadWeight = 64
)

// load is how long heartbeats take the leader: whatever keeps it busy shows there.
type load struct {
	average atomic.Int64 // nanoseconds
}

// took takes in how long a heartbeat took.
func (l *load) took(d time.Duration) {
	for {
		was := l.average.Load()
		now := was + (int64(d)-was)/loadWeight
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
func (f *Fleet) Took(d time.Duration) { f.load.took(d) }
