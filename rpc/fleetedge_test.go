package rpc

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
	"gw/rpc/latency"
)

func (h *harness) edgeShown(id string) *gwv1.GetEdgeResponse {
	h.t.Helper()
	a, err := h.hub.Fleet.GetEdge(h.as(RoleViewer), &gwv1.GetEdgeRequest{Id: id})
	must(h.t, err)
	return a
}

func (h *harness) revoke(id string) {
	h.t.Helper()
	_, err := h.hub.Fleet.RevokeEdge(h.as(RoleAdmin), &gwv1.RevokeEdgeRequest{Id: id})
	must(h.t, err)
}

// everyCall is what an edge can ask with its certificate.
func everyCall(t *testing.T, e *testEdge, client gwv1connect.EdgeServiceClient) map[string]error {
	t.Helper()
	ctx := t.Context()
	errs := map[string]error{}
	_, errs["Heartbeat"] = client.Heartbeat(ctx, &gwv1.HeartbeatRequest{SessionId: e.session})
	_, errs["FetchSecrets"] = client.FetchSecrets(ctx, &gwv1.FetchSecretsRequest{})
	_, errs["ValidateToken"] = client.ValidateToken(ctx, &gwv1.ValidateTokenRequest{TokenHash: make([]byte, 32)})
	_, errs["RenewCertificate"] = client.RenewCertificate(ctx, &gwv1.RenewCertificateRequest{Csr: enrolment(t, identity.JoinToken{}, "x").Csr})
	_, errs["Goodbye"] = client.Goodbye(ctx, &gwv1.GoodbyeRequest{SessionId: e.session})
	w, err := client.Watch(ctx, &gwv1.WatchRequest{SessionId: e.session})
	must(t, err)
	w.Receive()
	errs["Watch"] = w.Err()
	w.Close()
	f, err := client.FetchRelease(ctx, &gwv1.FetchReleaseRequest{})
	must(t, err)
	f.Receive()
	errs["FetchRelease"] = f.Err()
	f.Close()
	return errs
}

// E3.73: one command refuses every call, on open connections too, and is shown as a state.
func TestARevokedEdgeIsRefusedEverywhereAtOnce(t *testing.T) {
	h := newHarness(t)
	e, other := h.enroll("default", "e1"), h.enroll("default", "e2")
	e.beat(t, h.target("default"))
	other.beat(t, h.target("default"))
	w := e.watch(t, h.caughtUp())
	w.next()
	h.clock.advance(time.Second)
	h.revoke("e1")
	if w.stream.Receive() {
		t.Fatalf("the stream goes on with %v", w.stream.Msg())
	}
	h.refused(w.stream.Err(), connect.CodePermissionDenied, ReasonRevoked, "edge e1 was revoked by admin")
	for name, err := range everyCall(t, e, e.EdgeServiceClient) {
		t.Run(name, func(t *testing.T) { h.refused(err, connect.CodePermissionDenied, ReasonRevoked, "fresh join token") })
	}
	for name, err := range everyCall(t, e, h.reconnected(e)) {
		t.Run(name+" on a new connection", func(t *testing.T) { h.refused(err, connect.CodePermissionDenied, ReasonRevoked, "") })
	}
	other.beat(t, h.target("default")) // which is another's business

	h.clock.advance(4 * time.Second)
	got := h.edgeShown("e1").Edge
	if got.Connection != gwv1.Connection_CONNECTION_DISCONNECTED || !strings.HasPrefix(got.ConnectionReason, "revoked by admin 4s ago") || got.RevokedBy != "admin" {
		t.Errorf("shown as %v: %q, by %q", got.Connection, got.ConnectionReason, got.RevokedBy)
	}
	list, err := h.hub.Fleet.ListEdges(h.as(RoleViewer), &gwv1.ListEdgesRequest{})
	must(t, err)
	if list.Summary.Revoked != 1 || list.Summary.Disconnected != 1 || list.Summary.Connected != 1 {
		t.Errorf("counted as %v", list.Summary)
	}
	if a := h.store.State().Audit(); !slices.ContainsFunc(slices.Collect(a), func(r *gwv1.AuditRecord) bool {
		return r.Action == "revoke_edge" && r.Object == "edge/e1" && r.Actor == "admin"
	}) {
		t.Error("not audited")
	}
}

