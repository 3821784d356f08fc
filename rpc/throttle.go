package rpc

import (
	"sync"
	"time"
)

const (
	maxTries = 10
	// maxAddressTries is for all accounts tried from one address, which many people may share.
	maxAddressTries = 30
	tryEvery        = 6 * time.Second // one more try after each
	maxThrottled    = 10_000
)

// throttle bounds how often something may be tried: so many tries at once, then one every tryEvery.
type throttle struct {
	tries int
	now   func() time.Time

	mu sync.Mutex // guards what follows
	// since is, by key, when its tries began, had one come every tryEvery: it runs ahead of now as tries are used up.
	since map[string]time.Time
}

func newThrottle(tries int, now func() time.Time) *throttle {
	return &throttle{tries: tries, now: now, since: make(map[string]time.Time)}
}

// take uses up one try of a key; or returns how long to wait for the next.
func (t *throttle) take(key string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if wait := t.waitLocked(key, now); wait > 0 {
		return wait
	}
	if len(t.since) >= maxThrottled {
		t.sweepLocked(now)
	}
	since := t.since[key]
	if since.Before(now) {
		since = now
	}
	t.since[key] = since.Add(tryEvery)
	return 0
}

// wait returns how long to wait for the next try of a key, without using one up.
func (t *throttle) wait(key string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waitLocked(key, t.now())
}

func (t *throttle) waitLocked(key string, now time.Time) time.Duration {
	since, ok := t.since[key]
	if !ok {
		return 0
	}
	return max(since.Sub(now)-time.Duration(t.tries-1)*tryEvery, 0)
}

// sweepLocked drops keys that have all their tries again. If so many are in use at once, all are dropped: under such an
// attack the memory matters more, and every try costs a password's hashing anyway.
func (t *throttle) sweepLocked(now time.Time) {
	for key, since := range t.since {
		if !since.After(now) {
			delete(t.since, key)
		}
	}
	if len(t.since) >= maxThrottled {
		clear(t.since)
	}
}

// forgive gives a key all its tries back.
func (t *throttle) forgive(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.since, key)
}
