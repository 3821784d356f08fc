package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/edgeplugin/pluginv1"
	"gw/node/edgestore"
	"gw/node/gateway"
	"gw/node/pluginhost"
	"gw/rpc/gwv1"
)

// pluginsWait is how long an edge that starts from its disk waits for plugins to run before it serves: callers get an
// answer a little later instead of a refusal.
const pluginsWait = 3 * time.Second

// openPlugins makes the host of the edge's plugins, which keep in the spool what they keep and send.
func (e *edge) openPlugins() {
	e.plugins = pluginhost.New(pluginhost.Config{
		Side: pluginv1.Side_SIDE_EDGE,
		Send: func(ctx context.Context, plugin uint32, payload []byte, correlationID string, metadata map[string]string) (int64, error) {
			pending, err := e.spool.Send(ctx, plugin, payload, correlationID, metadata)
			return pending, sendRefusal(err)
		},
		KV:     func(plugin uint32) pluginhost.KV { return e.spool.KV(plugin) },
		Logger: e.log.With("room", "plugins"),
	})
}

// sendRefusal says in the host's words why the spool did not take a payload.
func sendRefusal(err error) error {
	for from, to := range map[error]error{
		edgestore.ErrPayloadTooLarge: pluginhost.ErrPayloadTooLarge,
		edgestore.ErrInvalidMetadata: pluginhost.ErrInvalidMetadata,
		edgestore.ErrQueueFull:       pluginhost.ErrQueueFull,
	} {
		if errors.Is(err, from) {
			return fmt.Errorf("%w: %w", to, err)
		}
	}
	return err
}

// pluginsOf returns what is to be run for a table, in the table's order.
func pluginsOf(t *gateway.Table) []pluginhost.Plugin {
	var plugins []pluginhost.Plugin
	for _, p := range t.Plugins() {
		plugins = append(plugins, pluginhost.PluginOf(p.Name, p.Digest, p.Spec))
	}
	return plugins
}

// adopt makes a set the one that serves, after the table it was made for does.
func (l *releaseLoader) adopt(t *gateway.Table, s *pluginhost.Set) {
	l.plugins.Adopt(s)
	var ids []uint32
	for _, p := range t.Plugins() {
		ids = append(ids, p.Spec.Id)
	}
	slices.Sort(ids)
	l.share(ids)
}

// pluginAilments are what is wrong with plugins. down: requests are refused because of it.
func (e *edge) pluginAilments() (reasons []string, down bool) {
	closed := map[string]bool{}
	if t := e.gateway.Table(); t != nil {
		for _, p := range t.Plugins() {
			closed[p.Name] = p.Closed()
		}
	}
	for _, s := range e.plugins.States() {
		sentence := s.Sentence()
		if sentence == "" {
			continue
		}
		if s.Phase != pluginhost.Running {
			if closed[s.Name] {
				down = true
				sentence += "; its requests are refused"
			} else {
				sentence += "; requests go on without it"
			}
		}
		reasons = append(reasons, sentence)
	}
	return reasons, down
}

// processesOf says in the wire's words how plugins are.
func processesOf(states []pluginhost.State) []*gwv1.PluginProcess {
	processes := make([]*gwv1.PluginProcess, len(states))
	for i, s := range states {
		p := &gwv1.PluginProcess{Id: s.ID, Name: s.Name, State: phases[s.Phase], Reason: clipped(s.Reason(), 1024), Since: timestamppb.New(s.Since),
			Version: clipped(s.Version, 128), Restarts: s.Restarts, Calls: s.Calls, Failures: s.Failures}
		if s.Calls > 0 {
			p.P50, p.P99 = durationpb.New(s.P50), durationpb.New(s.P99)
		}
		processes[i] = p
	}
	return processes
}

var phases = map[pluginhost.Phase]gwv1.PluginState{
	pluginhost.Starting:   gwv1.PluginState_PLUGIN_STATE_STARTING,
	pluginhost.Running:    gwv1.PluginState_PLUGIN_STATE_RUNNING,
	pluginhost.Restarting: gwv1.PluginState_PLUGIN_STATE_BACKOFF,
	pluginhost.Stopped:    gwv1.PluginState_PLUGIN_STATE_STOPPED,
}

// clipped cuts s to at most n bytes, at a character.
func clipped(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}
