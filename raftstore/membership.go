package raftstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// ErrMembership means that a change of the members, or of the leader, was refused because of what the members are. It
// comes with ErrNotProposed: nothing was changed.
var ErrMembership = errors.New("membership")

// Member is one hub of the cluster.
type Member struct {
	ID, Address string
	// Voter is false for a learner: it follows, and does not count for majorities.
	Voter  bool
	Leader bool
	// Self is this hub.
	Self bool
	// Match is the log index up to which the leader knows that the member has its log. 0 if this hub does not lead.
	Match uint64
	// LastContact is how long ago the member answered this hub as leader: 0 for this hub itself, negative if it never
	// did, or this hub does not lead.
	LastContact time.Duration
}

// Members returns the cluster's newest configuration known here, which may not be committed yet, with what this hub
// knows of each if it leads. It does not block.
func (s *Store) Members() ([]Member, error) {
	servers, err := s.configuration()
	if err != nil {
		return nil, err
	}
	_, leader := s.raft.LeaderWithID()
	_, leading, _ := s.office.get()
	term, now := s.raft.CurrentTerm(), time.Now()
	members := make([]Member, len(servers))
	for i, v := range servers {
		m := Member{
			ID: string(v.ID), Address: string(v.Address), Voter: v.Suffrage == raft.Voter,
			Leader: v.ID == leader, Self: string(v.ID) == s.id, LastContact: -1,
		}
		switch {
		case m.Self:
			m.LastContact = 0
			if leading {
				m.Match = s.raft.LastIndex()
			}
		case leading:
			known := s.transport.peers.in(term, v.ID)
			m.Match = known.match
			if !known.contact.IsZero() {
				m.LastContact = max(0, now.Sub(known.contact))
			}
		}
		members[i] = m
	}
	return members, nil
}

func (s *Store) configuration() ([]raft.Server, error) {
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, fmt.Errorf("read the members: %w", err)
	}
	return f.Configuration().Servers, nil
}

// Address is where the other hubs reach this one, as Config said it.
func (s *Store) Address() string { return string(s.transport.LocalAddr()) }

// Leader returns the hub that leads, as far as this one knows, and its address; "" if it knows of none.
func (s *Store) Leader() (id, address string) {
	a, i := s.raft.LeaderWithID()
	return string(i), string(a)
}

// LeaderContact is how long ago the leader last spoke to this hub: 0 if this hub leads, negative if none ever did.
func (s *Store) LeaderContact() time.Duration {
	if s.raft.State() == raft.Leader {
		return 0
	}
	last := s.raft.LastContact()
	if last.IsZero() {
		return -1
	}
	return max(0, time.Since(last))
}

// LeaderHeard reports whether the leader that Leader names may be taken to live: this hub leads, or has heard from it
// within half an election timeout. A leader speaks several times in that; one that hasn't may be gone, though nobody has
// called an election yet.
func (s *Store) LeaderHeard() bool {
	silent := s.LeaderContact()
	return silent >= 0 && silent < s.config.electionTimeout()/2
}

// CommitIndex is the log index up to which entries are known here to be committed.
func (s *Store) CommitIndex() uint64 { return s.raft.CommitIndex() }

// Term is the newest term this hub knows of.
func (s *Store) Term() uint64 { return s.raft.CurrentTerm() }

// contactLimit is within which time a hub answers that is there: it is asked about ten times as often.
func (s *Store) contactLimit() time.Duration { return max(time.Second, s.config.electionTimeout()) }

// AddLearner makes a hub a member that has no vote, or gives a member its new address. The caller has made sure that the
// address is that hub's: a voter moved to an address where nobody answers is a voter lost. It returns when the change is
// committed. The errors are those of Propose, and ErrMembership.
func (s *Store) AddLearner(ctx context.Context, id, address string) error {
	return s.reconfigure(ctx, "add hub "+id, func(members []Member) (request, error) {
		for _, m := range members {
			switch {
			case m.ID == id && m.Address == address:
				return nil, nil
			case m.ID != id && m.Address == address:
				return nil, fmt.Errorf("%w: %s is the address of hub %s; remove that hub first", ErrMembership, address, m.ID)
			}
		}
		if h, ok := s.State().Hub(id); ok && h.Removed {
			return nil, fmt.Errorf("%w: hub %s was removed; it can join again with an empty directory", ErrMembership, id)
		}
		return func(previous uint64, wait time.Duration) raft.IndexFuture {
			return s.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(address), previous, wait)
		}, nil
	})
}

