package rpc

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

func (h *harness) getPush(number uint64) *gwv1.GetPushResponse {
	h.t.Helper()
	a, err := h.hub.Releases.GetPush(h.as(RoleViewer), &gwv1.GetPushRequest{Number: number})
	must(h.t, err)
	return a
}

// edgesOf words what a push came to at its edges, in the order they are shown.
func edgesOf(a *gwv1.GetPushResponse) string {
	var words []string
	for _, e := range a.Edges {
		words = append(words, e.Edge+" "+strings.ToLower(strings.TrimPrefix(e.Outcome.String(), "EDGE_OUTCOME_")))
	}
	return strings.Join(words, ", ")
}

func (h *harness) rollback(to uint64, namespaces ...string) *gwv1.PushResponse {
	h.t.Helper()
	a, err := h.hub.Releases.Rollback(h.as(RoleOperator), &gwv1.RollbackRequest{Scope: scope(namespaces...), To: to, Note: "oh no"})
	must(h.t, err)
	return a
}

func TestAPushShowsItsEdgesThoseThatWantAttentionFirst(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"))
	empty := &gwv1.Target{Checksum: resource.EmptyChecksum[:]}
	a, b, c, d := h.enroll("default", "a"), h.enroll("default", "b"), h.enroll("default", "c"), h.enroll("default", "d")
	for _, e := range []*testEdge{a, b, c, d} {
		e.beat(t, empty)
	}
	_, err := c.Goodbye(t.Context(), &gwv1.GoodbyeRequest{SessionId: c.session})
	must(t, err)
	number := h.push().Number
	h.enroll("default", "later") // not one the push was made for
	a.beat(t, h.target("default"))
	d.beat(t, empty, func(r *gwv1.HeartbeatRequest) {
		r.ApplyError = &gwv1.ApplyError{Epoch: h.target("default").Epoch, Release: number, Kind: "API", Name: "a", Field: "spec.x", Code: "too_old", Message: "unknown field"}
	})
	got := h.getPush(number)
	if want := "d failed, b waiting, c offline, a loaded"; edgesOf(got) != want || got.Total != 4 {
		t.Errorf("got %d: %s; want %s", got.Total, edgesOf(got), want)
	}
	for i, want := range []string{"API/a spec.x: unknown field", "on its way", "it gets it when it returns: it said goodbye", fmt.Sprintf("it runs release %d", number)} {
		if !strings.Contains(got.Edges[i].Reason, want) {
			t.Errorf("%s: %q doesn't say %q", got.Edges[i].Edge, got.Edges[i].Reason, want)
		}
	}
	if p := got.Push.Progress; p.Edges != 4 || p.Loaded != 1 || p.Failed != 1 || p.Waiting != 1 || p.Offline != 1 {
		t.Errorf("progress %v", p)
	}
	page, err := h.hub.Releases.GetPush(h.as(RoleViewer), &gwv1.GetPushRequest{Number: number, PageSize: 2, Offset: 1})
	must(t, err)
	if edgesOf(page) != "b waiting, c offline" {
		t.Errorf("the second page is %s", edgesOf(page))
	}
	// What was heard is recorded: a leader that has heard nobody tells the same.
	h.tick(dutyInterval)
	eventually(t, "d's failure is recorded", func() bool {
		return slices.ContainsFunc(slices.Collect(h.store.State().PushEdges(number)), func(e *gwv1.PushEdgeRecord) bool {
			return e.Edge == "d" && e.Outcome == gwv1.PushOutcome_PUSH_OUTCOME_FAILED
		})
	})
	h.fleet.Resign()
	if got := h.getPush(number); !strings.HasPrefix(edgesOf(got), "d failed, ") || !strings.HasSuffix(edgesOf(got), "a loaded") {
		t.Errorf("a leader that heard nobody says: %s", edgesOf(got))
	}
}

