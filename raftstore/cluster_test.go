package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"gw/rpc/gwv1"
)

// electionTimeout of clusters in tests: short enough for quick elections, long enough for a loaded machine.
const electionTimeout = 400 * time.Millisecond

// within bounds a wait in a test.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually asks until ok holds, for as long as a slow machine may take.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// listen is a stream on a loopback port.
func listen(t testing.TB, address string) tcpStream {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return tcpStream{l}
}

// hubConfig is that of a hub with a port of its own.
func hubConfig(t testing.TB, dir string) Config {
	c := testConfig(dir)
	c.ElectionTimeout = electionTimeout
	c.Stream = listen(t, "127.0.0.1:0")
	return c
}

// mustJoin opens a hub with an empty directory that waits to be added.
func mustJoin(t *testing.T, change ...func(*Config)) *Store {
	t.Helper()
	c := hubConfig(t, t.TempDir())
	c.Join = true
	for _, f := range change {
		f(&c)
	}
	return mustOpen(t, c)
}

func (s *Store) address() string { return string(s.transport.LocalAddr()) }

func (s *Store) mustAdd(t testing.TB, others ...*Store) {
	t.Helper()
	for _, o := range others {
		if err := s.AddLearner(within(t, 20*time.Second), o.id, o.address()); err != nil {
			t.Fatal(err)
		}
	}
}

// quick gives votes soon.
var quick = MembershipConfig{Settle: 50 * time.Millisecond}

// keep runs the leader's duty towards the members on each hub until the test ends.
func keep(t *testing.T, c MembershipConfig, hubs ...*Store) {
	for _, s := range hubs {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.KeepMembership(ctx, c) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("keep the members: %v", err)
			}
		})
	}
}

func voters(t testing.TB, s *Store) (ids []string) {
	t.Helper()
	members, err := s.Members()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.Voter {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// leaderOf waits for a leader among hubs.
func leaderOf(t testing.TB, hubs ...*Store) (leader *Store) {
	t.Helper()
	eventually(t, "a leader", func() bool {
		i := slices.IndexFunc(hubs, (*Store).Leading)
		if i >= 0 {
			leader = hubs[i]
		}
		return i >= 0
	})
	return leader
}

// three is a cluster of three voters, the first of which leads.
func three(t *testing.T, change ...func(*Config)) []*Store {
	t.Helper()
	c := hubConfig(t, t.TempDir())
	for _, f := range change {
		f(&c)
	}
	hubs := []*Store{mustOpen(t, c), mustJoin(t, change...), mustJoin(t, change...)}
	hubs[0].mustAdd(t, hubs[1:]...)
	keep(t, quick, hubs...)
	for _, s := range hubs {
		eventually(t, "three voters", func() bool { return len(voters(t, s)) == 3 })
	}
	return hubs
}

// write saves a resource through whichever hub leads, until it is acknowledged.
func write(t testing.TB, name, spec string, hubs ...*Store) {
	t.Helper()
	eventually(t, "a write", func() bool {
		for _, s := range hubs {
			if _, err := s.Propose(within(t, 5*time.Second), save("default", name, spec)); err == nil {
				return true
			}
		}
		return false
	})
}

// has waits until a hub has a resource.
func has(t testing.TB, s *Store, name, spec string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has %s", s.id, name), func() bool {
		r, ok := s.State().Resource("API", "default", name)
		return ok && string(r.Spec) == spec
	})
}

func TestOneHubGrowsToThree(t *testing.T) {
	c := hubConfig(t, t.TempDir())
	a := mustOpen(t, c)
	a.mustPropose(t, save("default", "before", "x"))
	b, d := mustJoin(t), mustJoin(t)
	if b.Leading() || b.State().Cluster().ClusterId != "" {
		t.Error("a hub that is to join founded a cluster")
	}
	a.mustAdd(t, b)
	has(t, b, "before", "x") // a learner has everything
	if got := voters(t, a); len(got) != 1 {
		t.Errorf("voters %v after adding a learner", got)
	}
	keep(t, quick, a, b, d)
	a.mustAdd(t, d)
	for _, s := range []*Store{a, b, d} {
		eventually(t, "three voters", func() bool { return len(voters(t, s)) == 3 })
		write(t, "after-"+s.id, "y", a, b, d)
	}
	for _, s := range []*Store{a, b, d} {
		for _, o := range []*Store{a, b, d} {
			has(t, s, "after-"+o.id, "y")
		}
		if id, address := s.Leader(); id != a.id || address != a.address() {
			t.Errorf("%s takes %s at %s for the leader, want %s at %s", s.id, id, address, a.id, a.address())
		}
	}
	if n, ok := a.FailureTolerance(); !ok || n != 1 {
		t.Errorf("failure tolerance %d, %v; want 1", n, ok)
	}
	if got := a.Alarms(); len(got) != 0 {
		t.Errorf("alarms %q", got)
	}
	if _, ok := b.FailureTolerance(); ok {
		t.Error("a follower claims to know the failure tolerance")
	}
}

