package raftstore

import (
	"errors"
	"fmt"

	"gw/rpc/gwv1"
)

// MaxEntry is the largest encoded command Propose takes, in bytes.
const MaxEntry = 1 << 20

var (
	// ErrNotProposed means that the command is in no log and never will be: it is safe to try again.
	ErrNotProposed = errors.New("not proposed")
	// ErrNotLeader means that another hub has to be asked. It wraps ErrNotProposed.
	ErrNotLeader = fmt.Errorf("%w: this hub does not lead", ErrNotProposed)
	// ErrTooLarge means that the command is larger than MaxEntry. It wraps ErrNotProposed.
	ErrTooLarge = fmt.Errorf("%w: larger than a log entry may be", ErrNotProposed)
	// ErrUnknownOutcome means that the command may or may not be applied, now or later. Only a command with an
	// idempotency key is safe to try again.
	ErrUnknownOutcome = errors.New("unknown outcome")
	// ErrClosed means that the store is closed or has failed. Alone it says nothing about a proposal; it comes with
	// ErrNotProposed or ErrUnknownOutcome.
	ErrClosed = errors.New("store is closed")
)

// Refused is the error of a command that was applied and changed nothing, because the state refused it.
type Refused struct{ Refusal *gwv1.Refusal }

func (r *Refused) Error() string { return r.Refusal.GetMessage() }
