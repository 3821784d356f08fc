package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"gw/rpc/gwv1"
)

func updateEdges(edges ...*gwv1.EdgeRecord) *gwv1.Command {
	return &gwv1.Command{Actor: "hub/1", Body: &gwv1.Command_UpdateEdges{UpdateEdges: &gwv1.UpdateEdges{Edges: edges}}}
}

func removeEdge(id string) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_RemoveEdge{RemoveEdge: &gwv1.RemoveEdgeRecord{Id: id}}}
}

// loadedBy is an edge of default that has loaded a release; 0 is none.
func (l *log) loadedBy(id string, number uint64) *gwv1.EdgeRecord {
	e := &gwv1.EdgeRecord{Id: id, Namespace: "default"}
	if r, ok := l.Release("default", number); ok {
		e.LoadedEpoch, e.LoadedRelease, e.LoadedChecksum = r.Epoch, r.Number, r.Checksum[:]
	}
	return e
}

func (l *log) failedBy(id string, number uint64, code string) *gwv1.EdgeRecord {
	e := l.loadedBy(id, number-1)
	e.Failure = &gwv1.LoadFailure{Epoch: 1, Release: number, Code: code, Kind: "API", Name: "a", Message: "no"}
	return e
}

func rollbackTo(s *State, source uint64, namespaces ...string) *gwv1.RollbackReleases {
	m := &gwv1.RollbackReleases{To: source}
	for _, n := range namespaces {
		from, _ := s.Release(n, source)
		now, _ := s.Target(n)
		m.Namespaces = append(m.Namespaces, &gwv1.RollbackNamespace{Namespace: n, Source: source, Checksum: from.Checksum[:], Target: now.Number})
	}
	return m
}

func rollback(m *gwv1.RollbackReleases) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_RollbackReleases{RollbackReleases: m}}
}

func freeze(reason string, namespaces ...string) *gwv1.Command {
	return &gwv1.Command{Actor: "bob", Body: &gwv1.Command_FreezePushes{FreezePushes: &gwv1.FreezePushes{Namespaces: namespaces, Reason: reason}}}
}

func unfreeze(namespaces ...string) *gwv1.Command {
	return &gwv1.Command{Actor: "bob", Body: &gwv1.Command_UnfreezePushes{UnfreezePushes: &gwv1.UnfreezePushes{Namespaces: namespaces}}}
}

// bootstrapped is a log of epoch 1.
func bootstrapped(t *testing.T) *log {
	l := newLog(t)
	l.ok(&gwv1.Command{Body: &gwv1.Command_Bootstrap{Bootstrap: &gwv1.Bootstrap{ClusterId: "c"}}})
	return l
}

// saveAndPush saves one spec under a name and pushes default; it returns the push's number.
func (l *log) saveAndPush(name, spec string) uint64 {
	l.t.Helper()
	l.ok(change1(edit("default", name, spec)))
	return l.ok(pushOf(l.State, "default")).Push.Number
}

func (l *log) outcomes(push uint64) string {
	var words []string
	for e := range l.PushEdges(push) {
		words = append(words, e.Edge+" "+strings.ToLower(strings.TrimPrefix(e.Outcome.String(), "PUSH_OUTCOME_")))
	}
	return strings.Join(words, ", ")
}

func (l *log) wantOutcomes(push uint64, want string) {
	l.t.Helper()
	if got := l.outcomes(push); got != want {
		l.t.Errorf("push %d: %s; want %s", push, got, want)
	}
}