// A dead address, twice even, costs nothing: the cluster goes on with one voter, and says what it misses.
func TestDeadAddressLeavesWritesAvailable(t *testing.T) {
	a := mustOpen(t, hubConfig(t, t.TempDir()))
	keep(t, quick, a)
	for i := range 2 {
		l := listen(t, "127.0.0.1:0")
		address := l.Addr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := a.AddLearner(within(t, 10*time.Second), fmt.Sprintf("dead-%d", i), address); err != nil {
			t.Fatal(err)
		}
	}
	b := mustJoin(t)
	a.mustAdd(t, b)
	has(t, b, "x", a.saveAs(t, "x", "1")) // b is caught up, and stays a learner beside two dead ones
	for i := range 20 {
		a.mustPropose(t, save("default", fmt.Sprintf("w%d", i), "y"))
	}
	if got := voters(t, a); !slices.Equal(got, []string{a.id}) {
		t.Errorf("voters %v, want %s alone", got, a.id)
	}
	if alarms := a.Alarms(); len(alarms) != 1 || !strings.Contains(alarms[0], "no failure tolerance: 1 of 1 voters") {
		t.Errorf("alarms %q, want one about the tolerance", alarms)
	}
	for i := range 2 {
		if err := a.RemoveMember(within(t, 10*time.Second), fmt.Sprintf("dead-%d", i)); err != nil {
			t.Error(err)
		}
	}
}

func (s *Store) saveAs(t testing.TB, name, spec string) string {
	t.Helper()
	s.mustPropose(t, save("default", name, spec))
	return spec
}

