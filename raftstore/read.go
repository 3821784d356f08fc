package raftstore

import (
	"context"
	"fmt"
	"sync"

	"gw/raftstore/state"
)

// Read returns a state that has everything acknowledged by any hub before Read was called. Only the leader can: it
// takes the commit index, makes sure by a round to the other hubs that it still led after that, and waits until it has
// applied as much. The errors: ErrNotLeader, and ErrNotProposed if ctx ends first or the lead was lost on the way.
func (s *Store) Read(ctx context.Context) (*state.State, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotProposed, err) // nobody waits: no round to the others for it
	}
	ctx, stop := s.bound(ctx)
	defer stop()
	t, err := s.office.opened(ctx)
	if err != nil {
		return nil, s.unproposed(ctx, err)
	}
	// The term is open: an entry of it is applied here, without which the commit index could be an old leader's.
	index, err := s.reads.verify(ctx, s, t)
	if err != nil {
		return nil, s.unproposed(ctx, err)
	}
	found, err := s.machine.await(ctx, func(st *state.State) bool { return st.Index() >= index })
	if err != nil {
		return nil, s.unproposed(ctx, fmt.Errorf("%w: %w", ErrNotProposed, err))
	}
	return found, nil
}

// reads makes many reads share one round to the other hubs. A read may use only a round that begins after it came, so
// those that come during one share the next.
type reads struct {
	mu      sync.Mutex
	running bool
	next    *round // of those waiting; nil: nobody
}

// round is one verification of the lead.
type round struct {
	done  chan struct{} // closed when index or err is set
	index uint64        // committed before the round began
	err   error
}

// verify returns a commit index taken after the call began, and before the lead was found to hold.
func (r *reads) verify(ctx context.Context, s *Store, t *term) (uint64, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	if !r.running {
		r.running = s.tasks.run(func() { r.run(s) })
	}
	r.mu.Unlock()
	select {
	case <-mine.done:
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", ErrNotProposed, ctx.Err())
	}
	if mine.err != nil {
		return 0, mine.err
	}
	if now, _, _ := s.office.get(); now != t || s.raft.CurrentTerm() != t.number {
		return 0, ErrNotLeader
	}
	return mine.index, nil
}

// run makes rounds until nobody waits.
func (r *reads) run(s *Store) {
	for {
		r.mu.Lock()
		this := r.next
		r.next = nil
		r.running = this != nil
		r.mu.Unlock()
		if this == nil {
			return
		}
		this.index = s.raft.CommitIndex()
		if err := answerOf(s.ctx, s.raft.VerifyLeader().Error); err != nil {
			this.err = fmt.Errorf("%w: %w", ErrNotLeader, err)
		}
		close(this.done)
	}
}
