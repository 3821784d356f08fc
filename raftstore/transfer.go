package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// nearlyCaughtUp is how many log entries a hub may lack to count as caught up: under load it always lacks some.
const nearlyCaughtUp = 64

// TransferLeadership hands leadership to a voter that is caught up and answers, the most caught up one if to is "". It
// returns when this hub no longer leads. It is tried once per leadership, because after a second attempt that fails Raft
// can be left unable to take writes (hashicorp/raft#696). The errors: ErrNotLeader; ErrMembership if there is nobody to
// hand it to or the one attempt was made; ErrUnknownOutcome if ctx ends first; others if the attempt failed, and this
// hub leads on.
func (s *Store) TransferLeadership(ctx context.Context, to string) error {
	ctx, stop := s.bound(ctx)
	defer stop()
	t, err := s.office.opened(ctx)
	if err != nil {
		return s.unproposed(ctx, err)
	}
	members, err := s.Members()
	if err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	heir, err := heirOf(members, to, s.raft.LastIndex(), s.contactLimit())
	if err != nil {
		return fmt.Errorf("transfer leadership: %w: %w", ErrNotProposed, err)
	}
	if heir.Self {
		return nil
	}
	if !t.transferred.CompareAndSwap(false, true) {
		return fmt.Errorf("transfer leadership: %w: %w: it was tried before in this leadership", ErrNotProposed, ErrMembership)
	}
	s.log.Info("this hub hands leadership over", "node", s.id, "to", heir.ID)
	err = answerOf(ctx, s.raft.LeadershipTransferToServer(raft.ServerID(heir.ID), raft.ServerAddress(heir.Address)).Error)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return fmt.Errorf("transfer leadership: %w: %w", ErrUnknownOutcome, s.reason(ctx, err))
	case errors.Is(err, raft.ErrNotLeader):
		return ErrNotLeader
	}
	return fmt.Errorf("transfer leadership to hub %s: %w", heir.ID, err)
}

// heirOf chooses to whom leadership can go.
func heirOf(members []Member, to string, last uint64, contact time.Duration) (Member, error) {
	var able []Member
	for _, m := range members {
		if m.ID == to && m.Self {
			return m, nil
		}
		if m.Voter && !m.Self && m.LastContact >= 0 && m.LastContact < contact && m.Match+nearlyCaughtUp >= last {
			able = append(able, m)
		}
	}
	if to != "" {
		able = slices.DeleteFunc(able, func(m Member) bool { return m.ID != to })
		if len(able) == 0 {
			return Member{}, fmt.Errorf("%w: hub %s is no voter that answers and is caught up", ErrMembership, to)
		}
	}
	if len(able) == 0 {
		return Member{}, fmt.Errorf("%w: no other voter answers and is caught up", ErrMembership)
	}
	return slices.MaxFunc(able, func(a, b Member) int { return cmp.Compare(a.Match, b.Match) }), nil
}

// handOver gives leadership away before this hub stops, if it leads and somebody can take it. It is an attempt: nothing
// depends on it but how soon there is a leader.
func (s *Store) handOver() {
	if s.raft == nil || s.failed.get() != nil || s.halted.get() != nil || !s.Leading() {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, min(2*s.config.electionTimeout(), 5*time.Second))
	defer cancel()
	if err := s.TransferLeadership(ctx, ""); err != nil && !errors.Is(err, ErrMembership) {
		s.log.Warn("leadership was not handed over", "error", err)
	}
}

// stuck notices a Raft that answers every command with "leadership transfer in progress" for good
// (hashicorp/raft#696). Only a new process helps.
type stuck struct {
	mu    sync.Mutex
	since time.Time // of the first such answer in a row; zero: the last answer was another
}

// note takes the answer to a command, and returns an error once it has been that one for longer than limit.
func (k *stuck) note(answer error, limit time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case !errors.Is(answer, raft.ErrLeadershipTransferInProgress):
		k.since = time.Time{}
	case k.since.IsZero():
		k.since = time.Now()
	case time.Since(k.since) > limit:
		return fmt.Errorf("raft has taken no command for %v because of a leadership transfer that does not end", limit)
	}
	return nil
}

// transferLimit is the longest that a transfer can take when nothing is wrong with Raft: a round of catching up, a
// request that is never answered, an election.
func (s *Store) transferLimit() time.Duration { return 3*s.config.electionTimeout() + transportTimeout }