func TestARevokedEdgeThatEnrolsAgainIsANewOne(t *testing.T) {
	h := newHarness(t)
	kept := h.joinToken("default", func(r *gwv1.CreateJoinTokenRequest) {
		r.Labels, r.Ttl = map[string]string{"zone": "a"}, durationpb.New(24*time.Hour)
	})
	old := h.enrollWith(kept, "e1")
	h.apply(api("default", "a", "/a"))
	h.push()
	old.beat(t, h.target("default"))
	must(t, h.hub.core.recordEdges(h.as(RoleAdmin)))
	h.clock.advance(time.Hour)
	h.revoke("e1")
	_, err := h.enroller().Enroll(t.Context(), enrolment(t, kept, "e1"))
	h.refused(err, connect.CodePermissionDenied, ReasonRevoked, "made since")
	fresh := h.enroll("default", "e1")
	r, _ := h.store.State().Edge("e1")
	if r.FirstSeen != h.clock.now().UnixNano() || len(r.Labels) != 0 || r.LoadedRelease != 0 {
		t.Errorf("registered as %v", r)
	}
	fresh.beat(t, h.target("default"))
	if got := h.edgeShown("e1").Edge; got.Connection != gwv1.Connection_CONNECTION_CONNECTED || got.RevokedAt != nil {
		t.Errorf("shown as %v: %q", got.Connection, got.ConnectionReason)
	}
	_, err = old.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: old.session})
	h.refused(err, connect.CodePermissionDenied, ReasonRevoked, "")
	// A renewed certificate is as good, and its revocation as thorough.
	a, err := fresh.RenewCertificate(t.Context(), &gwv1.RenewCertificateRequest{Csr: enrolment(t, identity.JoinToken{}, "x").Csr})
	must(t, err)
	renewed, err := x509.ParseCertificate(a.Certificate)
	must(t, err)
	_, err = h.hub.Edges.FetchSecrets(h.calls(renewed), &gwv1.FetchSecretsRequest{})
	must(t, err)
	h.revoke("e1")
	_, err = h.hub.Edges.FetchSecrets(h.calls(renewed), &gwv1.FetchSecretsRequest{})
	h.refused(err, connect.CodePermissionDenied, ReasonRevoked, "")
	// So is one whose renewal is asked for while the revocation is made: it has the lineage of the one it comes from.
	if got := identity.LineageOf(renewed); got == 0 || h.store.State().Revoked("e1", got) == nil {
		t.Errorf("lineage %x of a renewed certificate", got)
	}
}

// The join token is used up and has ended, which a repetition isn't asked about.
func TestARevokedEdgeDoesNotComeBackByRepeatingItsEnrolment(t *testing.T) {
	h := newHarness(t)
	kept := h.joinToken("default", func(r *gwv1.CreateJoinTokenRequest) { r.Unlimited, r.MaxUses = false, 1 })
	first := enrolment(t, kept, "e1")
	_, err := h.enroller().Enroll(t.Context(), first)
	must(t, err)
	h.revoke("e1")
	_, err = h.enroller().Enroll(t.Context(), first)
	h.refused(err, connect.CodePermissionDenied, ReasonRevoked, "made since")
	h.enroll("default", "e1") // its replacement
	_, err = h.enroller().Enroll(t.Context(), first)
	h.refused(err, connect.CodePermissionDenied, ReasonRevoked, "made since")
	if got := h.edgeShown("e1").Edge; got.RevokedAt != nil {
		t.Errorf("the replacement is shown as revoked: %v", got)
	}
}

// Who takes an ID in another namespace doesn't take its past.
func TestTheTimelineOfAnIDStaysInItsNamespace(t *testing.T) {
	h := newHarness(t)
	h.enroll("a", "e1")
	_, err := h.hub.Fleet.SetEdgeLabels(h.as(RoleAdmin), &gwv1.SetEdgeLabelsRequest{Id: "e1", Set: map[string]string{"customer": "4711"}})
	must(t, err)
	_, err = h.hub.Fleet.RemoveEdge(h.as(RoleAdmin), &gwv1.RemoveEdgeRequest{Id: "e1"})
	must(t, err)
	h.enroll("a", "e1")
	if got := h.edgeShown("e1"); !strings.Contains(got.String(), "4711") {
		t.Errorf("its own past is gone: %v", got.Events)
	}
	_, err = h.hub.Fleet.RemoveEdge(h.as(RoleAdmin), &gwv1.RemoveEdgeRequest{Id: "e1"})
	must(t, err)
	h.enroll("b", "e1")
	got, err := h.hub.Fleet.GetEdge(h.as(RoleViewer, "b"), &gwv1.GetEdgeRequest{Id: "e1"})
	must(t, err)
	if len(got.Events) != 1 || got.Events[0].Kind != gwv1.EdgeEventKind_EDGE_EVENT_KIND_ENROLLED {
		t.Errorf("shown what happened elsewhere: %v", got.Events)
	}
}

