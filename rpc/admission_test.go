package rpc

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
)

func newTestGate(rate float64) (*gate, *clock, prometheus.Counter) {
	c := &clock{}
	c.nanos.Store(time.Now().UnixNano())
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "refused"})
	return newGate(rate, c.now, counter), c, counter
}

// through lets n calls come at once and returns how many were let in, and the last refusal.
func through(g *gate, n int) (in int, last *Error) {
	for range n {
		if e := g.admit(); e == nil {
			in++
		} else {
			last = e
		}
	}
	return in, last
}

func TestAGateLetsInABurstAndThenItsRate(t *testing.T) {
	g, c, counter := newTestGate(100)
	if in, _ := through(g, 1000); in != 200 {
		t.Errorf("at once %d came in, want two seconds' worth", in)
	}
	c.advance(500 * time.Millisecond)
	if in, _ := through(g, 1000); in != 50 {
		t.Errorf("after half a second %d came in, want 50", in)
	}
	c.advance(time.Hour)
	if in, _ := through(g, 1000); in != 200 {
		t.Errorf("after an hour %d came in, want no more than a burst", in)
	}
	m := &dto.Metric{}
	must(t, counter.Write(m))
	if got := m.Counter.GetValue(); got != 800+950+800 {
		t.Errorf("%v were counted as refused, want 2550", got)
	}
	for _, rate := range []float64{0, -1} {
		if g, _, _ := newTestGate(rate); true {
			if in, _ := through(g, 1000); in != 1000 {
				t.Errorf("with a rate of %v %d of 1000 came in", rate, in)
			}
		}
	}
}

func TestThoseTurnedAwayAreSpreadOverTheTimeItTakesToLetThemIn(t *testing.T) {
	g, c, _ := newTestGate(500)
	through(g, 1000)
	_, e := through(g, 1)
	if e == nil || e.RetryAfter != leastWait || e.RetryJitter != leastWait {
		t.Fatalf("the first is told %+v", e)
	}
	_, e = through(g, 8999)
	if e.RetryJitter < 17*time.Second || e.RetryJitter > 19*time.Second {
		t.Errorf("the last of 9000 is told to spread over %v, want about 18s", e.RetryJitter)
	}
	c.advance(10 * time.Second)
	through(g, 1000)
	if _, e = through(g, 1); e.RetryJitter < 7*time.Second || e.RetryJitter > 9*time.Second {
		t.Errorf("ten seconds later it is %v, want about 8s", e.RetryJitter)
	}
	if _, e = through(g, 1_000_000); e.RetryJitter != maxSpread {
		t.Errorf("of a million the last is told %v, want no more than %v", e.RetryJitter, maxSpread)
	}
}

// A fleet that obeys is let in at about the gate's rate, and few are turned away twice.
func TestAFleetThatObeysIsLetInAtTheRate(t *testing.T) {
	g, c, _ := newTestGate(500)
	const edges = 10_000
	due := make([]time.Duration, edges) // since the storm began
	in, refused := 0, 0
	var last time.Duration
	for now := time.Duration(0); in < edges && now < time.Minute; now += 10 * time.Millisecond {
		for i := range due {
			if due[i] < 0 || due[i] > now {
				continue
			}
			if e := g.admit(); e != nil {
				refused++
				r := float64((i*7919+refused*104729)%10_007) / 10_007 // spread, and the same in every run
				due[i] = now + e.RetryAfter + time.Duration(r*float64(e.RetryJitter))
				continue
			}
			in, due[i], last = in+1, -1, now
		}
		c.advance(10 * time.Millisecond)
	}
	if in != edges || last > 35*time.Second {
		t.Errorf("%d of %d came in within %v, want all within about the 18 s it takes", in, edges, last)
	}
	if refused > 3*edges {
		t.Errorf("%d calls were refused, want at most three per edge", refused)
	}
}

