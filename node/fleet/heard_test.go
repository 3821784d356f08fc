package fleet

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gw/rpc/gwv1"
)

// told is what was heard of an edge, in short.
func told(f *Fleet, id string) string {
	var words []string
	for _, h := range f.Heard(id) {
		words = append(words, strings.ToLower(strings.TrimPrefix(h.Kind.String(), "EDGE_EVENT_KIND_")))
	}
	return strings.Join(words, " ")
}

// E6.10: both are visible, with their addresses, and the conflict is told once.
func TestE6_10TwoEdgesSharingAnIDAreBothVisible(t *testing.T) {
	f, c := newFleet()
	f.Beat(edgeID("e"), "10.0.0.1:5", beat("first", 1), Certificate{})
	c.advance(time.Second)
	f.OpenStream(edgeID("e"), "second", "10.0.0.2:6")
	for n := range uint64(3) {
		c.advance(10 * time.Second)
		f.Beat(edgeID("e"), "10.0.0.2:6", beat("second", n+1), Certificate{})
		f.Beat(edgeID("e"), "10.0.0.1:5", beat("first", n+2), Certificate{})
	}
	e := Describe(&Facts{Live: f.Live("e"), Now: c.t, LeaderSince: f.LeaderSince(), Interval: f.Interval()})
	if e.SessionId != "second" || e.RemoteAddress != "10.0.0.2:6" || e.ConflictingSessionId != "first" || e.ConflictingAddress != "10.0.0.1:5" {
		t.Errorf("shown: %s at %s, beside %s at %s", e.SessionId, e.RemoteAddress, e.ConflictingSessionId, e.ConflictingAddress)
	}
	if e.Connection != connected || !strings.Contains(e.ConnectionReason, "another live process, session first at 10.0.0.1:5, carries the same ID") {
		t.Errorf("%v: %q", e.Connection, e.ConnectionReason)
	}
	if got := told(f, "e"); got != "connected duplicate" {
		t.Errorf("told %q", got)
	}
	// One ends, and starts again: a conflict of its own.
	f.Goodbye("e", "first")
	f.Beat(edgeID("e"), "10.0.0.2:6", beat("second", 9), Certificate{})
	c.advance(time.Second)
	f.Beat(edgeID("e"), "10.0.0.1:7", beat("third", 1), Certificate{})
	c.advance(time.Second)
	f.Beat(edgeID("e"), "10.0.0.2:6", beat("second", 10), Certificate{})
	if got := told(f, "e"); got != "connected duplicate goodbye duplicate" {
		t.Errorf("told %q", got)
	}
}

// E6.9: in the grace period after a change of leadership an edge that was not heard yet is neither lost nor said to be, and
// one that is heard is connected at once; also when leadership changes again and again.
func TestE6_09ALeaderFlapDoesNotMarkEdgesLost(t *testing.T) {
	f, c := newFleet()
	record := &gwv1.EdgeRecord{Id: "e", Namespace: "default", FirstSeen: epoch0.Add(-time.Hour).UnixNano(), LoadedRelease: 7, LoadedEpoch: 1, LoadedChecksum: newer2[:]}
	shown := func() *gwv1.Edge {
		return Describe(&Facts{Record: record, Live: f.Live("e"), Target: Target{Epoch: 1, Number: 7, Checksum: newer2}, Expected: newer2,
			Now: c.t, LeaderSince: f.LeaderSince(), Interval: f.Interval()})
	}
	for flap := range 5 {
		f.SetLeaderSince(c.t)
		for range 8 {
			c.advance(10 * time.Second)
			f.Elapse()
			if e := shown(); e.Connection != stale || e.Sync != unknown || !strings.Contains(e.ConnectionReason, "leader changed") {
				t.Fatalf("flap %d, %v after it: %v %q, %v %q", flap, c.t.Sub(f.LeaderSince()), e.Connection, e.ConnectionReason, e.Sync, e.SyncReason)
			}
		}
		f.Resign()
	}
	f.SetLeaderSince(c.t)
	c.advance(time.Second)
	f.OpenStream(edgeID("e"), "s", "a:1")
	f.Beat(edgeID("e"), "a:1", &gwv1.HeartbeatRequest{SessionId: "s", Sequence: 9, LoadedEpoch: 1, LoadedRelease: 7, LoadedChecksum: newer2[:], Health: gwv1.Health_HEALTH_OK}, Certificate{})
	if e := shown(); e.Connection != connected || e.Sync != inSync {
		t.Errorf("heard again: %v %q, %v %q", e.Connection, e.ConnectionReason, e.Sync, e.SyncReason)
	}
	if got := told(f, "e"); got != "connected" {
		t.Errorf("told %q", got)
	}
}

func TestWhatTheLeaderHeardIsTold(t *testing.T) {
	f, c := newFleet()
	_, release, _ := f.OpenStream(edgeID("e"), "s", "10.0.0.1:5")
	f.Beat(edgeID("e"), "10.0.0.1:5", beat("s", 1), Certificate{})
	_, second, _ := f.OpenStream(edgeID("e"), "s", "10.0.0.1:5") // the certificate was renewed
	release()
	if got := told(f, "e"); got != "connected" {
		t.Fatalf("two streams overlapped: told %q", got)
	}
	c.advance(time.Second)
	second()
	c.advance(3 * time.Second)
	_, third, _ := f.OpenStream(edgeID("e"), "s", "10.0.0.9:5")
	for range 130 {
		c.advance(time.Second)
		f.Elapse()
	}
	f.Beat(edgeID("e"), "10.0.0.9:5", beat("s", 2), Certificate{})
	f.Goodbye("e", "s")
	third()
	c.advance(time.Hour)
	f.Elapse()
	if got, want := told(f, "e"), "connected stream_broke back late lost back goodbye"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	var sentences []string
	for _, h := range f.Heard("e") {
		sentences = append(sentences, fmt.Sprintf("%.0f %s", h.At.Sub(epoch0).Seconds(), h.Sentence()))
	}
	want := []string{
		"0 connected from 10.0.0.1:5, session s", "1 its watch stream broke", "4 back from 10.0.0.9:5 after 3s", "75 its heartbeat is late",
		"120 lost: four heartbeats are missing", "134 back from 10.0.0.9:5 after 2m14s", "134 said goodbye",
	}
	if strings.Join(sentences, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(sentences, "\n"), strings.Join(want, "\n"))
	}
}

func TestARestartIsNeitherLateNorLost(t *testing.T) {
	f, c := newFleet()
	f.Beat(edgeID("e"), "a:1", beat("killed", 1), Certificate{})
	for n := range uint64(10) {
		c.advance(20 * time.Second)
		f.Beat(edgeID("e"), "a:2", beat("started", n+1), Certificate{})
		f.Elapse()
	}
	if got := told(f, "e"); got != "" {
		t.Errorf("told %q of an edge that was started again", got)
	}
}

func TestOnlyTheNewestIsRemembered(t *testing.T) {
	f, c := newFleet()
	for range 50 {
		_, release, _ := f.OpenStream(edgeID("e"), "s", "a:1")
		c.advance(time.Second)
		release()
		c.advance(time.Second)
	}
	got := f.Heard("e")
	if len(got) != maxHeard || got[maxHeard-1].Kind != gwv1.EdgeEventKind_EDGE_EVENT_KIND_STREAM_BROKE || !got[maxHeard-1].At.Equal(c.t.Add(-time.Second)) {
		t.Errorf("%d are remembered, the last of them %v at %v", len(got), got[len(got)-1].Kind, got[len(got)-1].At)
	}
	if f.Heard("nobody") != nil {
		t.Error("something was heard of nobody")
	}
}
