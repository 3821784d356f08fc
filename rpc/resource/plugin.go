package resource

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"gw/rpc/gwv1"
)

// OutsideReleases reports whether a spec takes effect when it is saved instead of being pushed: no effective
// configuration and no release contains it.
func OutsideReleases(spec proto.Message) bool {
	p, ok := spec.(*gwv1.PluginSpec)
	return ok && p.Type == gwv1.PluginType_PLUGIN_TYPE_HUB
}

func pluginDefaults(s *gwv1.PluginSpec) {
	if s.Type == gwv1.PluginType_PLUGIN_TYPE_UNSPECIFIED {
		s.Type = gwv1.PluginType_PLUGIN_TYPE_EDGE
	}
	if s.OnFailure == gwv1.OnFailure_ON_FAILURE_UNSPECIFIED && s.Type == gwv1.PluginType_PLUGIN_TYPE_EDGE {
		s.OnFailure = gwv1.OnFailure_ON_FAILURE_OPEN
		if slices.ContainsFunc(s.Hooks, decides) {
			s.OnFailure = gwv1.OnFailure_ON_FAILURE_CLOSED
		}
	}
	if s.Timeout == nil {
		s.Timeout = durationpb.New(time.Second)
		if s.Type == gwv1.PluginType_PLUGIN_TYPE_HUB {
			s.Timeout = durationpb.New(10 * time.Second)
		}
	}
	if s.Order == nil {
		s.Order = proto.Uint32(100)
	}
}

// decides reports whether a plugin at this hook may be what keeps a request out.
func decides(h gwv1.Hook) bool {
	return h == gwv1.Hook_HOOK_PRE_AUTH || h == gwv1.Hook_HOOK_AUTH || h == gwv1.Hook_HOOK_POST_AUTH
}

// pluginAliases reads "plugin_type" and "hook_type", the words of configurations written for another gateway.
func pluginAliases(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		return n
	}
	renamed := *n
	renamed.Content = slices.Clone(n.Content)
	for i := 0; i+1 < len(renamed.Content); i += 2 {
		key, value := *renamed.Content[i], *renamed.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode:
			continue
		case key.Value == "plugin_type":
			key.Value = "type"
			if where, ok := map[string]string{"studio": "hub", "ai_studio": "hub", "gateway": "edge"}[value.Value]; ok && value.Kind == yaml.ScalarNode {
				value.Value = where
			}
		case key.Value == "hook_type":
			key.Value = "hooks"
			item := value
			value = yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Line: item.Line, Column: item.Column, Content: []*yaml.Node{&item}}
		default:
			continue
		}
		renamed.Content[i], renamed.Content[i+1] = &key, &value
	}
	return &renamed
}

func checkPlugin(d *Document) (errs Errors) {
	s := d.Spec.(*gwv1.PluginSpec)
	fail := func(field, message, expected string) {
		errs = append(errs, d.errorAt(field, CodeInvalid, message, expected))
	}
	if slices.Contains(s.Hooks, gwv1.Hook_HOOK_UNSPECIFIED) {
		fail("spec.hooks", "has an empty entry", "names of hooks")
	}
	if file, ok := strings.CutPrefix(s.Command, "file://"); ok && file != path.Clean(file) {
		fail("spec.command", "is "+strconv.Quote(s.Command), strconv.Quote("file://"+path.Clean(file)))
	}
	if s.Type != gwv1.PluginType_PLUGIN_TYPE_HUB {
		return errs
	}
	if d.Namespace != Global {
		fail("metadata.namespace", "is "+d.Namespace, Global+", where hub plugins live")
	}
	if len(s.Hooks) > 0 {
		fail("spec.hooks", "is given for a hub plugin", "no hooks: a hub plugin gets what edge plugins send")
	}
	if s.Scope != nil {
		fail("spec.scope", "is given for a hub plugin", "no scope: a hub plugin sees no requests")
	}
	if s.OnFailure != gwv1.OnFailure_ON_FAILURE_UNSPECIFIED {
		fail("spec.on_failure", "is given for a hub plugin", "nothing: no request waits for a hub plugin")
	}
	return errs
}
