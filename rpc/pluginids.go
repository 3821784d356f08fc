package rpc

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// kindPlugin is the kind whose specs carry numbers.
const kindPlugin = "Plugin"

// checkPluginIDs refuses a batch after which two edge plugins of one effective configuration, or two hub plugins, would
// have the same ID: what one of them keeps or sends would be the other's.
func (b *batch) checkPluginIDs() error {
	if !slices.ContainsFunc(b.edits, func(e *gwv1.ResourceEdit) bool { return e.Kind == kindPlugin && !e.Delete }) {
		return nil
	}
	plugins, err := pluginsOf(b.state)
	if err != nil {
		return err
	}
	for _, e := range b.edits {
		if e.Kind != kindPlugin {
			continue
		}
		at := resource.Key{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name}
		if delete(plugins, at); e.Delete {
			continue
		}
		spec, err := decodePlugin(e.Name, e.Spec)
		if err != nil {
			return err
		}
		plugins[at] = spec
	}
	var wrong resource.Errors
	for _, e := range b.edits {
		if e.Kind != kindPlugin || e.Delete {
			continue
		}
		at := resource.Key{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name}
		if other, ok := samePluginID(plugins, at); ok {
			wrong = append(wrong, &resource.Error{Kind: at.Kind, Namespace: at.Namespace, Name: at.Name, Field: "spec.id", Code: resource.CodeConflict,
				Message:  fmt.Sprintf("%d is the ID of %s in namespace %s too", plugins[at].Id, other, other.Namespace),
				Expected: "an ID that no other plugin of its type has"})
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

func decodePlugin(name string, spec []byte) (*gwv1.PluginSpec, error) {
	m, err := resource.Decode(kindPlugin, name, spec)
	if err != nil {
		return nil, err
	}
	return m.(*gwv1.PluginSpec), nil
}

// pluginsOf returns the specs of all plugins that are saved.
func pluginsOf(st *state.State) (map[resource.Key]*gwv1.PluginSpec, error) {
	plugins := map[resource.Key]*gwv1.PluginSpec{}
	for r := range st.Resources("") {
		if r.Kind != kindPlugin {
			continue
		}
		spec, err := decodePlugin(r.Name, r.Spec)
		if err != nil {
			return nil, err
		}
		plugins[resource.Key{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}] = spec
	}
	return plugins, nil
}

// samePluginID returns the first plugin with the ID and type of the one at k that meets it in some effective
// configuration: in the same layer, or in a namespace over global, unless one replaces the other there.
func samePluginID(plugins map[resource.Key]*gwv1.PluginSpec, k resource.Key) (resource.Key, bool) {
	spec := plugins[k]
	others := slices.SortedFunc(maps.Keys(plugins), func(a, b resource.Key) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	replaced := func(global, by string) bool { // a global plugin's name, in a namespace
		own, ok := plugins[resource.Key{Kind: kindPlugin, Namespace: by, Name: global}]
		return ok && !resource.OutsideReleases(own)
	}
	for _, o := range others {
		x := plugins[o]
		if o == k || x.Id != spec.Id || x.Type != spec.Type {
			continue
		}
		switch {
		case o.Namespace == k.Namespace:
			return o, true
		case o.Namespace == resource.Global && !replaced(o.Name, k.Namespace):
			return o, true
		case k.Namespace == resource.Global && !replaced(k.Name, o.Namespace):
			return o, true
		}
	}
	return resource.Key{}, false
}
