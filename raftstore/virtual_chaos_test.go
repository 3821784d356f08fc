package raftstore

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"gw/raftstore/state"
)

// ordeal is one run: a cluster, clients, and what goes wrong.
type ordeal struct {
	options virtualOptions
	clients int
	length  time.Duration
	faults  []fault
	stale   bool
	only    string // what the clients do; "": everything
	// atLeastVoters there must be at any time; twoVotersFor is how long there may be two. 0: no matter.
	atLeastVoters int
	twoVotersFor  time.Duration
}

// verdict is what a run showed.
type verdict struct {
	wrong    []string
	story    string
	history  *history
	ledger   *ledger
	recovery time.Duration // from the healing to the first write
}

func (o *verdict) accuse(format string, args ...any) {
	o.wrong = append(o.wrong, fmt.Sprintf(format, args...))
}

// chaosOrdeal is the ordeal of a seed.
func chaosOrdeal(seed uint64) ordeal {
	o := ordeal{options: virtualOptions{seed: seed}, clients: 5, length: 30 * time.Second}
	if seed%2 == 0 {
		o.options.snapshotAfter, o.options.trailing, o.options.snapshotEvery = 20, 10, 2*time.Second
	}
	if seed%5 == 0 {
		o.options.hubs = 5
	}
	o.faults = schedule(seed, max(o.options.hubs, 3), o.length)
	return o
}

// undergo runs an ordeal in a bubble, and judges it outside.
func undergo(t *testing.T, o ordeal) *verdict {
	t.Helper()
	var d *verdict
	bubble(t, func(t *testing.T) { d = o.run(t) })
	d.judge()
	d.judgeVoters(o)
	return d
}

func (o ordeal) run(t *testing.T) *verdict {
	v := newVirtual(t, o.options)
	d := &verdict{history: newHistory(), ledger: v.ledger}
	defer func() {
		v.close()
		d.story = v.told()
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var clients sync.WaitGroup
	var all []*client
	for i := range o.clients {
		c := newClient(v, d.history, i)
		c.stale = o.stale
		all = append(all, c)
		clients.Go(func() { c.run(ctx, o.only) })
	}
	began := time.Now()
	v.torment(ctx, o.faults)
	sleep(ctx, o.length-time.Since(began))
	cancel() // clients end the call they are in the midst of
	v.mend()
	d.recovery = v.recover(d)
	clients.Wait()
	v.lastReads(all)
	v.settleDown(d)
	return d
}

// mend ends every fault and starts every hub.
func (v *virtual) mend() {
	v.tell("everything heals")
	v.network.heal()
	for _, h := range v.all() {
		if l := h.now(); l != nil && l.disk.bad() {
			v.crash(h)
		}
		v.revive(h)
		if l := h.now(); l != nil {
			l.disk.misbehave(v.options.disk)
		}
	}
}

func (d *memDisk) bad() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.spoiled
}

// recoveryBound is how long after everything healed a write may take to succeed, for timeouts of a second.
const recoveryBound = 10 * time.Second