func TestNextStep(t *testing.T) {
	me := standing{id: "me", voter: true, self: true}
	voter := func(id string) standing { return standing{id: id, voter: true} }
	ready := func(id string) standing { return standing{id: id, ready: true} }
	late := func(id string) standing { return standing{id: id} }
	two := MembershipConfig{AllowTwo: true}
	for _, c := range []struct {
		name    string
		members []standing
		config  MembershipConfig
		twoFor  time.Duration
		want    step
	}{
		{"alone", []standing{me}, quick, 0, step{kind: rest}},
		{"one that is not ready", []standing{me, late("a")}, quick, 0, step{kind: rest}},
		{"one ready learner would make two", []standing{me, ready("a")}, quick, 0, step{kind: rest}},
		{"unless that is allowed", []standing{me, ready("a")}, two, 0, step{promote, "a"}},
		{"the third is not ready", []standing{me, ready("a"), late("b")}, quick, 0, step{kind: rest}},
		{"both are ready", []standing{me, ready("a"), ready("b")}, quick, 0, step{promote, "a"}},
		{"the third follows", []standing{me, voter("a"), ready("b")}, quick, 0, step{promote, "b"}},
		{"also late", []standing{me, voter("a"), ready("b")}, quick, time.Hour, step{promote, "b"}},
		{"the third does not follow", []standing{me, voter("a"), late("b")}, quick, 9 * time.Second, step{kind: rest}},
		{"for too long", []standing{me, voter("a"), late("b")}, quick, 10 * time.Second, step{demote, "a"}},
		{"the new voter leads", []standing{voter("a"), me}, quick, time.Minute, step{demote, "a"}},
		{"two are allowed", []standing{me, voter("a"), late("b")}, two, time.Hour, step{kind: rest}},
		{"three", []standing{me, voter("a"), voter("b")}, quick, 0, step{kind: rest}},
		{"a fourth", []standing{me, voter("a"), voter("b"), ready("c"), late("d")}, quick, 0, step{promote, "c"}},
		{"a fifth", []standing{me, voter("a"), voter("b"), voter("c"), ready("d")}, quick, 0, step{promote, "d"}},
		{"a sixth", []standing{me, voter("a"), voter("b"), voter("c"), voter("d"), ready("e")}, quick, 0, step{kind: rest}},
		{"more voters wanted", []standing{me, voter("a"), voter("b"), voter("c"), voter("d"), ready("e")}, MembershipConfig{MaxVoters: 7}, 0, step{promote, "e"}},
		{"nobody", nil, quick, time.Hour, step{kind: rest}},
	} {
		if got := nextStep(c.members, c.config, c.twoFor); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// No step ever lowers how many of the hubs that answer may fail, but the demotion that undoes half a growth.
func TestStepsNeverLowerTheTolerance(t *testing.T) {
	for n := range 7 {
		for dead := 0; dead <= n/2; dead++ {
			for learners := range 4 {
				members := []standing{{id: "me", voter: true, self: true}}
				for i := range n {
					members = append(members, standing{id: fmt.Sprint("v", i), voter: true})
				}
				for i := range learners {
					members = append(members, standing{id: fmt.Sprint("l", i), ready: true})
				}
				spare := func(voters int) int { return voters - dead - (voters/2 + 1) }
				if got := nextStep(members, MembershipConfig{MaxVoters: 9}, 0); got.kind == promote && n > 0 && spare(n+2) < spare(n+1) {
					t.Errorf("%d voters of which %d are dead, %d learners: %v", n+1, dead, learners, got)
				}
			}
		}
	}
}

func TestMemberAlarms(t *testing.T) {
	me := Member{ID: "me", Voter: true, Self: true}
	silent := func(id string, voter bool, d time.Duration) Member {
		return Member{ID: id, Address: id + ":1", Voter: voter, LastContact: d}
	}
	for _, c := range []struct {
		name    string
		members []Member
		want    []string
	}{
		{"alone", []Member{me}, nil},
		{"all well", []Member{me, silent("a", true, 0), silent("b", true, 100*time.Millisecond)}, nil},
		{"one for a moment", []Member{me, silent("a", true, 0), silent("b", true, 2*time.Second)},
			[]string{"no failure tolerance: 2 of 3 voters answer, and 2 are needed"}},
		{"one for long", []Member{me, silent("a", true, 0), silent("b", true, 61*time.Second)}, []string{
			"voter b at b:1 has not answered for 1m1s; if it is gone for good, remove it",
			"no failure tolerance: 2 of 3 voters answer, and 2 are needed"}},
		{"a learner", []Member{me, silent("a", true, 0), silent("b", true, 0), silent("l", false, time.Minute)},
			[]string{"learner l at l:1 has not answered for 1m0s; if it is gone for good, remove it"}},
	} {
		if got := memberAlarms(c.members, time.Second, 10*time.Second); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// Who removes one of three is left with two voters, and an alarm; nobody's vote is taken back later. The third that comes
// then gets its vote.
func TestRemovalLeavesTwoVoters(t *testing.T) {
	var demoted atomic.Bool
	watched := func(c *Config) {
		c.Logger = slog.New(onStep(func(step string) { demoted.Store(demoted.Load() || step == string(demote)) }))
	}
	c := hubConfig(t, t.TempDir())
	watched(&c)
	a := mustOpen(t, c)
	b, d, e := mustJoin(t), mustJoin(t), mustJoin(t)
	impatient := quick
	impatient.twoVoters = time.Nanosecond
	keep(t, impatient, a)
	a.mustAdd(t, b, d)
	eventually(t, "three voters", func() bool { return len(voters(t, a)) == 3 })
	if err := a.RemoveMember(within(t, 10*time.Second), d.id); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(a.Alarms(), "\n"); !strings.Contains(got, "no failure tolerance: 2 of 2 voters answer") {
		t.Errorf("the alarms are %q", got)
	}
	a.mustAdd(t, e)
	eventually(t, "three voters again", func() bool { return len(voters(t, a)) == 3 }) // looked at many times until then
	if demoted.Load() {
		t.Error("a hub lost its vote on the way")
	}
}

// onStep is a log handler that is told of each step of KeepMembership.
type onStep func(step string)

func (onStep) Enabled(context.Context, slog.Level) bool { return true }
func (f onStep) WithAttrs([]slog.Attr) slog.Handler     { return f }
func (f onStep) WithGroup(string) slog.Handler          { return f }
func (f onStep) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "step" {
			f(a.Value.String())
		}
		return true
	})
	return nil
}

// Only a growth from one that stops at two is undone.
func TestHalfAGrowthIsUndoneAndARemovalIsNot(t *testing.T) {
	hubs := func(voters int) (list []Member) {
		for i, id := range []string{"me", "a", "b"} {
			list = append(list, Member{ID: id, Voter: i < voters, Self: i == 0})
		}
		return list
	}
	for _, c := range []struct {
		name   string
		voters []int // one look a second
		want   stepKind
	}{
		{"grown from one", []int{1, 2}, demote},
		{"three, then one was removed", []int{3, 2}, rest},
		{"grown to three, then one was removed", []int{1, 2, 3, 2}, rest},
		{"found by a new leader that knows nothing of before", []int{2}, rest},
		{"shrunk to one, grown again", []int{3, 2, 1, 2}, demote},
	} {
		var k steadiness
		at, got := time.Unix(1000, 0), step{}
		for _, n := range append(c.voters, 2) {
			list, twoFor := k.judge(hubs(n), 1000, at, time.Second, time.Second)
			got = nextStep(list, MembershipConfig{twoVoters: time.Second}, twoFor)
			at = at.Add(time.Second)
		}
		if got.kind != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}

func TestTwoVotersIfAllowed(t *testing.T) {
	a, b := mustOpen(t, hubConfig(t, t.TempDir())), mustJoin(t)
	allowed := quick
	allowed.AllowTwo = true
	keep(t, allowed, a, b)
	a.mustAdd(t, b)
	eventually(t, "two voters", func() bool { return len(voters(t, a)) == 2 && len(voters(t, b)) == 2 })
	write(t, "x", "y", a, b)
}

// Raft can be left answering every command with "leadership transfer in progress" for good. That is noticed, and one
// that ends by itself is not taken for it.
func TestEndlessTransferIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 8 * time.Second
		var k stuck
		inProgress := fmt.Errorf("wrapped: %w", raft.ErrLeadershipTransferInProgress)
		note := func(after time.Duration, answer error, want bool) {
			t.Helper()
			time.Sleep(after)
			if got := k.note(answer, limit); (got != nil) != want {
				t.Errorf("%v: stuck is %v, want %v", answer, got, want)
			}
		}
		note(0, nil, false)
		note(time.Hour, inProgress, false)
		note(limit, inProgress, false)
		note(0, raft.ErrNotLeader, false) // it ended
		note(time.Hour, inProgress, false)
		note(limit, inProgress, false)
		note(1, inProgress, true)
		note(0, nil, false)
	})
}

