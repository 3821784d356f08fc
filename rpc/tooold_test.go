package rpc

import (
	"fmt"
	"strings"
	"testing"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// knows makes an edge's heartbeat say the highest schema level it knows.
func knows(level uint32) func(*gwv1.HeartbeatRequest) {
	return func(r *gwv1.HeartbeatRequest) { r.SchemaLevel = level }
}

// fromTheFuture makes a hub take the paths of an API for a field of level 2, and its upstreams' URLs for one of level 3.
func (h *harness) fromTheFuture() {
	h.hub.core.newer = func(level uint32, kind, name string, spec []byte) (newer []resource.Newer, _ error) {
		if kind != "API" {
			return nil, nil
		}
		for _, x := range []resource.Newer{{Field: "spec.paths", Element: "gw.v1.APISpec.paths", Level: 2},
			{Field: "spec.upstreams[0].url", Element: "gw.v1.Upstream.url", Level: 3}} {
			if x.Level > level {
				newer = append(newer, x)
			}
		}
		return newer, nil
	}
}

func (h *harness) preview(namespaces ...string) *gwv1.PreviewPushResponse {
	h.t.Helper()
	a, err := h.hub.Releases.PreviewPush(h.as(RoleViewer), &gwv1.PreviewPushRequest{Scope: scope(namespaces...)})
	must(h.t, err)
	return a
}

func TestAPreviewNamesTheEdgesThatAreTooOldForIt(t *testing.T) {
	h := newHarness(t)
	h.fromTheFuture()
	h.apply(api("eu", "a", "/a"), api("eu", "b", "/b"), api("us", "a", "/a"))
	empty := &gwv1.Target{Checksum: resource.EmptyChecksum[:]}
	for id, level := range map[string]uint32{"old": 1, "older": 1, "middling": 2, "new": 3, "silent": 0} {
		h.enroll("eu", id).beat(t, empty, knows(level))
	}
	h.enroll("us", "us1").beat(t, empty, knows(3))
	revoked := h.enroll("eu", "revoked")
	revoked.beat(t, empty, knows(1))
	h.tick(dutyInterval)
	_, err := h.hub.Fleet.RevokeEdge(h.as(RoleAdmin), &gwv1.RevokeEdgeRequest{Id: "revoked"})
	must(t, err)
	check := func(want string) {
		t.Helper()
		preview := h.preview("eu", "us")
		if len(preview.Problems) != 0 {
			t.Errorf("it is a warning, not a problem: %v", preview.Problems)
		}
		eu, us := preview.Namespaces[0], preview.Namespaces[1]
		var words []string
		for _, x := range eu.TooOld {
			words = append(words, fmt.Sprintf("%s: %s; ", x.Reason, strings.Join(x.EdgeIds, " ")))
		}
		if got := fmt.Sprintf("%s%d in all", strings.Join(words, ""), eu.TooOldEdges); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if us.TooOldEdges != 0 || len(us.TooOld) != 0 {
			t.Errorf("no edge of us is too old: %v", us.TooOld)
		}
	}
	want := "3 edges are too old for API/a spec.upstreams[0].url and another resource that uses it: middling old older; " +
		"2 edges are too old for API/a spec.paths and another resource that uses it: old older; 3 in all"
	check(want)
	// The registry keeps what edges know, for a leader that has heard nobody.
	h.tick(dutyInterval)
	eventually(t, "what the edges know is recorded", func() bool {
		e, _ := h.store.State().Edge("middling")
		return e.GetSchemaLevel() == 2
	})
	h.fleet.Resign()
	check(want)
}

func TestAnEdgeThatWasUpdatedIsNoLongerTooOld(t *testing.T) {
	h := newHarness(t)
	h.fromTheFuture()
	h.apply(api("eu", "a", "/a"))
	empty := &gwv1.Target{Checksum: resource.EmptyChecksum[:]}
	e := h.enroll("eu", "e")
	e.beat(t, empty, knows(2))
	if n := h.preview("eu").Namespaces[0]; n.TooOldEdges != 1 || len(n.TooOld) != 1 || n.TooOld[0].Reason != "1 edge is too old for API/a spec.upstreams[0].url" {
		t.Errorf("got %v", n)
	}
	e.beat(t, empty, knows(3))
	if n := h.preview("eu").Namespaces[0]; n.TooOldEdges != 0 || len(n.TooOld) != 0 {
		t.Errorf("updated: %v", n)
	}
	h.push()
	e.beat(t, empty, knows(1))
	if n := h.preview("eu").Namespaces[0]; n.TooOldEdges != 0 {
		t.Errorf("nothing would be released, so nobody is too old for it: %v", n)
	}
}

func TestWhatEveryEdgeOfThisVersionKnowsIsNothingToWarnOf(t *testing.T) {
	h := newHarness(t)
	h.apply(api("eu", "a", "/a"), llm("eu", "m", "key"))
	h.enroll("eu", "e").beat(t, nil, knows(resource.SchemaLevel))
	if n := h.preview("eu").Namespaces[0]; n.TooOldEdges != 0 || len(n.TooOld) != 0 {
		t.Errorf("got %v", n)
	}
}
