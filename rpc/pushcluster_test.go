package rpc

import (
	"fmt"
	"net/http"
	"testing"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/resource"
)

// clusterEdge is an edge that speaks to whichever hub it is told.
type clusterEdge struct {
	t        *testing.T
	client   *http.Client
	session  string
	sequence uint64
}

func (h *testHub) clusterEdge(t *testing.T, id string) *clusterEdge {
	return &clusterEdge{t: t, client: h.enroll(id), session: newID() + newID()}
}

// beat tells a hub what the edge runs.
func (e *clusterEdge) beat(h *testHub, loaded *gwv1.Target, change ...func(*gwv1.HeartbeatRequest)) {
	e.t.Helper()
	e.sequence++
	r := &gwv1.HeartbeatRequest{SessionId: e.session, Sequence: e.sequence, Version: "1", Health: gwv1.Health_HEALTH_OK,
		LoadedEpoch: loaded.Epoch, LoadedRelease: loaded.Number, LoadedChecksum: loaded.Checksum}
	for _, c := range change {
		c(r)
	}
	direct, _ := h.asEdge(e.client)
	_, err := direct.Heartbeat(e.t.Context(), r)
	must(e.t, err)
}

func (h *testHub) pushAll() *gwv1.PushResponse {
	h.t.Helper()
	a, err := h.hub.Releases.Push(h.asAdmin(), &gwv1.PushRequest{})
	must(h.t, err)
	return a
}

func (h *testHub) pushShown(number uint64) *gwv1.GetPushResponse {
	h.t.Helper()
	a, err := h.hub.Releases.GetPush(h.asAdmin(), &gwv1.GetPushRequest{Number: number})
	must(h.t, err)
	return a
}

func (h *testHub) target() *gwv1.Target {
	r, _ := h.store.State().Target(resource.Default)
	return shownTarget(r)
}

// recorded waits until the registry's outcomes of a push are these, by edge.
func (h *testHub) recorded(number uint64, want map[string]gwv1.PushOutcome) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("the record of push %d says %v", number, want), func() bool {
		got := map[string]gwv1.PushOutcome{}
		for e := range h.store.State().PushEdges(number) {
			got[e.Edge] = e.Outcome
		}
		return fmt.Sprint(got) == fmt.Sprint(want)
	})
}

// E4: the leader is killed when one edge has loaded a push, one can't, and one has yet to. The next leader knows the first
// two from the push's record, before they say a word, and follows the third to its end.
func TestE4_APushWhoseLeaderIsKilledIsCarriedOnByTheNext(t *testing.T) {
	hubs := newHubs(t, 3)
	leader := hubs[0]
	token := leader.user("ann", RoleViewer)
	empty := &gwv1.Target{Checksum: resource.EmptyChecksum[:]}
	a, b, c := leader.clusterEdge(t, "a"), leader.clusterEdge(t, "b"), leader.clusterEdge(t, "c")
	for _, e := range []*clusterEdge{a, b, c} {
		e.beat(leader, empty)
	}
	leader.apply("orders")
	number := leader.pushAll().Number
	target := leader.target()
	a.beat(leader, target)
	b.beat(leader, empty, func(r *gwv1.HeartbeatRequest) {
		r.ApplyError = &gwv1.ApplyError{Epoch: target.Epoch, Release: number, Kind: "API", Name: "orders", Field: "spec.x", Code: "too_old", Message: "unknown field"}
	})
	leader.recorded(number, map[string]gwv1.PushOutcome{"a": gwv1.PushOutcome_PUSH_OUTCOME_LOADED,
		"b": gwv1.PushOutcome_PUSH_OUTCOME_FAILED, "c": gwv1.PushOutcome_PUSH_OUTCOME_WAITING})
	leader.kill()

	next := byRole(t, hubs[1:])[0]
	releases := gwv1connect.NewReleaseServiceClient(next.web(), next.admin, bearer(token))
	stream, err := releases.WatchPush(t.Context(), &gwv1.WatchPushRequest{Number: number})
	must(t, err)
	defer stream.Close()
	if !stream.Receive() {
		t.Fatalf("the next leader doesn't follow the push: %v", stream.Err())
	}
	if m := stream.Msg(); m.Edges != 3 || m.Loaded != 1 || m.Failed != 1 || m.Waiting != 1 || m.Offline != 0 {
		t.Errorf("before anybody was heard: %v", m)
	}
	if got, want := edgesOf(next.pushShown(number)), "b failed, c waiting, a loaded"; got != want {
		t.Errorf("before anybody was heard: %s, want %s", got, want)
	}
	c.beat(next, target)
	var last *gwv1.WatchPushResponse
	for stream.Receive() {
		last = stream.Msg()
	}
	if stream.Err() != nil || last.GetLoaded() != 2 || last.GetFailed() != 1 || last.GetWaiting() != 0 {
		t.Errorf("in the end: %v, %v", last, stream.Err())
	}
	next.recorded(number, map[string]gwv1.PushOutcome{"a": gwv1.PushOutcome_PUSH_OUTCOME_LOADED,
		"b": gwv1.PushOutcome_PUSH_OUTCOME_FAILED, "c": gwv1.PushOutcome_PUSH_OUTCOME_LOADED})
	// The failed one is told to try again, and does better.
	b.beat(next, target)
	next.recorded(number, map[string]gwv1.PushOutcome{"a": gwv1.PushOutcome_PUSH_OUTCOME_LOADED,
		"b": gwv1.PushOutcome_PUSH_OUTCOME_LOADED, "c": gwv1.PushOutcome_PUSH_OUTCOME_LOADED})
}

