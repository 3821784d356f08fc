package state

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

const (
	// keepPushes is how many pushes are remembered, keepNamed in how many of each namespace the edges are named. Measured, a
	// named edge takes 540 bytes: 16 MiB for 10,000 edges.
	keepPushes = 100
	keepNamed  = 3
)

// Push returns a kept push or rollback by its number.
func (s *State) Push(number uint64) (*gwv1.PushRecord, bool) {
	return one[*gwv1.PushRecord](s.db.Txn(false), tablePushes, byID, pushKey(number))
}

// Pushes are the kept pushes and rollbacks, newest first.
func (s *State) Pushes() iter.Seq[*gwv1.PushRecord] {
	return reversed[*gwv1.PushRecord](s.db.Txn(false), tablePushes, byID, nil)
}

// PushEdges are the edges a push is for, sorted by ID, but for namespaces in which it only counts them.
func (s *State) PushEdges(push uint64) iter.Seq[*gwv1.PushEdgeRecord] {
	return list[*gwv1.PushEdgeRecord](s.db.Txn(false), tablePushEdges, byID, pushKey(push))
}

func pushKey(push uint64) []byte { return number(push) }

func pushEdgeKey(push uint64, edge string) []byte { return append(pushKey(push), edge...) }

// recordPush keeps what was just pushed, going by the result, and names the edges it is for: those registered now.
func (x *change) recordPush(r *gwv1.PushRecord) {
	r.Number, r.Epoch = x.result.Push.Number, x.cluster.Epoch
	r.CreatedAt, r.CreatedBy = x.at, x.command.Actor
	for _, n := range x.result.Push.Namespaces {
		kept := &gwv1.NamespacePush{Namespace: n.Namespace, Released: n.Released, Release: n.Number, Checksum: n.Checksum,
			Created: n.Created, Updated: n.Updated, Deleted: n.Deleted}
		if n.Released {
			kept.Edges = x.namePushed(r.Number, n.Namespace)
		}
		r.Namespaces = append(r.Namespaces, kept)
	}
	x.put(tablePushes, r)
	x.forgetPushes()
}

func (x *change) namePushed(push uint64, namespace string) (n uint32) {
	for e := range list[*gwv1.EdgeRecord](x.tx, tableEdges, byNamespace, terminated(namespace)) {
		x.put(tablePushEdges, &gwv1.PushEdgeRecord{Push: push, Edge: e.Id, Namespace: namespace,
			Outcome: gwv1.PushOutcome_PUSH_OUTCOME_WAITING, At: x.at})
		n++
	}
	return n
}

// forgetPushes drops the oldest pushes and, of a push that is no longer among the newest of a namespace, counts the edges
// there instead of naming them. What is a namespace's target names its edges, however many pushes of others came since.
func (x *change) forgetPushes() {
	var kept, dropped []*gwv1.PushRecord
	for r := range reversed[*gwv1.PushRecord](x.tx, tablePushes, byID, nil) {
		if len(kept) < keepPushes {
			kept = append(kept, r)
		} else {
			dropped = append(dropped, r)
		}
	}
	for _, r := range dropped {
		for _, e := range x.pushEdges(r.Number) {
			x.drop(tablePushEdges, e)
		}
		x.drop(tablePushes, r)
	}
	seen := map[string]int{} // namespace → pushes of it so far
	for _, r := range kept {
		var old []string
		for _, n := range r.Namespaces {
			if !n.Released {
				continue
			}
			if seen[n.Namespace]++; seen[n.Namespace] > keepNamed && !n.Counted {
				old = append(old, n.Namespace)
			}
		}
		if len(old) > 0 {
			x.countPush(r, old)
		}
	}
}

// pushEdges are the edges that a push names, apart from the transaction, so that they may be dropped.
func (x *change) pushEdges(push uint64) []*gwv1.PushEdgeRecord {
	return slices.Collect(list[*gwv1.PushEdgeRecord](x.tx, tablePushEdges, byID, pushKey(push)))
}

// countPush counts the edges that a push names in these namespaces and forgets their names.
func (x *change) countPush(r *gwv1.PushRecord, namespaces []string) {
	counted := proto.CloneOf(r)
	of := make(map[string]*gwv1.NamespacePush, len(namespaces))
	for _, name := range namespaces {
		n := namespaceIn(counted, name)
		n.Counted, n.Edges = true, 0
		of[name] = n
	}
	for _, e := range x.pushEdges(r.Number) {
		n := of[e.Namespace]
		if n == nil {
			continue
		}
		x.drop(tablePushEdges, e)
		if e.Outcome == gwv1.PushOutcome_PUSH_OUTCOME_REMOVED {
			continue
		}
		n.Edges++
		switch e.Outcome {
		case gwv1.PushOutcome_PUSH_OUTCOME_LOADED:
			n.Loaded++
		case gwv1.PushOutcome_PUSH_OUTCOME_FAILED:
			n.Failed++
		case gwv1.PushOutcome_PUSH_OUTCOME_SUPERSEDED:
			n.Superseded++
		}
	}
	x.put(tablePushes, counted)
}

// namespaceIn returns what a push did to a namespace in its scope; nil if it is not in it.
func namespaceIn(r *gwv1.PushRecord, namespace string) *gwv1.NamespacePush {
	i := slices.IndexFunc(r.Namespaces, func(n *gwv1.NamespacePush) bool { return n.Namespace == namespace })
	if i < 0 {
		return nil
	}
	return r.Namespaces[i]
}

// noteOutcomes records at the pushes that name an edge what its registry entry, which is nil once it was removed, says
// has become of them. The namespace is that of the entry before.
func (x *change) noteOutcomes(id, namespace string, e *gwv1.EdgeRecord) {
	x.noteOutcomesIn(namespace, id, e)
	if e != nil && e.Namespace != namespace {
		x.noteOutcomesIn(e.Namespace, id, e)
	}
}

