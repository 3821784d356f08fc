package rpc

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	"gw/node/fleet"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

const (
	defaultPushes = 20
	// maxFailuresShown is how many failures the progress of a push names.
	maxFailuresShown = 100
)

// pushedEdge is one edge that a push is for, as its record and what this leader hears tell together.
type pushedEdge struct {
	record  *gwv1.PushEdgeRecord
	outcome gwv1.EdgeOutcome
	current bool             // the push is still the target of its namespace
	seen    *seen            // nil once there is nothing to wait for
	failure *gwv1.ApplyError // why the edge could not load it, perhaps until it tries again
}

// pushView looks at pushes by one state and the fleet as it is now.
type pushView struct {
	state      *state.State
	principal  Principal
	live       map[string]*fleet.Live
	classifier *classifier
}

func (k *core) viewPushes(st *state.State, p Principal) *pushView {
	return &pushView{state: st, principal: p, live: k.fleet.All(), classifier: k.newClassifier(st)}
}

// find returns a push of which the caller may see a namespace.
func (v *pushView) find(number uint64) (*gwv1.PushRecord, error) {
	r, ok := v.state.Push(number)
	if !ok || !v.visible(r) {
		return nil, notFound("push", fmt.Sprint(number))
	}
	return r, nil
}

func (v *pushView) visible(r *gwv1.PushRecord) bool {
	return slices.ContainsFunc(r.Namespaces, func(n *gwv1.NamespacePush) bool { return n.Released && v.principal.sees(n.Namespace) })
}

// edges are those a push names, of namespaces the caller may see; none once they are only counted.
func (v *pushView) edges(r *gwv1.PushRecord) (all []pushedEdge) {
	of := map[string]pushedIn{}
	for _, n := range r.Namespaces {
		target, _ := v.state.Target(n.Namespace)
		of[n.Namespace] = pushedIn{n.Checksum, target != nil && target.Number == r.Number}
	}
	for e := range v.state.PushEdges(r.Number) {
		if v.principal.sees(e.Namespace) {
			all = append(all, v.edge(r, e, of[e.Namespace]))
		}
	}
	return all
}

// pushedIn is what a push released to a namespace, and whether that is still its target.
type pushedIn struct {
	checksum []byte
	current  bool
}

// edge decides what has become of a push at one edge. What the edge said last stands over what is recorded, which follows
// within a second or so; once the push is no longer the target, an edge that had loaded it has.
func (v *pushView) edge(r *gwv1.PushRecord, e *gwv1.PushEdgeRecord, n pushedIn) pushedEdge {
	p := pushedEdge{record: e, outcome: gwv1.EdgeOutcome(e.Outcome), current: n.current, failure: shownFailure(e)}
	if p.settled() && !n.current {
		return p
	}
	l := v.live[e.Edge]
	if l != nil && l.Namespace == e.Namespace && l.Heartbeat != nil {
		p.hear(r, n.checksum, l.Heartbeat)
	}
	if p.settled() || p.outcome == gwv1.EdgeOutcome_EDGE_OUTCOME_REMOVED {
		return p
	}
	registered, _ := v.state.Edge(e.Edge)
	if registered == nil && l == nil {
		return p
	}
	seen := v.classifier.classify(registered, l, e.Edge)
	p.seen = &seen
	if p.outcome == gwv1.EdgeOutcome_EDGE_OUTCOME_WAITING && p.seen.Connection == gwv1.Connection_CONNECTION_DISCONNECTED {
		p.outcome = gwv1.EdgeOutcome_EDGE_OUTCOME_OFFLINE
	}
	return p
}

// settled reports whether the edge has loaded the push or a later one.
func (e *pushedEdge) settled() bool {
	return e.outcome == gwv1.EdgeOutcome_EDGE_OUTCOME_LOADED || e.outcome == gwv1.EdgeOutcome_EDGE_OUTCOME_SUPERSEDED
}