// E6.4: what an edge says now stands over what it said before, for the push that it should run.
func TestE6_04AnEdgeThatFallsBackIsWaitedForAgain(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/one"))
	e := h.enroll("default", "e")
	e.beat(t, &gwv1.Target{Checksum: resource.EmptyChecksum[:]})
	one := h.push().Number
	first := h.target("default")
	e.beat(t, first)
	must(t, h.hub.core.recordEdges(h.as(RoleAdmin)))
	h.apply(api("", "a", "/two"))
	two := h.push().Number
	e.beat(t, h.target("default"))
	check := func(number uint64, want, reason string) {
		t.Helper()
		got := h.getPush(number)
		if edgesOf(got) != want || !strings.Contains(got.Edges[0].Reason, reason) {
			t.Errorf("push %d: %s, %q; want %s, %q", number, edgesOf(got), got.Edges[0].Reason, want, reason)
		}
	}
	check(two, "e loaded", fmt.Sprintf("it runs release %d", two))
	check(one, "e loaded", fmt.Sprintf("it loaded release %d", one))
	must(t, h.hub.core.recordEdges(h.as(RoleAdmin)))
	e.beat(t, first) // its disk was restored
	check(two, "e waiting", "on its way")
	if p := h.getPush(two).Push.Progress; p.Loaded != 0 || p.Waiting != 1 {
		t.Errorf("progress %v", p)
	}
	check(one, "e loaded", fmt.Sprintf("it loaded release %d", one))
}

func TestPushesAreListedNewestFirstAndOnlyToWhoMaySeeThem(t *testing.T) {
	h := newHarness(t)
	h.apply(api("eu", "a", "/a"))
	one := h.push().Number
	h.apply(api("us", "a", "/a"))
	two := h.push().Number
	h.push()
	list := func(namespace string, may ...string) string {
		a, err := h.hub.Releases.ListPushes(h.as(RoleViewer, may...), &gwv1.ListPushesRequest{Namespace: namespace})
		must(t, err)
		var words []string
		for _, p := range a.Pushes {
			words = append(words, fmt.Sprintf("%d", p.Number))
			for _, n := range p.Namespaces {
				words = append(words, n.Namespace)
			}
		}
		return strings.Join(words, " ")
	}
	if got, want := list(""), fmt.Sprintf("%d default eu us %d default eu", two, one); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := list("eu"), fmt.Sprintf("%d default eu", one); got != want {
		t.Errorf("of eu: got %q, want %q", got, want)
	}
	if got, want := list("", "us"), fmt.Sprintf("%d us", two); got != want {
		t.Errorf("for who may see us: got %q, want %q", got, want)
	}
	_, err := h.hub.Releases.GetPush(h.as(RoleViewer, "us"), &gwv1.GetPushRequest{Number: one})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, fmt.Sprint(one))
}

func TestRollbackBringsBackWhatWasAfterAPush(t *testing.T) {
	h := newHarness(t)
	h.apply(api("eu", "a", "/one"), api("us", "a", "/one"))
	one := h.push().Number
	h.apply(api("eu", "a", "/two"))
	two := h.push().Number
	h.apply(api("eu", "a", "/three"), api("us", "a", "/three"))
	three := h.push().Number
	content := func(ns string, number uint64) string { return h.release(ns, number).Checksum.String() }
	back := h.rollback(0, "eu")
	if got, want := back.Namespaces[0].Checksum, content("eu", two); back.Number <= three || got != want {
		t.Errorf("before the newest: push %d with %s, want %s", back.Number, got, want)
	}
	if us, _ := h.store.State().Target("us"); us.Number != three {
		t.Errorf("us was rolled back with it, to %d", us.Number)
	}
	all := h.rollback(one)
	for _, n := range all.Namespaces {
		if n.Checksum != content(n.Namespace, one) || !n.Released {
			t.Errorf("%s: %s released %v, want %s", n.Namespace, n.Checksum, n.Released, content(n.Namespace, one))
		}
	}
	p := h.getPush(all.Number).Push
	if !p.Rollback || p.RollbackTo != one || p.Note != "oh no" {
		t.Errorf("kept as %v", p)
	}
	// What is saved stays, and a push releases it again.
	preview, err := h.hub.Releases.PreviewPush(h.as(RoleViewer), &gwv1.PreviewPushRequest{Scope: scope("eu")})
	must(t, err)
	if c := preview.Namespaces[0].Changes; len(c) != 1 || len(c[0].Fields) != 1 || c[0].Fields[0].Path != "spec.paths[0]" ||
		c[0].Fields[0].Before.GetStringValue() != "/one" || c[0].Fields[0].After.GetStringValue() != "/three" {
		t.Errorf("a push would now change %v", c)
	}
}

