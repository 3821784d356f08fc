package raftstore

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// A leader whose process has ended is missed only after an election timeout or two: until then every follower keeps its
// vote back for it. But a connection breaks with it, nothing is heard from it, and nobody listens at its address any more.
// A hub that sees all three stands for election soon, and gives others its vote; who merely hears nothing waits, as ever.
// All of this decides when hubs stand. Who may win is Raft's matter.

// succession is what a hub does about it, in parts of the election timeout: how long a leader that lives is usually silent
// at most, how often it is looked for, and how far apart hubs stand. Of 1 s a leader is heard every 100 to 200 ms.
func (s *Store) succession() (quiet, look, turn time.Duration) {
	timeout := s.config.electionTimeout()
	return timeout / 5, timeout / 20, timeout / 4
}

// refusal is that nobody listened at a leader's address.
type refusal struct {
	leader raft.ServerID
	at     time.Time
}

// succeed looks after the leader whenever a connection from another hub has ended. It runs until the store is closed.
func (s *Store) succeed() {
	for {
		select {
		case <-s.hangups:
			s.lookAfterLeader()
		case <-s.ctx.Done():
			return
		}
	}
}

// lookAfterLeader has this hub stand for election if its leader turns out to be gone. It looks at once, since a supervisor
// may start the hub again, and for about as long as an election takes anyway, since a process that is killed may close its
// connections long before its port. Hubs stand in turn, by their IDs: two at a time can take the votes from each other.
func (s *Store) lookAfterLeader() {
	began := time.Now()
	address, leader := s.raft.LeaderWithID()
	turn, ok := s.turnAfter(leader)
	if !ok {
		return
	}
	_, look, step := s.succession()
	since := began.Add(look) // what it said before is read by then
	for !s.gone(leader, address) {
		if time.Since(began) > s.config.electionTimeout() || !s.bereft(leader, since) || !s.pause(look) {
			return
		}
	}
	due := began.Add(step)
	if late := time.Now(); late.After(due) {
		due = late
	}
	due = due.Add(time.Duration(turn) * step)
	for wait := time.Until(due); wait > 0; wait = time.Until(due) {
		if !s.pause(wait) {
			return
		}
		if rival := s.rival.Load(); rival != nil && rival.After(began) { // it may win yet
			due = rival.Add(time.Duration(turn+1) * step)
		}
	}
	if s.bereft(leader, since) {
		s.standFor(leader)
	}
}

// pause waits, and reports false if the store is closed meanwhile.
func (s *Store) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return s.ctx.Err() == nil
	case <-s.ctx.Done():
		return false
	}
}

// bereft reports whether this hub follows a leader, or has lost it to an election that nobody has won, and has neither
// heard from it nor granted a vote since a time.
func (s *Store) bereft(leader raft.ServerID, since time.Time) bool {
	_, now := s.raft.LeaderWithID()
	return s.raft.State() == raft.Follower && (now == leader || now == "") && !s.raft.LastContact().After(since)
}

// gone reports whether nobody listens at a leader's address, though its machine answers, or did not since it was last
// heard: a process that listens again leads no more. It returns within a quarter of the election timeout. Silence proves
// nothing: it may be the network's.
func (s *Store) gone(leader raft.ServerID, address raft.ServerAddress) bool {
	if r := s.refused.Load(); r != nil && r.leader == leader && r.at.After(s.raft.LastContact()) {
		return true
	}
	_, _, most := s.succession()
	ctx, cancel := context.WithTimeout(s.ctx, most)
	defer cancel()
	asked := time.Now() // what it says while the answer is on its way counts
	c, err := s.config.Stream.DialHub(ctx, string(address))
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return false
	}
	s.refused.Store(&refusal{leader, asked})
	return true
}

// askedToVote notes that another hub stands, unless it lacks entries and can hardly win this hub's vote. It reports whether the
// leader that this hub follows is gone, so that its vote is free. A candidate may have missed the leader sooner, and is
// kept waiting rather than refused: its term would be spent.
func (s *Store) askedToVote(q *raft.RequestVoteRequest) (free bool) {
	if q.Term > s.raft.CurrentTerm() && q.LastLogIndex >= s.raft.LastIndex() {
		s.rival.Store(new(time.Now()))
	}
	address, leader := s.raft.LeaderWithID()
	if leader == "" || string(leader) == s.id {
		return false
	}
	quiet, _, _ := s.succession()
	heard := s.raft.LastContact()
	return s.pause(time.Until(heard.Add(quiet))) && s.bereft(leader, heard) && s.gone(leader, address) && s.bereft(leader, heard)
}

// standFor has this hub stand for election in a leader's place, unless Raft is too busy to begin with it now: later there
// may be another leader.
func (s *Store) standFor(leader raft.ServerID) {
	s.log.Info("the leader's process has ended: this hub stands for election", "node", s.id, "leader", string(leader))
	_, look, _ := s.succession()
	ctx, cancel := context.WithTimeout(s.ctx, 2*look)
	defer cancel()
	s.transport.stand(ctx.Done())
}

// turnAfter returns how many voters stand for election before this one when a leader is gone. It is not ok if this one
// isn't to stand, since it has no vote or those that are left are no majority.
func (s *Store) turnAfter(leader raft.ServerID) (turn int, ok bool) {
	members := s.raft.GetConfiguration()
	if leader == "" || string(leader) == s.id || members.Error() != nil {
		return 0, false
	}
	voters := slices.DeleteFunc(slices.Clone(members.Configuration().Servers), func(m raft.Server) bool {
		return m.Suffrage != raft.Voter || m.ID == leader
	})
	slices.SortFunc(voters, func(a, b raft.Server) int { return strings.Compare(string(a.ID), string(b.ID)) })
	turn = slices.IndexFunc(voters, func(m raft.Server) bool { return string(m.ID) == s.id })
	return turn, turn >= 0 && len(voters) > 1
}

// inbound is a connection that another hub has opened. hangups hears of its end: Raft's transport closes what it can't
// read or answer any more.
type inbound struct {
	net.Conn
	hangups chan<- struct{}
}

// Close implements net.Conn.
func (c inbound) Close() error {
	select {
	case c.hangups <- struct{}{}:
	default: // somebody looks already
	}
	return c.Conn.Close()
}
