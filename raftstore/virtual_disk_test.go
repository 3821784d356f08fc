package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

var (
	errCrashed = errors.New("the machine has crashed")
	errBroken  = errors.New("input/output error")
)

// platter is what a crash leaves of one hub's disk. It outlives the incarnations of its hub.
type platter struct {
	mu    sync.Mutex // never held across a wait
	id    string
	logs  map[uint64]*raft.Log
	keys  map[string][]byte
	snaps []*platterSnap // newest last
}

type platterSnap struct {
	meta raft.SnapshotMeta
	data []byte
}

func newPlatter(id string) *platter {
	return &platter{id: id, logs: map[uint64]*raft.Log{}, keys: map[string][]byte{}}
}

// change is one transaction of the disk. torn is what a crash in its midst may leave of it, besides all and nothing.
type diskChange struct {
	apply func(p *platter)
	torn  func(p *platter, r *rand.Rand)
}

// memDisk is one incarnation's view of a platter: what the running process reads, which may be more than what a crash
// leaves. As with bbolt, a transaction is visible when it is written, and transactions queue.
type memDisk struct {
	platter *platter
	cache   *platter      // as the process sees it
	writing chan struct{} // holds one token; a mutex would stop the clock of the bubble
	dead    chan struct{} // closed by crash

	mu       sync.Mutex // never held across a wait
	rand     *rand.Rand
	crashed  bool
	spoiled  bool // a write failed or hung, or was to
	inFlight *diskChange
	unsynced []lateChange // only with lies
	faults   diskFaults
}

// diskFaults say how a disk misbehaves.
type diskFaults struct {
	slowest time.Duration // a write takes up to this long; 0: 2 ms
	fastest time.Duration
	fails   bool // every write fails, and may have happened nevertheless
	hangs   bool // no write ever ends
	// lies: a write is acknowledged at once and reaches the platter this much later, if there is no crash until then.
	lies time.Duration
}

type lateChange struct {
	change *diskChange
	at     time.Time
}

func (p *platter) copy() *platter {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &platter{id: p.id, logs: maps.Clone(p.logs), keys: maps.Clone(p.keys), snaps: slices.Clone(p.snaps)}
}

func openMemDisk(p *platter, r *rand.Rand, f diskFaults) *memDisk {
	d := &memDisk{
		platter: p, cache: p.copy(), writing: make(chan struct{}, 1), dead: make(chan struct{}), rand: r, faults: f,
	}
	return d
}

func (d *memDisk) misbehave(f diskFaults) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = f
	d.spoiled = d.spoiled || f.fails || f.hangs
}

// crash ends this view: what was written and not synced is gone, all of it or in part.
func (d *memDisk) crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return
	}
	d.crashed = true
	close(d.dead)
	d.settle(time.Now())
	if d.inFlight == nil || len(d.unsynced) > 0 { // nothing gets there before what came before it
		return
	}
	d.platter.mu.Lock()
	defer d.platter.mu.Unlock()
	switch d.rand.IntN(3) {
	case 0:
		d.inFlight.apply(d.platter)
	case 1:
		if d.inFlight.torn != nil {
			d.inFlight.torn(d.platter, d.rand)
		}
	}
}

// settle writes back what a lying disk has kept for long enough. With mu held.
func (d *memDisk) settle(now time.Time) {
	d.platter.mu.Lock()
	defer d.platter.mu.Unlock()
	for len(d.unsynced) > 0 && !d.unsynced[0].at.After(now) {
		d.unsynced[0].change.apply(d.platter)
		d.unsynced = d.unsynced[1:]
	}
}

// begin takes note of a write and says how long it takes, and how it ends.
func (d *memDisk) begin(c *diskChange) (took time.Duration, f diskFaults, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return 0, d.faults, errCrashed
	}
	f = d.faults
	d.inFlight = c
	slowest := max(f.slowest, 2*time.Millisecond)
	took = f.fastest + time.Duration(d.rand.Int64N(int64(slowest-f.fastest)))
	return took, f, nil
}

func (d *memDisk) write(c *diskChange) error {
	d.writing <- struct{}{}
	defer func() { <-d.writing }()
	took, f, err := d.begin(c)
	if err != nil {
		return err
	}
	if f.hangs {
		<-d.dead
		return errCrashed
	}
	select {
	case <-time.After(took):
	case <-d.dead:
		return errCrashed
	}
	return d.end(c, f)
}

func (d *memDisk) end(c *diskChange, f diskFaults) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return errCrashed
	}
	d.inFlight = nil
	now := time.Now()
	d.settle(now)
	d.cache.mu.Lock()
	defer d.cache.mu.Unlock()
	if f.lies > 0 {
		c.apply(d.cache)
		d.unsynced = append(d.unsynced, lateChange{c, now.Add(f.lies)})
		return nil
	}
	d.platter.mu.Lock()
	defer d.platter.mu.Unlock()
	if f.fails {
		if d.rand.IntN(2) == 0 {
			c.apply(d.platter) // the error came after the write
		}
		return errBroken
	}
	c.apply(d.cache)
	c.apply(d.platter)
	return nil
}

func copyLog(l *raft.Log) *raft.Log {
	c := *l
	c.Data, c.Extensions = bytes.Clone(l.Data), bytes.Clone(l.Extensions)
	return &c
}

