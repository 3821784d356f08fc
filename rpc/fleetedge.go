package rpc

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/node/fleet"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// GetEdge returns one edge.
func (s *FleetServer) GetEdge(ctx context.Context, r *gwv1.GetEdgeRequest) (*gwv1.GetEdgeResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	record, _ := st.Edge(r.Id)
	live := s.fleet.Live(r.Id)
	if record == nil && live == nil {
		return nil, notFound("edge", r.Id)
	}
	seen := s.newClassifier(st).classify(record, live, r.Id)
	e := seen.shown()
	if !p.sees(e.Namespace) {
		return nil, notFound("edge", r.Id) // as if it weren't there: another namespace's edges are not to be guessed
	}
	answer := &gwv1.GetEdgeResponse{Edge: e, Activity: s.activity(r.Id, live), Events: s.events(st, r.Id)}
	if s.store.Leading() {
		answer.ListeningSince = timestamppb.New(s.fleet.LeaderSince())
	}
	if live != nil && live.Heartbeat != nil {
		e.AccessBehind, e.AccessReset = behind(st, e.Namespace, e.AccessVersion)
	}
	return answer, nil
}

// activity is what an edge does; nil if its heartbeats don't say.
func (s *FleetServer) activity(id string, live *fleet.Live) *gwv1.Activity {
	v := s.fleet.Vitals(id)
	if v == nil {
		return nil
	}
	v.Latency = nil
	a := &gwv1.Activity{Vitals: v}
	if r := live.GetRates(); r != nil {
		a.Rates = shownRates(r)
	}
	return a
}

func shownRates(r *fleet.Rates) *gwv1.Rates {
	shown := &gwv1.Rates{
		Window: durationpb.New(r.Window), RequestsPerSecond: r.Requests, CpuRatio: r.CPU,
		P50: shownQuantile(r.P50), P95: shownQuantile(r.P95), P99: shownQuantile(r.P99),
	}
	if r.Requests > 0 {
		shown.ErrorRatio, shown.RefusedRatio = r.Errors/r.Requests, r.Refused/r.Requests
	}
	return shown
}

func shownQuantile(d time.Duration) *durationpb.Duration {
	if d < 0 {
		return nil
	}
	return durationpb.New(d)
}

// behind counts the access changes after version that edges of a namespace hear of; reset means that they are no longer
// counted, because there are too many or they were long ago.
func behind(st *state.State, namespace string, version uint64) (n uint32, reset bool) {
	records, ok := st.AccessSince(version)
	if !ok {
		return 0, true
	}
	for _, r := range records {
		if shownChange(st, namespace, r) != nil {
			n++
		}
	}
	return n, false
}

// maxEvents is how many events of an edge are shown.
const maxEvents = 32

// events are those of the registry and those the leader heard, newest first.
func (s *FleetServer) events(st *state.State, id string) (events []*gwv1.EdgeEvent) {
	for _, e := range st.Timeline(id) {
		events = append(events, shownEntry(e))
	}
	for _, h := range s.fleet.Heard(id) {
		events = append(events, &gwv1.EdgeEvent{At: timestamppb.New(h.At), Kind: h.Kind, Text: h.Sentence()})
	}
	slices.Reverse(events) // of two at the same time the later one stands first
	slices.SortStableFunc(events, func(a, b *gwv1.EdgeEvent) int { return b.At.AsTime().Compare(a.At.AsTime()) })
	return events[:min(maxEvents, len(events))]
}

// shownEntry words an entry of the registry.
func shownEntry(e *gwv1.TimelineEntry) *gwv1.EdgeEvent {
	shown := &gwv1.EdgeEvent{At: stamp(e.At), Kind: gwv1.EdgeEventKind(e.Event), By: e.By, Release: e.Release}
	shown.Text = sentenceOf(e)
	return shown
}

// sentenceOf says what an entry of the registry means.
func sentenceOf(e *gwv1.TimelineEntry) string {
	with := func(sentence string) string {
		if e.Text == "" {
			return sentence
		}
		return sentence + ": " + e.Text
	}
	switch e.Event {
	case gwv1.TimelineEvent_TIMELINE_EVENT_ENROLLED:
		return with("enrolled")
	case gwv1.TimelineEvent_TIMELINE_EVENT_REGISTERED_AGAIN:
		return "registered again with the certificate it had"
	case gwv1.TimelineEvent_TIMELINE_EVENT_VERSION_CHANGED:
		return with("another version")
	case gwv1.TimelineEvent_TIMELINE_EVENT_RELEASE_LOADED:
		return fmt.Sprintf("loaded release %d", e.Release)
	case gwv1.TimelineEvent_TIMELINE_EVENT_APPLY_FAILED:
		return with(fmt.Sprintf("could not apply release %d", e.Release))
	case gwv1.TimelineEvent_TIMELINE_EVENT_CERTIFICATE_RENEWED:
		return with("certificate renewed")
	case gwv1.TimelineEvent_TIMELINE_EVENT_LABELS_CHANGED:
		return with("labels changed")
	case gwv1.TimelineEvent_TIMELINE_EVENT_NAMESPACE_CHANGED:
		return with("came from another namespace")
	case gwv1.TimelineEvent_TIMELINE_EVENT_REVOKED:
		return "certificates revoked"
	case gwv1.TimelineEvent_TIMELINE_EVENT_REMOVED:
		return with("removed")
	case gwv1.TimelineEvent_TIMELINE_EVENT_RETRY_ASKED:
		return "asked to try its target again"
	}
	return with("something a newer hub knows")
}

