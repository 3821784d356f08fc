// Package raftstore owns the replicated store: a command is proposed to the log, and every hub reads, and waits for,
// the state the log gives.
package raftstore

import (
	"context"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// Config says how to open a Store.
type Config struct {
	// Dir is the directory of the store, made if it isn't there. Required; one process at a time.
	Dir string
	// ElectionTimeout is how long hubs wait for a leader before they elect another. 0: one second.
	ElectionTimeout time.Duration
	// Bootstrap makes the first command of a new cluster. Required for a new directory; called once, when this hub first
	// leads and the cluster has no ID.
	Bootstrap func(nodeID string) (*gwv1.Bootstrap, error)
	// Stream carries Raft between hubs; the Store closes it. Nil: a cluster of one that listens nowhere.
	Stream raft.StreamLayer
	// Logger is where the store and Raft log. Nil: slog.Default().
	Logger *slog.Logger
	// Version of this binary, recorded with every leadership.
	Version string
	// Now is the proposer's clock. Nil: time.Now.
	Now func() time.Time
}

// Store is one hub's part of the replicated store. Safe for any number of goroutines.
type Store struct{}

// Open opens the store in a directory.
func Open(c Config) (*Store, error) { return nil, nil }

// Close stops.
func (s *Store) Close() error { return nil }

// Propose proposes.
func (s *Store) Propose(ctx context.Context, c *gwv1.Command) (*gwv1.Result, error) { return nil, nil }

// Read reads.
func (s *Store) Read(ctx context.Context) (*state.State, error) { return nil, nil }

// State is the newest.
func (s *Store) State() *state.State { return nil }

// Wait waits.
func (s *Store) Wait(ctx context.Context, after uint64) (*state.State, error) { return nil, nil }

// Manifest is derived.
func (s *Store) Manifest(namespace string) Manifest { return Manifest{} }

// NodeID identifies this hub.
func (s *Store) NodeID() string { return "" }

// Leading reports.
func (s *Store) Leading() bool { return false }

// LeadDuties runs.
func (s *Store) LeadDuties(ctx context.Context, duty func(ctx context.Context) error) error {
	return nil
}

// Failed is closed.
func (s *Store) Failed() <-chan struct{} { return nil }

// Err is why.
func (s *Store) Err() error { return nil }
