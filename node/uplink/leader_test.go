package uplink

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// twoHubs are of one cluster.
func twoHubs(t *testing.T) (a, b *fakeHub) {
	t.Helper()
	ca, err := identity.NewCA("cluster-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a, b = newFakeHubOf(t, ca), newFakeHubOf(t, ca)
	b.token, b.joinSecret = a.token, a.joinSecret
	return a, b
}

// patient makes every wait long that is not for a change of the leader, so that a test fails that needs one.
func (e *testEdge) patient() {
	e.uplink.pace.reconnect = backoff{quickTries: 0, quick: 50 * time.Millisecond, base: time.Hour, cap: time.Hour}
}

// nowhere is an address at which connections are made and never answered, as behind some firewalls.
func nowhere(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "https://" + l.Addr().String()
}

func awaitFollowing(t *testing.T, e *testEdge, at *fakeHub, hub string) {
	t.Helper()
	receive(t, "a heartbeat at the leader", at.beats, anyOf[*gwv1.HeartbeatRequest])
	if s := e.uplink.Status(); s.Hub != hub {
		t.Errorf("follows %s, want %s", s.Hub, hub)
	}
}

func TestEdgeGoesToTheLeaderItIsToldOf(t *testing.T) {
	follower, leader := twoHubs(t)
	follower.follows(leader.url, leader)
	e := newTestEdge(t, follower)
	e.build()
	e.patient()
	e.run()
	awaitFollowing(t, e, leader, leader.url)
	leader.push(map[string]string{"a": "1"})
	e.awaitRelease(1)
	if n := follower.count(&follower.passed); n != 0 {
		t.Errorf("%d calls were passed on though the leader is within reach", n)
	}
	if id, _ := e.store.Identity(); !slices.Contains(id.GetHubUrls(), leader.url) {
		t.Errorf("the leader is not remembered: %v", id.GetHubUrls())
	}
}

func TestEdgeThatDoesNotReachTheLeaderIsPassedOn(t *testing.T) {
	for name, address := range map[string]func(*testing.T) string{
		"refused": func(*testing.T) string { return "https://127.0.0.1:1" },
		"silent":  nowhere,
	} {
		t.Run(name, func(t *testing.T) {
			follower, leader := twoHubs(t)
			follower.follows(address(t), leader)
			e := newTestEdge(t, follower)
			e.build()
			e.patient()
			e.uplink.pace.leader = 100 * time.Millisecond
			e.run()
			awaitFollowing(t, e, leader, follower.url)
			leader.push(map[string]string{"a": "1"})
			e.awaitRelease(1)
			if follower.count(&follower.passed) == 0 {
				t.Error("nothing was passed on")
			}
		})
	}
}

func TestEdgeFollowsAChangeOfTheLeaderSoon(t *testing.T) {
	a, b := twoHubs(t)
	b.follows(a.url, a)
	e := newTestEdge(t, a)
	e.build()
	e.patient()
	e.run()
	awaitFollowing(t, e, a, a.url)
	b.leads()
	a.follows(b.url, b)
	awaitFollowing(t, e, b, b.url)
	a.leads()
	b.follows(a.url, a)
	awaitFollowing(t, e, a, a.url)
}

// Passed on by one hub, the edge looks for the new leader itself when the old one goes.
func TestPassedOnEdgeFindsANewLeaderWithinReach(t *testing.T) {
	a, b := twoHubs(t)
	a.follows("https://127.0.0.1:1", b) // b leads, and is not reached at that address
	e := newTestEdge(t, a)
	e.build()
	e.patient()
	e.run()
	awaitFollowing(t, e, b, a.url)
	a.leads()
	b.follows(a.url, a)
	awaitFollowing(t, e, a, a.url)
	if e.uplink.hubs.proxy {
		t.Error("calls are still marked to be passed on")
	}
}

func TestEdgeOutlastsAnElection(t *testing.T) {
	a, b := twoHubs(t)
	e := newTestEdge(t, a)
	e.config.Hubs = []string{a.url, b.url}
	b.follows(a.url, a)
	e.build()
	e.patient()
	e.run()
	awaitFollowing(t, e, a, a.url)
	a.follows("", nil)
	b.follows("", nil)
	for a.count(&a.hinted) < 2 || b.count(&b.hinted) < 2 { // each has been asked, and knew of none
		a.mu.Lock()
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(time.Millisecond):
		}
	}
	b.leads()
	a.follows(b.url, b)
	awaitFollowing(t, e, b, b.url)
}

