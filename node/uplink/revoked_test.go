package uplink

import (
	"strings"
	"testing"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// revoke ends the edge's certificates and its stream.
func (h *fakeHub) revoke() {
	h.do(func() { h.revoked, h.removed = true, h.removed+1 })
}

func (e *testEdge) awaitStatus(what string, right func(Status) bool) {
	e.t.Helper()
	await(e.t, what, func() bool { return right(e.uplink.Status()) })
}

func TestARevokedEdgeGoesOnWithWhatItHasAndDoesNotPress(t *testing.T) {
	h := newFakeHub(t)
	h.push(map[string]string{"a": "1"})
	e := newTestEdge(t, h)
	stop := e.start()
	e.awaitRelease(1)
	h.revoke()
	e.awaitStatus("the edge knows that it was revoked", func(s Status) bool { return strings.Contains(s.Revoked, "revoked by ann") && !s.Following })
	await(t, "it has tried a few times", func() bool { return h.count(&h.refused) > 4 })
	if n := h.count(&h.enrolled); n != 1 {
		t.Errorf("it enrolled %d times with one join token: it would undo the revocation", n)
	}
	e.mu.Lock()
	if e.loaded.Number != 1 {
		t.Errorf("it serves release %d", e.loaded.Number)
	}
	e.mu.Unlock()
	stop()
	// At the real pace it comes to asking a few times an hour.
	for failed := 6; failed <= 20; failed++ {
		if d := defaultPace.revoked.delay(failed, 0.5); d < 5*time.Minute {
			t.Errorf("try %d comes after %v", failed, d)
		}
	}
}

func TestARevokedEdgeComesBackWithANewJoinToken(t *testing.T) {
	h := newFakeHub(t)
	h.push(map[string]string{"a": "1"})
	e := newTestEdge(t, h)
	stop := e.start()
	e.awaitRelease(1)
	h.revoke()
	e.awaitStatus("the edge knows that it was revoked", func(s Status) bool { return s.Revoked != "" })
	stop()
	old, err := identity.ParseJoinToken(h.token)
	if err != nil {
		t.Fatal(err)
	}
	fresh := old
	fresh.ID = strings.Repeat("f", len(old.ID))
	e.config.JoinToken = fresh.String()
	h.push(map[string]string{"a": "2"})
	e.start()
	e.awaitRelease(2)
	e.awaitStatus("it follows again", func(s Status) bool { return s.Following && s.Revoked == "" })
	if id, err := e.store.Identity(); err != nil || id.JoinTokenId != fresh.ID {
		t.Errorf("kept %v, %v", id.GetJoinTokenId(), err)
	}
	receive(t, "a heartbeat with it", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.LoadedRelease == 2 })
}

// await looks until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !so() {
		select {
		case <-time.After(tickEvery):
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
