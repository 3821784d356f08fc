package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// mostHubs is how many a run may have at once.
const mostHubs = 5

// join adds a hub with an empty disk; what promotes it is the leader's duty.
func (v *virtual) join(ctx context.Context) *virtualHub {
	if len(v.all()) >= mostHubs {
		return nil
	}
	h := v.newHub(false)
	v.revive(h)
	if err := v.add(ctx, h); err != nil {
		v.tell("%s was not added: %v", h.name, err)
		return nil
	}
	v.tell("%s was added", h.name)
	return h
}

// add asks whoever leads until it is done.
func (v *virtual) add(ctx context.Context, h *virtualHub) error {
	return v.change(ctx, func(ctx context.Context, l *life) error {
		h.mu.Lock()
		gone := h.gone
		h.mu.Unlock()
		if gone {
			return nil
		}
		return l.store.AddLearner(ctx, h.platter.id, h.address())
	})
}

// change makes a change of the members; all of them can be asked for again.
func (v *virtual) change(ctx context.Context, ask func(ctx context.Context, l *life) error) error {
	err := errors.New("no leader")
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && ctx.Err() == nil && !v.stopped(); sleep(ctx, 100*time.Millisecond) {
		l := v.leader()
		if l == nil {
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, 4*time.Second)
		err = ask(attempt, l)
		cancel()
		if err == nil {
			v.ledger.count(func() { v.ledger.changes++ })
			return nil
		}
	}
	return err
}

// replace adds a hub and, once it has a vote, removes another one, whose disk is then wiped: what comes back has a new ID.
func (v *virtual) replace(ctx context.Context, old *virtualHub) {
	h := v.join(ctx)
	if h == nil || !v.awaitVoter(ctx, h, 15*time.Second) {
		return
	}
	err := v.change(ctx, func(ctx context.Context, l *life) error { return l.store.RemoveMember(ctx, old.platter.id) })
	if err != nil {
		v.tell("%s was not removed, or not for sure: %v", old.name, err)
		return
	}
	v.tell("%s was removed", old.name)
	sleep(ctx, time.Second) // it is not told, and goes on as if it were a member
	v.forget(old)
}

func (v *virtual) awaitVoter(ctx context.Context, h *virtualHub, patience time.Duration) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if l := v.leader(); l != nil && l.voter(h.platter.id) {
			return true
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return false
		}
	}
	return false
}

func (l *life) voter(id string) bool {
	members, err := l.store.Members()
	for _, m := range members {
		if m.ID == id && m.Voter {
			return err == nil
		}
	}
	return false
}

// move gives a hub another address, as another machine with its disk would have.
func (v *virtual) move(ctx context.Context, h *virtualHub, d time.Duration) {
	h.mu.Lock()
	h.moved++
	h.mu.Unlock()
	v.crash(h)
	sleep(ctx, d/2)
	v.revive(h)
	if l := h.now(); l != nil && l.store.config.Stream.Addr().String() != h.address() {
		v.crash(h) // somebody was just starting it where it was
		v.revive(h)
	}
	if err := v.add(context.WithoutCancel(ctx), h); err != nil { // a hub nobody finds is no hub
		v.tell("%s was not moved: %v", h.name, err)
		return
	}
	v.tell("%s is at %s", h.name, h.address())
}

// address is where the hub is now; its name until it moves.
func (h *virtualHub) address() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.moved == 0 {
		return h.name
	}
	return fmt.Sprintf("%s.%d", h.name, h.moved)
}
