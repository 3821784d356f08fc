package rpc

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// caughtUp is a request of an edge that missed nothing.
func (h *harness) caughtUp() *gwv1.WatchRequest {
	c := h.store.State().Cluster()
	return &gwv1.WatchRequest{ClusterId: c.ClusterId, Epoch: c.Epoch, AccessVersion: c.AccessVersion}
}

func TestWatchTicksOnOpenAndEveryFiveSeconds(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	w := e.watch(t, h.caughtUp())
	c := h.store.State().Cluster()
	first := w.next().GetTick()
	if first.GetClusterId() != c.ClusterId || first.GetEpoch() != c.Epoch || first.GetAccessVersion() != c.AccessVersion || !proto.Equal(first.Target, h.target("default")) {
		t.Fatalf("on open: %v", first)
	}
	h.tick(TickInterval)
	if second := w.next().GetTick(); !proto.Equal(first, second) {
		t.Errorf("after 5 s: %v", second)
	}
}

func TestAPushIsTickedAtOnceAndOnlyToItsNamespace(t *testing.T) {
	h := newHarness(t)
	eu := h.enroll("eu", "eu1").watch(t, h.caughtUp())
	us := h.enroll("us", "us1").watch(t, h.caughtUp())
	eu.next()
	us.next()
	h.apply(api("eu", "a", "/a"))
	number := h.push("eu").Number
	if got := eu.next().GetTick().GetTarget().GetNumber(); got != number {
		t.Errorf("eu was told of %d, want %d", got, number)
	}
	h.tick(TickInterval)
	if got := us.next().GetTick(); got == nil || got.Target.Number != 0 {
		t.Errorf("us was told %v, want only its tick", got)
	}
}

// A new token is nothing to tell, but it raises the access version, and the tick of a push tells that: an edge that hears of
// a version it was not brought to opens its stream again.
// A push reaches so many edges at a time as haven't reported. Those that wait hear of everything else meanwhile.
func TestAPushReachesSomeEdgesAtATime(t *testing.T) {
	h := newHarness(t)
	h.hub.Edges.loading.places = make(chan struct{}, 1)
	w := h.enroll("default", "e1").watch(t, h.caughtUp())
	other := h.enroll("default", "e2")
	w.next()
	h.hub.Edges.loading.places <- struct{}{}
	h.hub.Edges.loading.held.Store("e2", &place{func() { <-h.hub.Edges.loading.places }})
	h.apply(api("default", "a", "/a"))
	h.push()
	_, token := h.app("default", "web")
	_, err := h.hub.Access.RevokeToken(h.as(RoleAdmin), &gwv1.RevokeTokenRequest{Token: token.Token.Id})
	must(t, err)
	if got := w.next(); got.GetAccess() == nil {
		t.Fatalf("an edge that waits for a push does not hear of a revocation, but: %v", got)
	}
	h.tick(TickInterval)
	if got := w.next().GetTick(); got == nil || got.Target != nil {
		t.Fatalf("an edge whose turn it isn't is told: %v", got)
	}
	other.beat(t, nil)
	if got := w.next().GetTick(); got == nil || !proto.Equal(got.Target, h.target("default")) {
		t.Fatalf("in its turn it is told: %v", got)
	}
}

func TestATickNeverTellsAnAccessVersionTheStreamDidNotBring(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	w := e.watch(t, h.caughtUp())
	told := w.next().GetTick().GetAccessVersion()
	h.app("default", "web")
	h.apply(api("default", "a", "/a"))
	number := h.push().Number
	for {
		m := w.next()
		if a := m.GetAccess(); a != nil {
			told = a.AccessVersion
		}
		tick := m.GetTick()
		if tick == nil {
			continue
		}
		if tick.AccessVersion > told {
			t.Fatalf("a tick of release %d tells the version %d, the stream brought %d", tick.Target.GetNumber(), tick.AccessVersion, told)
		}
		if tick.Target.GetNumber() == number {
			return
		}
	}
}

func TestARevocationIsToldAheadOfAnythingElse(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	_, token := h.app("default", "web")
	_, foreign := h.app("eu", "web")
	w := e.watch(t, h.caughtUp())
	w.next()
	_, err := h.hub.Access.RevokeToken(h.as(RoleAdmin), &gwv1.RevokeTokenRequest{Token: token.Token.Id})
	must(t, err)
	hash := identity.HashCredential(token.Credential)
	a := w.next().GetAccess()
	if len(a.GetChanges()) != 1 || !bytes.Equal(a.Changes[0].GetRevokedToken(), hash[:]) || a.AccessVersion != h.store.State().Cluster().AccessVersion {
		t.Fatalf("got %v", a)
	}
	_, err = h.hub.Access.RevokeToken(h.as(RoleAdmin), &gwv1.RevokeTokenRequest{Token: foreign.Token.Id})
	must(t, err)
	h.tick(TickInterval)
	if a := w.next().GetAccess(); a == nil || len(a.Changes) != 0 || a.AccessVersion != h.store.State().Cluster().AccessVersion {
		t.Errorf("of another namespace: %v, want the version alone", a)
	}
}

