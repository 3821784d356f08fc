package rpc

import "sync"

// tenure is whether this hub's duties as leader run, for those that must end with them.
type tenure struct {
	mu      sync.Mutex // guards what follows
	leads   bool
	changed chan struct{} // closed and replaced when leads changes
}

func newTenure() *tenure { return &tenure{changed: make(chan struct{})} }

func (t *tenure) set(leads bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leads = leads
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *tenure) get() (leads bool, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.leads, t.changed
}