func TestARevokedCertificateThatEndedIsNotRenewed(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	h.clock.advance(CertificateTTL + time.Hour)
	h.revoke("e1")
	_, err := h.reconnected(e).RenewCertificate(t.Context(), &gwv1.RenewCertificateRequest{Csr: enrolment(t, identity.JoinToken{}, "x").Csr})
	h.refused(err, connect.CodePermissionDenied, ReasonRevoked, "")
}

func TestRevokingAndRemovingDoesNotLetTheProcessRegisterAgain(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	e.beat(t, h.target("default"))
	h.revoke("e1")
	_, err := h.hub.Fleet.RemoveEdge(h.as(RoleAdmin), &gwv1.RemoveEdgeRequest{Id: "e1"})
	must(t, err)
	_, err = e.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: e.session})
	h.refused(err, connect.CodePermissionDenied, ReasonRevoked, "")
	_, err = h.hub.Fleet.GetEdge(h.as(RoleViewer), &gwv1.GetEdgeRequest{Id: "e1"})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "")
}

// E6.13
func TestE6_13DeadEdgesAreForgettable(t *testing.T) {
	h := newHarness(t)
	h.enroll("default", "dead")
	alive := h.enroll("default", "alive")
	alive.beat(t, h.target("default"))
	short := h.enrollWith(h.joinToken("default", func(r *gwv1.CreateJoinTokenRequest) { r.Ephemeral = true }), "ephemeral")
	short.beat(t, h.target("default"))
	remove := func(id string) error {
		_, err := h.hub.Fleet.RemoveEdge(h.as(RoleAdmin), &gwv1.RemoveEdgeRequest{Id: id})
		return err
	}
	must(t, remove("dead"))
	h.refused(remove("dead"), connect.CodeNotFound, ReasonNotFound, "")
	// One that still runs comes back by itself, and its timeline says so.
	must(t, remove("alive"))
	alive.beat(t, h.target("default"))
	must(t, h.hub.core.recordEdges(h.as(RoleAdmin)))
	var kinds []string
	for _, e := range h.edgeShown("alive").Events {
		kinds = append(kinds, strings.TrimPrefix(e.Kind.String(), "EDGE_EVENT_KIND_"))
	}
	if got := fmt.Sprint(kinds); !strings.Contains(got, "REGISTERED_AGAIN REMOVED ENROLLED") {
		t.Errorf("timeline of one that was removed and still runs: %v", got)
	}
	// Ephemeral ones are forgotten after a day away, others never.
	h.clock.advance(24*time.Hour - time.Second)
	must(t, h.hub.core.purgeEdges(h.as(RoleAdmin)))
	if _, ok := h.store.State().Edge("ephemeral"); !ok {
		t.Error("forgotten before a day was over")
	}
	h.clock.advance(time.Second)
	must(t, h.hub.core.purgeEdges(h.as(RoleAdmin)))
	_, there := h.store.State().Edge("ephemeral")
	_, named := h.store.State().Edge("alive")
	if there || !named {
		t.Errorf("after a day: ephemeral %v, named %v", there, named)
	}
}

// A retry reaches an edge that is away when it is back, and is the same value at every reconnect.
func TestARetryReachesAnEdgeThatIsAwayAndIsNotAskedTwice(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	if got := e.beat(t, h.target("default")).Retry; got != 0 {
		t.Errorf("nobody asked: retry %d", got)
	}
	w := e.watch(t, h.caughtUp())
	w.next()
	retry := func() {
		t.Helper()
		_, err := h.hub.Fleet.RetryEdge(h.as(RoleOperator), &gwv1.RetryEdgeRequest{Id: "e1"})
		must(t, err)
	}
	retry()
	first := w.next().GetTick().GetRetry() // at once, not with the next tick
	if first == 0 {
		t.Fatal("an edge that watches isn't told")
	}
	w.close()
	retry()
	again := h.reconnected(e)
	var second uint64
	for range 3 {
		s, err := again.Watch(t.Context(), &gwv1.WatchRequest{SessionId: e.session})
		must(t, err)
		for s.Receive() && s.Msg().GetTick() == nil {
		}
		got := s.Msg().GetTick().GetRetry()
		s.Close()
		if second == 0 {
			second = got
		}
		if got != second || got <= first {
			t.Errorf("reconnected: retry %d after %d and %d", got, first, second)
		}
	}
	if got := e.beat(t, h.target("default")).Retry; got != second {
		t.Errorf("by a heartbeat: retry %d, want %d", got, second)
	}
	_, err := h.hub.Fleet.RetryEdge(h.as(RoleOperator), &gwv1.RetryEdgeRequest{Id: "nobody"})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "")
}

