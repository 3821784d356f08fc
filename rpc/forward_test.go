package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"gw/raftstore"
	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

func TestAnyHubServesAndReadsItsWrite(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleAdmin)
	for i, h := range hubs { // the followers may not know the token yet: the leader decides
		for name, options := range map[string][]connect.ClientOption{
			"connect": nil, "json": {connect.WithProtoJSON()}, "grpc": {connect.WithGRPC()}, "grpc-web": {connect.WithGRPCWeb()},
		} {
			id := fmt.Sprintf("api-%d-%s", i, name)
			client := gwv1connect.NewConfigServiceClient(h.web(), h.admin, append(options, bearer(token))...)
			_, err := client.ApplyResources(t.Context(), &gwv1.ApplyResourcesRequest{Resources: []*gwv1.Resource{api("", id, "/"+id)}})
			must(t, err)
			if !h.has(id) {
				t.Errorf("hub %d does not have what was written through it by %s", i, name)
			}
			got, err := client.GetResource(t.Context(), &gwv1.GetResourceRequest{Kind: "API", Name: id})
			must(t, err)
			if got.Resource.Status.UpdatedBy != "ann" {
				t.Errorf("written by %q", got.Resource.Status.UpdatedBy)
			}
		}
	}
}

// An empty message is no bytes at all.
func TestAnAnswerWithoutABodyCarriesTheIndex(t *testing.T) {
	h := foundHub(t)
	token := h.user("ann", RoleAdmin)
	h.post(http.DefaultClient, h.admin, gwv1connect.AccessServiceCreateAppProcedure, token, `{"app":{"name":"web"}}`)
	request, err := proto.Marshal(&gwv1.DeleteAppRequest{Name: "web"})
	must(t, err)
	a, body := h.post(http.DefaultClient, h.admin, gwv1connect.AccessServiceDeleteAppProcedure, token, string(request), "Content-Type", "application/proto")
	if index, err := strconv.ParseUint(a.Header.Get(headerIndex), 10, 64); err != nil || index < h.store.State().Index() || a.StatusCode != 200 || body != "" {
		t.Errorf("got %d %q with index %q at %d", a.StatusCode, body, a.Header.Get(headerIndex), h.store.State().Index())
	}
}

func TestARefusalPassesThroughAFollower(t *testing.T) {
	hubs := newHubs(t, 3)
	leader, follower := hubs[0], hubs[1]
	viewer := leader.user("vic", RoleViewer)
	h := &harness{t: t}
	client := gwv1connect.NewConfigServiceClient(follower.web(), follower.admin, bearer(viewer))
	_, err := client.ApplyResources(t.Context(), &gwv1.ApplyResourcesRequest{Resources: []*gwv1.Resource{api("", "a", "/a")}})
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "vic has the role viewer")
	_, err = client.GetResource(t.Context(), &gwv1.GetResourceRequest{Kind: "API", Name: "none"})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "none")
	nobody := gwv1connect.NewConfigServiceClient(follower.web(), follower.admin, bearer(identity.NewCredential("gwa_")))
	_, err = nobody.GetResource(t.Context(), &gwv1.GetResourceRequest{Kind: "API", Name: "none"})
	h.refused(err, connect.CodeUnauthenticated, ReasonUnauthenticated, "sign in")
}

func TestASignInThroughAFollowerIsKnownThereAndEndsEverywhere(t *testing.T) {
	hubs := newHubs(t, 3)
	hubs[0].user("ann", RoleAdmin)
	f := hubs[1]
	in, err := gwv1connect.NewAccessServiceClient(f.web(), f.admin).SignIn(t.Context(), &gwv1.SignInRequest{User: "ann", Password: password})
	must(t, err)
	if p, err := f.hub.Authenticate(t.Context(), in.BearerToken); err != nil || p.User != "ann" {
		t.Errorf("the follower does not know who signed in through it: %v", err)
	}
	access := gwv1connect.NewAccessServiceClient(f.web(), f.admin, bearer(in.BearerToken))
	_, err = access.SignOut(t.Context(), &gwv1.SignOutRequest{})
	must(t, err)
	_, err = access.WhoAmI(t.Context(), &gwv1.WhoAmIRequest{})
	(&harness{t: t}).refused(err, connect.CodeUnauthenticated, ReasonUnauthenticated, "")
}

