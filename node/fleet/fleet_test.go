package fleet

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// clock is a time that tests set.
type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

func newFleet() (*Fleet, *clock) {
	c := &clock{epoch0}
	return New(Config{Now: c.now}), c
}

func edgeID(id string) identity.Edge {
	return identity.Edge{ClusterID: "c", Namespace: "default", ID: id}
}

func beat(session string, sequence uint64) *gwv1.HeartbeatRequest {
	return &gwv1.HeartbeatRequest{SessionId: session, Sequence: sequence, Version: "1", LoadedChecksum: older[:]}
}

func TestTwoLiveProcessesAreAConflictAndARestartIsNone(t *testing.T) {
	f, c := newFleet()
	f.Beat(edgeID("e"), "a:1", beat("old", 1), Certificate{})
	c.advance(20 * time.Second)
	f.Beat(edgeID("e"), "b:1", beat("new", 1), Certificate{})
	if l := f.Live("e"); l.SessionID != "new" || l.ConflictingSessionID != "" {
		t.Fatalf("after a restart: session %q, conflict %q", l.SessionID, l.ConflictingSessionID)
	}
	c.advance(10 * time.Second)
	f.Beat(edgeID("e"), "a:1", beat("old", 2), Certificate{})
	if l := f.Live("e"); l.SessionID != "new" || l.ConflictingSessionID != "old" {
		t.Fatalf("both alive: session %q, conflict %q", l.SessionID, l.ConflictingSessionID)
	}
	f.Goodbye("e", "old")
	if l := f.Live("e"); l.SessionID != "new" || l.ConflictingSessionID != "" || l.Goodbye {
		t.Fatalf("after the other's goodbye: %+v", l)
	}
	f.Beat(edgeID("e"), "a:1", beat("old", 3), Certificate{})
	c.advance(4 * DefaultInterval)
	if l := f.Live("e"); l.ConflictingSessionID != "" {
		t.Fatalf("the other fell silent: conflict %q", l.ConflictingSessionID)
	}
}

func TestSessionsOfOneIDAreBounded(t *testing.T) {
	f, c := newFleet()
	for i := range 100 {
		f.Beat(edgeID("e"), "a", beat(fmt.Sprintf("s%02d", i), 1), Certificate{})
		c.advance(time.Millisecond)
	}
	if n := len(f.edges["e"].sessions); n != maxSessions {
		t.Errorf("%d sessions are kept, want %d", n, maxSessions)
	}
	if l := f.Live("e"); l.SessionID != "s99" {
		t.Errorf("shown is %q, want the newest", l.SessionID)
	}
}

func TestStreamState(t *testing.T) {
	f, c := newFleet()
	f.Beat(edgeID("e"), "a", beat("s", 1), Certificate{})
	_, first, _ := f.OpenStream(edgeID("e"), "s", "a")
	_, second, _ := f.OpenStream(edgeID("e"), "s", "a") // a reconnect overlaps
	c.advance(time.Second)
	first()
	if !f.Live("e").Streaming {
		t.Fatal("one of two streams is still open")
	}
	first() // once only
	c.advance(time.Second)
	second()
	if l := f.Live("e"); l.Streaming || !l.StreamSince.Equal(c.t) {
		t.Fatalf("streaming %v since %v, want broken at %v", l.Streaming, l.StreamSince, c.t)
	}
}

func TestForgetEndsStreamsAndTheNextBeatRegistersAgain(t *testing.T) {
	f, _ := newFleet()
	f.Beat(edgeID("e"), "a", beat("s", 1), Certificate{})
	f.Drain(10)
	gone, release, _ := f.OpenStream(edgeID("e"), "s", "a")
	defer release()
	f.Forget("e")
	select {
	case <-gone:
	default:
		t.Fatal("the stream was not ended")
	}
	if f.Live("e") != nil || len(f.Drain(10)) != 0 {
		t.Fatal("something is left of it")
	}
	f.Beat(edgeID("e"), "a", beat("s", 2), Certificate{})
	if got := f.Drain(10); len(got) != 1 || got[0].Id != "e" {
		t.Fatalf("after it beat again: drained %v", got)
	}
}

