package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// virtual is a cluster of real stores in a bubble of testing/synctest: their disks, their network and their clock are
// in memory. It is made, used and closed inside one bubble.
type virtual struct {
	t                 *testing.T
	network           *network
	ledger            *ledger
	options           virtualOptions
	stop              chan struct{} // closed by close
	tasks             sync.WaitGroup
	token, credential sharedToken

	mu    sync.Mutex    // guards what follows; never held across a wait
	hubs  []*virtualHub // those that are or may become members
	made  int           // how many there ever were
	rand  *rand.Rand
	story []string
	began time.Time
}

type virtualOptions struct {
	seed         uint64
	hubs         int           // 0: 3; -1: none at first
	founderNames []string      // nil: the hubs there are at first
	election     time.Duration // 0: 1 s
	// snapshotAfter entries, of which trailing stay; 0: as in production.
	snapshotAfter, trailing uint64
	snapshotEvery           time.Duration // 0: as in production
	disk                    diskFaults
	// distort is the witness's, per hub; nil: none.
	distort func(hub string) func(l *raft.Log)
	log     io.Writer // nil: nowhere
}

// virtualHub is one hub over all its incarnations.
type virtualHub struct {
	name    string // and its address
	platter *platter
	founder bool

	mu       sync.Mutex
	life     *life // nil: it is down
	starting bool
	gone     bool // it stays down
	moved    int  // how often it got another address
}

// life is one incarnation of a hub.
type life struct {
	hub     *virtualHub
	store   *Store
	disk    *memDisk
	crashed chan struct{} // closed first of all when it crashes: what it says from then on nobody hears
}

func newVirtual(t *testing.T, o virtualOptions) *virtual {
	t.Helper()
	if o.hubs == 0 {
		o.hubs = 3
	}
	if o.election == 0 {
		o.election = time.Second
	}
	v := &virtual{
		t: t, options: o, rand: rand.New(rand.NewPCG(o.seed, 1)), ledger: newLedger(), stop: make(chan struct{}),
		began: time.Now(),
	}
	v.network = newNetwork(rand.New(rand.NewPCG(o.seed, 2)))
	for range o.hubs {
		v.newHub(true)
	}
	for _, h := range v.all() {
		v.revive(h)
	}
	return v
}

// newHub adds a hub that is down; its ID and its address are its name.
func (v *virtual) newHub(founder bool) *virtualHub {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.made++
	name := fmt.Sprintf("h%d", v.made)
	h := &virtualHub{name: name, platter: newPlatter(name), founder: founder}
	v.hubs = append(v.hubs, h)
	return h
}

// all returns the hubs there are.
func (v *virtual) all() []*virtualHub {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.hubs)
}

// forget ends a hub for good.
func (v *virtual) forget(h *virtualHub) {
	h.mu.Lock()
	h.gone = true
	h.mu.Unlock()
	v.mu.Lock()
	v.hubs = slices.DeleteFunc(v.hubs, func(x *virtualHub) bool { return x == h })
	v.mu.Unlock()
	v.crash(h)
}

// close ends every hub and everything in the bubble.
func (v *virtual) close() {
	close(v.stop)
	v.network.heal()
	for _, h := range v.all() {
		v.crash(h)
	}
	v.tasks.Wait()
	v.network.reset(func(string, string) bool { return true })
	time.Sleep(time.Minute) // for everything that ends by a timer
}

func (v *virtual) stopped() bool {
	select {
	case <-v.stop:
		return true
	default:
		return false
	}
}

// tell adds a line to what is printed when the test fails.
func (v *virtual) tell(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.story = append(v.story, fmt.Sprintf("%8.3fs %s", time.Since(v.began).Seconds(), fmt.Sprintf(format, args...)))
}

func (v *virtual) told() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return strings.Join(v.story, "\n")
}

// chance runs f with the cluster's source of randomness.
func chance[T any](v *virtual, f func(r *rand.Rand) T) T {
	v.mu.Lock()
	defer v.mu.Unlock()
	return f(v.rand)
}

func (v *virtual) founders() []raft.Server {
	names := v.options.founderNames
	for i := range v.options.hubs {
		names = append(names, fmt.Sprintf("h%d", i+1))
	}
	var servers []raft.Server
	for _, name := range names {
		servers = append(servers, raft.Server{ID: raft.ServerID(name), Address: raft.ServerAddress(name)})
	}
	return servers
}

func quietRaft() *raftLogger { return &raftLogger{log: slog.New(slog.DiscardHandler)} }

