package fleetbench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// fleet is all simulated edges.
type fleet struct {
	edges   []*edge
	library library
	beats   atomic.Int64 // heartbeats sent

	enrolled, following *tally

	cancel context.CancelFunc
	done   chan struct{} // closed when every edge has ended

	mu       sync.Mutex // guards what follows
	failure  error      // the first refusal
	loading  *tally     // waits for a release newer than after; nil: nobody waits
	after    uint64
	revoking map[[32]byte]*tally // by SHA-256 of the token
}

// startFleet makes edges and lets them enrol, some at a time. It doesn't wait for them.
func startFleet(ctx context.Context, b *bench) (*fleet, error) {
	f := &fleet{
		library: library{held: make(map[string]*held)}, revoking: make(map[[32]byte]*tally), done: make(chan struct{}),
		enrolled: newTally(b.Edges), following: newTally(b.Edges),
	}
	slots := make(chan struct{}, b.AtOnce)
	for i := range b.Edges {
		e := &edge{index: i, fleet: f, admitted: sync.OnceFunc(func() { <-slots })}
		e.store = &Store{edge: e}
		talk, err := b.NewEdge(EdgeConfig{
			ID: fmt.Sprintf("%s-%05d", b.namespace, i), Hubs: b.hubURLs, JoinToken: b.joinToken,
			Store: e.store, Apply: e.apply, Loaded: e.loaded, Beat: func() { f.beats.Add(1) },
			Revoked: func(hash [32]byte) { f.revoked(i, hash) },
		})
		if err != nil {
			return nil, fmt.Errorf("make edge %d: %w", i, err)
		}
		e.talk = talk
		f.edges = append(f.edges, e)
	}
	// Not a child of ctx: edges say goodbye while hubs are still there, in the order that stop gives.
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f.cancel = cancel
	f.enrolled.begin()
	f.following.begin()
	go func() {
		defer close(f.done)
		f.run(running, slots)
	}()
	return f, nil
}

// run runs all edges until ctx ends.
func (f *fleet) run(ctx context.Context, slots chan struct{}) {
	var g errgroup.Group
	for _, e := range f.edges {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			e.admitted = func() {}
			continue
		}
		g.Go(func() error {
			defer e.admitted()
			if err := e.talk.Run(ctx); err != nil {
				f.mu.Lock()
				if f.failure == nil {
					f.failure = fmt.Errorf("edge %d: %w", e.index, err)
				}
				f.mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait() // what failed is kept in failure
}

// fault returns the first refusal of an edge.
func (f *fleet) fault() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failure
}

// stop ends all edges and waits for them.
func (f *fleet) stop() error {
	f.cancel()
	select {
	case <-f.done:
		return nil
	case <-time.After(time.Minute):
		return errors.New("some edges did not end within a minute")
	}
}

// followers counts the edges that follow a hub.
func (f *fleet) followers() (n int) {
	for _, e := range f.edges {
		if ok, _ := e.talk.Following(); ok {
			n++
		}
	}
	return n
}

// standing says how many edges follow a hub, and what keeps the others from it.
func (f *fleet) standing() string {
	why := map[string]int{}
	followers := 0
	for _, e := range f.edges {
		if ok, last := e.talk.Following(); ok {
			followers++
		} else {
			why[cmp.Or(last, "it is on its way")]++
		}
	}
	alike := map[string]int{}
	for last, n := range why {
		alike[port.ReplaceAllString(last, ":PORT")] += n
	}
	s := fmt.Sprintf("%d follow a hub", followers)
	reasons := slices.SortedFunc(maps.Keys(alike), func(a, b string) int { return alike[b] - alike[a] })
	for _, r := range reasons[:min(len(reasons), maxReasons)] {
		s += fmt.Sprintf("\n    %d do not: %s", alike[r], r)
	}
	return s
}

// port is what errors that are alike differ in.
var port = regexp.MustCompile(`:[0-9]{4,5}\b`)

// maxReasons bounds the reasons shown.
const maxReasons = 4

// awaitLoad returns a tally of when edges load a release newer than after.
func (f *fleet) awaitLoad(after uint64) *tally {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loading, f.after = newTally(len(f.edges)), after
	return f.loading
}

func (f *fleet) loaded(index int, number uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loading != nil && number > f.after {
		f.loading.mark(index)
	}
}

// awaitRevocation returns a tally of when edges hear that a token was revoked.
func (f *fleet) awaitRevocation(hash [32]byte) *tally {
	t := newTally(len(f.edges))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revoking[hash] = t
	return t
}

func (f *fleet) revoked(index int, hash [32]byte) {
	f.mu.Lock()
	t := f.revoking[hash]
	f.mu.Unlock()
	if t != nil {
		t.mark(index)
	}
}

// tally is when each of some edges came to a point.
type tally struct {
	all chan struct{} // closed when all have

	mu    sync.Mutex // guards what follows
	start time.Time
	took  []time.Duration // by edge; 0: it hasn't
	left  int
}

func newTally(edges int) *tally {
	return &tally{all: make(chan struct{}), took: make([]time.Duration, edges), left: edges, start: time.Now()}
}

// begin makes now the time that is counted from.
func (t *tally) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.start = time.Now()
}

// mark notes that an edge is there; only the first counts.
func (t *tally) mark(index int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.took[index] != 0 {
		return
	}
	t.took[index] = max(1, time.Since(t.start))
	if t.left--; t.left == 0 {
		close(t.all)
	}
}

// wait waits until all are there, at most for limit.
func (t *tally) wait(ctx context.Context, f *fleet, limit time.Duration, what string) error {
	over := time.NewTimer(limit)
	defer over.Stop()
	look := time.NewTicker(time.Second) // for edges that were refused
	defer look.Stop()
	for {
		select {
		case <-t.all:
			return nil
		case <-look.C:
			if err := f.fault(); err != nil {
				return err
			}
		case <-over.C:
			t.mu.Lock()
			defer t.mu.Unlock()
			return fmt.Errorf("%d of %d edges have not %s within %s; %s", t.left, len(t.took), what, limit, f.standing())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// samples returns how long each took; call it once all are there.
func (t *tally) samples() []time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.took
}
