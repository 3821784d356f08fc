package rpc

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	dto "github.com/prometheus/client_model/go"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
)

// proxied asks the hub that is called to pass calls on.
type proxied struct{ http.RoundTripper }

func (p proxied) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(headerProxy, "allow")
	return p.RoundTripper.RoundTrip(r)
}

// asEdge returns clients of a hub with an edge's certificate, without and with leave to pass calls on.
func (h *testHub) asEdge(edge *http.Client) (direct, through gwv1connect.EdgeServiceClient) {
	return gwv1connect.NewEdgeServiceClient(edge, h.url()),
		gwv1connect.NewEdgeServiceClient(&http.Client{Transport: proxied{edge.Transport}}, h.url())
}

const edgeSession = "0123456789abcdef0123456789abcdef"

func TestAnEdgeIsToldWhereTheLeaderIs(t *testing.T) {
	hubs := newHubs(t, 3)
	edge := hubs[0].enroll("e1")
	direct, through := hubs[1].asEdge(edge)
	beat := &gwv1.HeartbeatRequest{SessionId: edgeSession, Sequence: 1, Version: "1", Health: gwv1.Health_HEALTH_OK}
	_, err := direct.Heartbeat(t.Context(), beat)
	refused(t, err, connect.CodeUnavailable, ReasonNotLeader, "")
	detail := (&harness{t: t}).refused(err, connect.CodeUnavailable, ReasonNotLeader, hubs[0].url())
	if detail.LeaderUrl != hubs[0].url() {
		t.Errorf("hint %q, want %q", detail.LeaderUrl, hubs[0].url())
	}
	stream, err := direct.Watch(t.Context(), &gwv1.WatchRequest{SessionId: edgeSession})
	must(t, err)
	if stream.Receive() {
		t.Error("a follower served a stream")
	}
	if d := (&harness{t: t}).refused(stream.Err(), connect.CodeUnavailable, ReasonNotLeader, ""); d.LeaderUrl != hubs[0].url() {
		t.Errorf("hint %q", d.LeaderUrl)
	}
	if _, err := through.Heartbeat(t.Context(), beat); err != nil {
		t.Fatal(err)
	}
	live := hubs[0].fleet.Live("e1")
	if live == nil || !strings.HasPrefix(live.Address, "127.0.0.1:") || live.Certificate.Serial == "" || live.Certificate.NotAfter.Before(time.Now()) {
		t.Errorf("the leader heard %+v", live)
	}
	if hubs[1].fleet.Live("e1") != nil {
		t.Error("the follower remembers the edge")
	}
}

// Between a leader that fell silent and the next one, an edge is held, and not sent where nobody leads.
func TestAnEdgeIsNotSentToALeaderThatIsSilent(t *testing.T) {
	hubs := newHubs(t, 3)
	edge := hubs[0].enroll("e1")
	hubs[0].store.Halt("of a test") // its port is open still, so that it isn't succeeded before it is missed
	eventually(t, "the leader is missed", func() bool { return !hubs[1].store.LeaderHeard() })
	direct, _ := hubs[1].asEdge(edge)
	stream, err := direct.Watch(t.Context(), &gwv1.WatchRequest{SessionId: edgeSession})
	must(t, err)
	defer stream.Close()
	if stream.Receive() {
		return // it leads itself
	}
	// It may have led for a moment, and not know who does.
	if d := (&harness{t: t}).refused(stream.Err(), connect.CodeUnavailable, ReasonNotLeader, ""); d.LeaderUrl != hubs[2].url() && d.LeaderUrl != "" {
		t.Errorf("sent to %q, want %q", d.LeaderUrl, hubs[2].url())
	}
}

// An edge that has no certificate yet, and reaches only a follower, enrols through it.
func TestAnEdgeEnrolsThroughAFollower(t *testing.T) {
	hubs := newHubs(t, 3)
	made, err := hubs[0].hub.Access.CreateJoinToken(hubs[0].asAdmin(), &gwv1.CreateJoinTokenRequest{})
	must(t, err)
	token, err := identity.ParseJoinToken(made.Credential)
	must(t, err)
	request := enrolment(t, token, "e9")
	client := hubs[1].stranger()
	_, err = gwv1connect.NewEdgeServiceClient(client, hubs[1].url()).Enroll(t.Context(), request)
	refused(t, err, connect.CodeUnavailable, ReasonNotLeader, "")
	a, err := gwv1connect.NewEdgeServiceClient(&http.Client{Transport: proxied{client.Transport}}, hubs[1].url()).Enroll(t.Context(), request)
	must(t, err)
	if a.Namespace != "default" {
		t.Errorf("enrolled in %q", a.Namespace)
	}
	if _, ok := hubs[1].store.State().Edge("e9"); !ok {
		t.Error("the follower that passed it on does not know the edge")
	}
}