func TestRollbackIsRefusedWithAReason(t *testing.T) {
	h := newHarness(t)
	h.apply(api("eu", "a", "/one"))
	one := h.push().Number
	try := func(r *gwv1.RollbackRequest) error {
		_, err := h.hub.Releases.Rollback(h.as(RoleAdmin), r)
		return err
	}
	h.refused(try(&gwv1.RollbackRequest{Scope: scope("eu")}), connect.CodeNotFound, ReasonNotFound, `"eu" has no release before its newest one`)
	h.refused(try(&gwv1.RollbackRequest{}), connect.CodeNotFound, ReasonNotFound, "no namespace has a release before")
	h.refused(try(&gwv1.RollbackRequest{To: 77}), connect.CodeNotFound, ReasonNotFound, "77")
	h.apply(api("eu", "a", "/two"))
	h.push()
	preview, err := h.hub.Releases.PreviewPush(h.as(RoleViewer), &gwv1.PreviewPushRequest{Scope: scope("eu"), Rollback: true, RollbackTo: one})
	must(t, err)
	if n := preview.Namespaces[0]; n.Source != one || len(n.Changes) != 1 || len(preview.Problems) > 0 {
		t.Errorf("preview %v", preview)
	}
	h.apply(api("eu", "a", "/three"))
	h.push()
	h.refused(try(&gwv1.RollbackRequest{Scope: scope("eu"), To: one, Base: preview.Base}), connect.CodeFailedPrecondition, ReasonChanged, "preview it again")
	h.broken = "a" // what this binary's edges would not load is refused, however old
	h.refused(try(&gwv1.RollbackRequest{Scope: scope("eu"), To: one}), connect.CodeInvalidArgument, ReasonInvalidResource, "API/a")
}

func TestARollbackNeverRevivesAnOldSecretValue(t *testing.T) {
	h := newHarness(t)
	put := func(value string) {
		_, err := h.hub.Access.PutSecret(h.as(RoleAdmin), &gwv1.PutSecretRequest{Namespace: "eu", Name: "key", Value: value})
		must(t, err)
	}
	put("old")
	h.apply(llm("eu", "m", "key"))
	one := h.push().Number
	put("new")
	h.apply(llm("eu", "m", "key"), api("eu", "a", "/a"))
	h.push()
	e := h.enroll("eu", "e1")
	h.rollback(one, "eu")
	a, err := e.FetchSecrets(t.Context(), &gwv1.FetchSecretsRequest{})
	must(t, err)
	if len(a.Secrets) != 1 || string(a.Secrets[0].Value) != "new" {
		t.Errorf("after the rollback the edge gets %q", a.Secrets)
	}
}

func TestFrozenPushesAreRefusedButByAnAdminWhoSaysWhy(t *testing.T) {
	h := newHarness(t)
	h.apply(api("eu", "a", "/one"))
	one := h.push().Number
	h.apply(api("eu", "a", "/two"))
	_, err := h.hub.Releases.Freeze(h.as(RoleOperator), &gwv1.FreezeRequest{Scope: scope("eu"), Reason: "the fair"})
	must(t, err)
	_, err = h.hub.Releases.Push(h.as(RoleOperator), &gwv1.PushRequest{Scope: scope("eu")})
	d := h.refused(err, connect.CodeFailedPrecondition, ReasonFrozen, "the fair")
	if len(d.Violations) != 1 || d.Violations[0].Namespace != "eu" {
		t.Errorf("violations %v", d.Violations)
	}
	preview, err := h.hub.Releases.PreviewPush(h.as(RoleViewer), &gwv1.PreviewPushRequest{})
	must(t, err)
	if len(preview.Freezes) != 1 || preview.Freezes[0].Reason != "the fair" || len(preview.Problems) != 0 {
		t.Errorf("preview: freezes %v, problems %v", preview.Freezes, preview.Problems)
	}
	_, err = h.hub.Releases.Push(h.as(RoleOperator), &gwv1.PushRequest{Scope: scope("eu"), BreakGlass: true, Note: "fire"})
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "")
	_, err = h.hub.Releases.Push(h.as(RoleAdmin), &gwv1.PushRequest{Scope: scope("eu"), BreakGlass: true})
	h.refused(err, connect.CodeInvalidArgument, ReasonInvalid, "say why")
	two, err := h.hub.Releases.Push(h.as(RoleAdmin), &gwv1.PushRequest{Scope: scope("eu"), BreakGlass: true, Note: "fire"})
	must(t, err)
	if p := h.getPush(two.Number).Push; !p.BreakGlass {
		t.Errorf("kept as %v", p)
	}
	_, err = h.hub.Releases.Rollback(h.as(RoleOperator), &gwv1.RollbackRequest{Scope: scope("eu"), To: one})
	h.refused(err, connect.CodeFailedPrecondition, ReasonFrozen, "the fair")
	_, err = h.hub.Releases.Unfreeze(h.as(RoleOperator), &gwv1.UnfreezeRequest{Scope: scope("eu")})
	must(t, err)
	h.rollback(one, "eu")
	list, err := h.hub.Releases.ListFreezes(h.as(RoleViewer), &gwv1.ListFreezesRequest{})
	must(t, err)
	if len(list.Freezes) != 0 {
		t.Errorf("still frozen: %v", list.Freezes)
	}
}

