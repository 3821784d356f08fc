// Package raftstore owns the replicated store: a command is proposed to the log, and every hub reads, and waits for,
// the state the log gives.
package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// Config says how to open a Store.
type Config struct {
	// Dir is the directory of the store, made if it isn't there. Required; one process at a time.
	Dir string
	// ElectionTimeout is how long hubs wait for a leader before they elect another. 0: one second; at least 10 ms.
	ElectionTimeout time.Duration
	// Bootstrap makes the first command of a new cluster. It is called, perhaps more than once, when this hub leads a
	// cluster that has no ID yet. Nil: such a cluster stays without.
	Bootstrap func(nodeID string) (*gwv1.Bootstrap, error)
	// Stream carries Raft between hubs; the Store closes it. Nil: a cluster of one that listens nowhere, and can be given
	// a Stream when it is opened again.
	Stream Stream
	// Address is the host:port at which the other hubs reach this one; it goes into the Raft configuration, and replaces
	// the one there. Empty: the Stream's own address.
	Address string
	// Join keeps an empty directory from becoming a cluster of its own: the hub waits until a leader adds it. The
	// directory remembers it. In a directory that is part of a cluster it means nothing.
	Join bool
	// Logger is where the store and Raft log. Nil: slog.Default().
	Logger *slog.Logger
	// Version of this binary, recorded with every leadership.
	Version string
	// Now is the proposer's clock. Nil: time.Now.
	Now func() time.Time

	// DiskLow is how many free bytes there must be on the disk for resources to be saved and pushed, DiskCritical for
	// anything but revoking and removing. 0: a tenth of the disk, at most 512 MiB; 3 % of it, at most 128 MiB.
	DiskLow, DiskCritical uint64
	// Ballast is how many bytes, but at most a twentieth of the disk, are kept in reserve in a file, and given up when the
	// disk is critically full or a snapshot finds no room, so that the log can be shortened. 0: none.
	Ballast uint64

	// For tests: 0 and nil are what is written in raftConfig, open and found.
	snapshotThreshold, trailingLogs uint64
	snapshotInterval                time.Duration
	diskSpace                       func(dir string) (free, total uint64, err error)
	alterCommand                    func(*gwv1.Command) *gwv1.Command
	wrapDisk                        func(disk) disk
	wrapMachine                     func(*machine) raft.FSM
	openPlace                       func() (*place, error)
	founders                        []raft.Server
}

func (c Config) electionTimeout() time.Duration {
	if c.ElectionTimeout == 0 {
		return time.Second
	}
	return max(c.ElectionTimeout, 10*time.Millisecond)
}

func (c Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.Default()
	}
	return c.Logger
}

func (c Config) clock() func() time.Time {
	if c.Now == nil {
		return time.Now
	}
	return c.Now
}

// Store is one hub's part of the replicated store. Safe for any number of goroutines.
type Store struct {
	config    Config
	log       *slog.Logger
	id        string
	place     *place
	transport *transport
	raft      *raft.Raft
	machine   *machine
	manifests *manifests
	failed    *latch
	halted    *latch // by Halt, in this process or before
	space     *space
	ballast   *ballast
	metrics   *metrics
	reads     reads
	office    office
	probes    probes
	catchUp   catchUp
	stuck     stuck
	restoring sync.Mutex // held by one Restore at a time
	// hangups hears of the end of connections that other hubs opened; one value stands for any number.
	hangups chan struct{}
	refused atomic.Pointer[refusal]   // nil: none
	rival   atomic.Pointer[time.Time] // when another hub last stood for election and could win; nil: never

	// ctx ends when Close begins or the store fails; everything in tasks ends with it.
	ctx      context.Context
	cancel   context.CancelFunc
	tasks    tasks
	shutdown func() raft.Future // stops Raft; always the same future
	closing  sync.Once
	closed   error // set by closing
}

