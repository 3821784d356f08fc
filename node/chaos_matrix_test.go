package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gw/rpc/gwv1"
)

// The leader is cut off from the other hubs, together with some edges. Those that reach the other hubs follow the new
// leader and get what it releases; those that don't keep what they have, serve on, and are told that there is no leader.
// When the network heals all have the new release, and nobody ever had an older one.
func TestChaosLeaderPartitionedWithSomeEdges(t *testing.T) {
	t.Parallel()
	f := trialOf(t, fleetPlan{hubs: 3, network: true, namespaces: []string{"east", "west"}, edges: 2, longest: time.Second}, rand.Uint64())
	f.call()
	old := f.c.leader()
	f.isolate(old, f.edges[0], f.edges[2])
	majority := f.c.others(old)
	f.pusher.hubs, f.revoker.hubs = majority, majority
	f.pusher.settle() // as soon as there is a leader
	for _, i := range []int{1, 3} {
		f.mustServe(i, f.pusher.newest(f.edges[i].namespace))
	}
	for _, i := range []int{0, 2} {
		f.c.await(healed, f.edges[i].name+" follows nobody", func() error {
			if f.callers[i].look() {
				return fmt.Errorf("it follows a hub")
			}
			return nil
		})
		f.mustServe(i, f.pusher.releases[f.edges[i].namespace][0])
	}
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	if _, err := old.releases().Push(ctx, &gwv1.PushRequest{}); err == nil {
		t.Error("the leader that is cut off makes a release")
	}
	f.mustConverge(f.healAll())
	f.mustRevoke()
	f.judge()
}

// isolate cuts a hub off from the others, and edges from all hubs but that one.
func (f *trial) isolate(h *process, edges ...*edgeProcess) {
	number, from := hubNumber(f.c, h), f.now()
	f.network.isolate(number, true)
	f.begin(fault{what: "cut off from the others", victim: theHubs, busy: h.name, heal: func() { f.network.rejoin(number, true) }}, from)
	for _, e := range edges {
		for _, other := range f.c.others(h) {
			e.link.cut(other.address, cutRefused)
		}
		f.begin(fault{what: "link to all hubs but one refused", victim: e.name, busy: e.name, heal: e.link.mend}, from)
	}
}

// mustServe waits until an edge serves a release.
func (f *trial) mustServe(edge int, want released) {
	f.t.Helper()
	f.c.await(2*healed, fmt.Sprintf("%s serves release %d", f.edges[edge].name, want.number), func() error {
		if r := f.callers[edge].ask("mark", nil); r.status != http.StatusOK || r.value != want.mark {
			return fmt.Errorf("it answers %v, want %s", r, want.mark)
		}
		return nil
	})
}

// mustRemember waits until every edge has served a known token for long enough to have it on its disk: what an edge is
// told is written within a tenth of a second, which a busy machine stretches.
func (f *trial) mustRemember() {
	f.t.Helper()
	for i, e := range f.edges {
		f.mustServe(i, f.pusher.newest(e.namespace))
	}
	written := time.Now().Add(time.Second)
	f.c.await(healed, "what edges were told is on their disks", func() error { return notYet(written) })
}

// All hubs are killed at once. Without any, the edges serve on, one that is killed and started again included; when the
// hubs are back at once, so is every edge.
func TestChaosAllHubsRestartUnderAFleet(t *testing.T) {
	t.Parallel()
	f := trialOf(t, fleetPlan{hubs: 3, namespaces: []string{"east", "west"}, edges: rounds(2, 10), longest: time.Second}, rand.Uint64())
	f.call()
	for range rounds(1, 5) {
		f.pusher.settle()
		f.mustConverge(f.now())
		f.mustRemember()
		f.killHubs()
		f.killEdge(f.edges[0])
		f.killEdge(f.edges[len(f.edges)-1])
		for _, i := range []int{0, len(f.edges) - 1} {
			f.endOf(f.edges[i].name)
			f.mustServe(i, f.pusher.newest(f.edges[i].namespace))
		}
		for i, e := range f.edges {
			f.mustServe(i, f.pusher.newest(e.namespace))
		}
		f.mustConverge(f.healAll())
		f.mustRevoke()
	}
	f.judge()
}