func TestSteadiness(t *testing.T) {
	var k steadiness
	at := time.Unix(1000, 0)
	learner := func(match uint64, contact time.Duration) []Member {
		return []Member{{ID: "me", Voter: true, Self: true, Match: 1000}, {ID: "a", Match: match, LastContact: contact}}
	}
	look := func(after time.Duration, m []Member) (bool, time.Duration) {
		at = at.Add(after)
		list, two := k.judge(m, 1000, at, 2*time.Second, time.Second)
		return list[1].ready, two
	}
	for i, c := range []struct {
		after   time.Duration
		match   uint64
		contact time.Duration
		want    bool
	}{
		{0, 936, 0, false}, {time.Second, 1000, 0, false}, {time.Second, 1000, 999 * time.Millisecond, true},
		{time.Second, 935, 0, false}, {time.Second, 1000, 0, false}, {2 * time.Second, 1000, 0, true}, // it begins anew
		{time.Second, 1000, time.Second, false}, {time.Second, 1000, 0, false},
		{time.Second, 1000, -1, false}, {3 * time.Second, 0, 0, false},
	} {
		if got, _ := look(c.after, learner(c.match, c.contact)); got != c.want {
			t.Errorf("look %d: ready %v, want %v", i, got, c.want)
		}
	}
	both := []Member{{ID: "me", Voter: true, Self: true}, {ID: "a", Voter: true}}
	look(0, both)
	if _, two := look(3*time.Second, both); two != 3*time.Second {
		t.Errorf("two voters for %v, want 3 s", two)
	}
	look(0, learner(0, 0))
	if _, two := look(time.Second, both); two != 0 {
		t.Errorf("two voters again for %v, want 0", two)
	}
}

func TestRemovalThatWouldStopTheClusterIsRefused(t *testing.T) {
	member := func(id string, contact time.Duration) Member {
		return Member{ID: id, Voter: true, LastContact: contact}
	}
	me := Member{ID: "me", Voter: true, Self: true}
	for _, c := range []struct {
		name    string
		members []Member
		id      string
		ok      bool
	}{
		{"all well", []Member{me, member("a", 0), member("b", 0)}, "a", true},
		{"the dead one", []Member{me, member("a", 0), member("b", -1)}, "b", true},
		{"the living one", []Member{me, member("a", 0), member("b", time.Hour)}, "a", false},
		{"itself", []Member{me, member("a", 0), member("b", 0)}, "me", true},
		{"the last", []Member{me, {ID: "l"}}, "me", false},
		{"a learner", []Member{me, {ID: "l", LastContact: -1}}, "l", true},
		{"a stranger", []Member{me}, "x", true},
		{"one of two", []Member{me, member("a", -1)}, "a", true},
		{"of five with two dead", []Member{me, member("a", 0), member("b", 0), member("c", -1), member("d", -1)}, "a", false},
	} {
		err := removable(c.members, c.id, time.Second)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrMembership) {
			t.Errorf("%s: %v, want ok %v", c.name, err, c.ok)
		}
	}
}