// E6.9 with real hubs: whoever leads next shows an edge it has not heard as it is, unheard, and never as lost.
func TestE6_09LeadershipThatMovesOnShowsNoEdgeAsLost(t *testing.T) {
	hubs := newHubs(t, 3)
	edge := hubs[0].enroll("e1")
	beat := &gwv1.HeartbeatRequest{SessionId: edgeSession, Sequence: 1, Health: gwv1.Health_HEALTH_OK}
	direct, _ := hubs[0].asEdge(edge)
	_, err := direct.Heartbeat(t.Context(), beat)
	must(t, err)
	shown := func(h *testHub) *gwv1.Edge {
		t.Helper()
		a, err := h.hub.Fleet.GetEdge(h.asAdmin(), &gwv1.GetEdgeRequest{Id: "e1"})
		must(t, err)
		return a.Edge
	}
	if e := shown(hubs[0]); e.Connection != gwv1.Connection_CONNECTION_CONNECTED {
		t.Fatalf("heard: %v %q", e.Connection, e.ConnectionReason)
	}
	for i, next := range []int{1, 2, 0} {
		began := time.Now()
		hubs[(next+2)%3].handOver(hubs[next])
		eventually(t, "the new leader's grace period has begun", func() bool {
			return hubs[next].store.Leading() && hubs[next].fleet.LeaderSince().After(began)
		})
		if e := shown(hubs[next]); e.Connection != gwv1.Connection_CONNECTION_STALE || e.Sync != gwv1.Sync_SYNC_UNKNOWN || !strings.Contains(e.ConnectionReason, "leader changed") {
			t.Errorf("leader %d: %v %q, %v %q", i+2, e.Connection, e.ConnectionReason, e.Sync, e.SyncReason)
		}
	}
	beat.Sequence++
	_, err = direct.Heartbeat(t.Context(), beat)
	must(t, err)
	if e := shown(hubs[0]); e.Connection != gwv1.Connection_CONNECTION_CONNECTED {
		t.Errorf("heard again: %v %q", e.Connection, e.ConnectionReason)
	}
}

func TestARevokedEdgeIsRefusedThroughAFollowerAndByTheNextLeader(t *testing.T) {
	hubs := newHubs(t, 3)
	leader := hubs[0]
	edge := leader.enroll("e1")
	direct, _ := leader.asEdge(edge)
	_, through := hubs[1].asEdge(edge)
	beat := &gwv1.HeartbeatRequest{SessionId: edgeSession, Sequence: 1, Health: gwv1.Health_HEALTH_OK}
	stream, err := through.Watch(t.Context(), &gwv1.WatchRequest{SessionId: edgeSession})
	must(t, err)
	defer stream.Close()
	for stream.Receive() && stream.Msg().GetTick() == nil {
	}
	_, err = through.Heartbeat(t.Context(), beat)
	must(t, err)
	_, err = leader.hub.Fleet.RevokeEdge(leader.asAdmin(), &gwv1.RevokeEdgeRequest{Id: "e1"})
	must(t, err)
	for stream.Receive() {
	}
	refused(t, stream.Err(), connect.CodePermissionDenied, ReasonRevoked, "revoked by")
	renewal := &gwv1.RenewCertificateRequest{Csr: enrolment(t, identity.JoinToken{}, "x").Csr}
	for name, client := range map[string]gwv1connect.EdgeServiceClient{"the leader": direct, "a follower": through} {
		t.Run(name, func(t *testing.T) {
			_, err := client.Heartbeat(t.Context(), beat)
			refused(t, err, connect.CodePermissionDenied, ReasonRevoked, "")
			_, err = client.RenewCertificate(t.Context(), renewal)
			refused(t, err, connect.CodePermissionDenied, ReasonRevoked, "")
			_, err = client.FetchSecrets(t.Context(), &gwv1.FetchSecretsRequest{})
			refused(t, err, connect.CodePermissionDenied, ReasonRevoked, "")
		})
	}
	leader.handOver(hubs[2])
	direct, _ = hubs[2].asEdge(edge)
	eventually(t, "the next leader answers", func() bool {
		_, err := direct.Heartbeat(t.Context(), beat)
		var wire *connect.Error
		return isWire(err, &wire) && detailOf(t, wire).Reason == ReasonRevoked
	})
}

