package rpc

import (
	"context"
	"runtime"
	"sync"
	"time"

	"gw/raftstore/state"
)

// notices wakes every watch stream at once when something changed that edges must hear of, and only then: most of what
// happens to the state does not concern them.
type notices struct {
	mu      sync.Mutex // guards changed
	changed chan struct{}
}

func newNotices() *notices { return &notices{changed: make(chan struct{})} }

// next returns a channel that is closed at the next notice.
func (n *notices) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

func (n *notices) broadcast() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}

// concern is what of a state edges hear of: it differs if any edge must be told something.
type concern struct {
	cluster                     string
	epoch, access, push, notice uint64
}

func concernOf(st *state.State) concern {
	c := st.Cluster()
	return concern{cluster: c.ClusterId, epoch: c.Epoch, access: c.AccessVersion, push: c.PushNumber, notice: c.EdgeNotice}
}

// follow broadcasts what concerns edges until ctx ends or the store closes.
func (k *core) follow(ctx context.Context) error {
	st := k.store.State()
	k.notices.broadcast() // for streams that were opened before
	for {
		next, err := k.store.Wait(ctx, st.Index())
		if err != nil {
			return err
		}
		if concernOf(next) != concernOf(st) {
			k.notices.broadcast()
		}
		st = next
	}
}

// lanes bound how much is done for edges at a time. Without them a push, and what edges say to it, would have as many
// goroutines wait for a processor as there are edges, and a heartbeat among hubs would wait behind all of them: the leader
// of a big fleet would lose its lead by every push.
type lanes chan struct{}

const (
	lanesPerProcessor = 8
	// laneTime is how long a lane is kept at most: an edge that doesn't read, or a call that waits for a disk, must not keep
	// others waiting.
	laneTime = 20 * time.Millisecond
)

func newLanes() lanes { return make(lanes, lanesPerProcessor*runtime.GOMAXPROCS(0)) }

// enter waits for a lane, which is left when leave is called, or after laneTime. It fails with ctx's error.
func (l lanes) enter(ctx context.Context) (leave func(), err error) {
	select {
	case l <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	once := sync.OnceFunc(func() { <-l })
	late := time.AfterFunc(laneTime, once)
	return func() {
		late.Stop()
		once()
	}, nil
}

// loading are the edges that were told a new target and have not reported since. Their number is bounded, so that a push
// reaches a large fleet as fast as the hub takes its reports, and no faster.
type loading struct {
	places chan struct{} // has a value for each edge
	held   sync.Map      // edge ID → *place
}

type place struct{ leave func() }

const (
	loadsPerProcessor = 500
	// loadTime is how long a place is kept at most: edges that take long, or are gone, must not keep others waiting.
	loadTime = time.Second
)

func newLoading() *loading {
	return &loading{places: make(chan struct{}, loadsPerProcessor*runtime.GOMAXPROCS(0))}
}

// hold gives an edge the place that was taken for it.
func (l *loading) hold(edge string) {
	p := &place{sync.OnceFunc(func() { <-l.places })}
	if old, ok := l.held.Swap(edge, p); ok {
		old.(*place).leave()
	}
	time.AfterFunc(loadTime, func() {
		l.held.CompareAndDelete(edge, p)
		p.leave()
	})
}

// take gives an edge a place if there is one.
func (l *loading) take(edge string) bool {
	select {
	case l.places <- struct{}{}:
		l.hold(edge)
		return true
	default:
		return false
	}
}

// reported frees an edge's place, if it has one.
func (l *loading) reported(edge string) {
	if p, ok := l.held.LoadAndDelete(edge); ok {
		p.(*place).leave()
	}
}