func TestTheAuditNamesTheAddressACallCameFrom(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleAdmin)
	a, body := hubs[1].post(http.DefaultClient, hubs[1].admin, gwv1connect.AccessServiceCreateAppProcedure, token, `{"app":{"name":"web"}}`)
	if a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, body)
	}
	for r := range hubs[1].store.State().Audit() {
		if r.Object == "app/web" {
			if r.Actor != "ann" || r.ActorAddress != "127.0.0.1" {
				t.Errorf("by %q from %q", r.Actor, r.ActorAddress)
			}
			return
		}
	}
	t.Error("no audit of it")
}

// forgedHeaders pretend to be a hub that passes on what an admin asks.
func forgedHeaders(t testing.TB) []string {
	t.Helper()
	principal, err := forwarded{user: "mallory", role: RoleAdmin}.encode()
	must(t, err)
	return []string{headerPrincipal, principal, headerForwarded, "1"}
}

func TestAForgedPrincipalIsNotBelieved(t *testing.T) {
	hubs := newHubs(t, 3)
	leader, follower := hubs[0], hubs[1]
	viewer := leader.user("vic", RoleViewer)
	edge := leader.enroll("e1")
	for name, c := range map[string]struct {
		client *http.Client
		base   string
		token  string
		want   string
	}{
		"nobody at the leader":   {http.DefaultClient, leader.admin, "", "unauthenticated"},
		"nobody at a follower":   {http.DefaultClient, follower.admin, "", "unauthenticated"},
		"a viewer at the leader": {http.DefaultClient, leader.admin, viewer, "permission_denied"},
		"a viewer at a follower": {http.DefaultClient, follower.admin, viewer, "permission_denied"},
		"an edge at the leader":  {edge, leader.url(), "", "permission_denied"},
		"an edge at a follower":  {edge, follower.url(), "", "permission_denied"},
		"nobody at the TLS port": {leader.stranger(), leader.url(), "", "permission_denied"},
		"an admin's token there": {leader.stranger(), leader.url(), leader.user("root", RoleAdmin), "permission_denied"},
	} {
		t.Run(name, func(t *testing.T) {
			_, body := leader.post(c.client, c.base, gwv1connect.AccessServicePutSecretProcedure, c.token, `{"name":"k","value":"dg=="}`, forgedHeaders(t)...)
			if !strings.Contains(body, `"code":"`+c.want+`"`) {
				t.Errorf("got %s, want %s", body, c.want)
			}
		})
	}
	for range leader.store.State().Secrets("") {
		t.Error("a secret was saved")
	}
}

// A principal of an edge that another edge, or nobody, forges is not that edge.
func TestAForgedEdgeIsNotBelieved(t *testing.T) {
	hubs := newHubs(t, 3)
	f := forwarded{address: "10.0.0.1:1", edge: &caller{Edge: identity.Edge{ClusterID: hubs[0].ca.ClusterID(), Namespace: "default", ID: "e1"},
		serial: "1", notAfter: time.Now().Add(time.Hour), address: "10.0.0.1:1"}}
	principal, err := f.encode()
	must(t, err)
	for _, h := range hubs[:2] {
		_, body := h.post(h.stranger(), h.url(), gwv1connect.EdgeServiceFetchSecretsProcedure, "", "{}",
			headerPrincipal, principal, headerForwarded, "1", headerProxy, "allow")
		if !strings.Contains(body, ReasonCertificateNeeded) && !strings.Contains(body, "needs an edge's client certificate") {
			t.Errorf("got %s", body)
		}
	}
}

