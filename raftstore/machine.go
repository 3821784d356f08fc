package raftstore

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	"github.com/klauspost/compress/zstd"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// machine applies the log. Raft calls Apply, ApplyBatch, Snapshot and Restore from one goroutine; everyone else reads
// what it published.
type machine struct {
	failed *latch
	alter  func(*gwv1.Command) *gwv1.Command // for tests of hubs that diverge; nil: none
	// replaced is called when a snapshot has taken the place of the state; nil: nothing is.
	replaced func()

	// now is the newest state; written with mu held, by Raft's goroutine only.
	now atomic.Pointer[state.State]
	// configured is the index of the newest configuration of the members that was applied, which Raft tells nobody else;
	// 0 if not known.
	configured atomic.Uint64
	beacons    beacons

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when now changes
	touched touched
}

var _ raft.BatchingFSM = (*machine)(nil)

func newMachine(failed *latch) *machine {
	m := &machine{failed: failed, changed: make(chan struct{}), beacons: newBeacons()}
	m.now.Store(state.New())
	return m
}

// Apply implements raft.FSM; Raft uses ApplyBatch.
func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. Each answer is a *gwv1.Result, or an error after which this hub takes no
// entry any more.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	s := m.now.Load()
	var keys []touchedKey
	for i, l := range logs {
		if err := m.failed.get(); err != nil {
			answers[i] = err
			continue
		}
		if l.Type != raft.LogCommand {
			s = s.At(l.Index) // or a reader of the newest entry would wait for it in vain
			if l.Type == raft.LogConfiguration {
				m.configured.Store(l.Index)
			}
			continue
		}
		c := state.DecodeCommand(l.Data)
		if m.alter != nil {
			c = m.alter(c)
		}
		next, result, changed := s.Apply(l.Index, c)
		if result == nil {
			err := fmt.Errorf("apply log entry %d: %w", l.Index, state.Known(c))
			m.failed.set(err)
			answers[i] = err
			continue
		}
		s, answers[i] = next, result
		if c.GetBeacon() != nil && result.Refusal == nil {
			m.beacons.pass(s)
		}
		for _, k := range changed {
			keys = append(keys, touchedKey{l.Index, k})
		}
	}
	m.publish(s, func(t *touched) { t.add(keys) })
	return answers
}

func (m *machine) publish(s *state.State, touch func(*touched)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	touch(&m.touched)
	m.now.Store(s)
	close(m.changed)
	m.changed = make(chan struct{})
}

// await returns the newest state once ok holds for it.
func (m *machine) await(ctx context.Context, ok func(*state.State) bool) (*state.State, error) {
	for {
		m.mu.Lock()
		changed := m.changed
		m.mu.Unlock()
		if s := m.now.Load(); ok(s) {
			return s, nil
		}
		select {
		case <-changed:
		case <-m.failed.done:
			return nil, fmt.Errorf("%w: %w", ErrClosed, m.failed.err)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Snapshot implements raft.FSM: it takes the pointer.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if err := m.failed.get(); err != nil {
		return nil, err // the state may lack entries that Raft counts as applied
	}
	return snapshot{m.now.Load()}, nil
}

// Restore implements raft.FSM. On an error nothing has changed.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	s, err := decompress(r)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	m.publish(s, func(t *touched) { t.reset(s.Index()) })
	if m.replaced != nil {
		m.replaced()
	}
	return nil
}

// snapshot is a state on its way to disk.
type snapshot struct{ state *state.State }

// Persist implements raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	err := compress(sink, s.state)
	if err != nil {
		sink.Cancel() // its own error matters less
		return fmt.Errorf("write snapshot %s: %w", sink.ID(), err)
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("write snapshot %s: %w", sink.ID(), err)
	}
	return nil
}

func compress(w io.Writer, s *state.State) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	if err := s.Encode(z); err != nil {
		z.Close()
		return err
	}
	return z.Close()
}

// Release implements raft.FSMSnapshot.
func (snapshot) Release() {}

// touchedKey is a working resource that the entry at index changed.
type touchedKey struct {
	index uint64
	key   resource.Key
}

// touched remembers which resources changed lately, so that a manifest can be brought up to date by its changed leaves.
type touched struct {
	restored uint64       // how often the state was replaced as a whole
	floor    uint64       // changes at and before this index are forgotten
	keys     []touchedKey // only ever appended to, so a copy of this struct stays true
}

const maxTouched = 32_768

func (t *touched) add(keys []touchedKey) {
	t.keys = append(t.keys, keys...)
	if len(t.keys) <= maxTouched {
		return
	}
	cut := len(t.keys) - maxTouched/2
	t.floor = t.keys[cut-1].index
	t.keys = append([]touchedKey(nil), t.keys[cut:]...)
}

func (t *touched) reset(floor uint64) { t.restored, t.floor, t.keys = t.restored+1, floor, nil }