func TestLabelsOfAnEdgeAreSetAndShown(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	e.beat(t, h.target("default"))
	_, err := h.hub.Fleet.SetEdgeLabels(h.as(RoleAdmin), &gwv1.SetEdgeLabelsRequest{Id: "e1", Set: map[string]string{"zone": "a", "tier": "1"}})
	must(t, err)
	a, err := h.hub.Fleet.SetEdgeLabels(h.as(RoleAdmin), &gwv1.SetEdgeLabelsRequest{Id: "e1", Set: map[string]string{"zone": "b"}, Remove: []string{"tier"}})
	must(t, err)
	h.enroll("default", "e2").beat(t, h.target("default"))
	for name, c := range map[string]struct {
		r    *gwv1.ListEdgesRequest
		want uint32
	}{
		"the label":     {&gwv1.ListEdgesRequest{Labels: map[string]string{"zone": "b"}}, 1},
		"another value": {&gwv1.ListEdgesRequest{Labels: map[string]string{"zone": "a"}}, 0},
		"one it hasn't": {&gwv1.ListEdgesRequest{Labels: map[string]string{"zone": "b", "tier": ""}}, 0},
		"as text":       {&gwv1.ListEdgesRequest{Query: "ZONE=b"}, 1},
	} {
		list, err := h.hub.Fleet.ListEdges(h.as(RoleViewer), c.r)
		must(t, err)
		if list.Total != c.want || list.Summary.Edges != 2 {
			t.Errorf("%s: %d of %d edges, want %d of 2", name, list.Total, list.Summary.Edges, c.want)
		}
	}
	if fmt.Sprint(a.Labels) != "map[zone:b]" || fmt.Sprint(h.edgeShown("e1").Edge.Labels) != "map[zone:b]" {
		t.Errorf("labels %v, shown %v", a.Labels, h.edgeShown("e1").Edge.Labels)
	}
	_, err = h.hub.Fleet.SetEdgeLabels(h.as(RoleAdmin, "eu"), &gwv1.SetEdgeLabelsRequest{Id: "e1", Set: map[string]string{"x": "y"}})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "")
}

func TestAnEdgesActivityComesFromTwoHeartbeats(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	e.beat(t, h.target("default"))
	if a := h.edgeShown("e1").Activity; a != nil {
		t.Errorf("not reported yet: %v", a)
	}
	vitals := func(uptime time.Duration, requests uint64, errors uint64, counts ...uint64) func(*gwv1.HeartbeatRequest) {
		return func(r *gwv1.HeartbeatRequest) {
			r.Vitals = &gwv1.Vitals{UptimeMs: uint64(uptime.Milliseconds()), RequestsTotal: requests, ErrorsTotal: errors, Latency: counts,
				CpuSecondsTotal: uptime.Seconds() / 2, Cpus: 2, Goroutines: 40, RssBytes: 30 << 20}
		}
	}
	e.beat(t, h.target("default"), vitals(10*time.Second, 100, 0, 100))
	if a := h.edgeShown("e1").Activity; a.GetRates() != nil || a.GetVitals().GetGoroutines() != 40 {
		t.Errorf("after one: %v", a)
	}
	e.beat(t, h.target("default"), vitals(40*time.Second, 400, 30, 250, 150))
	a := h.edgeShown("e1").Activity
	if r := a.GetRates(); r.GetRequestsPerSecond() != 10 || r.GetErrorRatio() != 0.1 || r.GetCpuRatio() != 0.25 ||
		r.GetWindow().AsDuration() != 30*time.Second || r.GetP50() == nil || r.GetP99().AsDuration() > latency.Bound(1) {
		t.Errorf("after two: %v", r)
	}
	list, err := h.hub.Fleet.ListEdges(h.as(RoleViewer), &gwv1.ListEdgesRequest{})
	must(t, err)
	if s := list.Summary; s.Reporting != 1 || s.RequestsPerSecond != 10 || s.ErrorsPerSecond != 1 {
		t.Errorf("of the fleet: %v", s)
	}
}