func TestAFleetIsToldToSpreadOnItsWayToTheLeader(t *testing.T) {
	for _, c := range []struct {
		streams float64
		edges   int
		want    time.Duration
	}{{500, 0, 0}, {500, 1000, 0}, {500, 2000, 2 * time.Second}, {500, 10_000, 18 * time.Second}, {500, 1_000_000, maxSpread}, {0, 10_000, 0}} {
		if got := (Admission{Streams: c.streams}).spread(c.edges); got != c.want {
			t.Errorf("%d edges at %v per second are spread over %v, want %v", c.edges, c.streams, got, c.want)
		}
	}
	hubs := newHubs(t, 3)
	edge := hubs[0].enroll("e1")
	eventually(t, "the follower knows the edge", func() bool { _, ok := hubs[1].store.State().Edge("e1"); return ok })
	hubs[1].hub.core.admission.Streams = .1 // one edge in ten seconds is as many of a large fleet
	hubs[1].hub.core.registered = registered{n: 2, at: time.Now()}
	direct, _ := hubs[1].asEdge(edge)
	_, err := direct.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: edgeSession, Sequence: 1})
	d := (&harness{t: t}).refused(err, connect.CodeUnavailable, ReasonNotLeader, hubs[0].url())
	if got := d.RetryJitter.AsDuration(); got != 18*time.Second || d.LeaderUrl != hubs[0].url() {
		t.Errorf("it is told to spread over %v on its way to %s, want 18s and the leader", got, d.LeaderUrl)
	}
}

func TestTicksTellALargeFleetToSpread(t *testing.T) {
	h := newHarness(t)
	w := h.enroll("default", "e1").watch(t, h.caughtUp())
	if got := w.next().GetTick().ReconnectSpread; got != nil {
		t.Errorf("one edge is to spread over %v", got.AsDuration())
	}
	h.hub.core.admission.Streams = .05 // one edge in twenty seconds is as many of a large fleet
	h.tick(TickInterval)
	if got := w.next().GetTick().ReconnectSpread.AsDuration(); got != 18*time.Second {
		t.Errorf("a large fleet is to spread over %v, want 18s", got)
	}
}

func overloadedBy(t *testing.T, err error) *gwv1.ErrorDetail {
	t.Helper()
	d := (&harness{t: t}).refused(err, connect.CodeResourceExhausted, ReasonOverloaded, "come again")
	if d.RetryAfter.AsDuration() <= 0 || d.RetryJitter.AsDuration() <= 0 {
		t.Errorf("the refusal says %v and %v", d.RetryAfter, d.RetryJitter)
	}
	var e *connect.Error
	if errors.As(err, &e); e.Meta().Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q, want 1", e.Meta().Get("Retry-After"))
	}
	return d
}

func TestTooManyStreamsAtOnceAreToldToComeAgainAndAdminsAreServed(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	h.hub.Edges.gates = newGates(Admission{Streams: .5}, h.clock.now, h.hub.core.metrics)
	e.watch(t, h.caughtUp()).next()
	stream, err := e.Watch(t.Context(), &gwv1.WatchRequest{SessionId: e.session})
	must(t, err)
	if stream.Receive() {
		t.Fatal("a second stream was let in")
	}
	overloadedBy(t, stream.Err())
	h.apply(api("", "a", "/a")) // admins don't wait for edges
	e.beat(t, nil)              // nor does what is under way
	h.clock.advance(2 * time.Second)
	e.watch(t, h.caughtUp()).next()
}

func TestTooManyEnrolmentsAtOnceAreToldToComeAgain(t *testing.T) {
	h := newHarness(t)
	token := h.joinToken("default")
	h.hub.Edges.gates = newGates(Admission{Certificates: .5}, h.clock.now, h.hub.core.metrics)
	wrong := token
	wrong.Secret = make([]byte, len(token.Secret))
	_, err := h.enroller().Enroll(t.Context(), enrolment(t, wrong, "e1"))
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "no such join token")
	e := h.enrollWith(token, "e1") // so who has no token has not used up a turn
	_, err = h.enroller().Enroll(t.Context(), enrolment(t, token, "e2"))
	overloadedBy(t, err)
	key, err := identity.NewKey()
	must(t, err)
	csr, err := identity.NewCSR(key)
	must(t, err)
	_, err = e.RenewCertificate(t.Context(), &gwv1.RenewCertificateRequest{Csr: csr})
	overloadedBy(t, err)
	h.clock.advance(2 * time.Second)
	h.enrollWith(token, "e2")
}

