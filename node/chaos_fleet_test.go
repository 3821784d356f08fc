package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Hubs and edges are killed, paused, cut off from one another and given full disks, by a seed that is logged
// (GW_CHAOS_SEED repeats one), while releases are pushed, tokens revoked, and every edge called all the time. Whatever
// happens: an edge serves what was released to its namespace and never goes back, serves the tokens it knows as long as
// it runs, and is not taken down by a release that does not load. Healed, every edge that reaches a hub has what it should
// within 10 s, and a token that is revoked is refused everywhere within one.
func TestChaosFleet(t *testing.T) {
	t.Parallel()
	plan := fleetPlan{hubs: 3, namespaces: []string{"east", "west"}, edges: 3, rounds: 1, length: 9 * time.Second, longest: 2500 * time.Millisecond}
	if rounds(0, 1) == 1 {
		plan = fleetPlan{hubs: 3, namespaces: []string{"east", "north", "south", "west"}, edges: 5, rounds: 6, length: 15 * time.Second, longest: 8 * time.Second}
	}
	seed := rand.Uint64()
	if text := os.Getenv("GW_CHAOS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal("GW_CHAOS_SEED:", err)
		}
	}
	for i := range uint64(rounds(1, 3)) {
		t.Run(fmt.Sprint(seed+i), func(t *testing.T) { trialOf(t, plan, seed+i).run() })
	}
}

// fleetPlan is how much is done to how many.
type fleetPlan struct {
	hubs            int
	network         bool // hubs have one of their own, which needs root
	namespaces      []string
	edges           int // in each namespace
	rounds          int // of faults, each healed
	length, longest time.Duration
}

// trial is one fleet, what is done to it, and what was seen of it. Its methods are called by its test's goroutine, but for
// now and note.
type trial struct {
	t       *testing.T
	plan    fleetPlan
	seed    uint64
	c       *cluster
	edges   []*edgeProcess
	callers []*caller // of the edges, in their order
	pusher  *pusher
	revoker *revoker
	small   map[string]bool // edges whose disk is small
	network *network        // of the hubs; nil: they are on loopback

	random *rand.Rand
	began  time.Time
	faults []*fault // that last

	restored  []time.Duration // when backups were restored
	stopCalls func()

	mu       sync.Mutex // guards the rest
	timeline []string
	past     map[string][]*fault // by victim, those that last included
}

// trialOf starts a fleet that is whole: every edge has the first release of its namespace, and knows a token.
func trialOf(t *testing.T, plan fleetPlan, seed uint64) *trial {
	t.Helper()
	f := &trial{
		t: t, plan: plan, seed: seed, random: rand.New(rand.NewPCG(seed, 0)), began: time.Now(),
		small: map[string]bool{}, past: map[string][]*fault{},
	}
	t.Logf("seed %d: GW_CHAOS_SEED=%d repeats what is done, if not when", seed, seed)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d, what was done:\n%s", f.seed, strings.Join(f.timeline, "\n"))
		}
	})
	f.startHubs()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }))
	t.Cleanup(upstream.Close)
	f.pusher = newPusher(f.c, seed, upstream.URL, f.note, plan.namespaces...)
	f.pusher.save(true, true, plan.namespaces...)
	f.pusher.push()
	f.revoker = newRevoker(f.c, seed, f.now, f.note)
	steady := f.revoker.create()
	if steady == nil {
		t.Fatal("no token was made")
	}
	f.revoker.all = nil
	for i, namespace := range plan.namespaces {
		flags := []string{"--token-ttl", "3s"} // so that known tokens are served on the offline grace
		if i%2 == 1 {
			flags = nil
		}
		f.edges = append(f.edges, f.c.newEdges(1, plan.edges, namespace, flags...)...)
	}
	if plan.rounds > 0 {
		f.shrink(f.edges[0])
	}
	for i, e := range f.edges {
		e.launch()
		f.callers = append(f.callers, newCaller(e, seed+uint64(i), steady.secret, f.revoker, f.now))
	}
	f.c.awaitInSync(f.edges, 30*time.Second)
	for _, k := range f.callers {
		if r := k.ask("mark", nil); r.status != http.StatusOK {
			t.Fatalf("%s, before anything was done to it: %v", k.edge.name, r)
		}
	}
	f.c.await(time.Second, "tokens are on the edges' disks", func() error { return notYet(f.began.Add(f.now() - 500*time.Millisecond)) })
	return f
}

