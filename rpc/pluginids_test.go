package rpc

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

func plugin(namespace, name, kind string, id float64) *gwv1.Resource {
	return object("Plugin", namespace, name, map[string]any{"id": id, "type": kind, "command": "file:///opt/" + name})
}

func TestPluginIDsAreUniqueByTypeInAnEffectiveConfiguration(t *testing.T) {
	h := newHarness(t)
	h.apply(plugin("global", "a", "edge", 1), plugin("global", "hub-a", "hub", 1), plugin("eu", "b", "edge", 2), plugin("us", "c", "edge", 2))
	for _, c := range []struct {
		name  string
		saved []*gwv1.Resource
		with  string // whom it would conflict with; "" it is fine
	}{
		{"in the same namespace", []*gwv1.Resource{plugin("eu", "x", "edge", 2)}, "Plugin/b in namespace eu"},
		{"under the namespace", []*gwv1.Resource{plugin("eu", "x", "edge", 1)}, "Plugin/a in namespace global"},
		{"over global", []*gwv1.Resource{plugin("global", "x", "edge", 2)}, "Plugin/b in namespace eu"},
		{"two hub plugins", []*gwv1.Resource{plugin("global", "x", "hub", 1)}, "Plugin/hub-a in namespace global"},
		{"within the batch", []*gwv1.Resource{plugin("eu", "x", "edge", 3), plugin("eu", "y", "edge", 3)}, "Plugin/y in namespace eu"},
		{"in the place of the other", []*gwv1.Resource{plugin("eu", "a", "edge", 1)}, ""},
		{"what the other leaves in the same batch", []*gwv1.Resource{plugin("us", "c", "edge", 4), plugin("us", "d", "edge", 2)}, ""},
	} {
		r := &gwv1.ApplyResourcesRequest{Resources: c.saved, DryRun: true}
		_, err := h.hub.Config.ApplyResources(h.as(RoleOperator), r)
		if c.with == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		d := h.refused(err, connect.CodeInvalidArgument, ReasonInvalidResource, "")
		if len(d.Violations) == 0 || d.Violations[0].Code != "conflict" || d.Violations[0].Field != "spec.id" || !strings.Contains(d.Violations[0].Message, c.with) {
			t.Errorf("%s: got %v, want a conflict with %s", c.name, d.Violations, c.with)
		}
	}
}

func TestHubPluginsAreInNoRelease(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"), plugin("global", "stats", "hub", 1))
	if n := len(h.store.Manifest("default").Entries); n != 1 {
		t.Errorf("the manifest has %d entries, want only the API", n)
	}
	x, ok := h.store.State().Resource("Plugin", resource.Global, "stats")
	if !ok || !x.OutsideReleases {
		t.Errorf("saved as %v, want a record outside of releases", x)
	}
}