// Open opens the store in a directory. A directory without one becomes a cluster whose only member is this hub. If this
// hub is the only voter, Open returns when it leads and the cluster has its ID, which takes far less than a second;
// otherwise it does not wait for a leader. A hub that was halted opens halted: see Halt. The caller closes the Store, and
// stops the process when Failed is closed.
func Open(c Config) (s *Store, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	failed := newLatch()
	m := newMachine(failed)
	s = &Store{
		config: c, log: c.logger(), failed: failed, machine: m, ctx: ctx, cancel: cancel,
		manifests: &manifests{machine: m, memo: map[string]*memo{}},
		office:    office{changed: make(chan struct{})},
		halted:    newLatch(), metrics: newMetrics(), hangups: make(chan struct{}, 1),
		space: &space{dir: c.Dir, measure: statfs, low: c.DiskLow, critical: c.DiskCritical},
	}
	m.alter = c.alterCommand
	if c.diskSpace != nil {
		s.space.measure = c.diskSpace
	}
	s.ballast = newBallast(c.Dir, c.Ballast, s.space, s.log)
	if err := s.open(); err != nil {
		s.Close()
		return nil, fmt.Errorf("open the store in %s: %w", c.Dir, err)
	}
	return s, nil
}

func (s *Store) open() error {
	open := s.config.openPlace
	if open == nil {
		open = func() (*place, error) { return openPlace(s.config.Dir, s.raftLogger()) }
	}
	p, err := open()
	if err != nil {
		return err
	}
	s.place, s.id = p, p.id
	if why, there, err := p.marked(markCutShort); err != nil || there {
		return errors.Join(errors.New(strings.TrimSpace(why)), err)
	}
	if s.config.wrapDisk != nil {
		p.disk = s.config.wrapDisk(p.disk)
	}
	reason, halted, err := p.remembered()
	if err != nil {
		return err
	}
	if s.transport, err = s.openTransport(halted); err != nil {
		return err
	}
	if err := s.ballast.settle(); err != nil {
		s.log.Warn("no room is kept in reserve", "error", err)
	}
	alone, err := s.startRaft(halted)
	if err != nil {
		return err
	}
	s.shutdown = sync.OnceValue(s.raft.Shutdown)
	if halted {
		s.stopServing(reason)
		return nil
	}
	s.tasks.run(s.watchFailure)
	s.tasks.run(s.follow)
	s.tasks.run(s.keepBallast)
	if s.config.Stream != nil {
		s.transport.askedToVote.Store(new(s.askedToVote))
		s.tasks.run(s.succeed)
	}
	s.tasks.run(func() { s.machine.beacons.run(s.ctx.Done()) })
	if !alone {
		return nil
	}
	s.transport.leadNow(s.ctx.Done())
	return s.awaitFounded()
}

// transportTimeout is how long a request to another hub may take.
const transportTimeout = 5 * time.Second

func (s *Store) openTransport(halted bool) (*transport, error) {
	if halted {
		return s.secluded(), nil
	}
	if s.config.Stream == nil {
		_, inner := raft.NewInmemTransport(raft.ServerAddress(s.id))
		return newTransport(inner), nil
	}
	inner := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: streamLayer{Stream: s.config.Stream, address: s.config.Address, hangups: s.hangups}, MaxPool: 3, Timeout: transportTimeout, Logger: s.raftLogger(),
	})
	return newTransport(inner), nil
}

func (s *Store) raftLogger() *raftLogger { return newRaftLogger(s.log) }

func (s *Store) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(s.id)
	c.Logger = s.raftLogger()
	c.ElectionTimeout = s.config.electionTimeout()
	c.HeartbeatTimeout = c.ElectionTimeout
	c.LeaderLeaseTimeout = c.ElectionTimeout * 3 / 4
	c.CommitTimeout = min(50*time.Millisecond, c.ElectionTimeout/4)
	c.SnapshotThreshold, c.SnapshotInterval, c.TrailingLogs = 8192, 60*time.Second, 10240
	if s.config.snapshotThreshold > 0 {
		c.SnapshotThreshold, c.TrailingLogs = s.config.snapshotThreshold, s.config.trailingLogs
	}
	if s.config.snapshotInterval > 0 {
		c.SnapshotInterval = s.config.snapshotInterval
	}
	c.NoLegacyTelemetry = true
	return c
}

