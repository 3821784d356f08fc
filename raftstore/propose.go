package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// enqueuePatience is how long a command may wait for Raft to take it.
const enqueuePatience = 5 * time.Second

// Propose puts a command into the log and returns its result once it is applied here. It sets the command's feature
// level, and its time if it has none, in a copy. The errors: *Refused if the state refused the command; ErrNotLeader,
// ErrTooLarge, ErrDiskLow and otherwise ErrNotProposed if it is in no log; ErrUnknownOutcome if it may be. A ctx that ends while the
// command is on its way gives ErrUnknownOutcome.
func (s *Store) Propose(ctx context.Context, c *gwv1.Command) (*gwv1.Result, error) {
	ctx, stop := s.bound(ctx)
	defer stop()
	if _, err := s.office.opened(ctx); err != nil {
		return nil, s.unproposed(ctx, err)
	}
	if err := s.space.refuses(c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotProposed, err)
	}
	began := time.Now()
	r, err := s.propose(ctx, c)
	if err == nil {
		s.metrics.commit.Observe(time.Since(began).Seconds())
	}
	return r, err
}

// propose is Propose without waiting for the term to be open.
func (s *Store) propose(ctx context.Context, c *gwv1.Command) (*gwv1.Result, error) {
	data, err := s.encode(c)
	if err != nil {
		return nil, err
	}
	wait := enqueuePatience
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline))
	}
	if err := ctx.Err(); err != nil || wait <= 0 {
		return nil, s.unproposed(ctx, fmt.Errorf("%w: %w", ErrNotProposed, context.DeadlineExceeded))
	}
	var future raft.ApplyFuture
	err = answerOf(ctx, func() error {
		future = s.raft.Apply(data, wait)
		return future.Error()
	})
	if stuck := s.stuck.note(err, s.transferLimit()); stuck != nil {
		s.failed.set(stuck)
	}
	switch {
	case err == nil:
		return resultOf(future.Response())
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, s.reason(ctx, err))
	}
	return nil, classify(err)
}

func (s *Store) encode(c *gwv1.Command) ([]byte, error) {
	entry := &gwv1.Command{
		FeatureLevel: max(c.GetFeatureLevel(), 1), Skippable: c.GetSkippable(), IdempotencyKey: c.GetIdempotencyKey(),
		Actor: c.GetActor(), ActorAddress: c.GetActorAddress(), ProposedAt: c.GetProposedAt(), Body: c.GetBody(),
	}
	if entry.Actor == "" {
		entry.Actor = "hub/" + s.id
	}
	if entry.ProposedAt == 0 {
		entry.ProposedAt = s.config.clock()().UnixNano()
	}
	if err := state.Known(entry); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotProposed, err) // it would stop every hub
	}
	data, err := state.EncodeCommand(entry)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotProposed, err)
	}
	if len(data) > MaxEntry {
		return nil, fmt.Errorf("a command of %d bytes: %w (%d)", len(data), ErrTooLarge, MaxEntry)
	}
	return data, nil
}

// unproposed is err for a command that did not reach Raft.
func (s *Store) unproposed(ctx context.Context, err error) error {
	if r := s.reason(ctx, err); r != err {
		return fmt.Errorf("%w: %w", ErrNotProposed, r)
	}
	return err
}

// classify tells what Raft never took from what may be in a log.
func classify(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return ErrNotLeader
	case errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", ErrNotProposed, err)
	}
	// Leadership lost, shutdown, or the leader's own disk: the entry may have reached another hub.
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}

func resultOf(answer any) (*gwv1.Result, error) {
	switch a := answer.(type) {
	case *gwv1.Result:
		if a.Refusal != nil {
			return nil, &Refused{a.Refusal}
		}
		return a, nil
	case error:
		return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, a)
	}
	return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, errNoAnswer)
}