// hear takes in what the edge said last.
func (e *pushedEdge) hear(r *gwv1.PushRecord, checksum []byte, h *gwv1.HeartbeatRequest) {
	order := state.CompareReleases(h.LoadedEpoch, h.LoadedRelease, r.Epoch, r.Number)
	if order > 0 && e.settled() {
		return
	}
	e.outcome, e.failure = gwv1.EdgeOutcome_EDGE_OUTCOME_WAITING, nil
	switch {
	case order > 0:
		e.outcome = gwv1.EdgeOutcome_EDGE_OUTCOME_SUPERSEDED
		return
	case order == 0 && bytes.Equal(h.LoadedChecksum, checksum):
		e.outcome = gwv1.EdgeOutcome_EDGE_OUTCOME_LOADED
		return
	}
	if f := h.ApplyError; f != nil && f.Epoch == r.Epoch && f.Release == r.Number {
		e.failure = f
		if state.FinalFailure(f.Code) {
			e.outcome = gwv1.EdgeOutcome_EDGE_OUTCOME_FAILED
		}
	}
}

func shownFailure(e *gwv1.PushEdgeRecord) *gwv1.ApplyError {
	f := e.Failure
	if f == nil {
		return nil
	}
	return &gwv1.ApplyError{Epoch: f.Epoch, Release: f.Release, Kind: f.Kind, Name: f.Name, Field: f.Field, Code: f.Code, Message: f.Message,
		At: stamp(e.At)}
}

// reason says in a sentence why an edge is where it is.
func (e pushedEdge) reason(number uint64) string {
	switch e.outcome {
	case gwv1.EdgeOutcome_EDGE_OUTCOME_LOADED:
		if !e.current {
			return fmt.Sprintf("it loaded release %d", number)
		}
		return fmt.Sprintf("it runs release %d", number)
	case gwv1.EdgeOutcome_EDGE_OUTCOME_SUPERSEDED:
		return "it loaded a later release instead"
	case gwv1.EdgeOutcome_EDGE_OUTCOME_REMOVED:
		return "it was removed, or went to another namespace, before it loaded it"
	case gwv1.EdgeOutcome_EDGE_OUTCOME_OFFLINE:
		return "it gets it when it returns: " + e.seen.connectionReason()
	}
	if e.failure != nil {
		return fleet.Culprit(e.failure)
	}
	return e.seen.syncReason()
}

// progress counts where the edges of a push are.
func (v *pushView) progress(r *gwv1.PushRecord) *gwv1.WatchPushResponse {
	answer := &gwv1.WatchPushResponse{Number: r.Number}
	for _, n := range r.Namespaces {
		if !n.Released || !v.principal.sees(n.Namespace) {
			continue
		}
		target, _ := v.state.Target(n.Namespace)
		answer.Superseded = answer.Superseded || target == nil || target.Number != r.Number
		if n.Counted {
			answer.Edges += n.Edges
			answer.Loaded += n.Loaded + n.Superseded
			answer.Failed += n.Failed
		}
	}
	for _, e := range v.edges(r) {
		answer.Edges++
		switch e.outcome {
		case gwv1.EdgeOutcome_EDGE_OUTCOME_LOADED, gwv1.EdgeOutcome_EDGE_OUTCOME_SUPERSEDED:
			answer.Loaded++
		case gwv1.EdgeOutcome_EDGE_OUTCOME_FAILED:
			answer.Failed++
		case gwv1.EdgeOutcome_EDGE_OUTCOME_OFFLINE:
			answer.Offline++
		case gwv1.EdgeOutcome_EDGE_OUTCOME_REMOVED:
			answer.Edges--
		default:
			answer.Waiting++
		}
		if e.failure != nil && len(answer.Failures) < maxFailuresShown {
			answer.Failures = append(answer.Failures, &gwv1.PushFailure{Edge: e.record.Edge, Message: e.reason(r.Number)})
		}
	}
	return answer
}

