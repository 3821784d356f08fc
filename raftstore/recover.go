package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"gw/rpc/gwv1"
)

// RecoverConfig says how to recover.
type RecoverConfig struct {
	// Confirmed does it; without it, Recover only looks.
	Confirmed bool
	// Address at which this hub is reached from now on. Empty: the one it has.
	Address string
	// Logger is where Raft logs. Nil: slog.Default().
	Logger *slog.Logger
}

// Recovery is what Recover found in a directory, and what it did.
type Recovery struct {
	NodeID    string
	ClusterID string
	Epoch     uint64
	// Members are those of the newest configuration in the directory. If it is done, only this hub is left of them.
	Members []Member
	// SnapshotIndex is where the newest snapshot ends, LastIndex and LastTerm where the log does.
	SnapshotIndex, LastIndex, LastTerm uint64
	// Entries are those of the log after the snapshot. Nobody here knows which of them were committed: a recovery commits
	// them all. What other hubs have after LastIndex is lost.
	Entries uint64
	// LastWrite is the proposer's clock at the newest command.
	LastWrite time.Time
	// Done is true if the directory was changed.
	Done bool
}

// Recover makes the hub of a directory the only voter of its cluster, when so many hubs are lost for good that the rest
// can't elect a leader. No process may use the directory. The other hubs of old must never start again with theirs:
// they can join with empty ones. A hub that was halted is not recovered (ErrHalted). When the recovered hub leads, it raises the epoch and marks the others as removed.
func Recover(dir string, c RecoverConfig) (found Recovery, err error) {
	if _, err := os.Stat(filepath.Join(dir, "raft.db")); err != nil {
		return Recovery{}, fmt.Errorf("recover: there is no hub in %s: %w", dir, err)
	}
	failed := newLatch()
	s := &Store{config: Config{Dir: dir, Logger: c.Logger}, failed: failed, metrics: newMetrics(), machine: newMachine(failed)}
	s.log = s.config.logger()
	p, err := openPlace(dir, s.raftLogger())
	if err != nil {
		return Recovery{}, fmt.Errorf("recover: %w", err)
	}
	defer func() { err = errors.Join(err, p.close()) }()
	s.place, s.id = p, p.id
	if found, err = s.survey(); err != nil {
		return found, fmt.Errorf("recover: look at %s: %w", dir, err)
	}
	if !c.Confirmed {
		return found, nil
	}
	reason, halted, err := p.remembered()
	if err == nil && halted {
		err = fmt.Errorf("the state in %s is not to be trusted: %w: %s", dir, ErrHalted, reason)
	}
	if err == nil {
		err = s.recover(found, c.Address)
	}
	if err != nil {
		return found, fmt.Errorf("recover: %w", err)
	}
	found.Done = true
	return found, nil
}

// survey reads the whole directory, as starting it would.
func (s *Store) survey() (Recovery, error) {
	r := Recovery{NodeID: s.id}
	kept, err := s.place.snapshots.List()
	if err != nil {
		return r, err
	}
	var members raft.Configuration
	for _, k := range kept {
		meta, data, err := s.place.snapshots.Open(k.ID)
		if err == nil {
			err = s.machine.Restore(data)
		}
		if err != nil {
			s.log.Warn("a snapshot can't be read", "snapshot", k.ID, "error", err)
			continue
		}
		members, r.SnapshotIndex, r.LastIndex, r.LastTerm = meta.Configuration, meta.Index, meta.Index, meta.Term
		break
	}
	if len(kept) > 0 && r.SnapshotIndex == 0 {
		return r, errors.New("none of its snapshots can be read")
	}
	last, err := s.place.disk.LastIndex()
	if err != nil {
		return r, err
	}
	for i := r.SnapshotIndex + 1; i <= last; i++ {
		var l raft.Log
		if err := s.place.disk.GetLog(i, &l); err != nil {
			return r, fmt.Errorf("read log entry %d: %w", i, err)
		}
		if l.Type == raft.LogConfiguration {
			members = raft.DecodeConfiguration(l.Data)
		}
		s.machine.Apply(&l)
		r.Entries++
		r.LastIndex, r.LastTerm = l.Index, l.Term
	}
	if err := s.failed.get(); err != nil {
		return r, err
	}
	if r.LastIndex == 0 {
		return r, errors.New("it holds nothing: this hub was never part of a cluster")
	}
	cluster := s.State().Cluster()
	r.ClusterID, r.Epoch, r.LastWrite = cluster.ClusterId, cluster.Epoch, time.Unix(0, cluster.Now)
	for _, m := range members.Servers {
		r.Members = append(r.Members, Member{
			ID: string(m.ID), Address: string(m.Address), Voter: m.Suffrage == raft.Voter,
			Self: string(m.ID) == s.id, LastContact: -1,
		})
	}
	return r, nil
}

