package raftstore

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// A hub that refuses connections for an hour is worth a line now and then, not one with each attempt.
func TestPeerThatIsAwayIsComplainedOfRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		log := newRaftLogger(slog.New(slog.NewTextHandler(&b, nil)))
		lines := func() int { return strings.Count(b.String(), "\n") }
		away := func(peer string) {
			log.Error("failed to appendEntries to", "peer", raft.Server{ID: raft.ServerID(peer)}, "error", "connection refused")
		}
		away("a")
		away("b")
		log.Named("other").Error("failed to appendEntries to", "peer", "a")
		log.Error("failed to heartbeat to", "peer", "a", "backoff time", time.Second)
		if lines() != 4 {
			t.Fatalf("the first of each run: %d lines of 4:\n%s", lines(), &b)
		}
		b.Reset()
		began := time.Now()
		for range 36000 {
			time.Sleep(100 * time.Millisecond)
			away("a")
		}
		if got, want := lines(), int(time.Since(began)/repeatPace); got != want {
			t.Errorf("%d lines in an hour, want %d", got, want)
		}
		if got := strings.Count(b.String(), "suppressed=299"); got != 120 {
			t.Errorf("%d of the lines say how many were not logged:\n%s", got, b.String()[:500])
		}
		b.Reset()
		for range 3 { // about no hub, so each counts
			log.Error("failed to commit logs", "error", "x")
		}
		if lines() != 3 {
			t.Errorf("%d lines of 3:\n%s", lines(), &b)
		}
	})
}

func TestComplaintsToldApartAreBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	r := &repeats{now: func() time.Time { return now }, seen: map[complaint]*run{}}
	for i := range 4 * maxComplaints {
		if _, due := r.note(complaint{"m", fmt.Sprint(i)}); !due {
			t.Fatalf("the first complaint about hub %d is not logged", i)
		}
	}
	if len(r.seen) > maxComplaints {
		t.Errorf("%d are kept", len(r.seen))
	}
	now = now.Add(repeatPace)
	r.note(complaint{"m", "new"})
	if len(r.seen) != 1 {
		t.Errorf("%d are kept that ended long ago", len(r.seen))
	}
}
