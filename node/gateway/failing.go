package gateway

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

const (
	// failingWindow is the least time that failures are counted over; failingLeast how many there must be, of which more
	// than half of the requests.
	failingWindow = 15 * time.Second
	failingLeast  = 5
)

// Failing is a target most of whose requests failed lately because its upstreams could not be reached, were too slow or
// broke off.
type Failing struct {
	Target           string // "LLM/openai"
	Failed, Requests uint64
	// Over is how long they were counted.
	Over time.Duration
}

// failures compares what targets counted with what they had counted some time before.
type failures struct {
	mu      sync.Mutex
	at      time.Time
	before  map[string]counted // target → what it had counted then
	failing []Failing
}

type counted struct{ requests, failed uint64 }

// FailingUpstreams returns the targets whose upstreams fail, by name. They are looked for over the time since the call
// before, and at least 15 s: calls in between get the same answer.
func (g *Gateway) FailingUpstreams() []Failing {
	f := &g.failures
	f.mu.Lock()
	defer f.mu.Unlock()
	now := g.now()
	over := now.Sub(f.at)
	if over < failingWindow {
		return f.failing
	}
	first := f.before == nil
	before := f.before
	f.at, f.before, f.failing = now, g.metrics.counts(), nil
	for ref, c := range f.before {
		was := before[ref]
		failed, requests := c.failed-was.failed, c.requests-was.requests
		if !first && c.requests >= was.requests && failed >= failingLeast && 2*failed > requests {
			f.failing = append(f.failing, Failing{Target: ref, Failed: failed, Requests: requests, Over: over})
		}
	}
	slices.SortFunc(f.failing, func(a, b Failing) int { return cmp.Compare(a.Target, b.Target) })
	return f.failing
}

// counts are what every target has counted.
func (m *metrics) counts() map[string]counted {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[string]counted, len(m.targets))
	for ref, t := range m.targets {
		if ref != "" {
			all[ref] = counted{t.total.Load(), t.failed.Load()}
		}
	}
	return all
}