func TestACallIsPassedOnOnce(t *testing.T) {
	hubs := newHubs(t, 3)
	a, b := hubs[1], hubs[2] // neither leads
	principal, err := forwarded{user: "root", role: RoleAdmin}.encode()
	must(t, err)
	client := &http.Client{Transport: a.peers}
	answer, body := a.post(client, b.url(), gwv1connect.AccessServiceCreateAppProcedure, "", `{"app":{"name":"web"}}`,
		headerPrincipal, principal, headerForwarded, "1")
	if answer.Header.Get(headerOutcome) != "again" || !strings.Contains(body, "not_proposed") && !strings.Contains(body, "does not lead") {
		t.Errorf("got %v %s", answer.Header, body)
	}
	// Without the mark it is no passed-on call, and such a port takes no admin calls.
	_, body = a.post(client, b.url(), gwv1connect.AccessServiceCreateAppProcedure, "", `{"app":{"name":"web"}}`, headerPrincipal, principal)
	if !strings.Contains(body, "permission_denied") {
		t.Errorf("got %s", body)
	}
	if _, ok := hubs[0].store.State().App(resource.Default, "web"); ok {
		t.Error("the call was passed on twice")
	}
}

func TestARemovedOrUnknownHubPassesNothingOn(t *testing.T) {
	hubs := newHubs(t, 3)
	leader := hubs[0]
	principal, err := forwarded{user: "root", role: RoleAdmin}.encode()
	must(t, err)
	stranger, err := leader.ca.IssueHub(strings.Repeat("a", 32), time.Now(), time.Hour)
	must(t, err)
	gone, err := leader.ca.IssueHub(strings.Repeat("b", 32), time.Now(), time.Hour)
	must(t, err)
	_, err = leader.store.Propose(t.Context(), &gwv1.Command{Body: &gwv1.Command_RemoveHub{RemoveHub: &gwv1.RemoveHubRecord{Id: strings.Repeat("b", 32)}}})
	must(t, err)
	fake := &testHub{t: t, ca: leader.ca}
	for _, c := range []struct {
		name, reason string
		hub          func()
	}{
		{"unknown", "forbidden", func() { fake.certificate.Store(&stranger) }},
		{"removed", "removed", func() { fake.certificate.Store(&gone) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.hub()
			transport := fake.transport("h2")
			defer transport.CloseIdleConnections()
			_, body := leader.post(&http.Client{Transport: transport}, leader.url(), gwv1connect.AccessServiceCreateAppProcedure, "", `{"app":{"name":"web"}}`,
				headerPrincipal, principal, headerForwarded, "1")
			if !strings.Contains(body, `"reason":"`+c.reason+`"`) {
				t.Errorf("got %s", body)
			}
		})
	}
}

func TestACallHeldDuringAnElectionIsServed(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleAdmin)
	eventually(t, "the token is everywhere", func() bool {
		_, err := hubs[1].hub.Authenticate(t.Context(), token)
		return err == nil
	})
	before := hubs[1].store.Term()
	hubs[0].port.sever()
	began := time.Now()
	a, body := hubs[1].post(http.DefaultClient, hubs[1].admin, gwv1connect.ConfigServiceApplyResourcesProcedure, token,
		`{"resources":[{"kind":"API","metadata":{"name":"late"},"spec":{"paths":["/late"],"upstreams":[{"url":"http://127.0.0.1:9"}]}}]}`,
		"Idempotency-Key", "late") // the first try may break on its way to the dead leader
	if a.StatusCode != 200 {
		t.Fatalf("after %v: %d %s", time.Since(began), a.StatusCode, body)
	}
	if !hubs[1].has("late") {
		t.Error("not there at once")
	}
	if hubs[1].store.Term() == before {
		t.Error("served without an election")
	}
	if index, err := strconv.ParseUint(a.Header.Get(headerIndex), 10, 64); err != nil || index == 0 {
		t.Errorf("%s: %q", headerIndex, a.Header.Get(headerIndex))
	}
	t.Logf("served %v after the leader's death", time.Since(began))
}