// Two hubs that name each other must not keep an edge running.
func TestHubsThatNameEachOther(t *testing.T) {
	var slow int
	u := &Uplink{pace: defaultPace, now: time.Now}
	u.hubs.add("https://a:1", "https://b:1")
	var tr tries
	for i := range 100 {
		leader := "https://a:1"
		if u.hubs.current() == leader {
			leader = "https://b:1"
		}
		_, wait := u.turn(end{reached: true, err: notLeaderAt(leader)}, &tr)
		if i >= maxMoves && wait == 0 {
			t.Fatalf("no wait before try %d", i+1)
		}
		if wait > 2*time.Second {
			slow++
		}
	}
	if slow < 20 {
		t.Errorf("only %d of 100 waits were long", slow)
	}
	if u.turn(end{reached: true, ticked: true, err: notLeaderAt("")}, &tr); tr.leaderless != 1 || tr.failed != 0 {
		t.Errorf("a hub that ticked begins anew: %+v", tr)
	}
}

func TestAFleetSpreadsOverAChangeOfTheLeader(t *testing.T) {
	moved := end{reached: true, ticked: true, err: notLeaderAt("https://b:1")}
	tenths, outside := spread(0, 2*time.Second, func(float64) time.Duration {
		u := &Uplink{pace: defaultPace, now: time.Now}
		u.hubs.add("https://a:1")
		_, wait := u.turn(moved, &tries{})
		return wait
	})
	wantEven(t, "change of the leader", tenths, outside)
}

// Edges of a large fleet spread over the time that hubs have asked for when they lose their hub, and once only.
func TestALargeFleetSpreadsOverTheTimeTold(t *testing.T) {
	refused := fmt.Errorf("call: %w", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})
	const long = time.Minute
	turned := fmt.Errorf("call: %w", &net.OpError{Op: "remote error", Err: errors.New("tls: internal error")})
	for name, ends := range map[string][]end{
		"the hub is gone":    {{reached: true, ticked: true, lasted: long, err: errEnded}, {err: refused}},
		"it is full first":   {{reached: true, ticked: true, lasted: long, err: errEnded}, {err: turned}},
		"it breaks soon":     {{reached: true, ticked: true, lasted: time.Second, err: errEnded}},
		"it is silent":       {{reached: true, ticked: true, lasted: long, err: errSilent}, {err: errFar}},
		"it leads no more":   {{reached: true, ticked: true, err: notLeaderAt("https://b:1")}},
		"so are others":      {{reached: true, ticked: true, lasted: long, err: errSilent}, {err: errFar}, {err: errFar}},
		"it turns it away":   {{reached: true, ticked: true, lasted: long, err: errSilent}, {err: turned}},
		"nobody leads":       {{reached: true, ticked: true, lasted: long, err: errSilent}, {reached: true, err: notLeaderAt("")}},
		"it ticks just once": {{reached: true, ticked: true, err: errSilent}},
		"it came by a hint":  {{reached: true, err: notLeaderAt("https://b:1")}, {reached: true, ticked: true, lasted: long, err: errEnded}, {err: refused}},
	} {
		tenths, outside := spread(0, 18*time.Second, func(float64) (wait time.Duration) {
			u := &Uplink{pace: defaultPace, now: time.Now, spread: 18 * time.Second}
			u.hubs.add("https://a:1", "https://b:1", "https://c:1")
			var tr tries
			for _, e := range ends {
				at := u.hubs.current()
				if _, wait = u.turn(e, &tr); e.err == refused && (u.hubs.current() == at || u.hubs.proxy) {
					t.Fatalf("%s: it stays with a hub that is gone, or has its calls passed on: %v", name, u.hubs.proxy)
				}
			}
			for _, next := range []end{{err: refused}, {reached: true, err: notLeaderFor("https://d:1", 18*time.Second)}} {
				if _, again := u.turn(next, &tr); again > 2*time.Second {
					t.Fatalf("%s: %v: it waits as long again: %v", name, next.err, again)
				}
			}
			return wait
		})
		wantEven(t, name, tenths, outside)
	}
	u := &Uplink{pace: defaultPace, now: time.Now}
	u.hubs.add("https://a:1", "https://b:1")
	waited := false
	for range 100 {
		_, wait := u.turn(end{reached: true, err: notLeaderFor("https://b:1", 18*time.Second)}, &tries{})
		waited = waited || wait > 2*time.Second
		u.hubs.at = 0
	}
	if !waited {
		t.Error("edges that were not told before don't spread on their way to the leader")
	}
}

