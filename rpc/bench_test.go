package rpc

import (
	"fmt"
	"sync"
	"testing"

	"gw/node/fleet"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// BenchmarkListEdges is what a page of the console costs with 10,000 edges.
func BenchmarkListEdges(b *testing.B) {
	h := newHarness(b)
	h.apply(api("", "a", "/a"))
	h.push()
	target := h.target("default")
	for i := range 10_000 {
		who := identity.Edge{ClusterID: h.ca.ClusterID(), Namespace: "default", ID: fmt.Sprintf("edge-%05d", i)}
		h.fleet.Beat(who, "10.0.0.1:1", &gwv1.HeartbeatRequest{SessionId: newID(), LoadedEpoch: target.Epoch,
			LoadedRelease: target.Number, LoadedChecksum: target.Checksum}, fleet.Certificate{})
	}
	ctx := h.as(RoleViewer)
	for b.Loop() {
		if _, err := h.hub.Fleet.ListEdges(ctx, &gwv1.ListEdgesRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPushOneEditOutOf10000 is an edit and its push.
func BenchmarkPushOneEditOutOf10000(b *testing.B) {
	h := newHarness(b)
	h.apply(many(10_000)...)
	h.push()
	for i := 0; b.Loop(); i++ {
		h.apply(api("", "api-05000", fmt.Sprintf("/edited/%d", i)))
		h.push()
	}
}

// BenchmarkRevocationReach is from the call to the last of 200 edges, each with a connection of its own.
func BenchmarkRevocationReach(b *testing.B) {
	h := newHarness(b)
	h.app("default", "web")
	token := h.joinToken("default")
	var streams []*watching
	for i := range 200 {
		w := h.enrollWith(token, fmt.Sprintf("edge-%03d", i)).watch(b, h.caughtUp())
		w.next()
		streams = append(streams, w)
	}
	for b.Loop() {
		b.StopTimer()
		made, err := h.hub.Access.CreateToken(h.as(RoleAdmin), &gwv1.CreateTokenRequest{App: "web"})
		must(b, err)
		b.StartTimer()
		_, err = h.hub.Access.RevokeToken(h.as(RoleAdmin), &gwv1.RevokeTokenRequest{Token: made.Token.Id})
		must(b, err)
		var all sync.WaitGroup
		for _, w := range streams {
			all.Go(func() {
				if len(w.next().GetAccess().GetChanges()) != 1 {
					b.Error("told of something else")
				}
			})
		}
		all.Wait()
	}
}
