package raftstore

import (
	"errors"
	"fmt"
)

// ErrHalted means that this hub was told to stop serving. It comes with ErrNotProposed, ErrUnknownOutcome or ErrClosed.
var ErrHalted = errors.New("this hub has stopped serving")

// Halt stops this hub's part in the cluster for as long as the process runs: what a hub does that has diverged from the
// others, or was removed. It neither votes nor leads from then on, every call is refused with an error that wraps
// ErrHalted, and Health says why. State and Members still say what they last were. Only the first reason counts.
func (s *Store) Halt(reason string) {
	if s.halted.set(fmt.Errorf("%w: %s", ErrHalted, reason)) {
		s.log.Error("this hub stops serving", "node", s.id, "reason", reason)
		s.cancel()
		s.stopRaft()
	}
}

// Halted returns an error with the reason given to Halt, or nil. It wraps ErrHalted.
func (s *Store) Halted() error { return s.halted.get() }
