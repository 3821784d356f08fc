package pluginhost

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"gw/edgeplugin/pluginv1"
)

// Set is the plugins of one release, with their processes. Plugins are named by their place in the slice the set was made
// of.
type Set struct {
	host    *Host
	procs   []*process
	holds   atomic.Int64
	dropped sync.Once
}

// Wait waits until every process of the set has been started or has failed to, at most for d.
func (s *Set) Wait(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for _, p := range s.procs {
		select {
		case <-p.tried:
		case <-ctx.Done():
			return
		}
	}
}

// Hold keeps the set's processes until Release; false: they have been given up.
func (s *Set) Hold() bool {
	for {
		n := s.holds.Load()
		if n <= 0 {
			return false
		}
		if s.holds.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release ends a Hold, or gives up a set that was not adopted.
func (s *Set) Release() {
	if s.holds.Add(-1) == 0 {
		s.drop()
	}
}

func (s *Set) drop() { s.dropped.Do(func() { s.host.drop(s.procs) }) }

// Needs says which bodies a plugin wants and up to how many bytes.
func (s *Set) Needs(i int) (request, response bool, limit int64) {
	inst := s.procs[i].instance.Load()
	if inst == nil {
		return false, false, 0
	}
	m := inst.manifest
	limit = m.MaxBodyBytes
	if limit <= 0 || limit > MaxBody {
		limit = MaxBody
	}
	return m.RequestBodies, m.ResponseBodies, limit
}

// Request asks a plugin about a request. It blocks until the plugin has answered, its timeout is over, or ctx ends.
func (s *Set) Request(ctx context.Context, i int, hook pluginv1.Hook, r *pluginv1.Request) (d *pluginv1.Decision, err error) {
	err = s.procs[i].call(ctx, func(ctx context.Context, inst *instance) (err error) {
		switch hook {
		case pluginv1.Hook_HOOK_PRE_AUTH:
			d, err = inst.client.HandlePreAuth(ctx, r)
		case pluginv1.Hook_HOOK_AUTH:
			d, err = inst.client.HandleAuth(ctx, r)
		default:
			d, err = inst.client.HandlePostAuth(ctx, r)
		}
		return err
	})
	return d, err
}

// Response asks a plugin about an answer, as Request does.
func (s *Set) Response(ctx context.Context, i int, r *pluginv1.Response) (d *pluginv1.Decision, err error) {
	err = s.procs[i].call(ctx, func(ctx context.Context, inst *instance) (err error) {
		d, err = inst.client.OnResponse(ctx, r)
		return err
	})
	return d, err
}

// Chunk asks a plugin about a piece of an answer that streams, as Request does.
func (s *Set) Chunk(ctx context.Context, i int, c *pluginv1.StreamChunk) (d *pluginv1.StreamChunkDecision, err error) {
	err = s.procs[i].call(ctx, func(ctx context.Context, inst *instance) (err error) {
		d, err = inst.client.OnStreamChunk(ctx, c)
		return err
	})
	return d, err
}
