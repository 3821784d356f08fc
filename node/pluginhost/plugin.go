package pluginhost

import (
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"gw/edgeplugin/pluginv1"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Plugin is what is to be run.
type Plugin struct {
	ID   uint32
	Name string
	// Digest is that of the resource; plugins of one name and digest share a process.
	Digest resource.Digest
	// Path is the executable's, and SHA256 what it must have; nil: anything.
	Path   string
	SHA256 []byte
	// Hooks are what it is to be called at.
	Hooks  []pluginv1.Hook
	Config map[string]string
	// Env names variables of gw's environment that the process gets.
	Env []string
	// Timeout bounds one call.
	Timeout time.Duration
}

// PluginOf returns what a resource says is to be run.
func PluginOf(name string, digest resource.Digest, spec *gwv1.PluginSpec) Plugin {
	p := Plugin{ID: spec.Id, Name: name, Digest: digest, Path: strings.TrimPrefix(spec.Command, "file://"),
		Config: spec.Config, Env: spec.Env, Timeout: spec.Timeout.AsDuration()}
	if spec.Sha256 != "" {
		p.SHA256, _ = hex.DecodeString(spec.Sha256) // checked when it was saved; a wrong one matches no file
	}
	if p.Timeout <= 0 {
		p.Timeout = time.Second
	}
	for _, h := range spec.Hooks {
		p.Hooks = append(p.Hooks, pluginv1.Hook(h)) // numbered alike
	}
	return p
}

func (p *Plugin) key() string { return p.Name + "\x00" + string(p.Digest[:]) }

// checkHooks says which hooks the plugin lacks a method for.
func (p *Plugin) checkHooks(m *pluginv1.ManifestResponse) (errs resource.Errors) {
	for i, h := range p.Hooks {
		if !slices.Contains(m.Hooks, h) {
			errs = append(errs, p.invalid("spec.hooks["+itoa(i)+"]", "is "+hookName(h)+", for which the plugin has no method", "one of "+hookNames(m.Hooks)))
		}
	}
	return errs
}

func (p *Plugin) invalid(field, message, expected string) *resource.Error {
	return &resource.Error{Kind: "Plugin", Name: p.Name, Field: field, Code: resource.CodeInvalid, Message: message, Expected: expected}
}

func hookName(h pluginv1.Hook) string {
	return strings.ToLower(strings.TrimPrefix(h.String(), "HOOK_"))
}

func hookNames(hooks []pluginv1.Hook) string {
	if len(hooks) == 0 {
		return "none: the plugin has no methods for requests"
	}
	names := make([]string, len(hooks))
	for i, h := range hooks {
		names[i] = hookName(h)
	}
	return strings.Join(names, ", ")
}

// isInvalid reports whether an error is about the resource, so that trying again is of no use.
func isInvalid(err error) bool {
	var errs resource.Errors
	return errors.As(err, &errs)
}

func joinInvalid(a, b error) error {
	var all, more resource.Errors
	errors.As(a, &all)
	errors.As(b, &more)
	return append(all, more...)
}