// summary is a push with its progress, of namespaces the caller may see.
func (v *pushView) summary(r *gwv1.PushRecord) *gwv1.PushSummary {
	s := &gwv1.PushSummary{
		Number: r.Number, Epoch: r.Epoch, CreatedAt: stamp(r.CreatedAt), CreatedBy: r.CreatedBy, Note: r.Note,
		Rollback: r.Rollback, RollbackTo: r.RollbackTo, BreakGlass: r.BreakGlass, Progress: v.progress(r),
	}
	for _, n := range r.Namespaces {
		if v.principal.sees(n.Namespace) {
			s.Namespaces = append(s.Namespaces, &gwv1.PushedNamespace{Namespace: n.Namespace, Released: n.Released, Release: n.Release,
				Checksum: hex.EncodeToString(n.Checksum), Created: n.Created, Updated: n.Updated, Deleted: n.Deleted})
		}
	}
	return s
}

// progress is the progress of a push by a state.
func (s *ReleaseServer) progress(st *state.State, p Principal, number uint64) (*gwv1.WatchPushResponse, error) {
	v := s.viewPushes(st, p)
	r, err := v.find(number)
	if err != nil {
		return nil, err
	}
	return v.progress(r), nil
}

// ListPushes returns kept pushes and rollbacks, newest first.
func (s *ReleaseServer) ListPushes(ctx context.Context, r *gwv1.ListPushesRequest) (*gwv1.ListPushesResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	if r.Namespace != "" {
		if _, err := allow(ctx, RoleViewer, r.Namespace); err != nil {
			return nil, err
		}
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	limit := cmp.Or(int(r.Limit), defaultPushes)
	v := s.viewPushes(st, p)
	answer := &gwv1.ListPushesResponse{}
	for x := range st.Pushes() {
		if len(answer.Pushes) == limit {
			break
		}
		concerns := r.Namespace == "" || slices.ContainsFunc(x.Namespaces, func(n *gwv1.NamespacePush) bool {
			return n.Released && n.Namespace == r.Namespace
		})
		if concerns && v.visible(x) {
			answer.Pushes = append(answer.Pushes, v.summary(x))
		}
	}
	return answer, nil
}

// GetPush returns a push and a page of the edges it is for: those that want attention first.
func (s *ReleaseServer) GetPush(ctx context.Context, r *gwv1.GetPushRequest) (*gwv1.GetPushResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	v := s.viewPushes(st, p)
	record, err := v.find(r.Number)
	if err != nil {
		return nil, err
	}
	edges := v.edges(record)
	slices.SortStableFunc(edges, func(a, b pushedEdge) int { return urgency[a.outcome] - urgency[b.outcome] })
	answer := &gwv1.GetPushResponse{Push: v.summary(record), Total: uint32(len(edges))}
	from := min(int(r.Offset), len(edges))
	for _, e := range edges[from:min(from+cmp.Or(int(r.PageSize), defaultPage), len(edges))] {
		answer.Edges = append(answer.Edges, &gwv1.PushedEdge{Edge: e.record.Edge, Namespace: e.record.Namespace, Outcome: e.outcome,
			Reason: e.reason(r.Number), At: stamp(e.record.At), Error: e.failure})
	}
	return answer, nil
}

// urgency orders outcomes by how much they want attention.
var urgency = map[gwv1.EdgeOutcome]int{
	gwv1.EdgeOutcome_EDGE_OUTCOME_FAILED:     1,
	gwv1.EdgeOutcome_EDGE_OUTCOME_WAITING:    2,
	gwv1.EdgeOutcome_EDGE_OUTCOME_OFFLINE:    3,
	gwv1.EdgeOutcome_EDGE_OUTCOME_REMOVED:    4,
	gwv1.EdgeOutcome_EDGE_OUTCOME_SUPERSEDED: 5,
	gwv1.EdgeOutcome_EDGE_OUTCOME_LOADED:     6,
}