// startRaft starts Raft, and first founds a cluster of one if there is nothing. alone is true if this hub is the only
// voter. If it is halted, Raft only reads what there is: it founds nothing, and would not stand for election in hours.
func (s *Store) startRaft(halted bool) (alone bool, err error) {
	config := s.raftConfig()
	if halted {
		config.HeartbeatTimeout, config.ElectionTimeout = 24*time.Hour, 24*time.Hour
	}
	logs := &logStore{disk: s.place.disk, failed: s.failed, patience: diskPatience, took: s.metrics.logWrite.Observe}
	votes := &voteStore{log: logs}
	cached, err := raft.NewLogCache(512, logs)
	if err != nil {
		return false, err
	}
	snapshots := &snapshotStore{
		SnapshotStore: s.place.snapshots, failed: s.failed, metrics: s.metrics, discard: s.place.discard,
		written: s.machine.configured.Store, full: s.ballast.full,
	}
	if kept, err := snapshots.List(); err != nil {
		return false, err
	} else if len(kept) > 0 {
		s.machine.configured.Store(kept[0].ConfigurationIndex)
	}
	joins, err := s.joins(cached, votes, snapshots)
	if err != nil {
		return false, err
	}
	if !joins && !halted {
		if err := s.found(config, cached, votes, snapshots); err != nil {
			return false, err
		}
	}
	var fsm raft.FSM = s.machine
	if s.config.wrapMachine != nil {
		fsm = s.config.wrapMachine(s.machine)
	}
	fit := &seam{SnapshotStore: snapshots, logs: cached, applied: func() uint64 { return s.State().Index() }}
	s.machine.replaced = fit.replaced
	s.transport.seam.Store(fit)
	if s.raft, err = raft.NewRaft(config, fsm, cached, votes, fit, s.transport); err != nil {
		return false, err
	}
	if err := fit.begin(); err != nil {
		return false, err
	}
	members := s.raft.GetConfiguration()
	if err := members.Error(); err != nil {
		return false, err
	}
	voters, own := 0, false
	for _, m := range members.Configuration().Servers {
		if m.Suffrage == raft.Voter {
			voters++
			own = own || m.ID == config.LocalID
		}
	}
	return voters == 1 && own, nil
}

// joins reports whether this directory must not become a cluster of its own, which it is told once and remembers: a
// hub that voted elsewhere and then founded a cluster would be two.
func (s *Store) joins(logs raft.LogStore, votes *voteStore, snapshots raft.SnapshotStore) (bool, error) {
	_, marked, err := s.place.marked(markJoin)
	if err != nil || marked || !s.config.Join {
		return marked, err
	}
	used, err := raft.HasExistingState(logs, votes, snapshots)
	if err != nil || used {
		return false, err
	}
	return true, s.place.mark(markJoin, "this hub joins a cluster; it never founds one")
}

// found makes this hub the only member of a new cluster, if its directory is in no cluster yet.
func (s *Store) found(c *raft.Config, logs raft.LogStore, votes *voteStore, snapshots raft.SnapshotStore) error {
	used, err := raft.HasExistingState(logs, votes, snapshots)
	if err != nil {
		return err
	}
	if used {
		last, err := logs.LastIndex()
		if err != nil {
			return err
		}
		kept, err := snapshots.List()
		if err != nil || last > 0 || len(kept) > 0 {
			return err
		}
		// Only a term: founding was cut short between its two writes, and begins again.
		if err := votes.SetUint64([]byte(keyCurrentTerm), 0); err != nil {
			return err
		}
	}
	members := s.config.founders
	if members == nil {
		members = []raft.Server{{ID: c.LocalID, Address: s.transport.LocalAddr(), Suffrage: raft.Voter}}
	}
	return raft.BootstrapCluster(c, logs, votes, snapshots, s.transport, raft.Configuration{Servers: members})
}