// told collects what one look at the state sends.
func told(t *testing.T, h *harness, w *watch, tick bool) (events []*gwv1.WatchResponse) {
	t.Helper()
	w.send = func(r *gwv1.WatchResponse) error { events = append(events, r); return nil }
	w.mayLoad = true // it is its turn
	must(t, w.tell(h.store.State(), tick))
	return events
}

func TestChangesThatComeTogetherAreToldInOrder(t *testing.T) {
	h := newHarness(t)
	app, token := h.app("default", "web")
	w := &watch{server: h.hub.Edges, who: caller{Edge: identity.Edge{Namespace: "default"}}, send: func(*gwv1.WatchResponse) error { return nil }}
	must(t, w.begin(h.store.State(), h.caughtUp()))
	h.apply(api("", "a", "/a"))
	h.push()
	_, err := h.hub.Access.RevokeToken(h.as(RoleAdmin), &gwv1.RevokeTokenRequest{Token: token.Token.Id})
	must(t, err)
	_, err = h.hub.Access.UpdateApp(h.as(RoleAdmin), &gwv1.UpdateAppRequest{App: &gwv1.App{Name: "web", Owner: "x"}})
	must(t, err)
	_, err = h.hub.Access.PutSecret(h.as(RoleAdmin), &gwv1.PutSecretRequest{Namespace: "eu", Name: "k", Value: "v"})
	must(t, err)
	_, err = h.hub.Access.PutSecret(h.as(RoleAdmin), &gwv1.PutSecretRequest{Namespace: "global", Name: "k", Value: "v"})
	must(t, err)
	events := told(t, h, w, false)
	if len(events) != 2 || events[0].GetAccess() == nil || events[1].GetTick() == nil {
		t.Fatalf("got %v, want access changes and then the tick of the push", events)
	}
	c := events[0].GetAccess().Changes
	if len(c) != 3 || c[0].GetRevokedToken() == nil || c[1].GetChangedApp() != app.Id || c[2].GetChangedSecret() != "k" {
		t.Errorf("changes: %v", c)
	}
	if again := told(t, h, w, false); len(again) != 0 {
		t.Errorf("told again: %v", again)
	}
}

func TestAnEdgeThatWasAwayIsToldWhatItMissed(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	_, token := h.app("default", "web")
	before := h.caughtUp()
	_, err := h.hub.Access.DeleteApp(h.as(RoleAdmin), &gwv1.DeleteAppRequest{Name: "web"})
	must(t, err)
	hash := identity.HashCredential(token.Credential)
	w := e.watch(t, before)
	a := w.next().GetAccess()
	if a.GetReset_() || len(a.GetChanges()) != 2 || !bytes.Equal(append(a.Changes[0].GetRevokedToken(), a.Changes[1].GetRevokedToken()...), hash[:]) {
		t.Fatalf("replayed %v", a)
	}
	if w.next().GetTick() == nil {
		t.Error("no tick after it")
	}
}

func TestAnEdgeThatCanNotBeCaughtUpIsReset(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	h.app("default", "web")
	now := h.caughtUp()
	for name, r := range map[string]*gwv1.WatchRequest{
		"new":                 {},
		"of another cluster":  {ClusterId: "other", Epoch: now.Epoch, AccessVersion: now.AccessVersion},
		"of another epoch":    {ClusterId: now.ClusterId, Epoch: now.Epoch + 1, AccessVersion: now.AccessVersion},
		"ahead of this state": {ClusterId: now.ClusterId, Epoch: now.Epoch, AccessVersion: now.AccessVersion + 1000},
	} {
		t.Run(name, func(t *testing.T) {
			w := e.watch(t, r)
			defer w.close()
			if a := w.next().GetAccess(); !a.GetReset_() || a.GetAccessVersion() != h.store.State().Cluster().AccessVersion {
				t.Errorf("got %v, want a reset", a)
			}
			if w.next().GetTick() == nil {
				t.Error("no tick after it")
			}
		})
	}
	_, token := h.app("default", "old")
	_, err := h.hub.Access.RevokeToken(h.as(RoleAdmin), &gwv1.RevokeTokenRequest{Token: token.Token.Id})
	must(t, err)
	h.clock.advance(25 * time.Hour)
	h.app("default", "newest") // what is old is dropped at the next change
	w := &watch{server: h.hub.Edges, who: caller{Edge: identity.Edge{Namespace: "default"}}}
	w.cluster, w.epoch, w.access = now.ClusterId, now.Epoch, now.AccessVersion
	if events := told(t, h, w, false); len(events) == 0 || !events[0].GetAccess().GetReset_() {
		t.Errorf("too old: %v, want a reset", events)
	}
}