func TestHubIsRemoved(t *testing.T) {
	hubs := three(t)
	a, gone := hubs[0], hubs[2]
	if err := a.RemoveMember(within(t, 10*time.Second), gone.id); err != nil {
		t.Fatal(err)
	}
	if err := a.RemoveMember(within(t, 10*time.Second), gone.id); err != nil {
		t.Errorf("again: %v", err)
	}
	if got := voters(t, a); slices.Contains(got, gone.id) {
		t.Errorf("voters %v, want them without %s", got, gone.id)
	}
	eventually(t, "the removed hub knows", func() bool { return gone.checkMember() != nil })
	term := a.Term()
	write(t, "without", "x", hubs[0], hubs[1])
	if _, err := gone.Propose(within(t, time.Second), save("default", "from", "beyond")); err == nil {
		t.Error("a removed hub committed something")
	}
	if a.Term() != term {
		t.Errorf("the removed hub disturbs the others: term %d, was %d", a.Term(), term)
	}
	a.mustPropose(t, &gwv1.Command{Body: &gwv1.Command_RemoveHub{RemoveHub: &gwv1.RemoveHubRecord{Id: gone.id}}})
	if err := a.AddLearner(within(t, 10*time.Second), gone.id, gone.address()); !errors.Is(err, ErrMembership) || !errors.Is(err, ErrNotProposed) {
		t.Errorf("a removed hub is added again: %v", err)
	}
	other := mustJoin(t)
	if err := a.AddLearner(within(t, 10*time.Second), other.id, hubs[1].address()); !errors.Is(err, ErrMembership) {
		t.Errorf("two hubs at one address: %v", err)
	}
}

func TestLeaderAskedToRemoveItselfHandsOver(t *testing.T) {
	hubs := three(t)
	old := hubs[0]
	if err := old.RemoveMember(within(t, 10*time.Second), old.id); !errors.Is(err, ErrNotLeader) {
		t.Fatalf("got %v, want ErrNotLeader", err)
	}
	leader := leaderOf(t, hubs[1], hubs[2])
	if err := leader.RemoveMember(within(t, 10*time.Second), old.id); err != nil {
		t.Fatal(err)
	}
	write(t, "after", "x", hubs[1], hubs[2])
	if slices.Contains(voters(t, leader), old.id) {
		t.Error("the old leader still votes")
	}
}

func TestLeadershipIsTransferredOncePerLeadership(t *testing.T) {
	hubs := three(t)
	a, b := hubs[0], hubs[1]
	eventually(t, "somebody is caught up", func() bool {
		m, err := a.Members()
		_, herr := heirOf(m, b.id, a.raft.LastIndex(), a.contactLimit())
		return err == nil && herr == nil
	})
	if err := a.TransferLeadership(within(t, 10*time.Second), "nobody"); !errors.Is(err, ErrMembership) {
		t.Errorf("to nobody: %v", err)
	}
	if err := a.TransferLeadership(within(t, 10*time.Second), a.id); err != nil {
		t.Errorf("to itself: %v", err)
	}
	if err := a.TransferLeadership(within(t, 10*time.Second), b.id); err != nil {
		t.Fatal(err)
	}
	if got := leaderOf(t, hubs...); got != b {
		t.Errorf("%s leads, want %s", got.id, b.id)
	}
	if err := a.TransferLeadership(within(t, time.Second), ""); !errors.Is(err, ErrNotLeader) {
		t.Errorf("from a follower: %v", err)
	}
	leading, _, _ := b.office.get()
	leading.transferred.Store(true) // as after an attempt that failed
	if err := b.TransferLeadership(within(t, 10*time.Second), ""); !errors.Is(err, ErrMembership) {
		t.Errorf("a second attempt: %v", err)
	}
	write(t, "after", "x", hubs...)
}