func TestDiffReleases(t *testing.T) {
	h := newHarness(t)
	h.apply(api("eu", "a", "/one"), api("eu", "gone", "/gone"))
	one := h.push().Number
	h.apply(api("eu", "a", "/two"))
	_, err := h.hub.Config.DeleteResources(h.as(RoleOperator), &gwv1.DeleteResourcesRequest{Keys: []*gwv1.ResourceKey{{Kind: "API", Namespace: "eu", Name: "gone"}}})
	must(t, err)
	two := h.push().Number
	h.apply(api("eu", "new", "/new"))
	diff := func(from, to uint64) string {
		a, err := h.hub.Releases.DiffReleases(h.as(RoleViewer), &gwv1.DiffReleasesRequest{Namespace: "eu", From: from, To: to})
		must(t, err)
		var words []string
		for _, c := range a.Changes {
			words = append(words, strings.ToLower(strings.TrimPrefix(c.Change.String(), "CHANGE_"))+" "+c.Name)
			for _, f := range c.Fields {
				words = append(words, fmt.Sprintf("%s: %s → %s", f.Path, f.Before.GetStringValue(), f.After.GetStringValue()))
			}
		}
		return strings.Join(words, ", ")
	}
	for _, x := range []struct {
		from, to uint64
		want     string
	}{
		{one, two, "updated a, spec.paths[0]: /one → /two, deleted gone"},
		{two, one, "updated a, spec.paths[0]: /two → /one, created gone"},
		{0, 0, "created new"},
		{two, two, ""},
	} {
		if got := diff(x.from, x.to); got != x.want {
			t.Errorf("%d to %d: %q, want %q", x.from, x.to, got, x.want)
		}
	}
	_, err = h.hub.Releases.DiffReleases(h.as(RoleViewer), &gwv1.DiffReleasesRequest{Namespace: "eu", From: 99})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "eu/99")
	_, err = h.hub.Releases.DiffReleases(h.as(RoleViewer), &gwv1.DiffReleasesRequest{Namespace: "global"})
	h.refused(err, connect.CodeInvalidArgument, ReasonInvalid, "global")
}

func TestFieldChangesMatchEqualElementsOfLists(t *testing.T) {
	spec := func(fields map[string]any) *structpb.Struct {
		s, err := structpb.NewStruct(fields)
		must(t, err)
		return s
	}
	list := func(urls ...string) (all []any) {
		for _, u := range urls {
			all = append(all, map[string]any{"url": u, "weight": 1})
		}
		return all
	}
	for _, x := range []struct {
		before, after map[string]any
		want          string
	}{
		{map[string]any{"a": 1, "b": 2}, map[string]any{"b": 3, "c": 4}, "spec.a -, spec.b ~, spec.c +"},
		{map[string]any{"u": list("x", "y", "z")}, map[string]any{"u": list("y", "z")}, "spec.u[0] -"},
		{map[string]any{"u": list("x", "y")}, map[string]any{"u": list("x", "new", "y")}, "spec.u[1] +"},
		{map[string]any{"u": list("x", "y")}, map[string]any{"u": list("x", "z")}, "spec.u[1].url ~"},
		{map[string]any{"u": list("x", "y")}, map[string]any{"u": list("y", "x")}, "spec.u[0] -, spec.u[1] +"},
		{map[string]any{"u": "text"}, map[string]any{"u": list("x")}, "spec.u ~"},
		{map[string]any{"u": list("x")}, map[string]any{"u": list("x")}, ""},
	} {
		var words []string
		for _, c := range fieldChanges(spec(x.before), spec(x.after)) {
			sign := "~"
			switch {
			case c.Before == nil:
				sign = "+"
			case c.After == nil:
				sign = "-"
			}
			words = append(words, c.Path+" "+sign)
		}
		if got := strings.Join(words, ", "); got != x.want {
			t.Errorf("%v to %v: %q, want %q", x.before, x.after, got, x.want)
		}
	}
}
