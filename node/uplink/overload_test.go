package uplink

import (
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"gw/rpc/gwv1"
)

// busy is how a hub refuses that has too many edges at once.
func busy(after, jitter time.Duration, urls ...string) error {
	err := connect.NewError(connect.CodeResourceExhausted, errors.New("too many edges come at once"))
	detail := &gwv1.ErrorDetail{Reason: overloaded, RetryAfter: durationpb.New(after), RetryJitter: durationpb.New(jitter), FetchUrls: urls}
	if d, detailErr := connect.NewErrorDetail(detail); detailErr == nil {
		err.AddDetail(d)
	}
	return err
}

func TestEdgesThatAreSentAwaySpreadEvenlyOverTheTimeTold(t *testing.T) {
	err := busy(3*time.Second, 20*time.Second)
	tenths, outside := spread(3*time.Second, 23*time.Second, func(r float64) time.Duration {
		wait, told := comeAgain(err, r)
		if !told {
			t.Fatal("not taken for what it is")
		}
		return wait
	})
	wantEven(t, "coming again", tenths, outside)
	for name, c := range map[string]struct {
		err       error
		low, high time.Duration
	}{
		"a hub asks for years": {busy(time.Hour*10_000, time.Hour*10_000), maxRetryAfter, maxRetryAfter + maxRetryJitter},
		"for the past":         {busy(-time.Hour, -time.Hour), 0, time.Second},
		"for nothing":          {busy(0, 0), 0, time.Second},
	} {
		low, _ := comeAgain(c.err, 0)
		high, told := comeAgain(c.err, 1)
		if low != c.low || high != c.high || !told {
			t.Errorf("%s: between %v and %v, want %v and %v", name, low, high, c.low, c.high)
		}
	}
	for _, err := range []error{nil, errSilent, refusal(connect.CodeResourceExhausted, "too_many_tries", ""), notLeaderAt("https://a:1")} {
		if _, told := comeAgain(err, .5); told {
			t.Errorf("%v is taken for being sent away", err)
		}
	}
}

func TestEdgeThatIsSentAwayComesAgainToTheSameHub(t *testing.T) {
	leader, other := twoHubs(t)
	refusals := 3
	leader.onWatch = func() error {
		if refusals == 0 {
			return nil
		}
		refusals--
		return busy(10*time.Millisecond, 0)
	}
	e := newTestEdge(t, leader)
	e.build()
	e.patient() // its own waits are an hour
	e.uplink.hubs.add(other.url)
	e.run()
	awaitFollowing(t, e, leader, leader.url)
	if n := len(other.watches); n != 0 {
		t.Errorf("another hub was asked %d times, though the leader is well", n)
	}
}

func TestEdgeFetchesWhereABusyLeaderSendsIt(t *testing.T) {
	leader, follower := twoHubs(t)
	follower.follows(leader.url, nil)
	leader.onFetch = func() error { return busy(time.Hour, 0, "http://in.the.clear", follower.url) }
	e := newTestEdge(t, leader)
	e.build()
	e.run()
	awaitFollowing(t, e, leader, leader.url)
	specs := map[string]string{"a": "1"}
	follower.push(specs)
	leader.push(specs)
	e.awaitRelease(1)
	if n := follower.count(&follower.content); n != 1 {
		t.Errorf("the follower served %d calls, want the fetch", n)
	}
	if s := e.uplink.Status(); s.Hub != leader.url || s.ApplyError != nil {
		t.Errorf("follows %s with %v, want the leader and no fault", s.Hub, s.ApplyError)
	}
}

func TestBeingSentAwayIsNoFaultOfTheRelease(t *testing.T) {
	h := newFakeHub(t)
	refusals := 2
	h.onFetch = func() error {
		if refusals == 0 {
			return nil
		}
		refusals--
		return busy(10*time.Millisecond, 0)
	}
	e := newTestEdge(t, h)
	e.build()
	e.uplink.pace.retry = backoff{base: time.Hour, cap: time.Hour}
	e.run()
	h.push(map[string]string{"a": "1"})
	e.awaitRelease(1)
	for len(h.beats) > 0 {
		if b := <-h.beats; b.ApplyError != nil {
			t.Errorf("it was reported as %v", b.ApplyError)
		}
	}
}

// withTick makes a hub send the newest release's difference to the one before with its tick.
func (h *fakeHub) withTick(change func(parts []*gwv1.FetchReleaseResponse)) {
	h.wrongTick = func(tick *gwv1.Tick) {
		n := len(h.releases)
		if n < 2 {
			return
		}
		tick.Release = nil
		for _, p := range partsOf(h.releases[n-1], &h.releases[n-2]) {
			tick.Release = append(tick.Release, proto.CloneOf(p))
		}
		if change != nil {
			change(tick.Release)
		}
	}
}

// awaitLoaded waits for the heartbeat that tells of a release: its answer could tell of the next before a tick does.
func (h *fakeHub) awaitLoaded(number uint64) {
	h.t.Helper()
	receive(h.t, "the report", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.LoadedRelease == number })
}

func TestWhatComesWithTheTickIsNotFetched(t *testing.T) {
	h := newFakeHub(t)
	h.withTick(nil)
	e := newTestEdge(t, h)
	e.start()
	h.push(map[string]string{"a": "1", "b": "1"})
	first := e.awaitRelease(1)
	h.awaitLoaded(1)
	fetches := h.count(&h.fetches)
	h.push(map[string]string{"a": "1", "b": "2"})
	r := e.awaitRelease(2)
	if len(r.Blobs) != 2 || string(r.Blobs[1].Spec) == string(first.Blobs[1].Spec) || string(r.Blobs[0].Spec) != string(first.Blobs[0].Spec) {
		t.Errorf("loaded %v", r.Blobs)
	}
	if n := h.count(&h.fetches) - fetches; n != 0 {
		t.Errorf("it was fetched %d times all the same", n)
	}
}

func TestWhatComesWithTheTickIsVerifiedLikeWhatIsFetched(t *testing.T) {
	for name, change := range map[string]func(parts []*gwv1.FetchReleaseResponse){
		"other bytes": func(parts []*gwv1.FetchReleaseResponse) {
			parts[2].GetBlobs().Zstd[len(parts[2].GetBlobs().Zstd)-1] ^= 1
		},
		"to another base": func(parts []*gwv1.FetchReleaseResponse) {
			parts[0].GetHeader().BaseChecksum = make([]byte, 32)
		},
		"without an end":     func(parts []*gwv1.FetchReleaseResponse) { parts[len(parts)-1] = &gwv1.FetchReleaseResponse{} },
		"of another release": func(parts []*gwv1.FetchReleaseResponse) { parts[0].GetHeader().Target.Number = 7 },
		"of nothing":         func(parts []*gwv1.FetchReleaseResponse) { parts[0].Part = nil },
		"of another namespace": func(parts []*gwv1.FetchReleaseResponse) {
			parts[0].GetHeader().Namespace = "global"
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHub(t)
			h.withTick(change)
			e := newTestEdge(t, h)
			e.start()
			h.push(map[string]string{"a": "1"})
			e.awaitRelease(1)
			h.awaitLoaded(1)
			fetches := h.count(&h.fetches)
			h.push(map[string]string{"a": "2"})
			if r := e.awaitRelease(2); len(r.Blobs) != 1 {
				t.Errorf("loaded %v", r.Blobs)
			}
			if n := h.count(&h.fetches) - fetches; n != 1 {
				t.Errorf("it was fetched %d times, want once", n)
			}
		})
	}
}