// RemoveEdge deletes an edge's entry and ends its streams.
func (s *FleetServer) RemoveEdge(ctx context.Context, r *gwv1.RemoveEdgeRequest) (*gwv1.RemoveEdgeResponse, error) {
	p, err := admit(ctx, r, RoleAdmin)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	record, registered := st.Edge(r.Id)
	live := s.fleet.Live(r.Id)
	_, again := repeated(ctx, st)
	if !registered && live == nil && !again {
		return nil, notFound("edge", r.Id)
	}
	for _, namespace := range []string{record.GetNamespace(), live.GetNamespace()} {
		if namespace != "" && !p.may(RoleAdmin, namespace) {
			return nil, notFound("edge", r.Id) // as GetEdge says it
		}
	}
	if registered || again {
		_, err := s.change(ctx, &gwv1.Command{Body: &gwv1.Command_RemoveEdge{RemoveEdge: &gwv1.RemoveEdgeRecord{Id: r.Id}}})
		if err != nil {
			return nil, err
		}
	}
	if !again { // or a retry would forget the edge that has come back since
		s.fleet.Forget(r.Id)
	}
	return &gwv1.RemoveEdgeResponse{}, nil
}

// anEdge returns an edge that the caller may change. Of one in a namespace the caller may not act in, it says that it isn't
// there, as GetEdge does.
func (s *FleetServer) anEdge(st *state.State, p Principal, role Role, id string) (*gwv1.EdgeRecord, error) {
	record, ok := st.Edge(id)
	switch {
	case ok && p.may(role, record.Namespace):
		return record, nil
	case !ok && p.sees(s.fleet.Live(id).GetNamespace()) && s.fleet.Live(id) != nil:
		return nil, &Error{Reason: ReasonPrecondition, Message: fmt.Sprintf("edge %q is being registered; try again in a few seconds", id)}
	}
	return nil, notFound("edge", id)
}

// RevokeEdge ends every certificate of an edge.
func (s *FleetServer) RevokeEdge(ctx context.Context, r *gwv1.RevokeEdgeRequest) (*gwv1.RevokeEdgeResponse, error) {
	if err := s.changeEdge(ctx, r, RoleAdmin, r.Id, &gwv1.Command{Body: &gwv1.Command_RevokeEdge{RevokeEdge: &gwv1.RevokeEdgeRecord{Id: r.Id}}}); err != nil {
		return nil, err
	}
	return &gwv1.RevokeEdgeResponse{}, nil
}

// RetryEdge makes an edge try its target again.
func (s *FleetServer) RetryEdge(ctx context.Context, r *gwv1.RetryEdgeRequest) (*gwv1.RetryEdgeResponse, error) {
	if err := s.changeEdge(ctx, r, RoleOperator, r.Id, &gwv1.Command{Body: &gwv1.Command_RetryEdge{RetryEdge: &gwv1.RetryEdgeRecord{Id: r.Id}}}); err != nil {
		return nil, err
	}
	return &gwv1.RetryEdgeResponse{}, nil
}

// SetEdgeLabels changes some of an edge's labels.
func (s *FleetServer) SetEdgeLabels(ctx context.Context, r *gwv1.SetEdgeLabelsRequest) (*gwv1.SetEdgeLabelsResponse, error) {
	err := s.changeEdge(ctx, r, RoleAdmin, r.Id, &gwv1.Command{Body: &gwv1.Command_LabelEdge{LabelEdge: &gwv1.LabelEdgeRecord{
		Id: r.Id, Set: r.Set, Remove: r.Remove,
	}}})
	if err != nil {
		return nil, err
	}
	e, _ := s.store.State().Edge(r.Id)
	return &gwv1.SetEdgeLabelsResponse{Labels: e.GetLabels()}, nil
}

// changeEdge has a command about one registered edge applied.
func (s *FleetServer) changeEdge(ctx context.Context, r proto.Message, role Role, id string, c *gwv1.Command) error {
	p, err := admit(ctx, r, role)
	if err != nil {
		return err
	}
	st, err := s.read(ctx)
	if err != nil {
		return err
	}
	if _, err := s.anEdge(st, p, role, id); err != nil {
		return err
	}
	_, err = s.change(ctx, c)
	return err
}
