package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// MembershipConfig says how KeepMembership decides.
type MembershipConfig struct {
	// AllowTwo lets one hub grow to two voters, of which none may fail. A removal leaves two in any case.
	AllowTwo bool
	// Settle is how long a learner must have been caught up, without a break, before it gets a vote. 0: two seconds,
	// so that one hub grows to three in seconds; what it guards against is a hub that comes and goes.
	Settle time.Duration
	// MaxVoters is how many voters there are at most; further hubs stay learners. 0: five.
	MaxVoters int

	twoVoters time.Duration // for tests; 0: twoVotersLimit
}

func (c MembershipConfig) settle() time.Duration {
	if c.Settle == 0 {
		return 2 * time.Second
	}
	return c.Settle
}

func (c MembershipConfig) twoVotersLimit() time.Duration {
	if c.twoVoters == 0 {
		return twoVotersLimit
	}
	return c.twoVoters
}

func (c MembershipConfig) maxVoters() int {
	if c.MaxVoters == 0 {
		return 5
	}
	return c.MaxVoters
}

const (
	// twoVotersLimit is how long two voters may stand on the way between one and three.
	twoVotersLimit = 10 * time.Second
	// membershipPace is how often the leader looks at its members.
	membershipPace = 100 * time.Millisecond
	// silenceLimit is when a voter that does not answer is worth an alarm.
	silenceLimit = 10 * time.Second
)

// standing is a member as the leader judges it.
type standing struct {
	id          string
	voter, self bool
	ready       bool // a learner: caught up, and steadily so
}

// step is one change of the members.
type step struct {
	kind stepKind
	id   string
}

type stepKind string

const (
	rest    stepKind = "rest"
	promote stepKind = "promote"
	demote  stepKind = "demote"
)

// nextStep decides what to change, if anything; twoFor is how long there have been two voters where there was one. Two
// voters are worse than one, because either of them stops the cluster: the second gets its vote only when the third is
// ready as well, and loses it when the third doesn't follow. From three on, one more voter never lowers how many may fail.
func nextStep(members []standing, c MembershipConfig, twoFor time.Duration) step {
	voters, other := 0, ""
	var ready []string
	for _, m := range members {
		switch {
		case m.voter:
			voters++
			if !m.self {
				other = m.id
			}
		case m.ready:
			ready = append(ready, m.id)
		}
	}
	switch {
	case voters >= c.maxVoters(), voters == 0:
	case voters == 1 && len(ready) == 1 && !c.AllowTwo:
	case len(ready) > 0:
		return step{promote, ready[0]}
	case voters == 2 && !c.AllowTwo && twoFor >= c.twoVotersLimit() && other != "":
		return step{demote, other}
	}
	return step{kind: rest}
}

// steadiness remembers since when learners are ready, and since when there are two voters where there was one. Two that
// somebody chose, by removing the third, are left alone; of two that this leadership found, grewFromOne knows.
type steadiness struct {
	ready map[string]time.Time // ID of a learner → since when it is caught up without a break
	two   time.Time            // zero: there are not two voters
	alone bool                 // before there were two voters there was one; false if that is not known
}

// judge turns members into standings. last is the leader's last log index.
func (k *steadiness) judge(members []Member, last uint64, now time.Time, settle, contact time.Duration) (list []standing, twoFor time.Duration) {
	ready, voters := map[string]time.Time{}, 0
	for _, m := range members {
		v := standing{id: m.ID, voter: m.Voter, self: m.Self}
		switch {
		case m.Voter:
			voters++
		case m.LastContact >= 0 && m.LastContact < contact && m.Match > 0 && m.Match+nearlyCaughtUp >= last:
			since, ok := k.ready[m.ID]
			if !ok {
				since = now
			}
			ready[m.ID] = since
			v.ready = now.Sub(since) >= settle
		}
		list = append(list, v)
	}
	k.ready = ready
	switch {
	case voters != 2:
		k.two, k.alone = time.Time{}, voters == 1
	case k.two.IsZero():
		k.two = now
	}
	if !k.two.IsZero() && k.alone {
		twoFor = now.Sub(k.two)
	}
	return list, twoFor
}

// KeepMembership is the leader's duty towards the members: it gives learners their vote when that does not lower how
// many hubs may fail, one step at a time, and takes it back from the second voter it made if no third follows. It never
// removes anybody. It blocks like LeadDuties.
func (s *Store) KeepMembership(ctx context.Context, c MembershipConfig) error {
	return s.LeadDuties(ctx, func(ctx context.Context) error {
		k := steadiness{alone: s.grewFromOne()}
		for ctx.Err() == nil {
			members, err := s.Members()
			if err != nil {
				return err
			}
			list, twoFor := k.judge(members, s.raft.LastIndex(), time.Now(), c.settle(), s.contactLimit())
			next := nextStep(s.withoutRemoved(list), c, twoFor)
			if next.kind != rest && s.take(ctx, next) {
				continue // the next step follows at once
			}
			select {
			case <-time.After(membershipPace):
			case <-ctx.Done():
			}
		}
		return nil
	})
}

