package rpc

import (
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/resource"
)

func scope(namespaces ...string) *gwv1.Scope { return &gwv1.Scope{Namespaces: namespaces} }

func TestPushReleasesWhatDiffers(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"), api("eu", "b", "/b"))
	a := h.push()
	if a.Number == 0 || len(a.Namespaces) != 2 || !a.Namespaces[0].Released || !a.Namespaces[1].Released || a.Namespaces[0].Created != 1 {
		t.Fatalf("got %v", a)
	}
	if again := h.push(); again.Number != 0 || again.Namespaces[0].Released || again.Namespaces[0].Release != a.Number {
		t.Errorf("nothing differs: got %v", again)
	}
	h.apply(api("eu", "b", "/b2"), api("", "a", "/a2"))
	one := h.push("eu")
	if len(one.Namespaces) != 1 || one.Namespaces[0].Namespace != "eu" || one.Namespaces[0].Updated != 1 || one.Number <= a.Number {
		t.Errorf("one namespace: got %v", one)
	}
	if h.target("default").Number != a.Number {
		t.Error("a namespace out of scope was released")
	}
	h.apply(api("global", "g", "/g"))
	if all := h.push("global"); len(all.Namespaces) != 2 {
		t.Errorf("global is all: got %v", all)
	}
	if r, _ := h.store.State().Target("eu"); r.Len() != 2 {
		t.Errorf("eu has %d resources, want its own and global's", r.Len())
	}
	_, err := h.hub.Releases.Push(h.as(RoleOperator), &gwv1.PushRequest{Scope: scope("typo")})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, `namespace "typo"`)
}

func TestPushRefusesWhatWouldNotLoad(t *testing.T) {
	h := newHarness(t)
	h.apply(api("eu", "bad", "/refuse"), api("", "good", "/good"))
	_, err := h.hub.Releases.Push(h.as(RoleOperator), &gwv1.PushRequest{})
	d := h.refused(err, connect.CodeInvalidArgument, ReasonInvalidResource, "API/bad")
	if len(d.Violations) != 1 || d.Violations[0].Field != "spec.paths[0]" || d.Violations[0].Code != "conflict" {
		t.Errorf("violations: %v", d.Violations)
	}
	if h.target("default").Number != 0 {
		t.Error("a part was released")
	}
	h.push("default") // is not concerned
}

func TestPushRefusesAMissingSecret(t *testing.T) {
	h := newHarness(t)
	h.apply(llm("", "openai", "openai-key"))
	_, err := h.hub.Releases.Push(h.as(RoleOperator), &gwv1.PushRequest{})
	d := h.refused(err, connect.CodeFailedPrecondition, ReasonMissingSecret, `there is no secret "openai-key"`)
	if v := d.Violations[0]; v.Kind != "LLM" || v.Name != "openai" || v.Field != "spec.credential.secret" || v.Code != ReasonMissingSecret {
		t.Errorf("violation: %v", v)
	}
	p, err := h.hub.Releases.PreviewPush(h.as(RoleViewer), &gwv1.PreviewPushRequest{})
	must(t, err)
	if len(p.Problems) != 1 || !strings.Contains(p.Problems[0], "openai-key") || !strings.Contains(p.Problems[0], "spec.credential.secret") {
		t.Errorf("preview: problems %q", p.Problems)
	}
	_, err = h.hub.Access.PutSecret(h.as(RoleAdmin), &gwv1.PutSecretRequest{Namespace: "global", Name: "openai-key", Value: "v"})
	must(t, err)
	h.push()
}

func TestPushWithABaseReleasesExactlyThatOrNothing(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"))
	p, err := h.hub.Releases.PreviewPush(h.as(RoleViewer), &gwv1.PreviewPushRequest{})
	must(t, err)
	h.apply(api("", "b", "/b"))
	_, err = h.hub.Releases.Push(h.as(RoleOperator), &gwv1.PushRequest{Base: p.Base})
	h.refused(err, connect.CodeFailedPrecondition, ReasonChanged, "preview it again")
	p, err = h.hub.Releases.PreviewPush(h.as(RoleViewer), &gwv1.PreviewPushRequest{})
	must(t, err)
	_, err = h.hub.Releases.Push(h.as(RoleOperator), &gwv1.PushRequest{Base: p.Base})
	must(t, err)
	_, err = h.hub.Releases.Push(h.as(RoleOperator), &gwv1.PushRequest{Base: p.Base})
	h.refused(err, connect.CodeFailedPrecondition, ReasonChanged, "") // in place of what it would be released has changed
}