// A hub that has no room for a handshake is there: to be passed on to it by another would cost both more.
func TestAnEdgeThatIsTurnedAwayComesAgainToTheSameHub(t *testing.T) {
	u := &Uplink{pace: defaultPace, now: time.Now}
	u.hubs.add("https://a:1", "https://b:1")
	var tr tries
	u.turn(end{reached: true, err: notLeaderAt("https://b:1")}, &tr)
	away := end{err: fmt.Errorf("call: %w", &net.OpError{Op: "remote error", Err: errors.New("tls: internal error")})}
	for i := range maxTurned {
		if hub, wait := u.turn(away, &tr); hub != "https://b:1" || u.hubs.current() != hub || u.hubs.proxy || wait > u.pace.reconnect.cap {
			t.Fatalf("turned away %d times: from %s to %s, passed on: %v", i+1, hub, u.hubs.current(), u.hubs.proxy)
		}
	}
	if u.turn(away, &tr); u.hubs.current() != "https://a:1" || !u.hubs.proxy {
		t.Errorf("at last it goes to %s, passed on: %v", u.hubs.current(), u.hubs.proxy)
	}
}

// A hub that is silent and turns out to be there is given some of the time that a fleet gets.
func TestAnEdgeLooksAfterAHubThatIsSilent(t *testing.T) {
	tenths, outside := spread(0, 5*time.Second, func(float64) time.Duration {
		u := &Uplink{pace: defaultPace, now: time.Now, spread: 20 * time.Second}
		u.hubs.add("https://a:1", "https://b:1")
		hub, wait := u.turn(end{reached: true, ticked: true, lasted: time.Minute, err: errSilent}, &tries{})
		if u.hubs.current() != hub {
			t.Fatalf("it leaves for %s without a look", u.hubs.current())
		}
		return wait
	})
	wantEven(t, "silent hub", tenths, outside)
}

// What befalls one edge alone is no reason to wait as a large fleet does: its hub is still there.
func TestAnEdgeAloneDoesNotSpread(t *testing.T) {
	for _, err := range []error{errMissed, errRemoved, errEnded, io.ErrUnexpectedEOF} {
		for range 20 {
			u := &Uplink{pace: defaultPace, now: time.Now, spread: time.Hour}
			u.hubs.add("https://a:1", "https://b:1")
			_, wait := u.turn(end{reached: true, ticked: true, lasted: time.Minute, err: err}, &tries{})
			if wait > 2*time.Second {
				t.Fatalf("%v: it waits for %v", err, wait)
			}
			if lost := !errors.Is(err, errMissed) && !errors.Is(err, errRemoved); lost && u.hubs.current() != "https://a:1" {
				t.Fatalf("%v: it leaves for %s without a look", err, u.hubs.current())
			}
		}
	}
}

