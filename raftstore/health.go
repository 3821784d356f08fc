package raftstore

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Check is one aspect of this hub's health.
type Check struct {
	Name string
	OK   bool
	// Detail says in a few words what was found.
	Detail string
	// Live is set if the process has to be started again when the check fails: none of these depends on other hubs. The
	// others say whether the hub can serve.
	Live bool
}

// probePatience is how long Raft's main loop may take to answer.
const probePatience = 5 * time.Second

// Health checks this hub: whether Raft's main loop and the disk work (Live), and whether it serves, is a member, hears
// the leader, has applied what was committed when it started, and has room on its disk. It blocks for up to five
// seconds if Raft does not answer.
func (s *Store) Health() []Check {
	return []Check{
		check("raft", true, "answers", s.probe()),
		check("disk", true, "works", s.failed.get()),
		check("serving", false, "yes", s.halted.get()),
		check("member", false, "is in the configuration", s.checkMember()),
		check("leader", false, s.leaderDetail(), s.checkLeader()),
		check("caught_up", false, "has what was committed when it started", s.checkCaughtUp()),
		check("disk_space", false, mib(s.DiskFree())+" free"+s.ballast.detail(), s.space.alarm()),
	}
}

func check(name string, live bool, well string, err error) Check {
	if err != nil {
		return Check{Name: name, Detail: err.Error(), Live: live}
	}
	return Check{Name: name, OK: true, Detail: well, Live: live}
}

// probes share one question to Raft's main loop, so that asking often doesn't pile questions up where none is answered.
type probes struct {
	mu      sync.Mutex
	running chan struct{} // closed with the answer; nil: no question is out
}

// probe asks Raft's main loop for anything: whether this hub leads. On a leader that is no quorum's any more the answer
// comes when its lease ends.
func (s *Store) probe() error {
	if s.halted.get() != nil {
		return nil // Raft was stopped on purpose
	}
	s.probes.mu.Lock()
	answer := s.probes.running
	if answer == nil {
		answer = make(chan struct{})
		s.probes.running = answer
		started := s.tasks.run(func() {
			// The error doesn't matter, only that there is one; one that Raft forgot ends with the store.
			_ = answerOf(s.ctx, s.raft.VerifyLeader().Error)
			s.probes.mu.Lock()
			s.probes.running = nil
			s.probes.mu.Unlock()
			close(answer)
		})
		if !started {
			s.probes.running = nil
			close(answer)
		}
	}
	s.probes.mu.Unlock()
	late := time.NewTimer(probePatience)
	defer late.Stop()
	select {
	case <-answer:
	case <-late.C:
		return fmt.Errorf("has not answered for %v", probePatience)
	}
	if s.raft.State() == raft.Shutdown {
		return errors.New("has stopped")
	}
	return nil
}

func (s *Store) checkMember() error {
	members, err := s.Members()
	switch {
	case err != nil:
		return err
	case len(members) == 0:
		return errors.New("waits to be added to a cluster")
	case !isMember(members, s.id):
		return errors.New("is not in the configuration: it was removed, or not added yet")
	}
	if h, ok := s.State().Hub(s.id); ok && h.Removed {
		return errors.New("was removed from the cluster")
	}
	return nil
}

func (s *Store) leaderDetail() string {
	id, address := s.Leader()
	if id == s.id {
		return "this hub leads"
	}
	return fmt.Sprintf("%s at %s", id, address)
}

func (s *Store) checkLeader() error {
	id, _ := s.Leader()
	contact := s.LeaderContact()
	limit := 2 * s.config.electionTimeout()
	switch {
	case id == "":
		return errors.New("none is known")
	case contact < 0:
		return errors.New("has not spoken to this hub yet")
	case contact >= limit:
		return fmt.Errorf("silent for %v", contact.Round(10*time.Millisecond))
	}
	return nil
}

// catchUp is the commit index this hub first heard of from a leader.
type catchUp struct {
	mu     sync.Mutex
	target uint64 // 0: not heard yet
	done   bool
}

func (s *Store) checkCaughtUp() error {
	c := &s.catchUp
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return nil
	}
	if id, _ := s.Leader(); c.target == 0 && id != "" {
		c.target = s.raft.CommitIndex()
	}
	applied := s.State().Index()
	switch {
	case c.target == 0:
		return errors.New("no leader has said yet what is committed")
	case applied < c.target:
		return fmt.Errorf("has %d of %d log entries", applied, c.target)
	}
	c.done = true
	return nil
}