func TestStreamsEndWithTheLeadership(t *testing.T) {
	hubs := newHubs(t, 3)
	leader := hubs[0]
	edge := leader.enroll("e1")
	direct, _ := leader.asEdge(edge)
	_, through := hubs[1].asEdge(edge)
	streams := map[string]*connect.ServerStreamForClient[gwv1.WatchResponse]{}
	for name, client := range map[string]gwv1connect.EdgeServiceClient{"direct": direct, "through a follower": through} {
		s, err := client.Watch(t.Context(), &gwv1.WatchRequest{SessionId: edgeSession})
		must(t, err)
		defer s.Close()
		for s.Receive() && s.Msg().GetTick() == nil {
		}
		if s.Msg().GetTick().GetClusterId() != leader.ca.ClusterID() {
			t.Fatalf("%s: no tick, %v", name, s.Err())
		}
		streams[name] = s
	}
	before := time.Now()
	leader.handOver(hubs[2])
	for name, s := range streams {
		for s.Receive() {
		}
		refused(t, s.Err(), connect.CodeUnavailable, ReasonNotLeader, "")
		if took := time.Since(before); took > TickInterval/2 {
			t.Errorf("%s: the stream ended only after %v", name, took)
		}
	}
	eventually(t, "the new leader's grace period has begun", func() bool { return hubs[2].fleet.LeaderSince().After(before) })
	eventually(t, "the old one has forgotten", func() bool { return leader.fleet.Live("e1") == nil })
	direct, _ = hubs[2].asEdge(edge)
	if _, err := direct.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: edgeSession, Sequence: 2, Health: gwv1.Health_HEALTH_OK}); err != nil {
		t.Error(err)
	}
}

// A read that is content with a follower's state is told what that can't know.
func TestAFollowerSaysThatItHearsNoEdges(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleViewer)
	hubs[0].enroll("e1")
	eventually(t, "the follower knows of the edge and the token", func() bool {
		_, ok := hubs[1].store.State().Edge("e1")
		_, err := hubs[1].hub.Authenticate(t.Context(), token)
		return ok && err == nil
	})
	a, body := hubs[1].post(http.DefaultClient, hubs[1].admin, gwv1connect.FleetServiceListEdgesProcedure, token, "{}", headerConsistency, "stale")
	if a.Header.Get(headerAge) == "" || !strings.Contains(body, "only the leader hears edges") {
		t.Errorf("age %q, %s", a.Header.Get(headerAge), body)
	}
}