func TestAHubThatResignsForgetsEveryEdgeAndEndsNoStream(t *testing.T) {
	f, c := newFleet()
	f.Beat(edgeID("e"), "a", beat("s", 1), Certificate{})
	gone, release, _ := f.OpenStream(edgeID("e"), "s", "a")
	before := f.Revision()
	f.Resign()
	select {
	case <-gone:
		t.Fatal("the stream was told that its edge was removed")
	default:
	}
	release() // of a stream that outlives it
	if len(f.All()) != 0 || len(f.Drain(10)) != 0 || f.Revision() == before {
		t.Fatal("something is left")
	}
	// Leading again much later, it is in grace, and not misled by what it heard before.
	c.advance(time.Hour)
	f.SetLeaderSince(c.t)
	if e := Describe(&Facts{Record: &gwv1.EdgeRecord{Id: "e", Namespace: "default", FirstSeen: epoch0.UnixNano()}, Live: f.Live("e"),
		Now: c.t, LeaderSince: f.LeaderSince(), Interval: f.Interval()}); e.Connection != stale {
		t.Fatalf("shown as %v: %s", e.Connection, e.ConnectionReason)
	}
}

func TestOnlyNewsIsDrained(t *testing.T) {
	f, c := newFleet()
	certificate := Certificate{Serial: "1f", NotAfter: epoch0.Add(time.Hour)}
	f.Beat(edgeID("e"), "a", beat("s", 1), certificate)
	got := f.Drain(10)
	if len(got) != 1 || got[0].Version != "1" || got[0].CertificateSerial != "1f" || string(got[0].LoadedChecksum) != string(older[:]) {
		t.Fatalf("first sight: drained %v", got)
	}
	c.advance(30 * time.Second)
	f.Beat(edgeID("e"), "a", beat("s", 2), certificate)
	if got := f.Drain(10); len(got) != 0 {
		t.Fatalf("nothing new: drained %v", got)
	}
	for i, change := range []func(*gwv1.HeartbeatRequest){
		func(r *gwv1.HeartbeatRequest) { r.Version = "2" },
		func(r *gwv1.HeartbeatRequest) { r.Build = "b" },
		func(r *gwv1.HeartbeatRequest) { r.LoadedRelease = 3 },
		func(r *gwv1.HeartbeatRequest) { r.LoadedEpoch = 2 },
		func(r *gwv1.HeartbeatRequest) { r.LoadedChecksum = newer2[:] },
	} {
		r := beat("s", uint64(3+i))
		change(r)
		f.Beat(edgeID("e"), "a", r, certificate)
		if got := f.Drain(10); len(got) != 1 {
			t.Errorf("change %d: drained %v", i, got)
		}
		f.MarkDirty("e", "nobody")
		if got := f.Drain(10); len(got) != 1 {
			t.Errorf("change %d, given back: drained %v", i, got)
		}
	}
}

func TestDrainIsLimited(t *testing.T) {
	f, _ := newFleet()
	for _, id := range []string{"c", "a", "b"} {
		f.Beat(edgeID(id), "a", beat("s", 1), Certificate{})
	}
	if got := f.Drain(2); len(got) != 2 || got[0].Id != "a" || got[1].Id != "b" {
		t.Fatalf("got %v, want a and b", got)
	}
	if got := f.Drain(2); len(got) != 1 || got[0].Id != "c" {
		t.Fatalf("got %v, want c", got)
	}
}

func TestAnOvertakenHeartbeatChangesNothing(t *testing.T) {
	f, _ := newFleet()
	late := beat("s", 2)
	late.LoadedRelease = 1
	f.Beat(edgeID("e"), "a", beat("s", 3), Certificate{})
	f.Beat(edgeID("e"), "a", late, Certificate{})
	if got := f.Live("e").Heartbeat.Sequence; got != 3 {
		t.Errorf("shown is heartbeat %d, want 3", got)
	}
}