func TestClosingLeaderHandsOver(t *testing.T) {
	hubs := three(t, func(c *Config) { c.ElectionTimeout = 3 * time.Second })
	a := hubs[0]
	a.mustPropose(t, save("default", "x", "y"))
	began := time.Now()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	leader := leaderOf(t, hubs[1], hubs[2])
	leader.mustPropose(t, save("default", "after", "y"))
	if took := time.Since(began); took >= 3*time.Second {
		t.Errorf("a write took %v after the leader closed: it waited for an election", took)
	}
	has(t, leader, "x", "y")
}

func TestKilledLeaderIsReplaced(t *testing.T) {
	hubs := three(t)
	a := hubs[0]
	a.mustPropose(t, save("default", "kept", "x"))
	a.Halt("killed by a test") // its Raft ends without a word to the others
	write(t, "after", "y", hubs[1], hubs[2])
	leader := leaderOf(t, hubs[1], hubs[2])
	has(t, leader, "kept", "x")
	if _, err := a.Propose(t.Context(), save("default", "z", "z")); !errors.Is(err, ErrHalted) || !errors.Is(err, ErrNotProposed) {
		t.Errorf("Propose on the halted hub: %v", err)
	}
	if _, err := a.Read(t.Context()); !errors.Is(err, ErrHalted) {
		t.Errorf("Read on the halted hub: %v", err)
	}
	if _, err := a.Wait(t.Context(), 1<<60); !errors.Is(err, ErrHalted) {
		t.Errorf("Wait on the halted hub: %v", err)
	}
}

// A cluster of one that was started without a port is given one later; and moves to another.
func TestFounderIsGivenAnAddress(t *testing.T) {
	c := testConfig(t.TempDir())
	c.ElectionTimeout = electionTimeout
	s := mustOpen(t, c)
	s.mustPropose(t, save("default", "x", "1"))
	id := s.id
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c.Stream = listen(t, "127.0.0.1:0")
		s = mustOpen(t, c)
		address := s.address()
		if address != c.Stream.Addr().String() {
			t.Fatalf("address %s, want %s", address, c.Stream.Addr())
		}
		eventually(t, "the address is recorded", func() bool {
			m, err := s.Members()
			return err == nil && len(m) == 1 && m[0].ID == id && m[0].Address == address && m[0].Voter
		})
		has(t, s, "x", "1")
		other := mustJoin(t)
		s.mustAdd(t, other)
		has(t, other, "x", "1")
		if err := s.RemoveMember(within(t, 5*time.Second), other.id); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A hub comes back at another address, and is told to the leader: the same member, with the same vote.
func TestMemberMoves(t *testing.T) {
	hubs := three(t)
	moved := hubs[2]
	if err := moved.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, "meanwhile", "x", hubs[0], hubs[1])
	again := mustOpen(t, hubConfig(t, moved.config.Dir))
	leader := leaderOf(t, hubs[0], hubs[1])
	leader.mustAdd(t, again)
	has(t, again, "meanwhile", "x")
	if got := voters(t, leader); len(got) != 3 {
		t.Errorf("voters %v", got)
	}
	eventually(t, "the new address", func() bool {
		m, err := again.Members()
		return err == nil && slices.ContainsFunc(m, func(m Member) bool { return m.ID == again.id && m.Address == again.address() })
	})
}

func TestJoinIsRemembered(t *testing.T) {
	c := hubConfig(t, t.TempDir())
	c.Join = true
	s := mustOpen(t, c)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	c = hubConfig(t, c.Dir) // without Join
	s = mustOpen(t, c)
	if s.Leading() || len(voters(t, s)) != 0 {
		t.Error("a directory that was to join founded a cluster")
	}
	founder := mustOpen(t, hubConfig(t, t.TempDir()))
	founder.mustAdd(t, s)
	founder.mustPropose(t, save("default", "x", "1"))
	has(t, s, "x", "1")
	if err := founder.Close(); err != nil {
		t.Fatal(err)
	}
	c = hubConfig(t, founder.config.Dir)
	c.Join = true // the same command line for ever
	if s = mustOpen(t, c); !s.Leading() {
		t.Error("a directory with a cluster waits to join")
	}
}

func TestPublishedAddress(t *testing.T) {
	c := hubConfig(t, t.TempDir())
	c.Address = "hub.example:50051"
	s := mustOpen(t, c)
	m, err := s.Members()
	if err != nil || len(m) != 1 || m[0].Address != c.Address || !m[0].Self || !m[0].Leader || m[0].LastContact != 0 {
		t.Errorf("members %+v, %v", m, err)
	}
}
