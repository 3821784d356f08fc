package rpc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"gw/raftstore"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

const maxIdempotencyKey = 128

// read returns the state with everything that was acknowledged, which only the leader has; or what this hub has, for a
// caller who is content with that.
func (k *core) read(ctx context.Context) (*state.State, error) {
	if stale(ctx) {
		return k.store.State(), nil
	}
	bounded := ctx
	if until, ok := ctx.Value(patienceKey{}).(time.Time); ok {
		var cancel func()
		bounded, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	st, err := k.store.Read(bounded)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", raftstore.ErrNotProposed, errNotSure)
	}
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	return st, nil
}

// leastPatience is how long the leader at least tries to make sure that it leads, however long a call has waited for it.
const leastPatience = time.Second

type patienceKey struct{}

var errNotSure = errors.New("the leader could not make sure in time that it leads")

// withPatience returns a context whose calls wait for the leader to be sure of its lead until then, and no longer: the time
// in which there was none is part of what a caller waits.
func withPatience(ctx context.Context, until time.Time) context.Context {
	if least := time.Now().Add(leastPatience); until.Before(least) {
		until = least
	}
	return context.WithValue(ctx, patienceKey{}, until)
}

// propose makes a command of the caller and has it applied.
func (k *core) propose(ctx context.Context, cmd *gwv1.Command) (*gwv1.Result, error) {
	p, _ := PrincipalOf(ctx)
	cmd.FeatureLevel = state.FeatureLevel
	cmd.Actor, cmd.ActorAddress = p.User, p.Address
	cmd.ProposedAt = k.now().UnixNano()
	return k.store.Propose(ctx, cmd)
}

// change proposes what the caller's idempotency key is of: the result may be that of an earlier call with the key.
func (k *core) change(ctx context.Context, cmd *gwv1.Command) (*gwv1.Result, error) {
	cmd.IdempotencyKey = keyOf(ctx)
	return k.propose(ctx, cmd)
}

// deliver is change for commands whose answer holds a secret that is kept nowhere else. kept reports whether the state
// has what this very call made: it has not if an earlier call had the same idempotency key.
func (k *core) deliver(ctx context.Context, cmd *gwv1.Command, kept func(st *state.State) bool) error {
	if _, err := k.change(ctx, cmd); err != nil {
		return err
	}
	if cmd.IdempotencyKey != "" && !kept(k.store.State()) {
		return &Error{Reason: ReasonAlreadyDelivered,
			Message: "this call was made before with the same idempotency key; its secret was in that answer only: make another one"}
	}
	return nil
}

// repeated returns the result of an earlier call of the caller with the same idempotency key.
func repeated(ctx context.Context, st *state.State) (*gwv1.Result, bool) {
	p, _ := PrincipalOf(ctx)
	if keyOf(ctx) == "" {
		return nil, false
	}
	first, ok := st.Repeated(p.User, keyOf(ctx))
	return first.GetResult(), ok
}

// keyReused is the answer to an idempotency key that was given to another call before.
func keyReused() error {
	return &Error{Reason: ReasonKeyReused, Message: "this idempotency key was used for another call; use a new one"}
}

func newID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func checkIdempotencyKey(key string) error {
	if len(key) > maxIdempotencyKey {
		return invalid("Idempotency-Key", ReasonTooLarge, "is %d bytes long; at most %d are taken", len(key), maxIdempotencyKey)
	}
	for _, c := range key {
		if c < ' ' || c > '~' {
			return invalid("Idempotency-Key", ReasonInvalid, "holds %s; only printable ASCII is taken", fmt.Sprintf("%q", c))
		}
	}
	return nil
}
