package state

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

const (
	// keepPushes is how many pushes are remembered, keepNamed in how many of those the edges they are for are named. An
	// edge takes about 200 bytes in each.
	keepPushes = 100
	keepNamed  = 10
)

// Push returns a kept push or rollback by its number.
func (s *State) Push(number uint64) (*gwv1.PushRecord, bool) {
	return one[*gwv1.PushRecord](s.db.Txn(false), tablePushes, byID, pushKey(number))
}

// Pushes are the kept pushes and rollbacks, newest first.
func (s *State) Pushes() iter.Seq[*gwv1.PushRecord] {
	return reversed[*gwv1.PushRecord](s.db.Txn(false), tablePushes, byID, nil)
}

// PushEdges are the edges a push is for, sorted by ID; none for pushes that only count them.
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

// forgetPushes counts the edges of a push instead of naming them when it is no longer among the newest, and drops the
// oldest pushes.
func (x *change) forgetPushes() {
	var old []*gwv1.PushRecord
	i := 0
	for r := range reversed[*gwv1.PushRecord](x.tx, tablePushes, byID, nil) {
		if i++; i > keepPushes || i > keepNamed && !r.Counted {
			old = append(old, r)
		}
	}
	for _, r := range old {
		if !r.Counted {
			x.countPush(r)
		}
	}
	for _, r := range old[max(0, len(old)-max(0, i-keepPushes)):] {
		x.drop(tablePushes, r)
	}
}

func (x *change) countPush(r *gwv1.PushRecord) {
	counted := proto.CloneOf(r)
	counted.Counted = true
	of := make(map[string]*gwv1.NamespacePush, len(counted.Namespaces))
	for _, n := range counted.Namespaces {
		of[n.Namespace] = n
	}
	var named []*gwv1.PushEdgeRecord
	for e := range list[*gwv1.PushEdgeRecord](x.tx, tablePushEdges, byID, pushKey(r.Number)) {
		named = append(named, e)
	}
	for _, e := range named {
		if n := of[e.Namespace]; n != nil {
			switch e.Outcome {
			case gwv1.PushOutcome_PUSH_OUTCOME_LOADED:
				n.Loaded++
			case gwv1.PushOutcome_PUSH_OUTCOME_FAILED:
				n.Failed++
			}
		}
		x.drop(tablePushEdges, e)
	}
	x.put(tablePushes, counted)
}

// noteOutcomes records at the pushes that name an edge what its registry entry, which is nil once it was removed, says
// has become of them.
func (x *change) noteOutcomes(id string, e *gwv1.EdgeRecord) {
	for _, push := range x.named() {
		was, ok := one[*gwv1.PushEdgeRecord](x.tx, tablePushEdges, byID, pushEdgeKey(push.Number, id))
		if !ok || settled(was.Outcome) {
			continue
		}
		outcome, failure := outcomeOf(push, was, e)
		if outcome == was.Outcome && proto.Equal(failure, was.Failure) {
			continue
		}
		x.put(tablePushEdges, &gwv1.PushEdgeRecord{Push: was.Push, Edge: id, Namespace: was.Namespace, Outcome: outcome, At: x.at, Failure: failure})
	}
}

// named are the pushes whose edges are named, newest first; looked up once per command.
func (x *change) named() []*gwv1.PushRecord {
	if x.pushes == nil {
		x.pushes = make([]*gwv1.PushRecord, 0, keepNamed)
		for r := range reversed[*gwv1.PushRecord](x.tx, tablePushes, byID, nil) {
			if r.Counted {
				break
			}
			x.pushes = append(x.pushes, r)
		}
	}
	return x.pushes
}

// settled reports whether nothing an edge does later changes the outcome. A failure is not, since the edge may be told to
// try again, nor a removal, since a process that still runs registers again.
func settled(o gwv1.PushOutcome) bool {
	return o == gwv1.PushOutcome_PUSH_OUTCOME_LOADED || o == gwv1.PushOutcome_PUSH_OUTCOME_SUPERSEDED
}

// outcomeOf is what has become of a push at an edge that it names. An edge that says it runs this very release, with
// another checksum, has not loaded it.
func outcomeOf(push *gwv1.PushRecord, named *gwv1.PushEdgeRecord, e *gwv1.EdgeRecord) (gwv1.PushOutcome, *gwv1.LoadFailure) {
	if e == nil || e.Namespace != named.Namespace {
		return gwv1.PushOutcome_PUSH_OUTCOME_REMOVED, nil
	}
	switch CompareReleases(e.LoadedEpoch, e.LoadedRelease, push.Epoch, push.Number) {
	case 0:
		if bytes.Equal(e.LoadedChecksum, checksumIn(push, named.Namespace)) {
			return gwv1.PushOutcome_PUSH_OUTCOME_LOADED, nil
		}
		return gwv1.PushOutcome_PUSH_OUTCOME_WAITING, nil
	case 1:
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

func checksumIn(push *gwv1.PushRecord, namespace string) []byte {
	for _, n := range push.Namespaces {
		if n.Namespace == namespace {
			return n.Checksum
		}
	}
	return nil
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
