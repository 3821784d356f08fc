package uplink

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	validateTimeout = 2 * time.Second        // a question, while a hub is followed
	probeTimeout    = 500 * time.Millisecond // and while none is
	circuitTime     = time.Second            // how long "no hub answers" is believed
	circuitFailures = 3                      // failures in a row that mean it, while a hub is followed
	refusalTime     = 5 * time.Second        // how long a hub's refusal to answer at all is believed
)

// contact remembers whether hubs answer questions about tokens, so that requests don't each wait to find out.
type contact struct {
	isDown atomic.Bool // the circuit is open; read on the way of requests

	mu           sync.Mutex // guards the rest
	failures     int        // in a row
	openUntil    int64      // Unix nanoseconds; while isDown, nobody asks before
	probing      bool       // one question is out to see whether a hub is back
	offlineSince int64      // the first failure of the row; 0: a hub answered last
	graced       bool       // an answer was served that a hub should have given again
	refusedUntil int64      // Unix nanoseconds: a hub has said that it answers nothing; nobody asks before
}

func (c *contact) down() bool { return c.isDown.Load() }

// refused notes that a hub is there, and that it doesn't answer questions of this edge: every request would ask it again.
func (c *contact) refused(now int64) {
	c.answered()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusedUntil = now + int64(refusalTime)
}

// isRefused reports whether a hub has said so just now.
func (c *contact) isRefused(now int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now < c.refusedUntil && now >= c.refusedUntil-int64(refusalTime)
}

// admit tells whether a question may be asked now, and how long it may take.
func (c *contact) admit(now int64, following bool) (time.Duration, bool) {
	timeout := probeTimeout
	if following {
		timeout = validateTimeout
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isDown.Load() {
		return timeout, true
	}
	if now < c.openUntil || c.probing {
		return 0, false
	}
	c.probing = true
	return timeout, true
}

// failed notes a question without an answer.
func (c *contact) failed(now int64, following bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probing = false
	c.failures++
	if c.offlineSince == 0 {
		c.offlineSince = now
	}
	if !following || c.failures >= circuitFailures {
		c.openUntil = now + int64(circuitTime)
		c.isDown.Store(true)
	}
}

// answered notes that a hub is there.
func (c *contact) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures, c.openUntil, c.probing, c.offlineSince, c.graced, c.refusedUntil = 0, 0, false, 0, false, 0
	c.isDown.Store(false)
}

// serveGrace notes that an old answer was served. Without a failure it means nothing: see grace.
func (c *contact) serveGrace() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.graced = true
}

func (c *contact) grace() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.graced || c.offlineSince == 0 {
		return time.Time{}, false
	}
	return time.Unix(0, c.offlineSince), true
}

func (c *contact) offline() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offlineSince != 0
}

// retryAfter is the time until somebody may ask again, in whole seconds.
func (c *contact) retryAfter(now int64) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := time.Duration(max(0, c.openUntil-now)).Truncate(time.Second) + time.Second
	return wait
}