func TestWithoutAMajorityAWriteIsNotProposed(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleAdmin)
	eventually(t, "the token is everywhere", func() bool { _, err := hubs[2].hub.Authenticate(t.Context(), token); return err == nil })
	var wg sync.WaitGroup
	for _, h := range hubs[:2] {
		wg.Go(h.kill)
	}
	wg.Wait()
	last := hubs[2]
	client := gwv1connect.NewAccessServiceClient(last.web(), last.admin, bearer(token))
	began := time.Now()
	_, err := client.CreateApp(t.Context(), &gwv1.CreateAppRequest{App: &gwv1.App{Name: "web"}})
	(&harness{t: t}).refused(err, connect.CodeUnavailable, ReasonNotProposed, "nothing was changed")
	if took := time.Since(began); took < holdTime-time.Second || took > holdTime+3*time.Second {
		t.Errorf("held for %v", took)
	}
	// What it has can be read, with its age.
	a, body := last.post(http.DefaultClient, last.admin, gwv1connect.AccessServiceListAppsProcedure, token, "{}", headerConsistency, "stale")
	age, err := strconv.ParseFloat(a.Header.Get(headerAge), 64)
	if a.StatusCode != 200 || err != nil || age < 1 {
		t.Errorf("stale: %d %s, age %q", a.StatusCode, body, a.Header.Get(headerAge))
	}
	// And how the cluster is.
	a, body = last.post(http.DefaultClient, last.admin, gwv1connect.ClusterServiceGetClusterStatusProcedure, token, "{}")
	if a.StatusCode != 200 || !strings.Contains(body, "no hub leads") || !strings.Contains(body, last.id) {
		t.Errorf("status: %d %s", a.StatusCode, body)
	}
}

func TestStaleIsForReadsOnly(t *testing.T) {
	h := foundHub(t)
	token := h.user("ann", RoleAdmin)
	_, body := h.post(http.DefaultClient, h.admin, gwv1connect.AccessServiceCreateAppProcedure, token, `{"app":{"name":"web"}}`, headerConsistency, "stale")
	if !strings.Contains(body, "invalid_argument") {
		t.Errorf("a stale write: %s", body)
	}
	_, body = h.post(http.DefaultClient, h.admin, gwv1connect.AccessServiceListAppsProcedure, token, `{}`, headerConsistency, "whatever")
	if !strings.Contains(body, "invalid_argument") {
		t.Errorf("an unknown wish: %s", body)
	}
	a, _ := h.post(http.DefaultClient, h.admin, gwv1connect.AccessServiceListAppsProcedure, token, `{}`, headerConsistency, "stale")
	if a.Header.Get(headerAge) != "0.000" {
		t.Errorf("the leader's age is %q", a.Header.Get(headerAge))
	}
}

// The leader dies while it works on a call: whoever passed it on can't know whether it was done.
func TestALeaderLostDuringACallLeavesItsOutcomeUnknown(t *testing.T) {
	hubs := newHubs(t, 3)
	leader, follower := hubs[0], hubs[1]
	token := leader.user("ann", RoleAdmin)
	working := make(chan struct{})
	release := make(chan struct{})
	compile := func(context.Context) {
		close(working)
		<-release
	}
	defer close(release)
	leader.apply("a")
	leader.compile.Store(&compile)
	result := make(chan error, 1)
	client := gwv1connect.NewReleaseServiceClient(follower.web(), follower.admin, bearer(token))
	go func() {
		_, err := client.Push(t.Context(), &gwv1.PushRequest{Scope: &gwv1.Scope{}})
		result <- err
	}()
	<-working
	leader.port.sever()
	(&harness{t: t}).refused(<-result, connect.CodeUnavailable, ReasonUnknownOutcome, "Idempotency-Key")
}

// A leader that steps down while it works on a call answers that it doesn't know: with a key that is asked again, as after
// a broken connection.
func TestAnUnknownOutcomeIsRepeatedWithAKeyOnly(t *testing.T) {
	hubs := newHubs(t, 3)
	unsure := func(w http.ResponseWriter, r *http.Request) {
		noteError(r.Context(), fmt.Errorf("save: %w", raftstore.ErrUnknownOutcome))
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	for name, h := range map[string]*testHub{"at the leader": hubs[0], "at a follower": hubs[1]} {
		for key, want := range map[string]struct{ calls, status int }{"": {1, 503}, "k1": {2, 200}} {
			t.Run(name+", key "+key, func(t *testing.T) {
				calls := 0
				leader := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if calls++; calls == 1 {
						unsure(w, r)
					}
				})
				y := newRelay(h.hub.core)
				y.proxy.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
					w := httptest.NewRecorder()
					newAttempt(w, hubs[0].store, false).serve(leader, r)
					a := w.Result()
					a.Request = r
					return a, nil
				})
				p := y.procedures[gwv1connect.AccessServiceCreateAppProcedure]
				r := httptest.NewRequest("POST", p.path(), strings.NewReader("{}"))
				if key != "" {
					r.Header.Set("Idempotency-Key", key)
				}
				w := httptest.NewRecorder()
				y.serve(w, r, p, leader, forwarded{})
				if calls != want.calls || w.Code != want.status || w.Header().Get(headerOutcome) != "" {
					t.Errorf("%d calls, answered %d %v, want %+v", calls, w.Code, w.Header(), want)
				}
			})
		}
	}
}