// awaitFounded waits until this hub leads a cluster that has its ID.
func (s *Store) awaitFounded() error {
	ctx, cancel := context.WithTimeout(s.ctx, max(10*s.config.electionTimeout(), 30*time.Second))
	defer cancel()
	if _, err := s.office.await(ctx, s.failed); err != nil {
		if failed := s.failed.get(); failed != nil {
			return failed
		}
		return fmt.Errorf("wait to lead: %w", err)
	}
	return nil
}

// watchFailure stops Raft when the store fails: what this hub says from then on could be wrong.
func (s *Store) watchFailure() {
	select {
	case <-s.failed.done:
		s.log.Error("the store failed; this hub must stop", "error", s.failed.err)
		s.cancel()
		s.stopRaft()
	case <-s.ctx.Done():
	}
}

// stopRaft ends Raft without waiting for it, because its disk may hang; Close waits. The other hubs' requests get an end
// instead of no answer.
func (s *Store) stopRaft() {
	s.shutdown()
	if err := s.transport.Close(); err != nil {
		s.log.Warn("close the stream", "error", err)
	}
}

// Close hands leadership over if this hub leads and another voter is caught up, which it waits for shortly. Then it
// stops Raft, waits for what the store started, and closes the files. It may be called more than once, and returns the
// same each time.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.handOver()
		s.cancel()
		s.closed = s.close()
	})
	return s.closed
}

func (s *Store) close() error {
	var errs []error
	if s.shutdown != nil {
		ctx, cancel := context.WithTimeout(context.Background(), s.patience())
		defer cancel()
		if err := answerOf(ctx, s.shutdown().Error); err != nil {
			return errors.Join(s.failed.get(), fmt.Errorf("stop raft: %w; the files stay open", err))
		}
	}
	s.tasks.wait()
	if s.transport != nil {
		errs = append(errs, s.transport.Close())
	} else if s.config.Stream != nil {
		errs = append(errs, s.config.Stream.Close())
	}
	if s.place != nil {
		errs = append(errs, s.place.close())
	}
	return errors.Join(errs...)
}

// patience is how long Close waits for Raft, which ends only when its disk answers.
func (s *Store) patience() time.Duration {
	if s.failed.get() != nil {
		return 2 * time.Second
	}
	return 2 * diskPatience
}

// NodeID identifies this hub, whatever its address; it is as old as the directory.
func (s *Store) NodeID() string { return s.id }

// Failed is closed when the store can't go on: its disk failed, or the log has a command this version of gw doesn't
// know. Then Err says why, every call fails, and the process should stop.
func (s *Store) Failed() <-chan struct{} { return s.failed.done }

// Err is why the store failed; nil if it didn't. It wraps state.ErrTooOld if a newer version of gw is needed.
func (s *Store) Err() error { return s.failed.get() }

// State is the newest state applied here. It never blocks, and may be older than what the leader has acknowledged.
func (s *Store) State() *state.State { return s.machine.now.Load() }

// Wait blocks until the newest state here has an index greater than after, and returns it. States in between are
// skipped. It fails with ctx's error, or one that wraps ErrClosed.
func (s *Store) Wait(ctx context.Context, after uint64) (*state.State, error) {
	ctx, stop := s.bound(ctx)
	defer stop()
	found, err := s.machine.await(ctx, func(st *state.State) bool { return st.Index() > after })
	if err != nil {
		return nil, s.reason(ctx, err)
	}
	return found, nil
}

// Manifest is that of a namespace's working configuration at the newest state here: the empty manifest for a namespace
// that has nothing.
func (s *Store) Manifest(namespace string) Manifest { return s.manifests.of(namespace) }

// bound returns ctx as long as the store is open.
func (s *Store) bound(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	if s.ctx.Err() != nil {
		cancel(ErrClosed) // at once; AfterFunc would take a moment
	}
	stop := context.AfterFunc(s.ctx, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// reason is err, or what ended the context if that is the cause.
func (s *Store) reason(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), ErrClosed) {
		return errors.Join(ErrClosed, s.halted.get(), s.failed.get())
	}
	return err
}