func TestAPushNamesTheEdgesItIsForAndKeepsTheirOutcomes(t *testing.T) {
	l := bootstrapped(t)
	elsewhere := &gwv1.EdgeRecord{Id: "x", Namespace: "team"}
	l.ok(updateEdges(l.loadedBy("a", 0), l.loadedBy("b", 0), l.loadedBy("c", 0), elsewhere))
	one := l.saveAndPush("r", "1")
	r, ok := l.Push(one)
	if !ok || r.CreatedBy != "ann" || r.Epoch != 1 || len(r.Namespaces) != 1 || r.Namespaces[0].Edges != 3 || r.Namespaces[0].Created != 1 {
		t.Fatalf("push %v", r)
	}
	l.ok(updateEdges(l.loadedBy("later", 0)))
	l.wantOutcomes(one, "a waiting, b waiting, c waiting")
	drifted := l.loadedBy("a", one)
	drifted.LoadedChecksum = hashOf("another")
	l.ok(updateEdges(drifted))
	l.wantOutcomes(one, "a waiting, b waiting, c waiting")
	l.ok(updateEdges(l.loadedBy("a", one), l.failedBy("b", one, "fetch"), l.failedBy("c", one, "too_old")))
	l.wantOutcomes(one, "a loaded, b waiting, c failed")
	if f := slices.Collect(l.PushEdges(one))[1].Failure; f.GetCode() != "fetch" {
		t.Errorf("b tries again after %v", f)
	}
	two := l.saveAndPush("r", "2")
	l.ok(updateEdges(l.loadedBy("a", two), l.loadedBy("b", two)))
	l.wantOutcomes(one, "a loaded, b superseded, c failed")
	l.wantOutcomes(two, "a loaded, b loaded, c waiting, later waiting")
	l.ok(removeEdge("c"))
	l.wantOutcomes(two, "a loaded, b loaded, c removed, later waiting")
	l.ok(updateEdges(l.loadedBy("c", two))) // it still ran, and registered again
	l.wantOutcomes(two, "a loaded, b loaded, c loaded, later waiting")
	if !l.Equal(reload(t, l.State)) {
		t.Error("a snapshot changes it")
	}
}

func TestAPushOfNothingLeavesNoRecord(t *testing.T) {
	l := bootstrapped(t)
	l.saveAndPush("r", "1")
	l.ok(pushOf(l.State, "default"))
	if n := len(slices.Collect(l.Pushes())); n != 1 {
		t.Errorf("%d pushes, want 1", n)
	}
}

func TestOldPushesCountTheirEdgesAndAreForgotten(t *testing.T) {
	l := bootstrapped(t)
	l.ok(updateEdges(l.loadedBy("a", 0), l.loadedBy("b", 0), l.loadedBy("c", 0), l.loadedBy("d", 0), l.loadedBy("e", 0)))
	first := l.saveAndPush("r", "0")
	l.ok(updateEdges(l.loadedBy("a", first), l.failedBy("b", first, "compile")))
	second := l.saveAndPush("r", "1")
	l.ok(updateEdges(l.loadedBy("d", second)))
	l.ok(removeEdge("e"))
	for i := range keepNamed - 1 {
		l.saveAndPush("r", fmt.Sprint(i+2))
	}
	r, _ := l.Push(first)
	if n := r.GetNamespaces()[0]; !n.Counted || n.Edges != 4 || n.Loaded != 1 || n.Failed != 1 || n.Superseded != 1 || l.outcomes(first) != "" {
		t.Errorf("the first push is kept as %v, naming %q", r, l.outcomes(first))
	}
	for i := range keepPushes {
		l.saveAndPush("r", fmt.Sprint(-i))
	}
	kept := slices.Collect(l.Pushes())
	counted := func(i int) bool { return kept[i].Namespaces[0].Counted }
	if len(kept) != keepPushes || kept[0].Number < kept[1].Number || counted(keepNamed-1) || !counted(keepNamed) {
		t.Errorf("%d pushes are kept, want the newest %d, of which %d name their edges", len(kept), keepPushes, keepNamed)
	}
	if named := l.namedEdges(); named != 4*keepNamed {
		t.Errorf("%d edges are named, want %d", named, 4*keepNamed)
	}
}

