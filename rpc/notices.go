package rpc

import (
	"context"
	"sync"

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