func (v *virtual) config(h *virtualHub, d *memDisk) Config {
	c := Config{
		ElectionTimeout: v.options.election, Version: "virtual", Stream: v.network.listen(h.address()),
		Logger:            slog.New(slog.DiscardHandler),
		Bootstrap:         func(string) (*gwv1.Bootstrap, error) { return &gwv1.Bootstrap{ClusterId: "virtual"}, nil },
		snapshotThreshold: v.options.snapshotAfter, trailingLogs: v.options.trailing, snapshotInterval: v.options.snapshotEvery,
		diskSpace: func(string) (free, total uint64, err error) { return 1 << 40, 1 << 40, nil },
		openPlace: func() (*place, error) {
			return &place{id: h.platter.id, disk: d, snapshots: memSnapshots{d}, unlock: func() error { return nil }}, nil
		},
	}
	if h.founder {
		c.founders = v.founders()
	} else {
		c.Join = true
	}
	if v.options.log != nil {
		c.Logger = slog.New(slog.NewTextHandler(v.options.log, &slog.HandlerOptions{Level: slog.LevelInfo})).With("hub", h.name)
	}
	c.wrapMachine = func(m *machine) raft.FSM {
		w := &witness{machine: m, hub: h.name, ledger: v.ledger}
		if v.options.distort != nil {
			w.distort = v.options.distort(h.name)
		}
		return w
	}
	return c
}

// start gives a hub a new incarnation.
func (v *virtual) start(h *virtualHub) {
	v.t.Helper()
	seed := chance(v, func(r *rand.Rand) uint64 { return r.Uint64() })
	d := openMemDisk(h.platter, rand.New(rand.NewPCG(seed, 3)), v.options.disk)
	s, err := Open(v.config(h, d))
	if err != nil {
		v.t.Errorf("start %s: %v", h.name, err)
		return
	}
	l := &life{hub: h, store: s, disk: d, crashed: make(chan struct{})}
	h.mu.Lock()
	h.life = l
	gone := h.gone
	h.mu.Unlock()
	if gone || v.stopped() {
		v.end(l)
		return
	}
	v.tasks.Go(func() { v.supervise(l) })
	v.tasks.Go(func() {
		s.LeadDuties(context.Background(), func(ctx context.Context) error { return lightBeacons(ctx, s) })
	})
	v.tasks.Go(func() { s.KeepMembership(context.Background(), MembershipConfig{}) })
}

// lightBeacons is what a leader does for hubs to compare their states.
func lightBeacons(ctx context.Context, s *Store) error {
	for {
		s.Propose(ctx, beacon()) // if it fails, the next one follows
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

// supervise starts a hub again that has failed, as its supervisor would.
func (v *virtual) supervise(l *life) {
	select {
	case <-l.crashed:
		return
	case <-l.store.Failed():
	}
	h := l.hub
	v.tell("%s failed: %v", h.name, l.store.Err())
	if !v.end(l) {
		return
	}
	select {
	case <-v.stop:
		return
	case <-time.After(2 * time.Second):
	}
	v.revive(h)
}

// crash ends a hub's incarnation with no warning. It reports whether there was one.
func (v *virtual) crash(h *virtualHub) bool {
	h.mu.Lock()
	l := h.life
	h.mu.Unlock()
	return l != nil && v.end(l)
}

func (v *virtual) end(l *life) bool {
	h := l.hub
	h.mu.Lock()
	if h.life != l {
		h.mu.Unlock()
		return false
	}
	close(l.crashed) // all of this before anybody can start the next incarnation
	l.disk.crash()
	l.store.config.Stream.Close()
	h.life = nil
	h.mu.Unlock()
	l.store.failed.set(errCrashed) // so that Close hands nothing over
	l.store.Close()                // the process is gone: what Close says is of no interest, but its goroutines must end
	return true
}

func (h *virtualHub) now() *life {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.life
}

func (l *life) dead() bool {
	select {
	case <-l.crashed:
		return true
	default:
		return false
	}
}

// leader returns the incarnation that leads, of those the one of the latest term; nil if none does.
func (v *virtual) leader() *life {
	var found *life
	var best uint64
	for _, h := range v.all() {
		if l := h.now(); l != nil {
			if t, _, _ := l.store.office.get(); t != nil && t.number > best {
				found, best = l, t.number
			}
		}
	}
	return found
}

// awaitLeader waits for up to a virtual time.
func (v *virtual) awaitLeader(patience time.Duration) *life {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if l := v.leader(); l != nil {
			return l
		}
	}
	return nil
}

// propose asks one incarnation; an answer after its crash is no answer.
func (l *life) propose(ctx context.Context, c *gwv1.Command) (*gwv1.Result, error) {
	r, err := l.store.Propose(ctx, c)
	if l.dead() {
		return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, errCrashed)
	}
	return r, err
}

func (l *life) read(ctx context.Context) (*state.State, error) {
	s, err := l.store.Read(ctx)
	if l.dead() {
		return nil, errors.Join(ErrNotProposed, errCrashed)
	}
	return s, err
}