// E4, E6.4: a hub restored from an old backup doesn't show as in sync an edge that runs what was pushed since, and the next
// push reaches it under a number that is higher than any before.
func TestE4_AfterARestoreEdgesAreAheadUntilTheNextPush(t *testing.T) {
	h := foundHub(t)
	token := h.user("ann", RoleAdmin)
	e := h.clusterEdge(t, "e1")
	e.beat(h, &gwv1.Target{Checksum: resource.EmptyChecksum[:]})
	h.apply("kept")
	first := h.pushAll().Number
	old := h.target()
	e.beat(h, old)
	h.recorded(first, map[string]gwv1.PushOutcome{"e1": gwv1.PushOutcome_PUSH_OUTCOME_LOADED})
	backup := h.backup(token, false)
	h.apply("lost")
	second := h.pushAll().Number
	newer := h.target()
	e.beat(h, newer)
	shown := func() *gwv1.Edge {
		a, err := h.hub.Fleet.GetEdge(h.asAdmin(), &gwv1.GetEdgeRequest{Id: "e1"})
		must(t, err)
		return a.Edge
	}
	if got := shown(); got.Sync != gwv1.Sync_SYNC_IN_SYNC {
		t.Fatalf("before: %v %q", got.Sync, got.SyncReason)
	}

	_, err := h.restore(token, backup, false)
	must(t, err)
	e.beat(h, newer)
	if got := shown(); got.Sync != gwv1.Sync_SYNC_STALE || got.TargetRelease != first {
		t.Errorf("restored: %v %q, target %d", got.Sync, got.SyncReason, got.TargetRelease)
	}
	if _, ok := h.store.State().Push(second); ok {
		t.Errorf("the state of before push %d knows it", second)
	}
	if got := edgesOf(h.pushShown(first)); got != "e1 loaded" {
		t.Errorf("what was recorded before the backup: %s", got)
	}
	third := h.pushAll().Number
	if third <= second {
		t.Errorf("push %d after push %d", third, second)
	}
	if got := shown(); got.Sync != gwv1.Sync_SYNC_PENDING {
		t.Errorf("pushed: %v %q", got.Sync, got.SyncReason)
	}
	if got := edgesOf(h.pushShown(third)); got != "e1 waiting" {
		t.Errorf("push %d: %s, want e1 waiting", third, got)
	}
	e.beat(h, h.target())
	if got := shown(); got.Sync != gwv1.Sync_SYNC_IN_SYNC {
		t.Errorf("loaded: %v %q", got.Sync, got.SyncReason)
	}
	h.recorded(third, map[string]gwv1.PushOutcome{"e1": gwv1.PushOutcome_PUSH_OUTCOME_LOADED})
}