// recover returns how long it takes until a write succeeds.
func (v *virtual) recover(d *verdict) time.Duration {
	began := time.Now()
	for n := 0; time.Since(began) < time.Minute; n++ {
		if l := v.leader(); l != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err := l.propose(ctx, save("default", fmt.Sprintf("last%d", n), "x"))
			cancel()
			if err == nil {
				break
			}
			v.tell("first write: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	took := time.Since(began)
	if took > recoveryBound {
		d.accuse("I15: the first write after everything healed took %v", took)
	}
	return took
}

// lastReads puts a read of everything at the end of the history.
func (v *virtual) lastReads(clients []*client) {
	c := clients[0]
	c.stale = false
	for _, namespace := range []string{"default", "other"} {
		for i := range 3 {
			c.get(context.Background(), namespace, fmt.Sprintf("r%d", i))
		}
	}
}

// settleDown waits until all hubs have applied the same, and compares them with one another and with the log.
func (v *virtual) settleDown(d *verdict) {
	l := v.awaitLeader(recoveryBound)
	if l == nil {
		d.accuse("I15: no leader at the end")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := l.store.Read(ctx)
	if err != nil {
		d.accuse("the last read: %v", err)
		return
	}
	want := digestOf(s)
	sightings := map[uint64]map[string][32]byte{} // of beacons
	for _, h := range v.members(l) {
		var there *state.State
		n := h.now()
		if n != nil {
			there, err = n.store.machine.await(ctx, func(x *state.State) bool { return x.Index() >= s.Index() })
		}
		if there == nil || err != nil {
			d.accuse("I8: %s did not catch up: %v", h.name, err)
			v.tell("leader: %v", l.store.raft.Stats())
			if n != nil {
				v.tell("%s: %v, snapshot restored last %v", h.name, n.store.raft.Stats(), n.store.transport.seam.Load().held.Load())
			}
			continue
		}
		if there.Index() == s.Index() && digestOf(there) != want {
			d.accuse("I8: at the end, at index %d, %s and %s have different states", s.Index(), h.name, l.hub.name)
		}
		if i, digest := n.store.Beacon(); i > 0 {
			if sightings[i] == nil {
				sightings[i] = map[string][32]byte{}
			}
			sightings[i][h.name] = digest
		}
	}
	d.judgeBeacons(sightings)
	again, err := v.ledger.replay(s.Index())
	if err != nil {
		d.accuse("I8: replay: %v", err)
	} else if digestOf(again) != want {
		d.accuse("I8: the state at index %d is not what the log gives", s.Index())
	}
	d.judgeState(s)
}

// members returns the hubs that are members, as the leader knows them.
func (v *virtual) members(l *life) []*virtualHub {
	members, err := l.store.Members()
	if err != nil {
		return nil
	}
	var found []*virtualHub
	for _, h := range v.all() {
		if slices.ContainsFunc(members, func(m Member) bool { return m.ID == h.platter.id }) {
			found = append(found, h)
		}
	}
	return found
}

// judgeBeacons compares what hubs say of the beacons they saw.
func (d *verdict) judgeBeacons(sightings map[uint64]map[string][32]byte) {
	for index, digests := range sightings {
		_, odd, ok := Compare(votersWith(digests))
		if len(odd) > 0 || !ok {
			d.accuse("beacon: at index %d, of %d hubs these differ: %v", index, len(digests), odd)
		}
		if len(digests) > 1 {
			d.ledger.beacons++
		}
	}
}

// judgeState compares the last state with what the clients were told.
func (d *verdict) judgeState(s *state.State) {
	audit := map[string]int{}
	for a := range s.Audit() {
		audit[a.Object]++
	}
	for _, r := range d.history.repeats {
		_, there := s.Resource("API", "default", r.name)
		if n := audit["API/"+r.name]; n > 1 || n == 0 && there || len(r.indexes) > 0 && n != 1 {
			d.accuse("I4: %s was sent three times under one key, and took effect %d times", r.name, n)
		}
		for _, i := range r.indexes {
			if i != r.indexes[0] {
				d.accuse("I4: %s was answered with different results: indexes %v", r.name, r.indexes)
			}
		}
	}
	used := map[string]int{}
	for e := range s.Edges() {
		used[e.Version]++ // which holds the token it came with
	}
	for token, n := range used {
		if n > 1 {
			d.accuse("I3: token %s was used %d times", token, n)
		}
	}
}

// judge checks what needs no cluster any more.
func (d *verdict) judge() {
	d.wrong = append(d.wrong, d.ledger.wrong...)
	d.judgeWrites()
	for partition, ops := range d.history.ops {
		switch r := porcupine.CheckOperationsTimeout(modelOf(partition), ops, 20*time.Second); r {
		case porcupine.Ok:
		case porcupine.Illegal:
			d.accuse("I1–I5: the history of %s (%d calls) is not linearizable", partition, len(ops))
		default:
			d.accuse("the history of %s (%d calls) took too long to check", partition, len(ops))
		}
	}
}

// judgeVoters looks at how many voters there were, and for how long.
func (d *verdict) judgeVoters(o ordeal) {
	for i, n := range d.ledger.voters {
		if n.voters < o.atLeastVoters {
			d.accuse("I13: %d voters at index %d", n.voters, n.index)
		}
		if o.twoVotersFor == 0 || n.voters != 2 {
			continue
		}
		if i+1 == len(d.ledger.voters) {
			d.accuse("I13: two voters at the end")
		} else if lasted := d.ledger.voters[i+1].at.Sub(n.at); lasted > o.twoVotersFor {
			d.accuse("I13: two voters for %v", lasted)
		}
	}
}

// judgeWrites looks every write up in the log.
func (d *verdict) judgeWrites() {
	inLog := map[string]uint64{} // value → first index
	for i, e := range d.ledger.entries {
		for _, edit := range state.DecodeCommand(e.data).GetChangeResources().GetEdits() {
			if at, ok := inLog[string(edit.Spec)]; len(edit.Spec) > 0 && (!ok || i < at) {
				inLog[string(edit.Spec)] = i
			}
		}
	}
	for _, w := range d.history.writes {
		at, ok := inLog[w.value]
		switch {
		case w.outcome == notProposed && ok:
			d.accuse("I7: %s to %s was not proposed, and is in the log at %d", w.value, w.partition, at)
		case w.outcome == done && !ok:
			d.accuse("I6: %s to %s was acknowledged, and is in no log", w.value, w.partition)
		case w.outcome == done && d.specAt(w.index) != w.value:
			d.accuse("I6: %s to %s was acknowledged at index %d, where there is %q", w.value, w.partition, w.index, d.specAt(w.index))
		}
	}
}

func (d *verdict) specAt(index uint64) string {
	e := d.ledger.entries[index]
	if e == nil {
		return ""
	}
	c := state.DecodeCommand(e.data).GetChangeResources()
	if c == nil || len(c.Edits) == 0 {
		return ""
	}
	return string(c.Edits[0].Spec)
}

// TestVirtualChaos runs seeds: GW_CHAOS_SEED=n one of them, GW_CHAOS_SEEDS=m the first m, both m from n on. The same
// seed gives the same schedule and the same clients; which goroutine runs first at an instant is not in the seed, so a
// rare failure may take more than one run to come again.
func TestVirtualChaos(t *testing.T) {
	first, count := uint64(1), uint64(30)
	if n, err := strconv.ParseUint(os.Getenv("GW_CHAOS_SEED"), 10, 64); err == nil {
		first, count = n, 1
	}
	if n, err := strconv.ParseUint(os.Getenv("GW_CHAOS_SEEDS"), 10, 64); err == nil {
		count = n
	}
	last := first + count - 1
	var sum tally
	began := time.Now()
	for seed := first; seed <= last; seed++ {
		o := chaosOrdeal(seed)
		if first == last {
			o.options.log = os.Stderr
		}
		d := undergo(t, o)
		sum.add(d)
		if len(d.wrong) > 0 {
			t.Errorf("seed %d (again: GW_CHAOS_SEED=%d go test -run TestVirtualChaos ./raftstore)\n%v\nschedule:\n%s\nstory:\n%s",
				seed, seed, d.wrong, describeSchedule(o.faults), d.story)
		}
	}
	t.Logf("%d seeds in %v: %v", last-first+1, time.Since(began).Round(time.Millisecond), sum)
}

// tally counts over many runs.
type tally struct {
	outcomes                                                                         [4]int
	reads, elections, entries, snapshots, compared, ops, changes, beacons, installed int
	recovery, worst                                                                  time.Duration
}

func (s *tally) add(d *verdict) {
	for i, n := range d.history.counts {
		s.outcomes[i] += n
	}
	for _, ops := range d.history.ops {
		s.ops += len(ops)
	}
	s.reads += d.history.reads
	s.elections += d.ledger.elections
	s.entries += len(d.ledger.entries)
	s.snapshots += d.ledger.snapshots
	s.compared += d.ledger.compared
	s.changes += d.ledger.changes
	s.beacons += d.ledger.beacons
	s.installed += d.ledger.installed
	s.recovery, s.worst = max(s.recovery, d.recovery), max(s.worst, d.history.worst)
}

func (s tally) String() string {
	return fmt.Sprintf("%d checked calls; writes: %d done, %d refused, %d unknown, %d not proposed; %d reads, %d log entries, "+
		"%d leaderships, %d snapshots, %d installed, %d changes of members; %d states and %d beacons compared; slowest recovery %v, longest call %v",
		s.ops, s.outcomes[done], s.outcomes[refused], s.outcomes[unknown], s.outcomes[notProposed], s.reads, s.entries,
		s.elections, s.snapshots, s.installed, s.changes, s.compared, s.beacons, s.recovery, s.worst)
}
