package raftstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/hashicorp/raft"
)

// snapshotStore reads every snapshot back once it is written, and compares it with what was to be written: a snapshot
// takes the place of log entries, so one that can't be read is data lost. It does so for snapshots of this hub's own
// state and for those a leader sent.
type snapshotStore struct {
	raft.SnapshotStore
	failed  *latch
	metrics *metrics
	// discard takes a snapshot away for good: Raft doesn't start with one that is its only and that it can't read.
	discard func(id string) error
	// written is told the index of the members' configuration in each snapshot.
	written func(configuration uint64)
	// full is told every error of writing one: the disk may be full.
	full func(error)
}

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration,
	membersIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, members, membersIndex, t)
	if err != nil {
		s.full(err)
		return nil, fmt.Errorf("begin a snapshot: %w", err)
	}
	return &snapshotSink{SnapshotSink: sink, store: s, sum: sha256.New(), began: time.Now(), members: membersIndex}, nil
}

// Snapshot writes a snapshot of this hub's state now, and shortens its log, as happens by itself from time to time. It
// returns when the snapshot is written and was read back. One with nothing new in it is no error.
func (s *Store) Snapshot(ctx context.Context) error {
	ctx, stop := s.bound(ctx)
	defer stop()
	err := answerOf(ctx, func() error { return s.raft.Snapshot().Error() })
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("take a snapshot: %w", s.reason(ctx, err))
	}
	return nil
}

// snapshotSink is one snapshot being written.
type snapshotSink struct {
	raft.SnapshotSink
	store   *snapshotStore
	sum     hash.Hash
	size    int64
	began   time.Time
	members uint64
	ended   bool
}

func (s *snapshotSink) Write(b []byte) (int, error) {
	n, err := s.SnapshotSink.Write(b)
	s.sum.Write(b[:n])
	s.size += int64(n)
	if err != nil {
		s.store.full(err)
	}
	return n, err
}

func (s *snapshotSink) Cancel() error {
	s.ended = true
	return s.SnapshotSink.Cancel()
}

// Close implements raft.SnapshotSink. Raft calls it a second time.
func (s *snapshotSink) Close() error {
	err := s.SnapshotSink.Close()
	if err != nil {
		s.store.full(err)
	}
	if err != nil || s.ended {
		s.ended = true
		return err
	}
	s.ended = true
	if err := s.verify(); err != nil {
		err = errors.Join(fmt.Errorf("verify snapshot %s: %w", s.ID(), err), s.store.discard(s.ID()))
		s.store.failed.set(err)
		return err
	}
	s.store.metrics.snapshotWritten(time.Since(s.began), s.size)
	s.store.written(s.members)
	return nil
}

func (s *snapshotSink) verify() error {
	_, r, err := s.store.Open(s.ID())
	if err != nil {
		return err
	}
	defer r.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, r)
	switch {
	case err != nil:
		return err
	case n != s.size || string(sum.Sum(nil)) != string(s.sum.Sum(nil)):
		return fmt.Errorf("the disk does not give back what was written to it (%d bytes of %d)", n, s.size)
	}
	return nil
}