func TestAnEdgeBehindOnAccessIsShownSo(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	_, token := h.app("default", "web")
	_, foreign := h.app("eu", "web")
	now := h.store.State().Cluster().AccessVersion
	at := func(version uint64) func(*gwv1.HeartbeatRequest) {
		return func(r *gwv1.HeartbeatRequest) { r.AccessVersion = version }
	}
	e.beat(t, h.target("default"), at(now))
	if got := h.edgeShown("e1").Edge; got.AccessBehind != 0 || got.AccessReset {
		t.Errorf("up to date: behind by %d, reset %v", got.AccessBehind, got.AccessReset)
	}
	for _, c := range []*gwv1.CreateTokenResponse{token, foreign} {
		_, err := h.hub.Access.RevokeToken(h.as(RoleAdmin), &gwv1.RevokeTokenRequest{Token: c.Token.Id})
		must(t, err)
	}
	if got := h.edgeShown("e1").Edge; got.AccessBehind != 1 || got.AccessReset {
		t.Errorf("after a revocation here and one elsewhere: behind by %d, reset %v", got.AccessBehind, got.AccessReset)
	}
	e.beat(t, h.target("default"), at(now+1000))
	if got := h.edgeShown("e1").Edge; !got.AccessReset {
		t.Error("ahead of this cluster, and not said to start anew")
	}
}

// E6.11, the hubs' part: no hub answers when renewal is due and when the certificate ends; then it is renewed all the same.
func TestE6_11ACertificateWhoseRenewalFoundNoHubIsRenewedAfterItsEnd(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	e.beat(t, h.target("default"))
	h.clock.advance(CertificateTTL - 4*time.Hour + time.Second)
	e.beat(t, h.target("default"))
	if got := h.edgeShown("e1").Edge; got.Health != gwv1.Health_HEALTH_DEGRADED || !strings.Contains(got.HealthReason, "its certificate ends in 3h59m59s") {
		t.Errorf("4 h before its end: %v %q", got.Health, got.HealthReason)
	}
	h.clock.advance(89 * 24 * time.Hour)
	key, err := identity.NewKey()
	must(t, err)
	csr, err := identity.NewCSR(key)
	must(t, err)
	a, err := h.reconnected(e).RenewCertificate(t.Context(), &gwv1.RenewCertificateRequest{Csr: csr})
	must(t, err)
	e.shows = &tls.Certificate{Certificate: [][]byte{a.Certificate}, PrivateKey: key}
	client := h.reconnected(e)
	_, err = client.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: e.session, Sequence: 9, Health: gwv1.Health_HEALTH_OK})
	must(t, err)
	must(t, h.hub.core.recordEdges(h.as(RoleAdmin)))
	got := h.edgeShown("e1")
	if got.Edge.Health != gwv1.Health_HEALTH_OK || got.Edge.CertificateNotAfter.AsTime().Sub(h.clock.now()) != CertificateTTL {
		t.Errorf("renewed: %v %q until %v", got.Edge.Health, got.Edge.HealthReason, got.Edge.CertificateNotAfter.AsTime())
	}
	if !slices.ContainsFunc(got.Events, func(e *gwv1.EdgeEvent) bool {
		return e.Kind == gwv1.EdgeEventKind_EDGE_EVENT_KIND_CERTIFICATE_RENEWED
	}) {
		t.Errorf("not in its timeline: %v", got.Events)
	}
}

// E6.4: a status that was reached is not held on to, whatever changes: what is saved, what is pushed, what the edge runs.
func TestE6_04SuccessIsNotLatched(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	h.apply(api("default", "a", "/a"))
	h.push()
	first := h.target("default")
	e.beat(t, first)
	if got := h.edgeShown("e1").Edge; got.Sync != gwv1.Sync_SYNC_IN_SYNC {
		t.Fatalf("%v %q", got.Sync, got.SyncReason)
	}
	h.apply(api("default", "b", "/b"))
	if got := h.edgeShown("e1").Edge; got.Sync != gwv1.Sync_SYNC_PENDING {
		t.Errorf("saved and not pushed: %v %q", got.Sync, got.SyncReason)
	}
	h.push()
	if got := h.edgeShown("e1").Edge; got.Sync != gwv1.Sync_SYNC_PENDING || !strings.Contains(got.SyncReason, "on its way") {
		t.Errorf("pushed: %v %q", got.Sync, got.SyncReason)
	}
	e.beat(t, h.target("default"))
	if got := h.edgeShown("e1").Edge; got.Sync != gwv1.Sync_SYNC_IN_SYNC {
		t.Errorf("loaded: %v %q", got.Sync, got.SyncReason)
	}
	// The edge's disk is wiped, and it says so.
	e.beat(t, first)
	if got := h.edgeShown("e1").Edge; got.Sync == gwv1.Sync_SYNC_IN_SYNC {
		t.Errorf("fell back to what it had before: %v %q", got.Sync, got.SyncReason)
	}
}
