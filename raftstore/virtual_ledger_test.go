package raftstore

import (
	"crypto/sha256"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// ledger is what any hub ever applied, for comparing.
type ledger struct {
	mu        sync.Mutex // never held across a wait
	entries   map[uint64]*applied
	digests   map[uint64]digestAt
	terms     map[uint64]string // term → hub that opened it
	lastTerm  uint64
	elections int
	wrong     []string
	compared  int // digests that were compared
	snapshots int
	beacons   int // that were compared
	changes   int // of the members
	installed int // snapshots that came from a leader
	voters    []voterCount
}

type applied struct {
	term uint64
	kind raft.LogType
	data []byte
	hash [sha256.Size]byte
	hub  string // the first to apply it
}

// voterCount is how many voters there are from an instant on.
type voterCount struct {
	at     time.Time
	index  uint64
	voters int
}

type digestAt struct {
	digest [sha256.Size]byte
	hub    string
}

func newLedger() *ledger {
	return &ledger{entries: map[uint64]*applied{}, digests: map[uint64]digestAt{}, terms: map[uint64]string{}}
}

// digestEvery is how many entries apart whole states are compared.
const digestEvery = 40

func digestOf(s *state.State) [sha256.Size]byte {
	h := sha256.New()
	if err := s.Encode(h); err != nil {
		return [sha256.Size]byte{}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (g *ledger) accuse(format string, args ...any) {
	if len(g.wrong) < 20 {
		g.wrong = append(g.wrong, fmt.Sprintf(format, args...))
	}
}

func (g *ledger) count(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// applied takes note of an entry a hub has applied, of its answer, and of the state after it.
func (g *ledger) applied(hub string, l *raft.Log, answer any, s *state.State) {
	var digest [sha256.Size]byte
	if l.Index%digestEvery == 0 {
		digest = digestOf(s)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	hash := sha256.Sum256(l.Data)
	if e := g.entries[l.Index]; e == nil {
		g.entries[l.Index] = &applied{term: l.Term, kind: l.Type, data: l.Data, hash: hash, hub: hub}
		g.opened(l, answer)
		g.configured(l)
	} else if e.term != l.Term || e.hash != hash || e.kind != l.Type {
		g.accuse("I8: at index %d, %s applied an entry of term %d and %s another one of term %d", l.Index, e.hub, e.term, hub, l.Term)
	}
	if l.Index%digestEvery != 0 {
		return
	}
	if d, ok := g.digests[l.Index]; !ok {
		g.digests[l.Index] = digestAt{digest, hub}
	} else if g.compared++; d.digest != digest {
		g.accuse("I8: at index %d, %s and %s have different states", l.Index, d.hub, hub)
	}
}

// opened checks the first command of a leadership.
func (g *ledger) opened(l *raft.Log, answer any) {
	r, ok := answer.(*gwv1.Result)
	if !ok || l.Type != raft.LogCommand || r.Refusal != nil {
		return
	}
	open := state.DecodeCommand(l.Data).GetOpenTerm()
	if open == nil {
		return
	}
	if other, ok := g.terms[open.Term]; ok {
		g.accuse("I9: term %d was opened by %s and again by %s", open.Term, other, open.NodeId)
	}
	if open.Term != l.Term {
		g.accuse("I9: %s opened term %d in term %d", open.NodeId, open.Term, l.Term)
	}
	if open.Term <= g.lastTerm {
		g.accuse("I9: term %d was opened after term %d", open.Term, g.lastTerm)
	}
	g.terms[open.Term], g.lastTerm = open.NodeId, max(g.lastTerm, open.Term)
	g.elections++
}

// configured counts the voters. Entries come in the order of the log, but for what a hub catches up on.
func (g *ledger) configured(l *raft.Log) {
	if l.Type != raft.LogConfiguration || len(g.voters) > 0 && g.voters[len(g.voters)-1].index > l.Index {
		return
	}
	n := 0
	for _, s := range raft.DecodeConfiguration(l.Data).Servers {
		if s.Suffrage == raft.Voter {
			n++
		}
	}
	g.voters = append(g.voters, voterCount{time.Now(), l.Index, n})
}

// replay applies the whole ledger to an empty state, up to the first gap or last.
func (g *ledger) replay(last uint64) (*state.State, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := state.New()
	for i := range last + 1 {
		e := g.entries[i]
		switch {
		case e == nil:
			continue // Raft's own, which no machine sees
		case e.kind != raft.LogCommand:
			s = s.At(i)
			continue
		}
		next, result, _ := s.Apply(i, state.DecodeCommand(e.data))
		if result == nil {
			return nil, fmt.Errorf("entry %d is not understood", i)
		}
		s = next
	}
	return s.At(last), nil
}

// witness is a machine that reports what it applies, one entry at a time.
type witness struct {
	*machine
	hub    string
	ledger *ledger
	// distort changes an entry before this hub alone applies it; nil: nothing is. For negative controls.
	distort func(l *raft.Log)
}

var _ raft.BatchingFSM = (*witness)(nil)

func (w *witness) Apply(l *raft.Log) any { return w.ApplyBatch([]*raft.Log{l})[0] }

// Snapshot implements raft.FSM.
func (w *witness) Snapshot() (raft.FSMSnapshot, error) {
	w.ledger.count(func() { w.ledger.snapshots++ })
	return w.machine.Snapshot()
}

// Restore implements raft.FSM.
func (w *witness) Restore(r io.ReadCloser) error {
	if w.machine.now.Load().Index() > 0 {
		w.ledger.count(func() { w.ledger.installed++ })
	}
	return w.machine.Restore(r)
}

func (w *witness) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, 0, len(logs))
	for _, l := range logs {
		mine := copyLog(l)
		if w.distort != nil {
			w.distort(mine)
		}
		answer := w.machine.ApplyBatch([]*raft.Log{mine})[0]
		answers = append(answers, answer)
		if _, failed := answer.(error); !failed {
			w.ledger.applied(w.hub, copyLog(l), answer, w.machine.now.Load())
		}
	}
	return answers
}