// A hub is restored from a backup that is older than what edges run. They keep what they run, started again too, and are
// shown as ahead, until the next push; none ever goes back.
func TestChaosRestoreNeverTakesAnEdgeBack(t *testing.T) {
	t.Parallel()
	f := trialOf(t, fleetPlan{hubs: 1, namespaces: []string{"east", "west"}, edges: 2, longest: time.Second}, rand.Uint64())
	f.call()
	file := filepath.Join(f.c.dir, "old.gwb")
	f.c.gw(f.c.hubs[0], "backup", "-f", file)
	for range 3 {
		f.pusher.settle()
	}
	f.mustConverge(f.now())

	f.restored = append(f.restored, f.now())
	f.c.gw(f.c.hubs[0], "restore", file, "--yes")
	f.mustBeAhead()
	f.killEdge(f.edges[0])
	f.endOf(f.edges[0].name)
	f.mustServe(0, f.pusher.newest("east"))
	f.mustBeAhead()
	for i, e := range f.edges {
		f.mustServe(i, f.pusher.newest(e.namespace))
	}
	f.pusher.settle()
	f.mustConverge(f.now())
	f.mustRevoke()
	f.judge()
}

// mustBeAhead waits until every edge is shown as ahead of the hub.
func (f *trial) mustBeAhead() {
	f.t.Helper()
	f.c.await(healed, "every edge is shown as ahead", func() error {
		shown, err := f.c.shown()
		for _, e := range f.edges {
			s := shown[e.name]
			if s.GetSync() != gwv1.Sync_SYNC_STALE || !strings.HasPrefix(s.GetSyncReason(), "ahead") || s.StartedAt.AsTime().Before(e.launched) {
				return fmt.Errorf("%s: %v %s, %v", e.name, s.GetSync(), s.GetSyncReason(), err)
			}
		}
		return err
	})
}

// A push that comes when an edge has registered and not fetched yet, or around that, reaches it.
func TestChaosPushBetweenRegistrationAndFirstFetchIsNeverLost(t *testing.T) {
	t.Parallel()
	f := trialOf(t, fleetPlan{hubs: 1, namespaces: []string{"east"}, edges: 1}, rand.Uint64())
	var worst time.Duration
	for i := range rounds(9, 150) {
		e := f.c.newEdges(100+i, 1, "east")[0]
		if i%3 == 0 {
			e.link.allow(1) // it enrols by a connection of its own; the next ones have to wait for the push
		}
		e.launch()
		switch i % 3 {
		case 0:
			f.awaitRegistered(e)
		case 1:
			f.awaitRegistered(e)
			e.link.cut(everyHub, cutToEdge)
		case 2:
			f.wait(time.Duration(f.random.IntN(200)) * time.Millisecond)
		}
		f.pusher.settle()
		e.link.mend()
		worst = max(worst, f.c.awaitInSync([]*edgeProcess{e}, 2*healed))
		k := newCaller(e, 0, f.callers[0].steady, f.revoker, f.now)
		if r := k.ask("mark", nil); r.value != f.pusher.newest("east").mark {
			t.Errorf("%s is shown as in sync with %v and answers %v", e.name, f.pusher.newest("east"), r)
		}
		e.kill()
	}
	t.Logf("pushed → a new edge has it: worst %v", worst.Round(time.Millisecond))
}

// awaitRegistered waits until a hub knows an edge.
func (f *trial) awaitRegistered(e *edgeProcess) {
	f.t.Helper()
	f.c.await(healed, e.name+" is registered", func() error {
		shown, err := f.c.shown()
		if shown[e.name] == nil {
			return fmt.Errorf("it is not: %v", err)
		}
		return nil
	})
}

// endOf ends what is done to one process.
func (f *trial) endOf(name string) {
	for _, x := range f.faults {
		if x.busy == name {
			x.until = 0
		}
	}
	f.endBefore(1)
}