// Removable says why RemoveMember would refuse to take a hub out now; nil if it would not.
func (s *Store) Removable(id string) error {
	members, err := s.Members()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotProposed, err)
	}
	if err := removable(members, id, s.contactLimit()); err != nil {
		return fmt.Errorf("%w: %w", ErrNotProposed, err)
	}
	return nil
}

// removable refuses what would leave voters of whom no majority answers.
func removable(members []Member, id string, contact time.Duration) error {
	voters, live, voter := 0, 0, false
	for _, m := range members {
		switch {
		case m.ID == id:
			voter = m.Voter
		case m.Voter:
			voters++
			if m.LastContact >= 0 && m.LastContact < contact {
				live++
			}
		}
	}
	switch {
	case !voter:
		return nil
	case voters == 0:
		return fmt.Errorf("%w: hub %s is the only voter", ErrMembership, id)
	case live < voters/2+1:
		return fmt.Errorf("%w: without hub %s, %d of %d voters would answer, which is no majority",
			ErrMembership, id, live, voters)
	}
	return nil
}

// RemoveMember takes a hub out of the cluster; one that is no member is no error. It is refused (ErrMembership) if of the
// voters that are left no majority answers. A leader asked to remove itself hands leadership over and returns
// ErrNotLeader: the new one is to be asked. The errors are those of Propose, and ErrMembership.
func (s *Store) RemoveMember(ctx context.Context, id string) error {
	if id == s.id && s.Leading() {
		if err := s.Removable(id); err != nil {
			return err
		}
		if err := s.TransferLeadership(ctx, ""); err != nil {
			return err
		}
		return ErrNotLeader
	}
	return s.reconfigure(ctx, "remove hub "+id, func(members []Member) (request, error) {
		if !isMember(members, id) {
			return nil, nil
		}
		if err := removable(members, id, s.contactLimit()); err != nil {
			return nil, err
		}
		return func(previous uint64, wait time.Duration) raft.IndexFuture {
			return s.raft.RemoveServer(raft.ServerID(id), previous, wait)
		}, nil
	})
}

func isMember(members []Member, id string) bool {
	for _, m := range members {
		if m.ID == id {
			return true
		}
	}
	return false
}

// request asks Raft for a change of the configuration at index previous.
type request func(previous uint64, wait time.Duration) raft.IndexFuture

// reconfigure makes one change of the members, decided by what they are; decide returns nil if there is none to make.
// Raft refuses the change if they are others by then, and it is decided anew.
func (s *Store) reconfigure(ctx context.Context, what string, decide func([]Member) (request, error)) error {
	ctx, stop := s.bound(ctx)
	defer stop()
	if _, err := s.office.opened(ctx); err != nil {
		return s.unproposed(ctx, err)
	}
	var err error
	for range 20 {
		previous := s.machine.configured.Load() // before the members: what is too old is refused, what is too new is not
		members, merr := s.Members()
		if merr != nil {
			return fmt.Errorf("%s: %w: %w", what, ErrNotProposed, merr)
		}
		ask, derr := decide(members)
		if derr != nil {
			return fmt.Errorf("%s: %w: %w", what, ErrNotProposed, derr)
		}
		if ask == nil {
			return nil
		}
		err = answerOf(ctx, func() error { return ask(previous, enqueuePatience).Error() })
		if err == nil || !strings.Contains(err.Error(), "configuration changed since") {
			break
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return s.classifyChange(ctx, what, err)
}

func (s *Store) classifyChange(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return fmt.Errorf("%s: %w: %w", what, ErrUnknownOutcome, s.reason(ctx, err))
	case errors.Is(err, raft.ErrNotLeader):
		return ErrNotLeader
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown), s.failed.get() != nil:
		return fmt.Errorf("%s: %w: %w", what, ErrUnknownOutcome, err)
	}
	return fmt.Errorf("%s: %w: %w", what, ErrNotProposed, err) // Raft did not take it
}
