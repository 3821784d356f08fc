package node

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// fault is something done to an edge, or to hubs.
type fault struct {
	what     string
	victim   string // the edge, or theHubs
	busy     string // the process that nothing else is done to meanwhile
	ends     bool   // the victim is killed, and runs again when it is over
	from, to time.Duration
	until    time.Duration // when it is to be over
	heal     func()
}

// theHubs are the victim of whatever is done to one of them.
const theHubs = "hubs"

// overlaps reports whether a fault that is over lasted at some moment of a time.
func (x *fault) overlaps(from, to time.Duration) bool { return x.from <= to && from <= x.to }

// disturb does one thing after the other, to edges and perhaps to hubs.
func (f *trial) disturb(length time.Duration, hubsToo bool) {
	for until := f.now() + length; f.now() < until; {
		f.endDue()
		if hubsToo && f.random.IntN(3) == 0 {
			f.disturbHubs()
		} else {
			f.disturbEdge(f.edges[f.random.IntN(len(f.edges))])
		}
		f.wait(time.Duration(100+f.random.IntN(500)) * time.Millisecond)
	}
}

// wait lets time pass, in which faults go on.
func (f *trial) wait(d time.Duration) {
	until := time.Now().Add(d)
	f.c.await(d+healed, "time passes", func() error { return notYet(until) })
}

// begin notes a fault that has begun at a time.
func (f *trial) begin(x fault, from time.Duration) {
	x.from = from
	x.until = from + f.plan.longest/10 + time.Duration(f.random.Int64N(int64(f.plan.longest)))
	f.faults = append(f.faults, &x)
	f.mu.Lock()
	f.past[x.victim] = append(f.past[x.victim], &x)
	f.mu.Unlock()
	f.note("%s: %s, until %v", x.busy, x.what, x.until.Round(time.Millisecond))
}

// endDue ends the faults whose time is over.
func (f *trial) endDue() { f.endBefore(f.now()) }

func (f *trial) endBefore(at time.Duration) {
	f.faults = slices.DeleteFunc(f.faults, func(x *fault) bool {
		if x.until > at {
			return false
		}
		x.heal()
		x.to = f.now()
		f.note("%s: %s is over", x.busy, x.what)
		return true
	})
}

// healAll ends all faults, and returns when that was done.
func (f *trial) healAll() time.Duration {
	f.t.Helper()
	f.endBefore(1 << 62)
	whole := f.now()
	f.note("whole again")
	for _, h := range f.c.hubs {
		h.awaitServing()
	}
	return whole
}

// isBusy reports whether something is done to a process already.
func (f *trial) isBusy(name string) bool {
	return slices.ContainsFunc(f.faults, func(x *fault) bool { return x.busy == name || x.busy == theHubs && strings.HasPrefix(name, "hub-") })
}

func (f *trial) disturbEdge(e *edgeProcess) {
	if f.isBusy(e.name) {
		return
	}
	from := f.now()
	switch n := f.random.IntN(10); {
	case f.small[e.name] && n < 5:
		f.fillDisk(e)
	case n < 3:
		f.killEdge(e)
	case n < 5:
		e.pause()
		f.begin(fault{what: "pause", victim: e.name, busy: e.name, heal: e.resume}, from)
	default:
		how, address, to := cuts[f.random.IntN(len(cuts))], everyHub, "all hubs"
		if f.random.IntN(3) == 0 {
			address, to = f.c.hubs[f.random.IntN(len(f.c.hubs))].address, "one hub"
		}
		e.link.cut(address, how)
		f.begin(fault{what: fmt.Sprintf("link to %s %s", to, how), victim: e.name, busy: e.name, heal: e.link.mend}, from)
	}
}

// fillDisk leaves no room on an edge's small disk. Perhaps the edge is killed meanwhile; then it may start with what it
// could save last.
func (f *trial) fillDisk(e *edgeProcess) {
	filler, from := filepath.Join(e.dir, "filler"), f.now()
	if err := os.WriteFile(filler, nil, 0o600); err != nil {
		f.t.Fatal(err)
	}
	fill(f.t, e.dir)
	kill := f.random.IntN(2) == 0
	f.begin(fault{what: diskFull, victim: e.name, busy: e.name, ends: kill, heal: func() {
		if kill {
			e.kill()
		}
		if err := os.Remove(filler); err != nil {
			f.t.Error(err)
		}
		if kill {
			e.launch()
		}
	}}, from)
}

const diskFull = "disk full"

// killHubs kills all hubs at once; they are started again at once.
func (f *trial) killHubs() {
	from := f.now()
	for _, h := range f.c.hubs {
		h.signal(syscall.SIGKILL)
	}
	for _, h := range f.c.hubs {
		h.kill()
	}
	f.begin(fault{what: "kill -9 of all", victim: theHubs, busy: theHubs, heal: func() {
		for _, h := range f.c.hubs {
			h.launch()
		}
	}}, from)
}

func (f *trial) killEdge(e *edgeProcess) {
	from := f.now()
	e.kill()
	f.begin(fault{what: "kill -9", victim: e.name, busy: e.name, ends: true, heal: e.launch}, from)
}

func (f *trial) disturbHubs() {
	h, from := f.c.hubs[f.random.IntN(len(f.c.hubs))], f.now()
	n := f.random.IntN(10)
	if n < 2 && !slices.ContainsFunc(f.c.hubs, func(h *process) bool { return f.isBusy(h.name) }) {
		f.killHubs()
		return
	}
	switch {
	case f.isBusy(h.name):
	case n < 7:
		h.kill()
		f.begin(fault{what: "kill -9", victim: theHubs, busy: h.name, heal: func() { h.launch() }}, from)
	default:
		h.pause()
		f.begin(fault{what: "pause", victim: theHubs, busy: h.name, heal: h.resume}, from)
	}
}
