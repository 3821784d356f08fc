package gateway

import (
	"cmp"
	"fmt"
	"slices"

	"gw/edgeplugin/pluginv1"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// TablePlugin is a plugin that a table wants to run.
type TablePlugin struct {
	Name   string
	Digest resource.Digest
	// Spec must not be changed.
	Spec *gwv1.PluginSpec
}

// open reports whether requests go on when the plugin fails.
func (p *TablePlugin) open() bool { return p.Spec.OnFailure == gwv1.OnFailure_ON_FAILURE_OPEN }

// Closed reports whether some request is refused while the plugin can't be asked.
func (p *TablePlugin) Closed() bool { return len(p.Spec.Hooks) > 0 && !p.open() }

// meets reports whether the plugin is asked about a target's requests.
func (p *TablePlugin) meets(t *target) bool {
	scope := p.Spec.Scope
	if len(scope.GetApis())+len(scope.GetLlms()) == 0 {
		return true
	}
	if t.kind == kindLLM {
		return slices.Contains(scope.GetLlms(), t.name)
	}
	return slices.Contains(scope.GetApis(), t.name)
}

// hooks are the plugins of one target, by their places in the table, in the order they are asked.
type hooks struct{ preAuth, auth, postAuth, response, chunk []int }

func (s site) plugin(r Resource, spec *gwv1.PluginSpec) {
	if spec.Type != gwv1.PluginType_PLUGIN_TYPE_EDGE {
		s.invalid("spec.type", "is that of a plugin which no edge runs", "edge")
		return
	}
	for _, other := range s.c.table.plugins {
		if other.Spec.Id == spec.Id {
			s.fail("spec.id", resource.CodeConflict, fmt.Sprintf("%d is the ID of Plugin/%s too", spec.Id, other.Name), "an ID that no other plugin has")
			return
		}
	}
	s.c.table.plugins = append(s.c.table.plugins, &TablePlugin{Name: r.Name, Digest: r.Digest, Spec: spec})
}

// plugins brings the plugins into the order they are asked in, and gives every target those that it is shown to.
func (c *compiler) plugins() {
	table := c.table
	slices.SortFunc(table.plugins, func(a, b *TablePlugin) int {
		return cmp.Or(cmp.Compare(a.Spec.GetOrder(), b.Spec.GetOrder()), cmp.Compare(a.Name, b.Name))
	})
	for _, t := range table.targets {
		var h hooks
		asked := false
		for i, p := range table.plugins {
			if len(p.Spec.Hooks) == 0 || !p.meets(t) {
				continue
			}
			asked = true
			for _, hook := range p.Spec.Hooks {
				if chain := h.chain(pluginv1.Hook(hook)); chain != nil {
					*chain = append(*chain, i)
				}
			}
		}
		if asked {
			t.hooks = &h
			table.pluginsAskFirst = table.pluginsAskFirst || t.kind == kindLLM && len(h.preAuth)+len(h.auth) > 0
		}
	}
}

// chain returns where a hook's plugins are kept, nil for a hook there is none of.
func (h *hooks) chain(hook pluginv1.Hook) *[]int {
	switch hook {
	case pluginv1.Hook_HOOK_PRE_AUTH:
		return &h.preAuth
	case pluginv1.Hook_HOOK_AUTH:
		return &h.auth
	case pluginv1.Hook_HOOK_POST_AUTH:
		return &h.postAuth
	case pluginv1.Hook_HOOK_ON_RESPONSE:
		return &h.response
	case pluginv1.Hook_HOOK_ON_STREAM_CHUNK:
		return &h.chunk
	}
	return nil
}