func (f *trial) startHubs() {
	f.t.Helper()
	const flag, timeout = "--election-timeout", "500ms"
	if f.plan.network {
		f.network = newNetwork(f.t, f.t.TempDir())
		f.c = prepareCluster(f.t, f.network.trust, flag, timeout)
		f.c.place = f.network.place
	} else {
		f.c = prepareCluster(f.t, nil, flag, timeout)
		f.c.place = namedForLinks
	}
	f.c.grow(f.plan.hubs)
}

// shrink gives an edge a small disk, if this process may.
func (f *trial) shrink(e *edgeProcess) {
	if err := os.Mkdir(e.dir, 0o700); err != nil {
		f.t.Fatal(err)
	}
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "gw-chaos", e.dir).CombinedOutput()
	if err != nil && os.Geteuid() == 0 && os.Getenv("CI") == "true" {
		f.t.Fatalf("mount a small disk: %v %s", err, out)
	}
	if err != nil {
		f.t.Logf("no disk will be full: a small one needs root: %v %s", err, out)
		return
	}
	f.t.Cleanup(func() { exec.Command("umount", "-l", e.dir).Run() })
	f.small[e.name] = true
}

// now is the trial's clock.
func (f *trial) now() time.Duration { return time.Since(f.began) }

// note puts something into the timeline.
func (f *trial) note(format string, args ...any) {
	line := fmt.Sprintf("%10v  %s", f.now().Round(time.Millisecond), fmt.Sprintf(format, args...))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.timeline = append(f.timeline, line)
}

// run does one round of faults after the other under a load, and judges what was seen.
func (f *trial) run() {
	f.call()
	for round := range f.plan.rounds {
		f.note("round %d", round+1)
		f.round(round)
	}
	f.judge()
}

// call has every edge called until the judgement.
func (f *trial) call() {
	calling, stop := context.WithCancel(context.Background())
	var callers sync.WaitGroup
	for _, k := range f.callers {
		callers.Go(func() { k.run(calling) })
	}
	f.stopCalls = sync.OnceFunc(func() { stop(); callers.Wait() })
	f.t.Cleanup(f.stopCalls)
}

// round is some time with faults, and the fleet healed.
func (f *trial) round(n int) {
	f.force(f.plan.namespaces[n%len(f.plan.namespaces)])
	changing, stop := context.WithCancel(context.Background())
	var changes sync.WaitGroup
	changes.Go(func() { f.pusher.run(changing) })
	changes.Go(func() { f.revoker.run(changing) })
	defer func() { stop(); changes.Wait() }()
	f.disturb(f.plan.length, n%2 == 0)
	stop()
	whole := f.healAll()
	changes.Wait() // what they began needs a leader
	f.pusher.settle()
	f.mustConverge(whole)
	f.mustRevoke()
}

// force makes a release that edges of a namespace can't load, and waits until they have said so.
func (f *trial) force(namespace string) {
	f.t.Helper()
	f.revoker.steps.Lock() // what is made or revoked while a backup is restored is lost
	f.restored = append(f.restored, f.now())
	f.pusher.force(namespace)
	f.revoker.steps.Unlock()
	f.c.await(2*healed, "edges say what they can't load", func() error {
		shown, err := f.c.shown()
		for _, e := range f.edges {
			if s := shown[e.name]; e.namespace == namespace && !strings.Contains(s.GetSyncReason(), "API/bad") {
				return fmt.Errorf("%s: %s, %v", e.name, s.GetSyncReason(), err)
			}
		}
		return err
	})
}

