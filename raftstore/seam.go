package raftstore

import (
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// seam keeps a hub's snapshots and its log fitting together, where Raft leaves that open.
//
// A snapshot sent by a leader can end in the midst of entries that only this hub has. Those up to its end contradict it:
// Raft keeps them, refuses what follows the snapshot because of them, is sent the snapshot again, and so on without end
// (hashicorp/raft#697); and as a leader it could hand them to others. So they go. Those after its end go when the first
// entry comes that contradicts them, and transport lets it come.
//
// A hub whose newest snapshot is damaged starts from an older one, and Raft panics if the entries after that are gone.
type seam struct {
	raft.SnapshotStore
	logs raft.LogStore
	// applied is the last entry that became part of this hub's state.
	applied func() uint64
	// written is the last entry of the newest snapshot that was written; held, of the newest one that this hub's state
	// is known to hold.
	written, held atomic.Pointer[point]
}

// point is one entry of the log.
type point struct{ index, term uint64 }

// Create implements raft.SnapshotStore.
func (s *seam) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64,
	t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, members, membersIndex, t)
	if err != nil {
		return nil, err
	}
	return &seamSink{SnapshotSink: sink, seam: s, end: point{index, term}}, nil
}

// Open implements raft.SnapshotStore.
func (s *seam) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := s.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	first, err := s.logs.FirstIndex()
	if err == nil && first > meta.Index+1 {
		err = fmt.Errorf("it ends at entry %d, and the log begins at %d", meta.Index, first)
	}
	if err != nil {
		r.Close()
		return nil, nil, fmt.Errorf("open snapshot %s: %w", id, err)
	}
	return meta, r, nil
}

// begin takes note of the snapshot that Raft has started from.
func (s *seam) begin() error {
	kept, err := s.List()
	if err == nil && len(kept) > 0 {
		s.wrote(point{kept[0].Index, kept[0].Term})
	}
	return err
}

// wrote takes note of a snapshot, if it is the newest: one of this hub's own may be written while a leader's arrives.
func (s *seam) wrote(end point) {
	for old := s.written.Load(); old == nil || old.index < end.index; old = s.written.Load() {
		if !s.written.CompareAndSwap(old, &end) {
			continue
		}
		if s.applied() >= end.index {
			s.held.Store(&end)
		}
		return
	}
}

// replaced is called when a snapshot that was written has become this hub's state; until then, the log is what it has.
// An error of the disk stops the store by itself.
func (s *seam) replaced() {
	if end := s.written.Load(); end != nil && s.cut(*end) == nil {
		s.held.Store(end)
	}
}

// cut drops the log up to the end of a snapshot, unless the log has that very entry: then all before it are the same too.
func (s *seam) cut(end point) error {
	var l raft.Log
	if s.logs.GetLog(end.index, &l) == nil && l.Term == end.term {
		return nil
	}
	first, err := s.logs.FirstIndex()
	if err != nil || first == 0 || first > end.index {
		return err
	}
	last, err := s.logs.LastIndex()
	if err != nil {
		return err
	}
	return s.logs.DeleteRange(first, min(last, end.index))
}

// seamSink is one snapshot being written.
type seamSink struct {
	raft.SnapshotSink
	seam  *seam
	end   point
	ended bool
}

// Cancel implements raft.SnapshotSink.
func (k *seamSink) Cancel() error {
	k.ended = true
	return k.SnapshotSink.Cancel()
}

// Close implements raft.SnapshotSink. Raft calls it a second time.
func (k *seamSink) Close() error {
	if err := k.SnapshotSink.Close(); err != nil || k.ended {
		k.ended = true
		return err
	}
	k.ended = true
	k.seam.wrote(k.end)
	return nil
}

// correct returns a leader's request as Raft should be given it.
//
// Raft takes an entry of its own for committed if the leader has committed one at that index, also if the request says
// nothing of that entry, which may be another one: the commit index must not be beyond what the request covers.
//
// And Raft compares the entry before the new ones with its log, which may have none, or another, where a snapshot ends:
// a leader's, or its own if it dropped the log so far. What a snapshot holds is committed: there is nothing to compare.
func (s *seam) correct(q *raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
	c := *q
	covers := c.PrevLogEntry
	if n := len(c.Entries); n > 0 {
		covers = c.Entries[n-1].Index
	}
	c.LeaderCommitIndex = min(c.LeaderCommitIndex, covers)
	if end := s.held.Load(); end != nil && *end == (point{c.PrevLogEntry, c.PrevLogTerm}) {
		c.PrevLogEntry, c.PrevLogTerm = 0, 0
	}
	return &c
}
