package raftstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/raft"
)

// ErrHalted means that this hub was told to stop serving. It comes with ErrNotProposed, ErrUnknownOutcome or ErrClosed.
var ErrHalted = errors.New("this hub has stopped serving")

// Halt stops this hub's part in the cluster for good: what a hub does that has diverged from the others, or was removed.
// It neither votes nor leads from then on, every call is refused with an error that wraps ErrHalted, and Health says why.
// State and Members still say what they last were. The reason is kept in the directory: a store opened there again is
// halted from the start, until the directory is wiped. Only the first reason counts.
func (s *Store) Halt(reason string) {
	if !s.stopServing(reason) {
		return
	}
	// Afterwards: a disk that hangs must not keep it serving.
	if err := s.place.mark(markHalted, reason); err != nil {
		s.log.Error("this hub will have forgotten that it stopped serving when it is started again", "node", s.id, "error", err)
	}
}

// stopServing is Halt without the mark; it reports whether reason is the first.
func (s *Store) stopServing(reason string) bool {
	if !s.halted.set(fmt.Errorf("%w: %s", ErrHalted, reason)) {
		return false
	}
	s.log.Error("this hub stops serving", "node", s.id, "reason", reason)
	s.cancel()
	s.stopRaft()
	return true
}

// remembered returns the reason with which this directory's hub was halted; there is false if it wasn't.
func (p *place) remembered() (reason string, there bool, err error) {
	reason, there, err = p.marked(markHalted)
	return strings.TrimSpace(reason), there, err
}

// secluded is a transport for a hub that stays halted: nobody reaches it, it reaches nobody, and its Stream is closed
// before Raft starts.
func (s *Store) secluded() *transport {
	address := raft.ServerAddress(s.id)
	if stream := s.config.Stream; stream != nil {
		address = raft.ServerAddress(streamLayer{Stream: stream, address: s.config.Address}.Addr().String())
		if err := stream.Close(); err != nil {
			s.log.Warn("close the stream", "error", err)
		}
	}
	_, inner := raft.NewInmemTransport(address)
	return newTransport(inner)
}

// Halted returns an error with the reason given to Halt, now or before a restart, or nil. It wraps ErrHalted.
func (s *Store) Halted() error { return s.halted.get() }