// mustConverge waits until every edge follows a hub, is shown as having what it should, and serves it. whole is since
// when nothing keeps it from that.
func (f *trial) mustConverge(whole time.Duration) {
	f.t.Helper()
	ready := f.now() // since when nobody changes anything
	following, right := map[string]time.Duration{}, map[string]time.Duration{}
	f.c.await(reconnectBound+2*healed, "every edge has what it should", func() error {
		var missing error
		shown, err := f.c.shown()
		for i, e := range f.edges {
			if following[e.name] == 0 && f.callers[i].look() {
				following[e.name] = f.now()
			}
			why := e.wrong(shown[e.name])
			if want := f.pusher.newest(e.namespace).number; why == "" && shown[e.name].LoadedRelease != want {
				why = fmt.Sprintf("it has release %d, not %d", shown[e.name].LoadedRelease, want)
			}
			switch {
			case right[e.name] > 0:
			case why == "":
				right[e.name] = f.now()
			case following[e.name] > 0 && f.now()-max(ready, following[e.name]) > healed:
				return fatal{fmt.Errorf("%s follows a hub since %v: %s, %v", e.name, following[e.name], why, err)}
			default:
				missing = fmt.Errorf("%s: %s, %v", e.name, why, err)
			}
		}
		return missing
	})
	var slowest, reached time.Duration
	for i, e := range f.edges {
		reached = max(reached, following[e.name]-whole)
		slowest = max(slowest, right[e.name]-max(ready, following[e.name]))
		if r := f.callers[i].ask("mark", nil); r.status != http.StatusOK || r.value != f.pusher.newest(e.namespace).mark {
			f.t.Errorf("%s is shown as in sync with %v and answers %v", e.name, f.pusher.newest(e.namespace), r)
		}
	}
	f.note("healed: every edge follows a hub after %v, and has what it should %v later", reached.Round(time.Millisecond), slowest.Round(time.Millisecond))
	f.t.Logf("healed → the last of %d edges follows a hub: %v; from then until it is right: %v",
		len(f.edges), reached.Round(time.Millisecond), slowest.Round(time.Millisecond))
	f.mustBeWell()
}

// reconnectBound is the longest wait of an edge between two tries to reach a hub, and the time a try may take.
const reconnectBound = time.Minute + 10*time.Second

// mustBeWell waits until every edge says so: what a full disk refused is saved.
func (f *trial) mustBeWell() {
	f.t.Helper()
	f.c.await(2*healed, "every edge is well", func() error {
		for i, e := range f.edges {
			answer, err := f.callers[i].client.Get(e.ops + "/readyz?verbose")
			if err != nil {
				return err
			}
			body, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			_, why, _ := strings.Cut(string(body), "[i] health: ")
			for reason := range strings.SplitSeq(strings.TrimSpace(why), "; ") {
				if small := f.small[e.name] && strings.Contains(reason, " MiB are free "); reason != "" && !small || err != nil {
					return fmt.Errorf("%s: %s, %v", e.name, reason, err)
				}
			}
		}
		return nil
	})
}

// mustRevoke checks that a token which every edge knows is refused by all of them within a second of its revocation, and
// that none accepts one that was revoked while it was away.
func (f *trial) mustRevoke() {
	f.t.Helper()
	var token *credential
	f.c.await(healed, "a token is made", func() error {
		if token = f.revoker.create(); token == nil {
			return errors.New("no hub made one")
		}
		return nil
	})
	for _, k := range f.callers {
		if r := k.ask("mark", token); r.status != http.StatusOK {
			f.t.Errorf("%s does not take a new token: %v", k.edge.name, r)
		}
	}
	took := make([]time.Duration, len(f.callers))
	f.revoker.revoke(token)
	var asking sync.WaitGroup
	for i, k := range f.callers {
		asking.Go(func() {
			for took[i] == 0 && f.now() < token.revoked+healed {
				if r := k.ask("mark", token); r.status == http.StatusUnauthorized {
					took[i] = max(1, r.got-token.revoked)
				}
			}
		})
	}
	asking.Wait()
	for i, d := range took {
		if d == 0 || d > time.Second {
			f.t.Errorf("%s refuses a revoked token after %v (0: not at all)", f.edges[i].name, d)
		}
	}
	f.t.Logf("token revoked → refused by all %d edges: %v", len(took), slices.Max(took).Round(time.Millisecond))
	for _, k := range f.callers {
		for _, old := range f.revoker.list() {
			if old.asked > 0 && old.asked > token.asked-time.Minute {
				if r := k.ask("mark", old); r.status != http.StatusUnauthorized {
					f.t.Errorf("%s takes a token that was revoked at %v: %v", k.edge.name, old.revoked, r)
				}
			}
		}
	}
}