func TestAFleetThatLostItsHubSpreadsOverTheOthers(t *testing.T) {
	at := make(map[string]int)
	for range 1000 {
		u := &Uplink{pace: defaultPace, now: time.Now}
		u.hubs.add("https://a:1", "https://b:1", "https://c:1")
		u.turn(end{reached: true, ticked: true, err: errEnded}, &tries{})
		at[u.hubs.current()]++
	}
	if at["https://a:1"] != 0 || at["https://b:1"] < 400 || at["https://c:1"] < 400 {
		t.Errorf("edges that lost a went to %v", at)
	}
}

// A hub that follows takes a while to find out that the leader is gone: an edge that comes from there knows better.
func TestEdgeDoesNotGoBackToTheHubItHasJustLost(t *testing.T) {
	now := time.Now()
	u := &Uplink{pace: defaultPace, now: func() time.Time { return now }}
	u.hubs.add("https://lost:1", "https://b:1")
	tr := tries{}
	u.turn(end{reached: true, ticked: true, err: errEnded}, &tr)
	says := end{reached: true, err: notLeaderAt("https://lost:1")}
	if _, wait := u.turn(says, &tr); u.hubs.current() != "https://b:1" || wait >= 2*time.Second || tr.leaderless != 1 {
		t.Errorf("at once: goes to %s within %s", u.hubs.current(), wait)
	}
	now = now.Add(2 * time.Second)
	if _, wait := u.turn(says, &tr); u.hubs.current() != "https://lost:1" || wait != 0 {
		t.Errorf("if it is still said later: goes to %s within %s", u.hubs.current(), wait)
	}
}

func TestEdgeEnrolsWhereTheLeaderIs(t *testing.T) {
	follower, leader := twoHubs(t)
	follower.follows(leader.url, leader)
	e := newTestEdge(t, follower)
	e.build()
	e.patient()
	e.run()
	awaitFollowing(t, e, leader, leader.url)
	if n := leader.count(&leader.enrolled); n != 1 {
		t.Errorf("enrolled %d times", n)
	}
	if n := follower.count(&follower.hinted); n != 1 && n != 2 { // to enrol, and perhaps to follow
		t.Errorf("the follower was asked %d times", n)
	}
}

func TestTokenIsValidatedThroughAHubThatFollows(t *testing.T) {
	a, b := twoHubs(t)
	b.follows(a.url, a)
	hash := identity.HashCredential("gw_something")
	b.tokens[hash] = &gwv1.ValidateTokenResponse{AppId: "app", App: "app"}
	e := newTestEdge(t, a)
	e.build()
	e.patient()
	e.uplink.pace.reconnect.quick = time.Hour // the stream does not follow in time
	e.run()
	awaitFollowing(t, e, a, a.url)
	b.leads()
	a.follows(b.url, b)
	answer, err := e.uplink.validate(t.Context(), hash)
	if err != nil || answer.App != "app" {
		t.Errorf("got %v, %v", answer, err)
	}
}

func TestHubListGoesWhereTheLeaderIs(t *testing.T) {
	var l hubList
	l.add("https://a:1", "https://b:1")
	if l.lead("https://a:1") || l.lead("http://clear:1") || l.lead("") {
		t.Error("the same hub, or one that can't be trusted, is no other")
	}
	if !l.lead("https://c:1") || l.route() != (route{hub: "https://c:1"}) {
		t.Errorf("got %+v", l)
	}
	l.told([]string{"https://c:1"}, []string{"https://a:1"}) // b is forgotten
	if !l.through() || l.route() != (route{hub: "https://a:1", proxy: true}) {
		t.Errorf("got %+v", l)
	}
	if l.through() {
		t.Error("there is nobody else to be passed on by")
	}
	l.rotate()
	if l.proxy || l.hintedBy != "" {
		t.Errorf("got %+v", l)
	}
	for i := range maxHubs {
		l.add("https://h:" + string(rune('A'+i)))
	}
	if l.lead("https://late:1") {
		t.Error("a hub was added to a full list")
	}
}
