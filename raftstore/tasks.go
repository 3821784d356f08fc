package raftstore

import (
	"context"
	"sync"
)

// tasks are the goroutines a store waits for when it closes.
type tasks struct {
	mu     sync.Mutex
	closed bool
	group  sync.WaitGroup
}

// run starts f, unless wait was called.
func (t *tasks) run(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.group.Go(f)
	}
	return !t.closed
}

// wait returns when all have ended; no more are started then.
func (t *tasks) wait() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.group.Wait()
}

// answerOf calls ask, which blocks without a limit, and returns its answer, or ctx's error if that comes first. Raft
// forgets some of its futures when it shuts down (hashicorp/raft#498), so nobody may wait for ask itself: forgotten,
// its goroutine lasts as long as the process.
func answerOf(ctx context.Context, ask func() error) error {
	answer := make(chan error, 1)
	go func() { answer <- ask() }()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
