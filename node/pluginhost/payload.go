package pluginhost

import (
	"context"
	"errors"
	"slices"
	"time"

	"gw/edgeplugin/pluginv1"
)

// Payload is what a plugin at an edge sent.
type Payload struct {
	Payload                              []byte
	EdgeID, EdgeNamespace, CorrelationID string
	Metadata                             map[string]string
	// SentAt is by the clock of the edge, ReceivedAt by that of the hub.
	SentAt, ReceivedAt time.Time
}

// AcceptEdgePayload hands a payload to a plugin of the current set, until the plugin's timeout. KV calls that the plugin
// makes with the context of this call go to kv, until AcceptEdgePayload returns. handled: the plugin has dealt with it, and
// err is what it said went wrong. Otherwise err wraps ErrNoPlugin, ErrNotRunning, ErrBusy, ErrCrashed, ErrTooSlow or
// ErrTooMuch, or is what the plugin said, or nil; with the last two the plugin does not want the payload.
func (h *Host) AcceptEdgePayload(ctx context.Context, plugin uint32, p Payload, kv KV) (handled bool, err error) {
	set := h.hold()
	if set == nil {
		return false, ErrNoPlugin
	}
	defer set.Release() // a set that is replaced meanwhile ends after the call
	proc := set.find(plugin)
	if proc == nil {
		return false, ErrNoPlugin
	}
	var answer *pluginv1.AcceptEdgePayloadResponse
	err = proc.call(ctx, func(ctx context.Context, inst *instance) (err error) {
		id, unbind := inst.server.bind(kv)
		defer unbind()
		answer, err = inst.client.AcceptEdgePayload(ctx, &pluginv1.EdgePayload{
			Payload: p.Payload, EdgeId: p.EdgeID, EdgeNamespace: p.EdgeNamespace, CorrelationId: p.CorrelationID, Metadata: p.Metadata,
			EdgeTimestamp: p.SentAt.Unix(), ReceivedTimestamp: p.ReceivedAt.Unix(), CallId: id,
		})
		return err
	})
	if err != nil {
		return false, err
	}
	if answer.Error != "" {
		err = errors.New(clip(answer.Error, 1024))
	}
	return answer.Handled, err
}

// Receivers returns the IDs of the current set's plugins that run and take payloads, ascending.
func (h *Host) Receivers() (ids []uint32) {
	s := h.set()
	if s == nil {
		return nil
	}
	for _, p := range s.procs {
		if inst := p.instance.Load(); inst != nil && inst.manifest.AcceptsEdgePayloads {
			ids = append(ids, p.plugin.ID)
		}
	}
	slices.Sort(ids)
	return ids
}
