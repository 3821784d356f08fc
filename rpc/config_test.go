package rpc

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
)

func isWire(err error, target **connect.Error) bool { return errors.As(err, target) }

func TestApplySaysWhatItDidAndKeepsEqualOnes(t *testing.T) {
	h := newHarness(t)
	if got, want := outcomes(h.apply(api("", "a", "/a"), api("eu", "b", "/b")).Outcomes), "default/API/a created, eu/API/b created"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	index := h.store.State().Index()
	a := h.apply(api("default", "a", "/a"), api("eu", "b", "/b"))
	if got, want := outcomes(a.Outcomes), "default/API/a unchanged, eu/API/b unchanged"; got != want {
		t.Errorf("again: got %q, want %q", got, want)
	}
	if h.store.State().Index() != index || a.Outcomes[0].Version == 0 {
		t.Errorf("saving what is saved wrote to the log, or has no version: %v", a)
	}
	labelled := api("", "a", "/a")
	labelled.Metadata.Labels = map[string]string{"team": "x"}
	a = h.apply(labelled, api("eu", "b", "/b2"))
	if got, want := outcomes(a.Outcomes), "default/API/a updated, eu/API/b updated"; got != want {
		t.Errorf("edited: got %q, want %q", got, want)
	}
	if a.Outcomes[0].Version <= index || a.Outcomes[0].Version != a.Outcomes[1].Version {
		t.Errorf("versions %d and %d, want both one index above %d", a.Outcomes[0].Version, a.Outcomes[1].Version, index)
	}
}

func TestApplyReportsEverythingWrongAtOnceAndSavesNothing(t *testing.T) {
	h := newHarness(t)
	bad := api("", "bad", "no-slash")
	unknown := object("API", "", "unknown", map[string]any{"paths": []any{"/x"}, "upstreams": []any{map[string]any{"url": "http://x"}}, "colour": "red"})
	_, err := h.hub.Config.ApplyResources(h.as(RoleOperator), &gwv1.ApplyResourcesRequest{Resources: []*gwv1.Resource{
		api("", "good", "/good"), bad, unknown, api("", "good", "/other")}})
	d := h.refused(err, connect.CodeInvalidArgument, ReasonInvalidResource, "")
	found := map[string]string{}
	for _, v := range d.Violations {
		found[v.Name] = v.Code
	}
	if found["bad"] == "" || found["unknown"] != "unknown_field" || found["good"] != "conflict" {
		t.Errorf("violations: %v", d.Violations)
	}
	if _, ok := h.store.State().Resource("API", "default", "good"); ok {
		t.Error("a part of the batch was saved")
	}
}

func TestApplyChecksExpectedVersions(t *testing.T) {
	h := newHarness(t)
	version := h.apply(api("", "a", "/a")).Outcomes[0].Version
	save := func(expected uint64, path string) error {
		_, err := h.hub.Config.ApplyResources(h.as(RoleOperator), &gwv1.ApplyResourcesRequest{
			Resources: []*gwv1.Resource{api("", "a", path)}, ExpectedVersions: []uint64{expected}})
		return err
	}
	must(t, save(version, "/b"))
	d := h.refused(save(version, "/c"), connect.CodeFailedPrecondition, ReasonChanged, "changed since you read it")
	if len(d.Violations) != 1 || d.Violations[0].Name != "a" {
		t.Errorf("violations: %v", d.Violations)
	}
	_, err := h.hub.Config.ApplyResources(h.as(RoleOperator), &gwv1.ApplyResourcesRequest{
		Resources: []*gwv1.Resource{api("", "new", "/n")}, ExpectedVersions: []uint64{5}})
	h.refused(err, connect.CodeFailedPrecondition, ReasonChanged, "")
}

