package raftstore

import (
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// whereabouts are where other hubs call from. The configuration says where they are, but it takes a leader to change it:
// a hub that moved while there was none would never be found by one that needs its vote to become it.
type whereabouts struct {
	mu sync.Mutex
	of map[raft.ServerID]whereabout
}

// whereabout is where one hub is.
type whereabout struct {
	heard raft.ServerAddress // what its last request said
	moved bool               // it was not found where the configuration has it, and is looked for there next
}

// note takes in what a request says of where it comes from. It need not be true: whoever answers there has to prove who it is.
func (w *whereabouts) note(h raft.RPCHeader) {
	if len(h.ID) == 0 || len(h.Addr) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	id, heard := raft.ServerID(h.ID), raft.ServerAddress(h.Addr)
	if w.of[id].heard == heard {
		return
	}
	if w.of == nil {
		w.of = map[raft.ServerID]whereabout{}
	}
	w.of[id] = whereabout{heard: heard, moved: w.of[id].moved}
}

// find returns where to look for a hub.
func (w *whereabouts) find(id raft.ServerID, configured raft.ServerAddress) raft.ServerAddress {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at := w.of[id]; at.moved {
		return at.heard
	}
	return configured
}

// missed notes that a hub was not reached: it is looked for at the other address next, if there is one.
func (w *whereabouts) missed(id raft.ServerID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at, ok := w.of[id]; ok {
		at.moved = !at.moved
		w.of[id] = at
	}
}

// at returns the hub that said last that it is at an address.
func (w *whereabouts) at(address raft.ServerAddress) (id raft.ServerID, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, at := range w.of {
		if at.heard == address {
			return id, true
		}
	}
	return "", false
}

// reach calls a hub where it is thought to be.
func (t *transport) reach(id raft.ServerID, configured raft.ServerAddress, call func(at raft.ServerAddress) error) error {
	err := call(t.whereabouts.find(id, configured))
	if err != nil {
		t.whereabouts.missed(id)
	}
	return err
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, q *raft.RequestPreVoteRequest, a *raft.RequestPreVoteResponse) error {
	return t.reach(id, to, func(at raft.ServerAddress) error { return t.peerTransport.RequestPreVote(id, at, q, a) })
}

// InstallSnapshot implements raft.Transport.
func (t *transport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, q *raft.InstallSnapshotRequest, a *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.reach(id, to, func(at raft.ServerAddress) error { return t.peerTransport.InstallSnapshot(id, at, q, a, data) })
}

// TimeoutNow implements raft.Transport.
func (t *transport) TimeoutNow(id raft.ServerID, to raft.ServerAddress, q *raft.TimeoutNowRequest, a *raft.TimeoutNowResponse) error {
	return t.reach(id, to, func(at raft.ServerAddress) error { return t.peerTransport.TimeoutNow(id, at, q, a) })
}

// MemberAt returns the ID of the member that is to be found at an address, host:port: by the configuration, or because it
// called from there last. Its error says that there is none, or why members aren't known.
func (s *Store) MemberAt(address string) (id string, err error) {
	members, err := s.Members()
	if err != nil {
		return "", err
	}
	caller, _ := s.transport.whereabouts.at(raft.ServerAddress(address))
	for _, m := range members {
		if m.Address == address {
			return m.ID, nil
		}
		if m.ID == string(caller) {
			id = m.ID
		}
	}
	if id == "" {
		return "", fmt.Errorf("no member is at %s", address)
	}
	return id, nil
}