func (l *log) namedEdges() int {
	return len(slices.Collect(list[*gwv1.PushEdgeRecord](l.db.Txn(false), tablePushEdges, byID, nil)))
}

// However often other namespaces are pushed, the target of a quiet one goes on naming its edges and hearing of them, until
// its record itself is too old to be kept.
func TestAQuietNamespacesPushIsFollowedHoweverBusyOthersAre(t *testing.T) {
	l := bootstrapped(t)
	quiet := func(number uint64) *gwv1.EdgeRecord {
		e := &gwv1.EdgeRecord{Id: "q", Namespace: "quiet"}
		if r, ok := l.Release("quiet", number); ok {
			e.LoadedEpoch, e.LoadedRelease, e.LoadedChecksum = r.Epoch, r.Number, r.Checksum[:]
		}
		return e
	}
	l.ok(updateEdges(quiet(0), l.loadedBy("a", 0)))
	l.ok(change1(edit("quiet", "r", "1")))
	both := l.ok(pushOf(l.State, "default", "quiet")).Push.Number
	for i := range 2 * keepNamed {
		l.saveAndPush("r", fmt.Sprint(i))
	}
	l.wantOutcomes(both, "q waiting")
	l.ok(updateEdges(quiet(both)))
	l.wantOutcomes(both, "q loaded")
	for i := range keepPushes {
		l.saveAndPush("r", fmt.Sprint(-i))
	}
	if _, ok := l.Push(both); ok {
		t.Error("the oldest push is kept")
	}
	if named := l.namedEdges(); named != keepNamed {
		t.Errorf("%d edges are named, want %d: a push that is forgotten takes its edges along", named, keepNamed)
	}
	if !l.Equal(reload(t, l.State)) {
		t.Error("a snapshot changes it")
	}
}

// E6.4: while a push is what an edge should run, it counts as loaded there no longer than it is.
func TestE6_04ALoadedPushIsNotLatched(t *testing.T) {
	l := bootstrapped(t)
	l.ok(updateEdges(l.loadedBy("a", 0)))
	one := l.saveAndPush("r", "1")
	l.ok(updateEdges(l.loadedBy("a", one)))
	two := l.saveAndPush("r", "2")
	l.ok(updateEdges(l.loadedBy("a", two)))
	l.wantOutcomes(one, "a loaded")
	l.wantOutcomes(two, "a loaded")
	l.ok(updateEdges(l.loadedBy("a", 0))) // its disk was lost
	l.wantOutcomes(one, "a loaded")       // it had been, and nobody waits for that one any more
	l.wantOutcomes(two, "a waiting")
	l.ok(updateEdges(l.loadedBy("a", two)))
	l.wantOutcomes(two, "a loaded")
	l.ok(removeEdge("a"))
	l.wantOutcomes(two, "a loaded")
}

// An edge that goes to another namespace is no longer one that a push of the first is for.
func TestAnEdgeThatMovesIsNoLongerWaitedFor(t *testing.T) {
	l := bootstrapped(t)
	l.ok(updateEdges(l.loadedBy("a", 0)))
	one := l.saveAndPush("r", "1")
	l.ok(updateEdges(&gwv1.EdgeRecord{Id: "a", Namespace: "team", CertificateNotAfter: 1}))
	l.wantOutcomes(one, "a removed")
}

