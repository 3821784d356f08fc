package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"gw/rpc/gwv1"
)

// office is whether this hub leads. It leads from when its leadership's first command, OpenTerm, is applied, and the
// cluster has its ID, until Raft says that it doesn't.
type office struct {
	mu      sync.Mutex
	term    *term         // nil: this hub does not lead
	elected bool          // Raft made it leader; term may be yet to come
	changed chan struct{} // closed and replaced when term or elected changes
}

// term is one leadership of this hub. ctx ends with it.
type term struct {
	number uint64
	began  time.Time
	ctx    context.Context
	// transferred is set by the one attempt to hand this leadership over.
	transferred atomic.Bool
}

func (o *office) set(elected bool, t *term) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.elected, o.term = elected, t
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *office) get() (t *term, elected bool, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.term, o.elected, o.changed
}

// await waits until this hub leads.
func (o *office) await(ctx context.Context, failed *latch) (*term, error) {
	for {
		t, _, changed := o.get()
		if t != nil {
			return t, nil
		}
		select {
		case <-changed:
		case <-failed.done:
			return nil, failed.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// opened returns the leadership of this hub, and waits for its first command if Raft has just made it leader.
func (o *office) opened(ctx context.Context) (*term, error) {
	for {
		t, elected, changed := o.get()
		switch {
		case t != nil:
			return t, nil
		case !elected:
			return nil, ErrNotLeader
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrNotProposed, ctx.Err())
		}
	}
}

// Leading reports whether this hub leads, as far as it knows; only Read knows for sure.
func (s *Store) Leading() bool {
	t, _, _ := s.office.get()
	return t != nil
}

// follow runs until the store closes: it takes office when Raft makes this hub leader, and leaves it.
func (s *Store) follow() {
	var leave func()
	defer func() {
		if leave != nil {
			leave()
		}
	}()
	for {
		select {
		case leading := <-s.raft.LeaderCh():
			if leave != nil { // true after true: Raft lost the lead in between
				leave()
				leave = nil
			}
			if leading {
				leave = s.takeOffice()
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// takeOffice opens the term in the background. leave ends it and waits.
func (s *Store) takeOffice() (leave func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	s.office.set(true, nil)
	opened := make(chan struct{})
	started := s.tasks.run(func() {
		defer close(opened)
		number, err := s.openTerm(ctx)
		if err != nil {
			return
		}
		s.log.Info("this hub leads", "node", s.id, "term", number)
		s.office.set(true, &term{number: number, began: time.Now(), ctx: ctx})
		s.settle(ctx)
	})
	if !started {
		close(opened)
	}
	return func() {
		cancel()
		<-opened
		s.office.set(false, nil)
		s.log.Info("this hub leads no longer", "node", s.id)
	}
}

// openTerm proposes the first command of a leadership, and the first of a cluster if it has none. It tries again until
// it has succeeded or ctx, which ends with the leadership, has.
func (s *Store) openTerm(ctx context.Context) (number uint64, err error) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		number = s.raft.CurrentTerm()
		if err = s.tryOpenTerm(ctx, number); err == nil {
			return number, nil
		}
		if ctx.Err() == nil {
			s.log.Warn("open a term as leader", "term", number, "error", err)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (s *Store) tryOpenTerm(ctx context.Context, number uint64) error {
	open := &gwv1.Command{Body: &gwv1.Command_OpenTerm{OpenTerm: &gwv1.OpenTerm{
		Term: number, NodeId: s.id, Version: s.config.Version,
	}}}
	// Refused: an attempt whose outcome was unknown was applied after all.
	if _, err := s.propose(ctx, open); err != nil && s.State().Cluster().OpenTerm != number {
		return err
	}
	if s.config.Bootstrap == nil || s.State().Cluster().ClusterId != "" {
		return nil
	}
	first, err := s.config.Bootstrap(s.id)
	if err != nil {
		err = fmt.Errorf("found a cluster: %w", err)
		s.failed.set(err)
		return err
	}
	_, err = s.propose(ctx, &gwv1.Command{Body: &gwv1.Command_Bootstrap{Bootstrap: first}})
	var refused *Refused
	if errors.As(err, &refused) && s.State().Cluster().ClusterId == "" {
		s.failed.set(fmt.Errorf("found a cluster: %w", err))
	}
	return err
}

// LeadDuties runs duty whenever this hub leads, each time under a context that ends with the leadership, and waits for
// it to return before it runs it again. duty may propose and read; a duty that returns nil early is done until the
// next leadership. LeadDuties blocks until ctx ends or the store closes, and then returns nil, or until duty fails
// while its context holds, and then returns duty's error.
func (s *Store) LeadDuties(ctx context.Context, duty func(ctx context.Context) error) error {
	ctx, stop := s.bound(ctx)
	defer stop()
	for ctx.Err() == nil {
		t, err := s.office.await(ctx, s.failed)
		if err != nil {
			return nil
		}
		if err := perform(ctx, t, duty); err != nil {
			return err
		}
		select {
		case <-t.ctx.Done():
		case <-ctx.Done():
		}
		if err := s.office.after(ctx, t); err != nil {
			return nil
		}
	}
	return nil
}

func perform(ctx context.Context, t *term, duty func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(t.ctx, cancel)
	defer stop()
	if err := duty(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("duty of the leader: %w", err)
	}
	return nil
}

// after waits until t, which has ended, is also no longer what get returns.
func (o *office) after(ctx context.Context, t *term) error {
	for {
		now, _, changed := o.get()
		if now != t {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errNoAnswer = errors.New("raft gave no answer")