func TestPruneAndDryRun(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"), api("", "b", "/b"), api("eu", "c", "/c"))
	r := &gwv1.ApplyResourcesRequest{Resources: []*gwv1.Resource{api("", "a", "/a2")}, PruneNamespaces: []string{"default", "default"}, DryRun: true}
	const want = "default/API/a updated, default/API/b deleted"
	index := h.store.State().Index()
	a, err := h.hub.Config.ApplyResources(h.as(RoleOperator), r)
	must(t, err)
	if got := outcomes(a.Outcomes); got != want || h.store.State().Index() != index {
		t.Errorf("dry run: got %q, index %d → %d", got, index, h.store.State().Index())
	}
	r.DryRun = false
	a, err = h.hub.Config.ApplyResources(h.as(RoleOperator), r)
	must(t, err)
	if got := outcomes(a.Outcomes); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, ok := h.store.State().Resource("API", "default", "b"); ok {
		t.Error("b is still there")
	}
	if _, ok := h.store.State().Resource("API", "eu", "c"); !ok {
		t.Error("a namespace that wasn't named was pruned")
	}
}

func TestListIsPagedAndSorted(t *testing.T) {
	h := newHarness(t)
	h.apply(api("eu", "z", "/z"), api("", "b", "/b"), llm("", "a", "k"), api("global", "g", "/g"), api("", "a", "/a"))
	var got []string
	r := &gwv1.ListResourcesRequest{PageSize: 2}
	for pages := 0; ; pages++ {
		a, err := h.hub.Config.ListResources(h.as(RoleViewer), r)
		must(t, err)
		for _, x := range a.Resources {
			got = append(got, x.Metadata.Namespace+"/"+x.Kind+"/"+x.Metadata.Name)
			if x.Status.GetVersion() == 0 || x.Status.GetDigest() == "" || x.Status.GetUpdatedBy() != "admin" {
				t.Errorf("%s has status %v", x.Metadata.Name, x.Status)
			}
		}
		if r.PageToken = a.NextPageToken; r.PageToken == "" {
			if pages != 2 {
				t.Errorf("5 resources came on %d pages, want 3", pages+1)
			}
			break
		}
	}
	if want := "default/API/a default/API/b default/LLM/a eu/API/z global/API/g"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	a, err := h.hub.Config.ListResources(h.as(RoleViewer), &gwv1.ListResourcesRequest{Kind: "LLM"})
	must(t, err)
	if len(a.Resources) != 1 || a.Resources[0].Kind != "LLM" {
		t.Errorf("by kind: %v", a.Resources)
	}
	_, err = h.hub.Config.ListResources(h.as(RoleViewer), &gwv1.ListResourcesRequest{PageToken: "!"})
	h.refused(err, connect.CodeInvalidArgument, ReasonInvalid, "page_token")
}

func TestAPageIsBoundedInBytes(t *testing.T) {
	h := newHarness(t)
	large := func(name string) *gwv1.Resource {
		paths := make([]any, 64)
		for i := range paths {
			paths[i] = fmt.Sprintf("/%s/%02d/%s", name, i, strings.Repeat("x", 900))
		}
		return object("API", "", name, map[string]any{"paths": paths, "upstreams": []any{map[string]any{"url": "http://x"}}})
	}
	var all []*gwv1.Resource
	for i := range 100 { // 58 KiB each
		all = append(all, large(fmt.Sprintf("a%03d", i)))
	}
	h.apply(all...)
	found, r := 0, &gwv1.ListResourcesRequest{PageSize: 1000}
	for pages := 1; ; pages++ {
		a, err := h.hub.Config.ListResources(h.as(RoleViewer), r)
		must(t, err)
		found += len(a.Resources)
		if r.PageToken = a.NextPageToken; r.PageToken == "" {
			if pages != 2 || found != 100 {
				t.Errorf("%d resources on %d pages, want 100 on 2", found, pages)
			}
			return
		}
	}
}