func (s *Store) recover(found Recovery, address string) error {
	var others []string
	for _, m := range found.Members {
		switch {
		case !m.Self:
			others = append(others, m.ID)
		case address == "":
			address = m.Address
		}
	}
	if address == "" {
		return errors.New("this hub is not a member of the newest configuration; give the address it is reached at")
	}
	// First, so that no crash leaves a recovered hub that doesn't know it: a mark too much only raises the epoch.
	if err := s.place.mark(markRecovered, strings.Join(others, "\n")); err != nil {
		return err
	}
	logs := &logStore{disk: s.place.disk, failed: s.failed, patience: time.Minute}
	snapshots := &snapshotStore{
		SnapshotStore: s.place.snapshots, failed: s.failed, metrics: s.metrics, discard: s.place.discard, written: func(uint64) {}, full: func(error) {},
	}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(address))
	self := raft.Server{ID: raft.ServerID(s.id), Address: raft.ServerAddress(address), Suffrage: raft.Voter}
	fsm := newMachine(s.failed)
	err := raft.RecoverCluster(s.raftConfig(), fsm, logs, &voteStore{log: logs}, snapshots, trans,
		raft.Configuration{Servers: []raft.Server{self}})
	if err != nil {
		return fmt.Errorf("rewrite the store: %w", err)
	}
	return nil
}

// settle does what is to be done once per leadership when its term is open: it corrects this hub's address, and ends a
// recovery. It tries until it has succeeded or the leadership ends.
func (s *Store) settle(ctx context.Context) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := errors.Join(s.correctAddress(ctx), s.endRecovery(ctx))
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Warn("begin to lead", "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// correctAddress puts this hub's address into the configuration, if it has another one there.
func (s *Store) correctAddress(ctx context.Context) error {
	if s.config.Stream == nil {
		return nil
	}
	own := string(s.transport.LocalAddr())
	return s.reconfigure(ctx, "record the address "+own, func(members []Member) (request, error) {
		for _, m := range members {
			if m.Self && m.Address != own {
				return func(previous uint64, wait time.Duration) raft.IndexFuture {
					// For a member that votes it changes nothing but the address.
					return s.raft.AddNonvoter(raft.ServerID(s.id), raft.ServerAddress(own), previous, wait)
				}, nil
			}
		}
		return nil, nil
	})
}

// endRecovery raises the epoch after an offline recovery, and marks all hubs as removed that are not members any more.
func (s *Store) endRecovery(ctx context.Context) error {
	text, there, err := s.place.marked(markRecovered)
	if err != nil || !there {
		return err
	}
	members, err := s.Members()
	if err != nil {
		return err
	}
	gone := strings.Fields(text)
	for h := range s.State().Hubs() {
		if !h.Removed {
			gone = append(gone, h.Id)
		}
	}
	slices.Sort(gone)
	for _, id := range slices.Compact(gone) {
		if isMember(members, id) {
			continue
		}
		if _, err := s.Propose(ctx, &gwv1.Command{Body: &gwv1.Command_RemoveHub{RemoveHub: &gwv1.RemoveHubRecord{Id: id}}}); err != nil {
			return fmt.Errorf("after the recovery, remove hub %s: %w", id, err)
		}
	}
	if _, err := s.Propose(ctx, &gwv1.Command{Body: &gwv1.Command_RaiseEpoch{RaiseEpoch: &gwv1.RaiseEpoch{}}}); err != nil {
		return fmt.Errorf("after the recovery, raise the epoch: %w", err)
	}
	if err := s.place.unmark(markRecovered); err != nil {
		return fmt.Errorf("after the recovery: %w", err)
	}
	s.log.Info("the recovery is complete", "epoch", s.State().Cluster().Epoch)
	return nil
}