func TestMetrics(t *testing.T) {
	hubs := newHubs(t, 3)
	leader, follower := hubs[0], hubs[1]
	token := leader.user("ann", RoleAdmin)
	direct, _ := leader.asEdge(leader.enroll("e1"))
	_, err := direct.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: edgeSession, Sequence: 1, Health: gwv1.Health_HEALTH_OK})
	must(t, err)
	follower.post(http.DefaultClient, follower.admin, gwv1connect.AccessServiceCreateAppProcedure, token, `{"app":{"name":"web"}}`)
	leader.post(http.DefaultClient, leader.admin, gwv1connect.AccessServiceCreateAppProcedure, "", `{}`)
	leader.post(http.DefaultClient, leader.admin, "/gw.v1.AccessService/"+strings.Repeat("x", 100), token, `{}`)

	calls := map[string]string{"service": "gw.v1.AccessService", "method": "CreateApp"}
	with := func(name, value string) map[string]string {
		all := map[string]string{name: value}
		for k, v := range calls {
			all[k] = v
		}
		return all
	}
	for _, c := range []struct {
		hub    *testHub
		name   string
		labels map[string]string
		want   float64
	}{
		{leader, "gw_rpc_requests_total", with("code", "ok"), 1},
		{leader, "gw_rpc_requests_total", with("code", "unauthenticated"), 1},
		{follower, "gw_rpc_requests_total", with("code", "ok"), 0},
		{follower, "gw_rpc_forwarded_total", with("outcome", "answered"), 1},
		{leader, "gw_rpc_duration_seconds", calls, 1},
		{leader, "gw_fleet_edges", map[string]string{"connection": "connected"}, 1},
		{leader, "gw_fleet_edges", map[string]string{"connection": "stale"}, 0},
		{follower, "gw_fleet_edges", map[string]string{"connection": "connected"}, -1},
		{leader, "gw_fleet_sync_edges", map[string]string{"sync": "unknown"}, 1},
		{leader, "gw_fleet_heartbeats_total", nil, 1},
		{leader, "gw_fleet_oldest_unsynced_seconds", nil, 0},
		{follower, "gw_fleet_oldest_unsynced_seconds", nil, -1},
	} {
		// Counted right after the answer was sent.
		eventually(t, fmt.Sprintf("%s%v is %v", c.name, c.labels, c.want), func() bool { return c.hub.metric(c.name, c.labels) == c.want })
	}
	families, err := leader.metrics.Gather()
	must(t, err)
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if strings.Contains(l.GetValue(), "xxx") {
					t.Errorf("%s has the label %s, which a caller chose", f.GetName(), l.GetValue())
				}
			}
		}
	}
}

// metric returns a value, of a histogram its count; -1 if there is none.
func (h *testHub) metric(name string, labels map[string]string) float64 {
	h.t.Helper()
	families, err := h.metrics.Gather()
	must(h.t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			if !labelled(m, labels) {
				continue
			}
			switch {
			case m.Counter != nil:
				return m.Counter.GetValue()
			case m.Histogram != nil:
				return float64(m.Histogram.GetSampleCount())
			}
			return m.Gauge.GetValue()
		}
	}
	return -1
}

func labelled(m *dto.Metric, want map[string]string) bool {
	for _, l := range m.Label {
		if want[l.GetName()] != l.GetValue() {
			return false
		}
	}
	return len(m.Label) == len(want)
}

// E6.4 with a restore: what an edge had reached is not shown as reached after the cluster went back to before it.
func TestE6_04ARestoredClusterShowsAnEdgeAheadUntilTheNextPush(t *testing.T) {
	h := newHubs(t, 1)[0]
	token := h.user("ann", RoleAdmin)
	direct, _ := h.asEdge(h.enroll("e1"))
	sequence := uint64(0)
	loads := func(target *gwv1.Target) {
		t.Helper()
		sequence++
		_, err := direct.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: edgeSession, Sequence: sequence, Health: gwv1.Health_HEALTH_OK,
			LoadedEpoch: target.Epoch, LoadedRelease: target.Number, LoadedChecksum: target.Checksum})
		must(t, err)
	}
	is := func(sync gwv1.Sync, reason string) {
		t.Helper()
		a, err := h.hub.Fleet.GetEdge(h.asAdmin(), &gwv1.GetEdgeRequest{Id: "e1"})
		must(t, err)
		if a.Edge.Sync != sync || !strings.HasPrefix(a.Edge.SyncReason, reason) {
			t.Errorf("got %v %q, want %v %q", a.Edge.Sync, a.Edge.SyncReason, sync, reason)
		}
	}
	push := func() {
		t.Helper()
		_, err := h.hub.Releases.Push(h.asAdmin(), &gwv1.PushRequest{ConfirmRemoval: true})
		must(t, err)
	}
	h.apply("first")
	push()
	backup := h.backup(token, false)
	h.apply("second")
	push()
	target := func() *gwv1.Target {
		r, _ := h.store.State().Target("default")
		return shownTarget(r)
	}
	second := target()
	loads(second)
	is(gwv1.Sync_SYNC_IN_SYNC, "it runs release 2 as saved")
	_, err := h.restore(token, backup, false)
	must(t, err)
	is(gwv1.Sync_SYNC_STALE, "ahead: it runs release 2 of epoch 1")
	loads(second)
	is(gwv1.Sync_SYNC_STALE, "ahead")
	push()
	is(gwv1.Sync_SYNC_PENDING, "on its way: it runs release 2, the target is release 3")
	loads(target())
	is(gwv1.Sync_SYNC_IN_SYNC, "it runs release 3 as saved")
}
