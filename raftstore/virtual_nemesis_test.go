package raftstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// fault is one thing that goes wrong, and for how long.
type fault struct {
	at, lasts time.Duration
	kind      faultKind
	hub       int // which one, where it matters; -1: the leader
	other     int
}

type faultKind string

const (
	killOne      faultKind = "kill one"
	killAll      faultKind = "kill all"
	isolate      faultKind = "isolate"
	splitRing    faultKind = "cut one pair" // everybody still reaches a majority
	deafen       faultKind = "cut what it hears"
	mute         faultKind = "cut what it says"
	oneWay       faultKind = "cut one way"
	refusePair   faultKind = "refuse one pair" // as a firewall does, one way or both
	slowDisk     faultKind = "slow disk"
	slowAll      faultKind = "slow disks"
	hungDisk     faultKind = "hung disk"
	brokenDisk   faultKind = "failing disk"
	slowNet      faultKind = "slow network"
	resetAll     faultKind = "reset connections"
	transfer     faultKind = "transfer leadership"
	snapshotOne  faultKind = "snapshot"
	killInFlight faultKind = "kill during a write"
	join         faultKind = "add a hub"
	replace      faultKind = "replace a hub"
	move         faultKind = "move a hub"
)

func (f fault) String() string {
	who := "leader"
	if f.hub >= 0 {
		who = fmt.Sprintf("h%d", f.hub+1)
	}
	return fmt.Sprintf("%8.3fs %s %s (h%d) for %v", f.at.Seconds(), f.kind, who, f.other+1, f.lasts)
}

// faultWeight says how often a fault comes.
type faultWeight struct {
	kind   faultKind
	weight int
}

var weights = []faultWeight{
	{killOne, 8}, {killAll, 4}, {isolate, 8}, {splitRing, 4}, {deafen, 3}, {mute, 3}, {oneWay, 4}, {refusePair, 3}, {slowDisk, 5}, {slowAll, 2},
	{hungDisk, 1}, {brokenDisk, 2}, {slowNet, 4}, {resetAll, 4}, {transfer, 4}, {snapshotOne, 8}, {killInFlight, 6},
	{join, 2}, {replace, 5}, {move, 2},
}

// schedule decides what goes wrong, from a seed alone; only of some kinds, if any are given.
func schedule(seed uint64, hubs int, length time.Duration, kinds ...faultKind) []fault {
	r := rand.New(rand.NewPCG(seed, 4))
	weights := slices.Clone(weights)
	if len(kinds) > 0 {
		weights = slices.DeleteFunc(weights, func(w faultWeight) bool { return !slices.Contains(kinds, w.kind) })
	}
	total := 0
	for _, w := range weights {
		total += w.weight
	}
	var faults []fault
	for at := 2 * time.Second; at < length; at += time.Duration(300+r.IntN(3000)) * time.Millisecond {
		n, kind := r.IntN(total), faultKind("")
		for _, w := range weights {
			if n -= w.weight; n < 0 {
				kind = w.kind
				break
			}
		}
		f := fault{at: at, kind: kind, hub: r.IntN(hubs), lasts: time.Duration(200+r.IntN(5000)) * time.Millisecond}
		f.other = (f.hub + 1 + r.IntN(hubs-1)) % hubs
		if r.IntN(2) == 0 {
			f.hub = -1
		}
		faults = append(faults, f)
	}
	return faults
}

// torment makes the faults happen at their times, and ends each. It returns when all have ended.
func (v *virtual) torment(ctx context.Context, faults []fault) {
	began := time.Now()
	for _, f := range faults {
		select {
		case <-time.After(f.at - time.Since(began)):
		case <-ctx.Done():
			return
		}
		v.tasks.Go(func() { v.commit(ctx, f) })
	}
}

// victim is the hub a fault is for, and another one.
func (v *virtual) victim(f fault) (*virtualHub, *virtualHub) {
	hubs := v.all()
	hub, other := max(0, f.hub)%len(hubs), f.other%len(hubs)
	if l := v.leader(); l != nil && f.hub < 0 {
		hub = max(0, slices.Index(hubs, l.hub))
	}
	if other == hub {
		other = (hub + 1) % len(hubs)
	}
	return hubs[hub], hubs[other]
}

