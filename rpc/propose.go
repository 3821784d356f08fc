package rpc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

const maxIdempotencyKey = 128

// propose makes a command of the caller and has it applied. once says that the caller's idempotency key is of this
// command: then the result may be that of an earlier call, and repeated is true.
func (k *core) propose(ctx context.Context, cmd *gwv1.Command, once bool) (r *gwv1.Result, repeated bool, err error) {
	p, _ := PrincipalOf(ctx)
	cmd.FeatureLevel = state.FeatureLevel
	cmd.Actor, cmd.ActorAddress = p.User, p.Address
	cmd.ProposedAt = k.now().UnixNano()
	if once {
		cmd.IdempotencyKey = keyOf(ctx)
	}
	if cmd.IdempotencyKey != "" {
		// IDs and times in the command are new ones: the state would take it for another command under the same key.
		st, err := k.store.Read(ctx)
		if err != nil {
			return nil, false, err
		}
		if first, ok := st.Repeated(cmd.Actor, cmd.IdempotencyKey); ok {
			return first.Result, true, nil
		}
	}
	r, err = k.store.Propose(ctx, cmd)
	return r, false, err
}

// change is propose for commands that return nothing a repeated call could miss.
func (k *core) change(ctx context.Context, cmd *gwv1.Command) (*gwv1.Result, error) {
	r, _, err := k.propose(ctx, cmd, true)
	return r, err
}

// deliver is propose for commands whose answer holds a secret that exists nowhere else.
func (k *core) deliver(ctx context.Context, cmd *gwv1.Command) (*gwv1.Result, error) {
	r, repeated, err := k.propose(ctx, cmd, true)
	if err == nil && repeated {
		return nil, &Error{Reason: ReasonAlreadyDelivered,
			Message: "this call was made before with the same idempotency key; its secret was in that answer only: make another one"}
	}
	return r, err
}

// keyReused is the answer to an idempotency key that was given to another call before.
func keyReused() error {
	return &Error{Reason: ReasonPrecondition, Message: "this idempotency key was used for another call; use a new one"}
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