func TestManyChangesComeInPartsThatNeverClaimTooMuch(t *testing.T) {
	var parts []*gwv1.AccessChanges
	w := &watch{who: caller{Edge: identity.Edge{Namespace: "default"}}, send: func(r *gwv1.WatchResponse) error {
		if a := r.GetAccess(); a != nil {
			parts = append(parts, a)
		}
		return nil
	}}
	changes := make([]*gwv1.AccessChange, 2*changesPerMessage+1)
	for i := range changes {
		changes[i] = &gwv1.AccessChange{Version: uint64(10 + i/3)} // three of a version
	}
	must(t, w.sendChanges(changes, 99_999))
	if len(parts) != 3 || parts[2].AccessVersion != 99_999 {
		t.Fatalf("got %d parts", len(parts))
	}
	for i, p := range parts[:2] {
		if next := parts[i+1].Changes[0].Version; p.AccessVersion >= next {
			t.Errorf("part %d claims version %d, but the next begins with %d", i, p.AccessVersion, next)
		}
	}
}

func TestAStreamEndsWhenItCanNotBeWritten(t *testing.T) {
	h := newHarness(t)
	broken := errors.New("broken")
	w := &watch{server: h.hub.Edges, who: caller{Edge: identity.Edge{Namespace: "default"}}, send: func(*gwv1.WatchResponse) error { return broken }}
	if err := w.begin(h.store.State(), &gwv1.WatchRequest{}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestASmallDifferenceTravelsWithTheTick(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	for i := range 50 {
		h.apply(api("", fmt.Sprintf("a%d", i), fmt.Sprintf("/a%d", i)))
	}
	h.push()
	request := h.caughtUp()
	request.BaseChecksum = h.target("default").Checksum
	w := e.watch(t, request)
	if first := w.next().GetTick(); len(first.GetRelease()) != 0 {
		t.Errorf("nothing differs, and with the tick came %v", first.Release)
	}
	for n := range 2 {
		held := h.target("default").Checksum
		h.apply(api("", "a7", fmt.Sprintf("/other/%d", n)))
		h.push()
		tick := w.next().GetTick()
		want := e.fetch(t, held)
		if len(tick.GetRelease()) != 4 || !proto.Equal(tick.Release[0].GetHeader(), want.header) || tick.Release[0].GetHeader().Blobs != 1 {
			t.Errorf("push %d: with the tick came %v, want what FetchRelease sends", n, tick.GetRelease())
		}
	}
	h.tick(TickInterval)
	if again := w.next().GetTick(); len(again.GetRelease()) != 0 {
		t.Errorf("it came a second time: %v", again)
	}
	// What an edge that missed both needs comes when it is back.
	if back := e.watch(t, request).next().GetTick(); len(back.GetRelease()) != 4 || !bytes.Equal(back.Release[0].GetHeader().BaseChecksum, request.BaseChecksum) {
		t.Errorf("to an edge that is back came %v", back)
	}
	if new := e.watch(t, h.caughtUp()).next().GetTick(); len(new.GetRelease()) != 0 {
		t.Errorf("an edge that holds nothing was sent %v, want to have it fetch", new.Release)
	}
}

func TestALargeDifferenceIsFetched(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	h.apply(api("", "a", "/a"))
	h.push()
	request := h.caughtUp()
	request.BaseChecksum = h.target("default").Checksum
	w := e.watch(t, request)
	w.next()
	noise := make([]byte, 2*maxSmall)
	rand.Read(noise)
	h.apply(api("", "b", "/"+hex.EncodeToString(noise)[:1000]))
	var many []*gwv1.Resource
	for i := range 100 {
		many = append(many, api("", fmt.Sprintf("n%d", i), "/"+hex.EncodeToString(noise[300*i:300*i+300])))
	}
	h.apply(many...)
	number := h.push().Number
	tick := w.next().GetTick()
	if tick.GetTarget().GetNumber() != number || len(tick.Release) != 0 {
		t.Errorf("%d parts came with the tick of release %d", len(tick.GetRelease()), tick.GetTarget().GetNumber())
	}
}

func TestAStreamThatCanNotBeOpenedSaysWhyAndLeavesNothingBehind(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	ctx, cancel := context.WithCancel(h.calls(certificateOf(t, h, e)))
	cancel() // the state can't be read any more, as on a hub that has just lost the lead
	err := h.hub.Edges.Watch(ctx, h.caughtUp(), &connect.ServerStream[gwv1.WatchResponse]{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	h.tickers.mu.Lock()
	defer h.tickers.mu.Unlock()
	if n := len(h.tickers.running[TickInterval]); n > 0 {
		t.Errorf("%d tickers run on", n)
	}
}