// StoreLogs implements raft.LogStore. A crash may leave the first few of them, which is more than bbolt does.
func (d *memDisk) StoreLogs(logs []*raft.Log) error {
	kept := make([]*raft.Log, len(logs))
	for i, l := range logs {
		kept[i] = copyLog(l)
	}
	store := func(p *platter, n int) {
		for _, l := range kept[:n] {
			p.logs[l.Index] = l
		}
	}
	return d.write(&diskChange{
		apply: func(p *platter) { store(p, len(kept)) },
		torn:  func(p *platter, r *rand.Rand) { store(p, r.IntN(len(kept)+1)) },
	})
}

func (d *memDisk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

func (d *memDisk) DeleteRange(from, to uint64) error {
	return d.write(&diskChange{apply: func(p *platter) {
		maps.DeleteFunc(p.logs, func(i uint64, _ *raft.Log) bool { return from <= i && i <= to })
	}})
}

func (d *memDisk) GetLog(index uint64, l *raft.Log) error {
	d.cache.mu.Lock()
	defer d.cache.mu.Unlock()
	found, ok := d.cache.logs[index]
	if !ok {
		return raft.ErrLogNotFound
	}
	*l = *copyLog(found)
	return nil
}

func (d *memDisk) FirstIndex() (uint64, error) {
	first, _ := d.cache.span()
	return first, nil
}

func (d *memDisk) LastIndex() (uint64, error) {
	_, last := d.cache.span()
	return last, nil
}

func (p *platter) span() (first, last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.logs {
		if first == 0 || i < first {
			first = i
		}
		last = max(last, i)
	}
	return first, last
}

func (d *memDisk) Set(key, value []byte) error {
	k, v := string(key), bytes.Clone(value)
	return d.write(&diskChange{apply: func(p *platter) { p.keys[k] = v }})
}

func (d *memDisk) Get(key []byte) ([]byte, error) {
	d.cache.mu.Lock()
	defer d.cache.mu.Unlock()
	v, ok := d.cache.keys[string(key)]
	if !ok {
		return nil, errNotFound
	}
	return bytes.Clone(v), nil
}

func (d *memDisk) SetUint64(key []byte, v uint64) error {
	return d.Set(key, fmt.Appendf(nil, "%d", v))
}

func (d *memDisk) GetUint64(key []byte) (uint64, error) {
	text, err := d.Get(key)
	if err != nil {
		return 0, err
	}
	var v uint64
	_, err = fmt.Sscan(string(text), &v)
	return v, err
}

func (d *memDisk) Close() error { return nil }

// memSnapshots keeps snapshots on the same disk. One that is not closed does not survive a crash.
type memSnapshots struct{ disk *memDisk }

const snapshotsKept = 3

func (s memSnapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64,
	_ raft.Transport) (raft.SnapshotSink, error) {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	if s.disk.crashed {
		return nil, errCrashed
	}
	return &memSink{disk: s.disk, meta: raft.SnapshotMeta{
		Version: v, ID: fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixNano()), Index: index, Term: term,
		Configuration: c, ConfigurationIndex: ci,
	}}, nil
}

func (s memSnapshots) List() ([]*raft.SnapshotMeta, error) {
	s.disk.cache.mu.Lock()
	defer s.disk.cache.mu.Unlock()
	var metas []*raft.SnapshotMeta
	for _, snap := range slices.Backward(s.disk.cache.snaps) {
		meta := snap.meta
		metas = append(metas, &meta)
	}
	return metas, nil
}

func (s memSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.disk.cache.mu.Lock()
	defer s.disk.cache.mu.Unlock()
	for _, snap := range s.disk.cache.snaps {
		if snap.meta.ID == id {
			meta := snap.meta
			return &meta, io.NopCloser(bytes.NewReader(snap.data)), nil
		}
	}
	return nil, nil, fmt.Errorf("no snapshot %s", id)
}

type memSink struct {
	disk *memDisk
	meta raft.SnapshotMeta
	data bytes.Buffer
	done bool
}

func (s *memSink) ID() string                  { return s.meta.ID }
func (s *memSink) Write(b []byte) (int, error) { return s.data.Write(b) }

func (s *memSink) Cancel() error {
	s.done = true
	return nil
}

// Close makes the snapshot last: as with files, the rename is what a crash leaves or doesn't.
func (s *memSink) Close() error {
	if s.done {
		return nil
	}
	s.done = true
	s.meta.Size = int64(s.data.Len())
	snap := &platterSnap{meta: s.meta, data: s.data.Bytes()}
	return s.disk.write(&diskChange{apply: func(p *platter) {
		p.snaps = append(slices.Clone(p.snaps), snap)
		slices.SortStableFunc(p.snaps, func(a, b *platterSnap) int {
			return cmpSnap(a.meta, b.meta)
		})
		p.snaps = p.snaps[max(0, len(p.snaps)-snapshotsKept):]
	}})
}

func cmpSnap(a, b raft.SnapshotMeta) int {
	switch {
	case a.Term != b.Term:
		return int(int64(a.Term) - int64(b.Term))
	case a.Index != b.Index:
		return int(int64(a.Index) - int64(b.Index))
	}
	return bytes.Compare([]byte(a.ID), []byte(b.ID))
}