func TestARollbackIsANewReleaseWithOldContent(t *testing.T) {
	l := bootstrapped(t)
	one := l.saveAndPush("r", "1")
	l.ok(change1(edit("team", "t", "1")))
	l.ok(pushOf(l.State, "team"))
	two := l.saveAndPush("r", "2")
	saved := checksumOf(l.State, "default")
	team, _ := l.Target("team")
	r := l.ok(rollback(rollbackTo(l.State, one, "default")))
	target, _ := l.Target("default")
	before, _ := l.Release("default", one)
	if target.Number <= two || target.Number != r.Push.Number || target.Checksum != before.Checksum || r.Push.Namespaces[0].Updated != 1 {
		t.Errorf("rolled back to release %d with %s: %v", target.Number, target.Checksum.Short(), r.Push)
	}
	if string(checksumOf(l.State, "default")) != string(saved) {
		t.Error("the working configuration changed")
	}
	if now, _ := l.Target("team"); now != team {
		t.Error("another namespace was rolled back with it")
	}
	if p, _ := l.Push(target.Number); !p.GetRollback() || p.RollbackTo != one {
		t.Errorf("push %v, want a rollback", p)
	}
	if again := l.ok(rollback(rollbackTo(l.State, one, "default"))); again.Push.Number != 0 || again.Push.Namespaces[0].Released {
		t.Errorf("a rollback to what is released: %v", again.Push)
	}
}

func TestARollbackIsRefused(t *testing.T) {
	l := bootstrapped(t)
	l.ok(putSecret("default", "key"))
	l.ok(change1(edit("default", "a", "1", "key"), edit("default", "b", "1"), edit("default", "c", "1")))
	one := l.ok(pushOf(l.State, "default")).Push.Number
	l.ok(change1(edit("default", "a", "2")))
	l.ok(pushOf(l.State, "default"))
	stale := rollbackTo(l.State, one, "default")
	l.ok(change1(edit("default", "a", "3"), edit("default", "d", "1"), edit("default", "e", "1"), edit("default", "f", "1"), edit("default", "g", "1")))
	l.ok(pushOf(l.State, "default"))
	l.refuses(rollback(stale), changedCode, "changed")
	wrong := rollbackTo(l.State, one, "default")
	wrong.Namespaces[0].Source = 99
	l.refuses(rollback(wrong), missingCode, "not_found")
	l.refuses(rollback(rollbackTo(l.State, one, "default")), conditionRef, "confirm_removal")
	confirmed := rollbackTo(l.State, one, "default")
	confirmed.ConfirmRemoval = true
	l.ok(rollback(confirmed))
	l.refuses(deleteSecret("default", "key"), conditionRef, "in_use")
}

func TestFrozenPushesAreRefusedUntilTheyAreUnfrozen(t *testing.T) {
	l := bootstrapped(t)
	one := l.saveAndPush("r", "1")
	l.saveAndPush("r", "2")
	l.refuses(freeze("", "default"), invalidCode, "invalid")
	l.ok(freeze("the fair", "default"))
	l.ok(pushOf(l.State, "default")) // makes no release, so nothing is held back
	l.ok(change1(edit("default", "r", "3"), edit("team", "t", "1")))
	refusal := l.refuses(pushOf(l.State, "default"), conditionRef, "frozen")
	for _, word := range []string{"bob", "the fair", "1970-01-01T01:00:00Z"} {
		if !strings.Contains(refusal.Message, word) {
			t.Errorf("%q doesn't say %q", refusal.Message, word)
		}
	}
	l.refuses(rollback(rollbackTo(l.State, one, "default")), conditionRef, "frozen")
	l.ok(pushOf(l.State, "team"))
	forced := pushOf(l.State, "default")
	forced.GetPushReleases().BreakGlass = true
	made := l.ok(forced)
	if p, _ := l.Push(made.Push.Number); !p.GetBreakGlass() {
		t.Errorf("push %v doesn't say that it broke the glass", p)
	}
	for a := range l.Audit() {
		if a.Action != "push_break_glass" {
			t.Errorf("it is audited as %q", a.Action)
		}
		break
	}
	l.ok(unfreeze("default"))
	l.refuses(unfreeze("default"), missingCode, "not_found")
	l.saveAndPush("r", "4")
	l.ok(freeze("everything"))
	l.ok(change1(edit("new", "r", "1")))
	l.refuses(pushOf(l.State, "new"), conditionRef, "frozen")
	l.ok(unfreeze())
	l.ok(pushOf(l.State, "new"))
}