func TestPushIsMadeAgainWhenSomeoneSavesMeanwhile(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"))
	compiles := 0
	h.beforeCompile = func() {
		if compiles++; compiles == 1 {
			h.apply(api("", "b", "/b"))
		}
	}
	a, err := h.hub.Releases.Push(h.as(RoleOperator), &gwv1.PushRequest{})
	must(t, err)
	if compiles != 2 || a.Namespaces[0].Created != 2 {
		t.Errorf("compiled %d times, released %v", compiles, a)
	}
	h.apply(api("", "c", "/c"))
	p, err := h.hub.Releases.PreviewPush(h.as(RoleViewer), &gwv1.PreviewPushRequest{})
	must(t, err)
	compiles = 0
	h.beforeCompile = func() {
		if compiles++; compiles == 1 {
			h.apply(api("", "d", "/d"))
		}
	}
	_, err = h.hub.Releases.Push(h.as(RoleOperator), &gwv1.PushRequest{Base: p.Base})
	h.refused(err, connect.CodeFailedPrecondition, ReasonChanged, "")
	// Someone who always saves can't keep a push busy for ever.
	h.beforeCompile = func() {
		compiles++
		h.apply(api("", "c", "/"+strings.Repeat("c", compiles+1)))
	}
	compiles = 0
	_, err = h.hub.Releases.Push(h.as(RoleOperator), &gwv1.PushRequest{})
	h.refused(err, connect.CodeFailedPrecondition, ReasonChanged, "")
	if compiles != maxPushTries {
		t.Errorf("tried %d times, want %d", compiles, maxPushTries)
	}
}

func TestPushThatRemovesMuchWantsConfirmation(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"), api("", "b", "/b"), api("", "c", "/c"))
	h.push()
	_, err := h.hub.Config.DeleteResources(h.as(RoleOperator), &gwv1.DeleteResourcesRequest{Keys: []*gwv1.ResourceKey{{Kind: "API", Name: "a"}, {Kind: "API", Name: "b"}}})
	must(t, err)
	_, err = h.hub.Releases.Push(h.as(RoleOperator), &gwv1.PushRequest{})
	h.refused(err, connect.CodeFailedPrecondition, "confirm_removal", "2 of 3")
	h.push()
}

func TestARepeatedPushGivesTheFirstAnswer(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"))
	once := WithIdempotencyKey(h.as(RoleOperator), "push-1")
	first, err := h.hub.Releases.Push(once, &gwv1.PushRequest{})
	must(t, err)
	h.apply(api("", "a", "/refuse")) // can't even be pushed
	again, err := h.hub.Releases.Push(once, &gwv1.PushRequest{})
	must(t, err)
	if again.String() != first.String() {
		t.Errorf("got %v, want %v", again, first)
	}
	_, err = h.hub.Access.CreateApp(WithIdempotencyKey(h.as(RoleOperator), "push-1"), &gwv1.CreateAppRequest{App: &gwv1.App{Name: "x"}})
	h.refused(err, connect.CodeFailedPrecondition, "idempotency_key_reused", "")
}

// Another push is not a repetition, whatever its key is.
func TestAPushWithTheKeyOfAnotherIsRefused(t *testing.T) {
	h := newHarness(t)
	h.apply(api("a", "x", "/a"), api("b", "x", "/b"))
	once := WithIdempotencyKey(h.as(RoleOperator), "k")
	_, err := h.hub.Releases.Push(once, &gwv1.PushRequest{Scope: &gwv1.Scope{Namespaces: []string{"a"}}})
	must(t, err)
	for _, r := range []*gwv1.PushRequest{
		{Scope: &gwv1.Scope{Namespaces: []string{"b"}}}, {Scope: &gwv1.Scope{Namespaces: []string{"a"}}, Note: "n"},
		{Scope: &gwv1.Scope{Namespaces: []string{"nowhere"}}}, {},
	} {
		_, err = h.hub.Releases.Push(once, r)
		h.refused(err, connect.CodeFailedPrecondition, "idempotency_key_reused", "")
	}
	_, err = h.hub.Releases.Rollback(once, &gwv1.RollbackRequest{Scope: &gwv1.Scope{Namespaces: []string{"a"}}})
	h.refused(err, connect.CodeFailedPrecondition, "idempotency_key_reused", "")
	if _, ok := h.store.State().Target("b"); ok {
		t.Error("b was pushed")
	}
}

