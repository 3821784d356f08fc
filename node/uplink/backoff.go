package uplink

import "time"

// backoff is how long to wait before the next try. Jitter is full, and drawn after the cap: a fleet that waits at the cap
// is still spread over all of it.
type backoff struct {
	// quickTries tries come within quick each, before the exponential ones.
	quickTries int
	quick      time.Duration
	// base doubles up to cap.
	base, cap time.Duration
}

// delay returns the wait before try number failed, the count of tries that failed so far (at least 1), with r in [0, 1).
func (b backoff) delay(failed int, r float64) time.Duration {
	if failed <= b.quickTries {
		return time.Duration(r * float64(b.quick))
	}
	d := b.cap
	if shift := failed - b.quickTries - 1; shift < 30 {
		d = min(b.cap, b.base<<shift)
	}
	return time.Duration(r * float64(d))
}

// round returns the count of failed tries as delay takes it, when each try is at the next of several hubs: from the
// exponential ones on, all hubs have failed once more before the wait doubles. Otherwise an edge of three hubs would be
// three times as far up the ladder as one of a single hub when they come back.
func (b backoff) round(failed, hubs int) int {
	if over := failed - b.quickTries; over > 0 {
		return b.quickTries + (over-1)/max(1, hubs) + 1
	}
	return failed
}

// around returns d give or take a tenth, with r in [0, 1).
func around(d time.Duration, r float64) time.Duration {
	return time.Duration((0.9 + 0.2*r) * float64(d))
}
