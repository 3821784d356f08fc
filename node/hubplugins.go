package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"gw/edgeplugin/pluginv1"
	"gw/node/pluginhost"
	"gw/raftstore"
	"gw/raftstore/state"
	"gw/rpc"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// hubPluginsWait is how long a hub plugin that was changed may take until its first start has succeeded or failed, before
// the one it replaces ends.
const hubPluginsWait = 10 * time.Second

// hubPlugins are the plugins of this hub. They run while it leads; elsewhere it is only seen whether they could.
type hubPlugins struct {
	host  *pluginhost.Host
	store *raftstore.Store
	log   *slog.Logger
	// leads is whether the plugins of the configuration run here.
	leads atomic.Bool
}

// openHubPlugins makes the host; nothing runs before run. kv is asked once a plugin does.
func openHubPlugins(store *raftstore.Store, kv func(plugin uint32) rpc.PluginKV, log *slog.Logger) *hubPlugins {
	host := pluginhost.New(pluginhost.Config{
		Side:   pluginv1.Side_SIDE_HUB,
		KV:     func(plugin uint32) pluginhost.KV { return kv(plugin) },
		Logger: log,
	})
	return &hubPlugins{host: host, store: store, log: log}
}

// run keeps the plugins running that are saved, whenever this hub leads, until ctx ends.
func (h *hubPlugins) run(ctx context.Context) error {
	return h.store.LeadDuties(ctx, h.lead)
}

func (h *hubPlugins) lead(ctx context.Context) error {
	defer func() {
		h.leads.Store(false)
		h.host.Adopt(h.host.Assemble(nil))
	}()
	var running []pluginhost.Plugin
	st, err := h.store.Read(ctx)
	for ctx.Err() == nil {
		if err != nil { // the leadership ends, or it is tried again
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			st, err = h.store.Read(ctx)
			continue
		}
		wanted := h.configured(st)
		if !h.leads.Load() || !slices.EqualFunc(running, wanted, func(a, b pluginhost.Plugin) bool { return a.Name == b.Name && a.Digest == b.Digest }) {
			next := h.host.Assemble(wanted)
			if h.leads.Load() { // those before take payloads meanwhile
				next.Wait(ctx, hubPluginsWait)
			}
			h.host.Adopt(next)
			running = wanted
			h.leads.Store(true)
		}
		st, err = h.store.Wait(ctx, st.Index())
	}
	return nil
}

// configured are the hub plugins that are saved. One that this version can't read is left out, and told of.
func (h *hubPlugins) configured(st *state.State) (plugins []pluginhost.Plugin) {
	for r := range st.ResourcesOf("Plugin", resource.Global) {
		spec, digest, err := pluginSpec(r)
		if err != nil {
			h.log.Error("a hub plugin can't be read, and is not run", "plugin", r.Name, "error", err)
			continue
		}
		if spec.Type == gwv1.PluginType_PLUGIN_TYPE_HUB {
			plugins = append(plugins, pluginhost.PluginOf(r.Name, digest, spec))
		}
	}
	return plugins
}

func pluginSpec(r *gwv1.ResourceRecord) (*gwv1.PluginSpec, resource.Digest, error) {
	m, err := resource.Decode(r.Kind, r.Name, r.Spec)
	if err != nil {
		return nil, resource.Digest{}, err
	}
	spec, ok := m.(*gwv1.PluginSpec)
	digest, whole := resource.AsDigest(r.Digest)
	if !ok || !whole {
		return nil, digest, fmt.Errorf("%s/%s is no plugin", r.Kind, r.Name)
	}
	return spec, digest, nil
}

// close ends every process.
func (h *hubPlugins) close() error { return h.host.Close() }

// Accept implements rpc.HubPlugins.
func (h *hubPlugins) Accept(ctx context.Context, plugin uint32, p rpc.Payload, kv rpc.PluginKV) (bool, error) {
	if !h.leads.Load() {
		return false, rpc.ErrPluginNotRunning // what there is to be is not known here yet
	}
	handled, err := h.host.AcceptEdgePayload(ctx, plugin, pluginhost.Payload(p), kv)
	if handled || err == nil {
		return handled, err
	}
	for _, known := range []struct{ theirs, ours error }{
		{pluginhost.ErrNoPlugin, rpc.ErrNoPlugin},
		{pluginhost.ErrNotRunning, rpc.ErrPluginNotRunning},
		{pluginhost.ErrBusy, rpc.ErrPluginNotRunning},
		{pluginhost.ErrCrashed, rpc.ErrPluginCrashed},
		{pluginhost.ErrTooSlow, rpc.ErrPluginTooSlow},
	} {
		if errors.Is(err, known.theirs) {
			return false, fmt.Errorf("%w: %w", known.ours, err)
		}
	}
	return false, err
}

// Receivers implements rpc.HubPlugins.
func (h *hubPlugins) Receivers() []uint32 {
	if !h.leads.Load() {
		return nil
	}
	return h.host.Receivers()
}

// Processes implements rpc.HubPlugins.
func (h *hubPlugins) Processes() []*gwv1.PluginProcess {
	if h.leads.Load() {
		return processesOf(h.host.States())
	}
	var all []*gwv1.PluginProcess
	for _, p := range h.configured(h.store.State()) {
		shown := &gwv1.PluginProcess{Id: p.ID, Name: p.Name, State: gwv1.PluginState_PLUGIN_STATE_STANDBY}
		if err := executable(p.Path); err != nil {
			shown.State, shown.Reason = gwv1.PluginState_PLUGIN_STATE_FAILED, err.Error()
		}
		all = append(all, shown)
	}
	slices.SortFunc(all, func(a, b *gwv1.PluginProcess) int { return int(int64(a.Id) - int64(b.Id)) })
	return all
}

// executable says why a file can't be run here.
func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is not on this machine: put the plugin's executable there", path)
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not an executable file", path)
	}
	return nil
}

// complaints are what readiness tells of plugins that don't run, or could not run, here.
func (h *hubPlugins) complaints() (lines []string) {
	for _, p := range h.Processes() {
		if p.Reason != "" || p.State == gwv1.PluginState_PLUGIN_STATE_BACKOFF || p.State == gwv1.PluginState_PLUGIN_STATE_FAILED {
			lines = append(lines, fmt.Sprintf("plugin %d %s: %s", p.Id, p.Name, p.Reason))
		}
	}
	return lines
}