// grewFromOne reports whether two voters that this leadership found were one before, by the members before them in the log:
// the leader that was to go on to three may have been another. It is false if there are not two, and if the log was
// shortened since and doesn't say; then they rest, with an alarm, as after a removal.
func (s *Store) grewFromOne() bool {
	newest := s.machine.configured.Load()
	first, err := s.place.disk.FirstIndex()
	if err != nil || first == 0 {
		return false
	}
	for i := newest; i >= first; i-- {
		var l raft.Log
		if err := s.place.disk.GetLog(i, &l); err != nil {
			return false
		}
		if l.Type != raft.LogConfiguration {
			continue
		}
		if n := votersOf(raft.DecodeConfiguration(l.Data)); n != 2 {
			return n == 1 && i != newest
		}
	}
	return false
}

func votersOf(c raft.Configuration) (n int) {
	for _, m := range c.Servers {
		if m.Suffrage == raft.Voter {
			n++
		}
	}
	return n
}

// withoutRemoved leaves out learners that are marked as removed.
func (s *Store) withoutRemoved(list []standing) []standing {
	st, kept := s.State(), list[:0]
	for _, m := range list {
		if h, ok := st.Hub(m.id); !m.voter && ok && h.Removed {
			continue
		}
		kept = append(kept, m)
	}
	return kept
}

// take makes one step, and reports whether it was made.
func (s *Store) take(ctx context.Context, t step) bool {
	err := s.reconfigure(ctx, fmt.Sprintf("%s hub %s", t.kind, t.id), func(members []Member) (request, error) {
		for _, m := range members {
			if m.ID != t.id || m.Voter == (t.kind == promote) {
				continue
			}
			return func(previous uint64, wait time.Duration) raft.IndexFuture {
				if t.kind == demote {
					return s.raft.DemoteVoter(raft.ServerID(m.ID), previous, wait)
				}
				return s.raft.AddVoter(raft.ServerID(m.ID), raft.ServerAddress(m.Address), previous, wait)
			}, nil
		}
		return nil, nil
	})
	switch {
	case err == nil:
		s.log.Info("the members changed", "step", string(t.kind), "hub", t.id)
	case ctx.Err() == nil && !errors.Is(err, ErrNotLeader):
		s.log.Warn("the members could not be changed", "step", string(t.kind), "hub", t.id, "error", err)
	}
	return err == nil
}

// tolerance is how many of the voters that answer may fail before no change can be made; negative if that is so now.
func tolerance(members []Member, contact time.Duration) (spare, voters, live int) {
	for _, m := range members {
		if !m.Voter {
			continue
		}
		voters++
		if m.LastContact >= 0 && m.LastContact < contact {
			live++
		}
	}
	return live - (voters/2 + 1), voters, live
}

// FailureTolerance is how many of the voters that answer now may fail before changes can't be made. ok is false if this
// hub does not lead, and so can't know.
func (s *Store) FailureTolerance() (n int, ok bool) {
	members, err := s.Members()
	if err != nil || !s.Leading() {
		return 0, false
	}
	spare, _, _ := tolerance(s.sinceTookOver(members), s.contactLimit())
	return max(0, spare), true
}

// Alarms are what needs attention, in sentences: about this hub, and about the members if it leads.
func (s *Store) Alarms() []string {
	var alarms []string
	if err := s.space.alarm(); err != nil {
		alarms = append(alarms, fmt.Sprintf("hub %s: %v", s.id, err))
	}
	members, err := s.Members()
	if err != nil || !s.Leading() {
		return alarms
	}
	return append(alarms, memberAlarms(s.sinceTookOver(members), s.contactLimit(), silenceLimit)...)
}

// sinceTookOver counts a member that has not answered this leader yet as silent since it took over, and not for ever:
// nobody is lost because leadership has just changed.
func (s *Store) sinceTookOver(members []Member) []Member {
	t, _, _ := s.office.get()
	if t == nil {
		return members
	}
	for i, m := range members {
		if m.LastContact < 0 {
			members[i].LastContact = time.Since(t.began)
		}
	}
	return members
}

func memberAlarms(members []Member, contact, silence time.Duration) (alarms []string) {
	for _, m := range members {
		if m.LastContact < silence || m.Self {
			continue
		}
		role := "learner"
		if m.Voter {
			role = "voter"
		}
		alarms = append(alarms, fmt.Sprintf("%s %s at %s has not answered for %v; if it is gone for good, remove it",
			role, m.ID, m.Address, m.LastContact.Round(time.Second)))
	}
	spare, voters, live := tolerance(members, contact)
	if spare <= 0 && len(members) > 1 {
		alarms = append(alarms, fmt.Sprintf("no failure tolerance: %d of %d voters answer, and %d are needed", live, voters, voters/2+1))
	}
	return alarms
}