// content asks a hub for what it has.
type content struct{ http.RoundTripper }

func (c content) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(headerConsistency, "stale")
	return c.RoundTripper.RoundTrip(r)
}

func TestAFollowerServesReleasesInPlaceOfABusyLeader(t *testing.T) {
	hubs := newHubs(t, 3)
	leader, follower := hubs[0], hubs[1]
	edge := leader.enroll("e1")
	leader.apply("a")
	pushed, err := leader.hub.Releases.Push(leader.asAdmin(), &gwv1.PushRequest{Scope: &gwv1.Scope{}})
	must(t, err)
	leader.hub.core.hubURLs = func() []string { return []string{leader.url(), follower.url(), hubs[2].url()} }
	leader.hub.Edges.gates = newGates(Admission{Fetches: .5}, time.Now, leader.hub.core.metrics)
	direct, _ := leader.asEdge(edge)
	if _, err := transferFrom(t, direct, nil); err != nil {
		t.Fatal(err)
	}
	_, err = transferFrom(t, direct, nil)
	if d := overloadedBy(t, err); len(d.FetchUrls) != 2 || d.FetchUrls[0] != follower.url() || d.FetchUrls[1] != hubs[2].url() {
		t.Errorf("the leader sends edges to %v", d.FetchUrls)
	}
	plain, _ := follower.asEdge(edge)
	_, err = transferFrom(t, plain, nil)
	refused(t, err, connect.CodeUnavailable, ReasonNotLeader, "")
	there := gwv1connect.NewEdgeServiceClient(&http.Client{Transport: content{edge.Transport}}, follower.url())
	want := &gwv1.Target{Epoch: leader.store.State().Cluster().Epoch, Number: pushed.Number}
	var got *gwv1.Target
	eventually(t, "the follower has the release", func() bool {
		got, err = transferFrom(t, there, want)
		return err == nil
	})
	if got.Number != pushed.Number {
		t.Errorf("the follower serves release %d, want %d", got.Number, pushed.Number)
	}
	_, err = transferFrom(t, there, &gwv1.Target{Epoch: want.Epoch, Number: want.Number + 1})
	refused(t, err, connect.CodeFailedPrecondition, ReasonPrecondition, "does not have release")
	_, err = there.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: edgeSession, Sequence: 1})
	refused(t, err, connect.CodeUnavailable, ReasonNotLeader, "")
	stranger := follower.stranger()
	_, err = transferFrom(t, gwv1connect.NewEdgeServiceClient(&http.Client{Transport: content{stranger.Transport}}, follower.url()), want)
	refused(t, err, connect.CodeUnauthenticated, ReasonCertificateNeeded, "")
}

// transferFrom fetches a whole release and returns which it is.
func transferFrom(t *testing.T, hub gwv1connect.EdgeServiceClient, want *gwv1.Target) (*gwv1.Target, error) {
	t.Helper()
	stream, err := hub.FetchRelease(t.Context(), &gwv1.FetchReleaseRequest{Target: want})
	must(t, err)
	defer stream.Close()
	var got *gwv1.Target
	for stream.Receive() {
		if h := stream.Msg().GetHeader(); h != nil {
			got = h.Target
		}
	}
	return got, stream.Err()
}

func TestWhoHasWaitedForALeaderWaitsNoLongerForItToBeSure(t *testing.T) {
	h := newHarness(t)
	over := context.WithValue(h.as(RoleAdmin), patienceKey{}, time.Now().Add(-time.Second))
	_, err := h.hub.Fleet.ListEdges(over, &gwv1.ListEdgesRequest{})
	h.refused(h.hub.Error(t.Context(), err), connect.CodeUnavailable, ReasonNotProposed, "make sure in time")
	if _, err := h.hub.Fleet.ListEdges(withPatience(h.as(RoleAdmin), time.Now().Add(-time.Second)), &gwv1.ListEdgesRequest{}); err != nil {
		t.Errorf("a leader that has just been found has not even %v: %v", leastPatience, err)
	}
}