// A save that is repeated with its key comes out as it did first, whatever became of the resource since.
func TestARepeatedSaveComesOutAsTheFirst(t *testing.T) {
	h := newHarness(t)
	version := h.apply(api("", "a", "/1")).Outcomes[0].Version
	save := func(key, path string, expected uint64) (uint64, error) {
		a, err := h.hub.Config.ApplyResources(WithIdempotencyKey(h.as(RoleOperator), key), &gwv1.ApplyResourcesRequest{
			Resources: []*gwv1.Resource{api("", "a", path)}, ExpectedVersions: []uint64{expected}})
		if err != nil {
			return 0, err
		}
		return a.Outcomes[0].Version, nil
	}
	first, err := save("save-1", "/2", version)
	must(t, err)
	for what, happens := range map[string]func(){
		"nothing":     func() {},
		"a later one": func() { h.apply(api("", "a", "/3")) },
		"its end": func() {
			_, err := h.hub.Config.DeleteResources(h.as(RoleOperator), &gwv1.DeleteResourcesRequest{Keys: []*gwv1.ResourceKey{{Kind: "API", Name: "a"}}})
			must(t, err)
		},
	} {
		happens()
		before := h.store.State()
		again, err := save("save-1", "/2", version)
		if err != nil || again != first {
			t.Errorf("after %s: version %d, %v, want %d", what, again, err, first)
		}
		was, _ := before.Resource("API", "default", "a")
		if is, _ := h.store.State().Resource("API", "default", "a"); is.GetVersion() != was.GetVersion() {
			t.Errorf("after %s, it took effect again", what)
		}
	}
	_, err = save("save-2", "/2", version)
	h.refused(err, connect.CodeFailedPrecondition, ReasonChanged, "")
}

func TestGetShowsDefaultsAndDeleteIsWhole(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"), api("", "b", "/b"))
	g, err := h.hub.Config.GetResource(h.as(RoleViewer), &gwv1.GetResourceRequest{Kind: "API", Name: "a"})
	must(t, err)
	if paths := g.Resource.Spec.Fields["paths"].GetListValue().GetValues(); len(paths) != 1 || paths[0].GetStringValue() != "/a" {
		t.Errorf("got %v", g.Resource)
	}
	_, err = h.hub.Config.GetResource(h.as(RoleViewer), &gwv1.GetResourceRequest{Kind: "API", Name: "none"})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "none")
	_, err = h.hub.Config.DeleteResources(h.as(RoleOperator), &gwv1.DeleteResourcesRequest{Keys: []*gwv1.ResourceKey{{Kind: "API", Name: "a"}, {Kind: "API", Name: "none"}}})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "nothing was deleted")
	if _, ok := h.store.State().Resource("API", "default", "a"); !ok {
		t.Fatal("a part was deleted")
	}
	once := WithIdempotencyKey(h.as(RoleOperator), "delete-1")
	for range 2 {
		d, err := h.hub.Config.DeleteResources(once, &gwv1.DeleteResourcesRequest{Keys: []*gwv1.ResourceKey{{Kind: "API", Name: "a"}, {Kind: "API", Name: "a"}}})
		must(t, err)
		if got, want := outcomes(d.Outcomes), "default/API/a deleted"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// many makes resources whose specs together are larger than several log entries.
func many(n int) []*gwv1.Resource {
	all := make([]*gwv1.Resource, n)
	for i := range all {
		all[i] = api("", fmt.Sprintf("api-%05d", i), fmt.Sprintf("/%05d/%s", i, strings.Repeat("x", 200)))
	}
	return all
}

// batchOf is more resources than a log entry could even name.
const batchOf = 20_000

func TestALargeBatchIsStagedAndTakesEffectAtOnce(t *testing.T) {
	h := newHarness(t)
	var seen []int
	index := h.store.State().Index()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for at := index; ; {
			st, err := h.store.Wait(t.Context(), at)
			if err != nil {
				return
			}
			at = st.Index()
			n := 0
			for range st.Resources("default") {
				n++
			}
			seen = append(seen, n)
			if n > 0 {
				return
			}
		}
	}()
	a := h.apply(many(batchOf)...)
	<-done
	if len(a.Outcomes) != batchOf || a.Outcomes[0].Version != a.Outcomes[batchOf-1].Version || a.Outcomes[0].Version == 0 {
		t.Fatalf("%d outcomes, versions %d to %d: want one commit", len(a.Outcomes), a.Outcomes[0].Version, a.Outcomes[batchOf-1].Version)
	}
	if got := seen[len(seen)-1]; got != batchOf {
		t.Errorf("resources were seen as they came: %v", seen)
	}
	if entries := a.Outcomes[0].Version - index; entries < 3 {
		t.Errorf("the batch took %d entries, so nothing was staged", entries)
	}
	if x, ok := h.store.State().Resource("API", "default", fmt.Sprintf("api-%05d", batchOf-1)); !ok || len(x.Spec) < 200 {
		t.Error("the last one is not there as sent")
	}
}