// A leader that stands still takes its connections with it only much later, and nobody may be able to succeed it.
func TestACallIsNotHeldForALeaderThatIsNoMore(t *testing.T) {
	hubs := newHubs(t, 3)
	y := newRelay(hubs[1].hub.core)
	y.proxy.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		hubs[0].kill()
		hubs[2].kill()
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	p := y.procedures[gwv1connect.FleetServiceListEdgesProcedure]
	r := httptest.NewRequest("POST", p.path(), strings.NewReader("{}"))
	patience, cancel := context.WithCancel(t.Context())
	cancel()
	end, err := y.there(httptest.NewRecorder(), r, patience, p, &replay{rest: r.Body}, forwarded{}, hubs[0].port.address())
	if end == answered || !errors.Is(err, errNoLeader) {
		t.Errorf("%s: %v", end, err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestOneKeyOneEffectOverAllHubs(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleAdmin)
	put := func(h *testHub) (*http.Response, string) {
		return h.post(http.DefaultClient, h.admin, gwv1connect.AccessServiceCreateAppProcedure, token, `{"app":{"name":"web"}}`, "Idempotency-Key", "k1")
	}
	first, body := put(hubs[1])
	if first.StatusCode != 200 {
		t.Fatalf("%d %s", first.StatusCode, body)
	}
	for i, h := range hubs {
		if a, again := put(h); a.StatusCode != 200 {
			t.Errorf("hub %d: %d %s", i, a.StatusCode, again)
		}
	}
	hubs[0].kill()
	if a, again := put(hubs[2]); a.StatusCode != 200 {
		t.Errorf("after the leader's death: %d %s", a.StatusCode, again)
	}
	creations := 0
	for r := range hubs[2].store.State().Audit() {
		if r.Object == "app/web" {
			creations++
		}
	}
	if creations != 1 {
		t.Errorf("created %d times", creations)
	}
}

func TestAStreamThroughAFollower(t *testing.T) {
	hubs := newHubs(t, 3)
	leader, follower := hubs[0], hubs[1]
	token := leader.user("ann", RoleAdmin)
	leader.apply("a")
	pushed, err := leader.hub.Releases.Push(leader.asAdmin(), &gwv1.PushRequest{Scope: &gwv1.Scope{}})
	must(t, err)
	for name, options := range map[string][]connect.ClientOption{"connect": nil, "grpc": {connect.WithGRPC()}} {
		t.Run(name, func(t *testing.T) {
			client := gwv1connect.NewReleaseServiceClient(follower.web(), follower.admin, append(options, bearer(token))...)
			stream, err := client.WatchPush(t.Context(), &gwv1.WatchPushRequest{Number: pushed.Number})
			must(t, err)
			defer stream.Close()
			if !stream.Receive() || stream.Msg().Number != pushed.Number {
				t.Fatalf("got %v, %v", stream.Msg(), stream.Err())
			}
			if stream.Receive() || stream.Err() != nil {
				t.Errorf("the stream went on, or ended with %v", stream.Err())
			}
		})
	}
}

// A request that is too large to be kept is sent once: it succeeds, or it is said that nothing was changed.
func TestALargeRequestThroughAFollower(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleAdmin)
	large := func(name string) *gwv1.ApplyResourcesRequest {
		r := &gwv1.ApplyResourcesRequest{}
		for i := range 300 {
			id := fmt.Sprintf("%s-%d", name, i)
			var paths []any
			for j := range 25 {
				paths = append(paths, fmt.Sprintf("/%s/%d/%s", id, j, strings.Repeat("x", 200)))
			}
			r.Resources = append(r.Resources, object("API", "", id, map[string]any{
				"paths": paths, "upstreams": []any{map[string]any{"url": "http://127.0.0.1:9"}}}))
		}
		return r
	}
	first := large("a")
	if size := proto.Size(first); size < maxReplay*11/10 {
		t.Fatalf("%d bytes are not large", size)
	}
	for _, client := range []*http.Client{hubs[1].web(), http.DefaultClient} {
		// Saving the same again changes nothing, so it is done again when a slow machine made another hub the leader.
		eventually(t, "the request is taken", func() bool {
			_, err := gwv1connect.NewConfigServiceClient(client, hubs[1].admin, bearer(token)).ApplyResources(t.Context(), first)
			return err == nil
		})
	}
	if !hubs[1].has("a-299") {
		t.Error("not there at once")
	}
	hubs[0].port.sever()
	_, err := gwv1connect.NewConfigServiceClient(hubs[1].web(), hubs[1].admin, bearer(token)).ApplyResources(t.Context(), large("b"))
	if err != nil { // the follower may have heard of the new leader already
		(&harness{t: t}).refused(err, connect.CodeUnavailable, ReasonNotProposed, "nothing was changed")
	}
}

func TestAHubThatHasStoppedSaysSoAtOnce(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleAdmin)
	eventually(t, "the token is everywhere", func() bool { _, err := hubs[1].hub.Authenticate(t.Context(), token); return err == nil })
	hubs[1].store.Halt("of a test")
	began := time.Now()
	_, err := gwv1connect.NewAccessServiceClient(hubs[1].web(), hubs[1].admin, bearer(token)).ListApps(t.Context(), &gwv1.ListAppsRequest{})
	(&harness{t: t}).refused(err, connect.CodeUnavailable, ReasonNotProposed, "of a test")
	if took := time.Since(began); took > holdTime/2 {
		t.Errorf("after %v", took)
	}
	eventually(t, "the status shows it", func() bool {
		s, err := hubs[0].cluster(token).GetClusterStatus(t.Context(), &gwv1.GetClusterStatusRequest{})
		must(t, err)
		return strings.Contains(strings.Join(s.Alarms, "\n"), "has stopped serving") && s.FailureTolerance == 0
	})
}