func TestABigFleetBeatsMoreSlowly(t *testing.T) {
	f, _ := newFleet()
	for i := range 20_000 {
		f.Beat(edgeID(fmt.Sprint(i)), "a", beat("s", 1), Certificate{})
	}
	if got := f.Interval(); got != 40*time.Second {
		t.Errorf("20,000 edges beat every %v, want 40s", got)
	}
}

func TestAwayCountsFromTheLastSign(t *testing.T) {
	f, c := newFleet()
	c.advance(time.Hour)
	if got := f.Away("e", epoch0.Add(-time.Hour)); got != time.Hour {
		t.Errorf("unheard: away %v, want since the leader changed", got)
	}
	if got := f.Away("e", epoch0.Add(30*time.Minute)); got != 30*time.Minute {
		t.Errorf("enrolled since: away %v, want 30m", got)
	}
	f.Beat(edgeID("e"), "a", beat("s", 1), Certificate{})
	c.advance(time.Minute)
	if got := f.Away("e", epoch0); got != time.Minute {
		t.Errorf("heard: away %v, want 1m", got)
	}
}

func TestWaitReturnsAtAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New(Config{})
		at := f.Revision()
		done := make(chan uint64)
		go func() {
			got, err := f.Wait(t.Context(), at)
			if err != nil {
				t.Error(err)
			}
			done <- got
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("returned before anything changed")
		default:
		}
		f.Beat(edgeID("e"), "a", beat("s", 1), Certificate{})
		if got := <-done; got <= at {
			t.Errorf("got revision %d, want one above %d", got, at)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := f.Wait(ctx, f.Revision()); err != context.DeadlineExceeded {
			t.Errorf("got %v, want the deadline", err)
		}
	})
}

func TestElapseTellsWhenTimeAloneChangesAState(t *testing.T) {
	f, c := newFleet()
	_, release, _ := f.OpenStream(edgeID("e"), "s", "a")
	f.Beat(edgeID("e"), "a", beat("s", 1), Certificate{})
	moved := func() bool {
		before := f.Revision()
		f.Elapse()
		return f.Revision() != before
	}
	for _, step := range []struct {
		at   time.Duration
		want bool
	}{{1, false}, {74, false}, {75, true}, {76, false}, {90, true}, {91, false}, {120, true}, {121, false}} {
		c.t = epoch0.Add(step.at * time.Second)
		if got := moved(); got != step.want {
			t.Errorf("after %d s: moved %v, want %v", step.at, got, step.want)
		}
	}
	release()
	c.advance(9 * time.Second)
	if moved() {
		t.Error("9 s after the stream broke: moved")
	}
	c.advance(time.Second)
	if !moved() {
		t.Error("10 s after the stream broke: not moved")
	}
}

// A heartbeat that was on its way while this hub resigned is of the term before.
func TestWhatWasHeardWhileResigningIsForgottenByTheNextTerm(t *testing.T) {
	f, c := newFleet()
	f.Resign()
	f.Beat(edgeID("e"), "a", &gwv1.HeartbeatRequest{SessionId: "s"}, Certificate{})
	c.advance(3 * time.Hour)
	f.Beat(edgeID("new"), "a", &gwv1.HeartbeatRequest{SessionId: "s"}, Certificate{})
	f.SetLeaderSince(c.t)
	if f.Live("e") != nil || f.Live("new") == nil {
		t.Errorf("remembered: %v", f.All())
	}
}

func TestStreamsOfAnEdgeAreBounded(t *testing.T) {
	f, _ := newFleet()
	var release func()
	for i := range maxStreams {
		_, r, ok := f.OpenStream(edgeID("e"), fmt.Sprint(i), "a") // more processes than are remembered
		if !ok {
			t.Fatalf("stream %d is refused", i)
		}
		release = r
	}
	if _, _, ok := f.OpenStream(edgeID("e"), "0", "a"); ok {
		t.Error("one too many is let in")
	}
	release()
	if _, _, ok := f.OpenStream(edgeID("e"), "0", "a"); !ok {
		t.Error("one that ended makes no room")
	}
}
