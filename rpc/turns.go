package rpc

import (
	"context"
	"fmt"
)

// maxWaiting is how many sign-ins wait for their passwords to be checked, which takes some tens of milliseconds each.
const maxWaiting = 16

// turns lets one in at a time, and a few wait.
type turns struct {
	places chan struct{} // of those who wait, and of the one whose turn it is
	turn   chan struct{}
}

func newTurns() *turns {
	return &turns{places: make(chan struct{}, maxWaiting+1), turn: make(chan struct{}, 1)}
}

// enter waits for its turn, which lasts until leave is called. It refuses if too many wait, and fails with ctx's error.
func (q *turns) enter(ctx context.Context) (leave func(), err error) {
	select {
	case q.places <- struct{}{}:
	default:
		return nil, &Error{Reason: ReasonTooManyTries, Message: "too many sign in at this moment; try again in a few seconds"}
	}
	select {
	case q.turn <- struct{}{}:
		return func() { <-q.turn; <-q.places }, nil
	case <-ctx.Done():
		<-q.places
		return nil, fmt.Errorf("wait to check a password: %w", ctx.Err())
	}
}