func TestPreviewShowsBothSides(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "changed", "/before"), api("", "gone", "/gone"), api("", "same", "/same"))
	number := h.push().Number
	h.apply(api("", "changed", "/after"), api("", "new", "/new"))
	_, err := h.hub.Config.DeleteResources(h.as(RoleOperator), &gwv1.DeleteResourcesRequest{Keys: []*gwv1.ResourceKey{{Kind: "API", Name: "gone"}}})
	must(t, err)
	e := h.enroll("default", "e1")
	e.watch(t, &gwv1.WatchRequest{}).next()
	e.beat(t, h.target("default"))
	h.enroll("default", "never-heard")
	p, err := h.hub.Releases.PreviewPush(h.as(RoleViewer), &gwv1.PreviewPushRequest{Scope: scope("default")})
	must(t, err)
	n := p.Namespaces[0]
	if n.Release != number || n.ReleasedChecksum == n.ExpectedChecksum || n.SizeBytes == 0 || n.MaxSizeBytes != 64<<20 || n.Edges != 2 || n.ConnectedEdges != 1 {
		t.Errorf("got %v", n)
	}
	first := func(c *gwv1.ResourceChange) string {
		path := func(fields map[string]any) string { return fields["paths"].([]any)[0].(string) }
		s := c.Name
		if c.Before != nil {
			s += " from " + path(c.Before.AsMap())
		}
		if c.After != nil {
			s += " to " + path(c.After.AsMap())
		}
		return s
	}
	var got []string
	for _, c := range n.Changes {
		got = append(got, first(c))
	}
	if want := "changed from /before to /after, gone from /gone, new to /new"; strings.Join(got, ", ") != want {
		t.Errorf("got %q, want %q", strings.Join(got, ", "), want)
	}
}

func TestListReleasesNewestFirst(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"), api("eu", "b", "/b"))
	first := h.push().Number
	h.apply(api("", "a", "/a2"))
	second := h.push().Number
	a, err := h.hub.Releases.ListReleases(h.as(RoleViewer), &gwv1.ListReleasesRequest{})
	must(t, err)
	if len(a.Releases) != 3 || a.Releases[0].Number != second || !a.Releases[0].Target || a.Releases[1].Namespace != "default" || a.Releases[1].Target ||
		a.Releases[2].Namespace != "eu" || !a.Releases[2].Target || a.Releases[2].Number != first || a.Releases[0].Resources != 1 {
		t.Errorf("got %v", a.Releases)
	}
}

// followed collects what a push's watcher is sent.
func (h *harness) follow(number uint64) (next func() *gwv1.WatchPushResponse, ended func() error) {
	client := gwv1connect.NewReleaseServiceClient(h.h2c(), h.admin, connect.WithGRPC(), bearer(h.user("watcher", RoleViewer)))
	ctx, cancel := context.WithCancel(h.t.Context())
	stream, err := client.WatchPush(ctx, &gwv1.WatchPushRequest{Number: number})
	must(h.t, err)
	h.t.Cleanup(func() { cancel(); stream.Close() })
	return func() *gwv1.WatchPushResponse {
			h.t.Helper()
			if !stream.Receive() {
				h.t.Fatalf("ended: %v", stream.Err())
			}
			return stream.Msg()
		}, func() error {
			if stream.Receive() {
				h.t.Errorf("goes on with %v", stream.Msg())
			}
			return stream.Err()
		}
}

func TestWatchPushEndsWhenNobodyIsWaitedFor(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"))
	a, b, c := h.enroll("default", "a"), h.enroll("default", "b"), h.enroll("default", "c")
	for _, e := range []*testEdge{a, b, c} {
		e.beat(t, &gwv1.Target{Checksum: resource.EmptyChecksum[:]})
	}
	_, err := c.Goodbye(t.Context(), &gwv1.GoodbyeRequest{SessionId: c.session})
	must(t, err)
	number := h.push().Number
	next, ended := h.follow(number)
	if got := next(); got.Edges != 3 || got.Waiting != 2 || got.Offline != 1 || got.Loaded != 0 {
		t.Fatalf("at first: %v", got)
	}
	a.beat(t, h.target("default"))
	if got := next(); got.Loaded != 1 || got.Waiting != 1 {
		t.Fatalf("one has it: %v", got)
	}
	fails := func(code string) func(*gwv1.HeartbeatRequest) {
		return func(r *gwv1.HeartbeatRequest) {
			r.ApplyError = &gwv1.ApplyError{Epoch: h.target("default").Epoch, Release: number, Kind: "API", Name: "a", Code: code, Message: "broken"}
		}
	}
	b.beat(t, &gwv1.Target{Checksum: resource.EmptyChecksum[:]}, fails("fetch"))
	if got := next(); got.Waiting != 1 || got.Failed != 0 || len(got.Failures) != 1 {
		t.Fatalf("one will try again: %v", got)
	}
	b.beat(t, &gwv1.Target{Checksum: resource.EmptyChecksum[:]}, fails("compile"))
	if got := next(); got.Waiting != 0 || got.Failed != 1 || got.Failures[0].Edge != "b" || !strings.Contains(got.Failures[0].Message, "API/a: broken") {
		t.Fatalf("one can't: %v", got)
	}
	if err := ended(); err != nil {
		t.Errorf("ended with %v", err)
	}
	h.apply(api("", "a", "/a2"))
	h.push()
	if p := h.getPush(number).Push.Progress; !p.Superseded || p.Loaded != 1 {
		t.Errorf("superseded: %v", p)
	}
	_, err = h.hub.Releases.GetPush(h.as(RoleViewer), &gwv1.GetPushRequest{Number: 9999})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "9999")
}
