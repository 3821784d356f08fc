package raftstore

import "sync"

// latch holds the first error after which the store must not go on.
type latch struct {
	once sync.Once
	err  error
	done chan struct{} // closed once err is set
}

func newLatch() *latch { return &latch{done: make(chan struct{})} }

// set reports whether err is the first.
func (l *latch) set(err error) (first bool) {
	l.once.Do(func() {
		l.err = err
		close(l.done)
		first = true
	})
	return first
}

// get returns the error, or nil.
func (l *latch) get() error {
	select {
	case <-l.done:
		return l.err
	default:
		return nil
	}
}