// commit makes one fault happen.
func (v *virtual) commit(ctx context.Context, f fault) {
	h, other := v.victim(f)
	v.tell("%s: %s, %s, %v", f.kind, h.name, other.name, f.lasts)
	for _, x := range v.all() {
		switch f.kind {
		case deafen:
			v.cutIf(x != h, x, h)
		case mute:
			v.cutIf(x != h, h, x)
		case isolate:
			v.cutIf(x != h, h, x)
			v.cutIf(x != h, x, h)
		case slowAll:
			v.misbehave(ctx, x, diskFaults{fastest: 20 * time.Millisecond, slowest: 20*time.Millisecond + f.lasts/8}, f.lasts)
		}
	}
	switch f.kind {
	case killOne:
		v.killFor(ctx, f.lasts, h)
	case killInFlight:
		v.awaitWrite(ctx, h)
		v.killFor(ctx, f.lasts, h)
	case killAll:
		v.killFor(ctx, f.lasts, v.all()...)
	case splitRing:
		v.network.cut(h.name, other.name)
		v.network.cut(other.name, h.name)
	case oneWay:
		v.network.cut(h.name, other.name)
	case refusePair:
		v.network.refuse(h.name, other.name, f.lasts/20)
		if f.lasts > 2*time.Second {
			v.network.refuse(other.name, h.name, 0)
		}
	case slowDisk:
		v.misbehave(ctx, h, diskFaults{fastest: 20 * time.Millisecond, slowest: 700 * time.Millisecond}, f.lasts)
	case hungDisk:
		v.misbehave(ctx, h, diskFaults{hangs: true}, 0)
	case brokenDisk:
		v.misbehave(ctx, h, diskFaults{fails: true}, 0)
	case slowNet:
		v.network.delay(5*time.Millisecond, 300*time.Millisecond)
	case resetAll:
		v.network.reset(func(a, b string) bool { return a == h.name || f.lasts > 3*time.Second })
	case transfer:
		v.transferTo(ctx, other)
	case snapshotOne:
		v.snapshot(ctx, h)
	case join:
		v.join(ctx)
	case replace:
		v.replace(ctx, h)
	case move:
		v.move(ctx, h, f.lasts)
	}
	v.healAfter(ctx, f)
}

func (v *virtual) cutIf(yes bool, from, to *virtualHub) {
	if yes {
		v.network.cut(from.name, to.name)
	}
}

// healAfter ends what lasts in the network. One healing ends all cuts: overlaps make cuts shorter, not longer.
func (v *virtual) healAfter(ctx context.Context, f fault) {
	if !slices.Contains([]faultKind{deafen, mute, isolate, splitRing, oneWay, refusePair, slowNet}, f.kind) {
		return
	}
	if sleep(ctx, f.lasts) {
		v.network.heal()
		v.tell("healed after %s", f.kind)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// killFor crashes hubs at once and starts them again one by one, at once if ctx ends.
func (v *virtual) killFor(ctx context.Context, d time.Duration, hubs ...*virtualHub) {
	var group sync.WaitGroup
	for _, h := range hubs {
		group.Go(func() { v.crash(h) })
	}
	group.Wait()
	for _, h := range hubs {
		sleep(ctx, d/time.Duration(len(hubs)))
		v.revive(h)
	}
}

// revive starts a hub that is down.
func (v *virtual) revive(h *virtualHub) {
	h.mu.Lock()
	again := h.life == nil && !h.gone && !h.starting && !v.stopped()
	h.starting = h.starting || again
	h.mu.Unlock()
	if again {
		v.start(h)
		h.mu.Lock()
		h.starting = false
		h.mu.Unlock()
		v.tell("%s is up", h.name)
	}
}

// awaitWrite returns while the hub's disk is in the midst of a write, if that comes soon.
func (v *virtual) awaitWrite(ctx context.Context, h *virtualHub) {
	for range 200 {
		if l := h.now(); l != nil && l.disk.writesNow() || !sleep(ctx, time.Millisecond/2) {
			return
		}
	}
}

func (d *memDisk) writesNow() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inFlight != nil
}

// misbehave gives the running incarnation of a hub a bad disk, for a while; 0: as long as it runs.
func (v *virtual) misbehave(ctx context.Context, h *virtualHub, f diskFaults, d time.Duration) {
	l := h.now()
	if l == nil {
		return
	}
	f.lies = v.options.disk.lies
	l.disk.misbehave(f)
	if d > 0 {
		v.tasks.Go(func() {
			sleep(ctx, d)
			l.disk.misbehave(v.options.disk)
		})
	}
}

// transferTo asks Raft itself, which is what goes wrong if one asks too often.
func (v *virtual) transferTo(ctx context.Context, h *virtualHub) {
	if l := v.leader(); l != nil && l.hub != h {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		f := l.store.raft.LeadershipTransferToServer(raft.ServerID(h.platter.id), raft.ServerAddress(h.name))
		v.tell("transfer to %s: %v", h.name, answerOf(ctx, f.Error))
	}
}

func (v *virtual) snapshot(ctx context.Context, h *virtualHub) {
	if l := h.now(); l != nil {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := answerOf(ctx, l.store.raft.Snapshot().Error); err != nil {
			v.tell("snapshot of %s: %v", h.name, err)
		}
	}
}

func describeSchedule(faults []fault) string {
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}
