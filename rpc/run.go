package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

const (
	dutyInterval = time.Second
	purgeEvery   = time.Minute
	// recordsPerCommand and recordBytesPerCommand bound a batch of registry changes; a record is at most some tens of KiB,
	// mostly labels.
	recordsPerCommand     = 200
	recordBytesPerCommand = 256 << 10
)

// Run keeps the hub's picture of edges and hubs true until ctx ends or the store closes, and returns why it ended; the
// store's error if that failed. It
// wakes watch streams when something changed that concerns edges. While this hub leads, it records what changed about
// edges and hubs, deletes ephemeral edges that are away, gives hubs that join their vote, and compares the states of all
// hubs. Run once at a time.
func (h *Hub) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(h.core.follow(ctx)) })
	wg.Go(func() { cancel(h.core.store.LeadDuties(ctx, h.core.lead)) })
	wg.Go(func() { cancel(h.core.store.KeepMembership(ctx, h.core.membership)) })
	wg.Go(func() { h.core.announce(ctx) })
	wg.Wait()
	if err := h.core.store.Err(); err != nil {
		return fmt.Errorf("the store failed: %w", err)
	}
	return context.Cause(ctx)
}

// lead is the leader's duties; ctx ends with the leadership.
func (k *core) lead(ctx context.Context) error {
	ctx = WithPrincipal(ctx, Principal{User: "hub/" + k.store.NodeID()})
	purged := k.now()
	k.fleet.SetLeaderSince(purged)
	k.tenure.set(true)
	var wg sync.WaitGroup
	defer k.fleet.Resign()
	defer wg.Wait()
	defer k.tenure.set(false)
	wg.Go(func() { k.keepHubs(ctx) })
	wg.Go(func() { k.keepComparing(ctx) })
	wg.Go(func() { k.keepRoom(ctx) })
	ticks, stop := k.ticker(dutyInterval)
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks:
		}
		k.fleet.Elapse()
		if err := k.recordEdges(ctx); err != nil && ctx.Err() == nil {
			k.log.WarnContext(ctx, "edges could not be recorded; they will be again", "error", err)
		}
		if now := k.now(); now.Sub(purged) >= purgeEvery {
			purged = now
			if err := k.purgeEdges(ctx); err != nil && ctx.Err() == nil {
				k.log.WarnContext(ctx, "ephemeral edges could not be deleted; it will be tried again", "error", err)
			}
		}
	}
}

// recordEdges puts into the registry what edges have said that it doesn't say yet.
func (k *core) recordEdges(ctx context.Context) error {
	for {
		heard := k.fleet.Drain(recordsPerCommand)
		if len(heard) == 0 {
			return nil
		}
		st, err := k.read(ctx)
		if err == nil {
			err = k.recordChanged(ctx, k.changedEdges(st, heard))
		}
		if err != nil {
			for _, r := range heard {
				k.fleet.MarkDirty(r.Id)
			}
			return fmt.Errorf("record %d edges: %w", len(heard), err)
		}
	}
}

// recordChanged proposes records in commands of a bounded size.
func (k *core) recordChanged(ctx context.Context, changed []*gwv1.EdgeRecord) error {
	for len(changed) > 0 {
		n, size := 0, 0
		for n < len(changed) && (n == 0 || size+proto.Size(changed[n]) <= recordBytesPerCommand) {
			size += proto.Size(changed[n])
			n++
		}
		_, err := k.propose(ctx, &gwv1.Command{Body: &gwv1.Command_UpdateEdges{UpdateEdges: &gwv1.UpdateEdges{Edges: changed[:n]}}})
		if err != nil {
			return err
		}
		changed = changed[n:]
	}
	return nil
}

// changedEdges merges what was heard into the registry's records and leaves out what says nothing new, and what the
// registry would not take: a whole batch would be refused for it.
func (k *core) changedEdges(st *state.State, heard []*gwv1.EdgeRecord) (changed []*gwv1.EdgeRecord) {
	for _, h := range heard {
		if p := state.EdgeProblem(h); p != "" {
			k.log.Warn("what an edge said of itself can't be recorded", "edge", h.Id, "problem", p)
			continue
		}
		was, ok := st.Edge(h.Id)
		if !ok {
			h.FirstSeen = k.now().UnixNano()
			changed = append(changed, h)
			continue
		}
		h.Labels, h.FirstSeen, h.Ephemeral, h.Retry = was.Labels, was.FirstSeen, was.Ephemeral, was.Retry
		if was.Namespace != h.Namespace {
			h.Labels = nil // an admin gave them to an edge of the other namespace
		}
		if !proto.Equal(was, h) {
			changed = append(changed, h)
		}
	}
	return changed
}

// purgeEdges deletes the entries of ephemeral edges that have been away for long.
func (k *core) purgeEdges(ctx context.Context) error {
	st, err := k.read(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for e := range st.Edges() {
		if !e.Ephemeral || k.fleet.Away(e.Id, time.Unix(0, e.FirstSeen)) < ephemeralAway {
			continue
		}
		_, err := k.propose(ctx, &gwv1.Command{Body: &gwv1.Command_RemoveEdge{RemoveEdge: &gwv1.RemoveEdgeRecord{Id: e.Id}}})
		if err != nil {
			failed = append(failed, fmt.Errorf("delete edge %s: %w", e.Id, err))
			continue
		}
		k.fleet.Forget(e.Id)
	}
	return errors.Join(failed...)
}
