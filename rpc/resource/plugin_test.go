package resource

import (
	"strings"
	"testing"

	"gw/rpc/gwv1"
)

func pluginFile(spec string) string {
	return "kind: Plugin\nmetadata: {name: p, namespace: global}\nspec:\n  id: 7\n  command: file:///opt/p\n" + spec
}

func TestPluginDefaults(t *testing.T) {
	for _, c := range []struct {
		spec string
		on   gwv1.OnFailure
	}{
		{"  hooks: [pre_auth]\n", gwv1.OnFailure_ON_FAILURE_CLOSED},
		{"  hooks: [auth, on_response]\n", gwv1.OnFailure_ON_FAILURE_CLOSED},
		{"  hooks: [post_auth]\n", gwv1.OnFailure_ON_FAILURE_CLOSED},
		{"  hooks: [on_response, on_stream_chunk]\n", gwv1.OnFailure_ON_FAILURE_OPEN},
		{"  hooks: [auth]\n  on_failure: open\n", gwv1.OnFailure_ON_FAILURE_OPEN},
		{"  type: hub\n", gwv1.OnFailure_ON_FAILURE_UNSPECIFIED},
	} {
		s := parseOne(t, pluginFile(c.spec)).Spec.(*gwv1.PluginSpec)
		if s.OnFailure != c.on || s.GetOrder() != 100 || s.Timeout == nil || s.Type == 0 {
			t.Errorf("%q: got %v, want %v and explicit defaults", c.spec, s, c.on)
		}
	}
}

func TestPluginWordsOfOtherGatewaysAreRead(t *testing.T) {
	hub := parseOne(t, pluginFile("  plugin_type: studio\n"))
	if got := hub.Spec.(*gwv1.PluginSpec).Type; got != gwv1.PluginType_PLUGIN_TYPE_HUB || !OutsideReleases(hub.Spec) {
		t.Errorf("plugin_type: studio is %v, want a hub plugin", got)
	}
	edge := parseOne(t, pluginFile("  hook_type: post_auth\n"))
	s := edge.Spec.(*gwv1.PluginSpec)
	if len(s.Hooks) != 1 || s.Hooks[0] != gwv1.Hook_HOOK_POST_AUTH || OutsideReleases(s) {
		t.Errorf("hook_type: post_auth gives %v", s)
	}
	_, err := Parse("f.yaml", []byte(pluginFile("  hook_type: post_auth\n  hooks: [auth]\n")))
	if err == nil || !strings.Contains(err.Error(), "spec.hooks: is given twice") {
		t.Errorf("both ways at once: got %v", err)
	}
}

func TestWrongPluginsSayWhere(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"no ID", strings.Replace(pluginFile(""), "id: 7", "id: 0", 1), "spec.id"},
		{"relative command", strings.Replace(pluginFile(""), "file:///opt/p", "opt/p", 1), "spec.command: is not valid, expected file:// and the absolute path"},
		{"dots", strings.Replace(pluginFile(""), "file:///opt/p", "file:///opt/../p", 1), `spec.command: is "file:///opt/../p", expected "file:///p"`},
		{"pin", pluginFile("  sha256: abc\n"), "spec.sha256"},
		{"hook", pluginFile("  hooks: [sometimes]\n"), "expected one of pre_auth, auth, post_auth, on_response, on_stream_chunk"},
		{"hub with hooks", pluginFile("  type: hub\n  hooks: [auth]\n"), "spec.hooks: is given for a hub plugin"},
		{"hub elsewhere", strings.Replace(pluginFile("  type: hub\n"), "namespace: global", "namespace: eu", 1), "metadata.namespace: is eu, expected global"},
	} {
		if _, err := Parse("f.yaml", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v\nwant %s", c.name, err, c.want)
		}
	}
}