func (x *change) noteOutcomesIn(namespace, id string, e *gwv1.EdgeRecord) {
	current, _ := target(x.tx, namespace)
	for _, push := range x.named(namespace) {
		was, ok := one[*gwv1.PushEdgeRecord](x.tx, tablePushEdges, byID, pushEdgeKey(push.Number, id))
		if !ok || settled(was.Outcome) && (current == nil || current.Number != push.Number) {
			continue
		}
		outcome, failure := outcomeOf(push, was, e)
		if outcome == was.Outcome && proto.Equal(failure, was.Failure) {
			continue
		}
		x.put(tablePushEdges, &gwv1.PushEdgeRecord{Push: was.Push, Edge: id, Namespace: was.Namespace, Outcome: outcome, At: x.at, Failure: failure})
	}
}

// named are the pushes that name their edges in a namespace, newest first; looked up once per command.
func (x *change) named(namespace string) []*gwv1.PushRecord {
	if found, ok := x.pushes[namespace]; ok {
		return found
	}
	var found []*gwv1.PushRecord
	for r := range reversed[*gwv1.PushRecord](x.tx, tablePushes, byID, nil) {
		n := namespaceIn(r, namespace)
		if n == nil || !n.Released {
			continue
		}
		if n.Counted {
			break
		}
		found = append(found, r)
	}
	if x.pushes == nil {
		x.pushes = map[string][]*gwv1.PushRecord{}
	}
	x.pushes[namespace] = found
	return found
}

// settled reports whether an outcome stays, once the push is no longer the target: that an edge fell back to an older
// release then says nothing of it. A failure does not stay, since the edge may be told to try again, nor a removal, since a
// process that still runs registers again.
func settled(o gwv1.PushOutcome) bool {
	return o == gwv1.PushOutcome_PUSH_OUTCOME_LOADED || o == gwv1.PushOutcome_PUSH_OUTCOME_SUPERSEDED
}

// outcomeOf is what has become of a push at an edge that it names. An edge that says it runs this very release, with
// another checksum, has not loaded it; one that has loaded it and went on has.
func outcomeOf(push *gwv1.PushRecord, named *gwv1.PushEdgeRecord, e *gwv1.EdgeRecord) (gwv1.PushOutcome, *gwv1.LoadFailure) {
	if e == nil || e.Namespace != named.Namespace {
		if settled(named.Outcome) {
			return named.Outcome, nil
		}
		return gwv1.PushOutcome_PUSH_OUTCOME_REMOVED, nil
	}
	switch CompareReleases(e.LoadedEpoch, e.LoadedRelease, push.Epoch, push.Number) {
	case 0:
		if bytes.Equal(e.LoadedChecksum, namespaceIn(push, named.Namespace).GetChecksum()) {
			return gwv1.PushOutcome_PUSH_OUTCOME_LOADED, nil
		}
		return gwv1.PushOutcome_PUSH_OUTCOME_WAITING, nil
	case 1:
		if settled(named.Outcome) {
			return named.Outcome, nil
		}
		return gwv1.PushOutcome_PUSH_OUTCOME_SUPERSEDED, nil
	}
	f := e.Failure
	switch {
	case f == nil || f.Epoch != push.Epoch || f.Release != push.Number:
		return gwv1.PushOutcome_PUSH_OUTCOME_WAITING, nil
	case FinalFailure(f.Code):
		return gwv1.PushOutcome_PUSH_OUTCOME_FAILED, f
	}
	return gwv1.PushOutcome_PUSH_OUTCOME_WAITING, f
}

// FinalFailure reports whether an edge that failed with this code (see ApplyError.code) will not try the release again by
// itself.
func FinalFailure(code string) bool { return code == "compile" || code == "too_old" || code == "probe" }

// CompareReleases orders releases of one namespace: by epoch, then by number. It returns -1, 0 or 1.
func CompareReleases(epochA, a, epochB, b uint64) int {
	return cmp.Or(cmp.Compare(epochA, epochB), cmp.Compare(a, b))
}

func validPush(r *gwv1.PushRecord) string {
	p := first(textProblem("note", r.Note, maxText), actorProblem(r.CreatedBy))
	if p == "" && r.Number == 0 {
		return "a push without a number"
	}
	for i, n := range r.Namespaces {
		p = first(p, edgeNamespaceProblem(n.Namespace), hashProblem("checksum", n.Checksum))
		if i > 0 && p == "" && r.Namespaces[i-1].Namespace == n.Namespace {
			p = fmt.Sprintf("namespace %q stands in a push twice", n.Namespace)
		}
	}
	return p
}

func validPushEdge(r *gwv1.PushEdgeRecord) string {
	p := first(nameProblem("edge ID", r.Edge), edgeNamespaceProblem(r.Namespace), validFailure(r.Failure))
	if p == "" && (r.Push == 0 || r.Outcome == gwv1.PushOutcome_PUSH_OUTCOME_UNSPECIFIED) {
		return "an edge of no push, or without an outcome"
	}
	return p
}

// maxFailureText bounds the message that the registry keeps of why an edge could not load a release.
const maxFailureText = 256

func validFailure(f *gwv1.LoadFailure) string {
	if f == nil {
		return ""
	}
	return first(textProblem("failure's code", f.Code, maxIDLength), textProblem("failure's kind", f.Kind, maxIDLength),
		textProblem("failure's name", f.Name, maxIDLength), textProblem("failure's field", f.Field, maxFailureText),
		textProblem("failure's message", f.Message, maxFailureText))
}

func stampOf(at int64) string { return time.Unix(0, at).UTC().Format(time.RFC3339) }