// Calls in-process, as the console makes them, survive the death of the leader in the middle of a stream.
func TestAnInProcessStreamSurvivesTheLeadersDeath(t *testing.T) {
	hubs := newHubs(t, 3)
	leader, follower := hubs[0], hubs[1]
	token := leader.user("ann", RoleAdmin)
	edge, _ := leader.asEdge(leader.enroll("e1")) // an edge that never loads it keeps the push unfinished
	_, err := edge.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: edgeSession, Sequence: 1, Health: gwv1.Health_HEALTH_OK})
	must(t, err)
	leader.apply("a")
	pushed, err := leader.hub.Releases.Push(leader.asAdmin(), &gwv1.PushRequest{})
	must(t, err)
	envelope := append([]byte{0, 0, 0, 0, 0}, fmt.Sprintf(`{"number":"%d"}`, pushed.Number)...)
	envelope[4] = byte(len(envelope) - 5)
	r := httptest.NewRequest("POST", gwv1connect.ReleaseServiceWatchPushProcedure, bytes.NewReader(envelope))
	r.Header.Set("Content-Type", "application/connect+json")
	r.Header.Set("Authorization", "Bearer "+token)
	// As within a request of the console, where a panic would end the process.
	r = r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, &http.Server{}))
	answer := &firstWrite{ResponseRecorder: httptest.NewRecorder(), begun: make(chan struct{})}
	done := make(chan struct{})
	handler := follower.hub.AdminHandler()
	go func() {
		defer close(done)
		handler.ServeHTTP(answer, r)
	}()
	<-answer.begun
	leader.port.sever()
	<-done
	// The caller sees what came, and that its end, which is marked, did not.
	if body := answer.Body.String(); !strings.Contains(body, fmt.Sprint(pushed.Number)) || strings.Contains(body, "\x02") {
		t.Errorf("got %q", body)
	}
}

// firstWrite tells when something was written.
type firstWrite struct {
	*httptest.ResponseRecorder
	once  sync.Once
	begun chan struct{}
}

func (w *firstWrite) Write(p []byte) (int, error) {
	n, err := w.ResponseRecorder.Write(p)
	w.once.Do(func() { close(w.begun) })
	return n, err
}
