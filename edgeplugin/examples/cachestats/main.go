// Command cachestats is a hub plugin that adds up what the llmcache plugins of all edges report, by edge and in all, and
// keeps the totals in its KV: "edge/{namespace}/{edge}" and "total", as JSON. "gw plugins kv ID" shows them. The totals are
// exact: what is written with the context of AcceptEdgePayload takes effect once for each payload.
package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"gw/edgeplugin"
)

func main() { edgeplugin.Serve(New()) }

// Stats is the plugin.
type Stats struct{ edgeplugin.BasePlugin }

var _ edgeplugin.EdgePayloadReceiver = (*Stats)(nil)

// Totals is one value in the KV.
type Totals struct {
	Hits       int64 `json:"hits"`
	Misses     int64 `json:"misses"`
	Stored     int64 `json:"stored"`
	BytesSaved int64 `json:"bytes_saved"`
	Reports    int64 `json:"reports"`
	// LastReport is when the edge sent the newest report counted here, in Unix seconds.
	LastReport int64 `json:"last_report"`
}

// New returns the plugin.
func New() *Stats {
	return &Stats{edgeplugin.NewBasePlugin("cachestats", "1.0.0", "Adds up what the caches at the edges report.")}
}

// AcceptEdgePayload adds one report to the totals of its edge and of all.
func (s *Stats) AcceptEdgePayload(ctx edgeplugin.Context, p *edgeplugin.EdgePayload) (bool, error) {
	if p.Metadata["type"] != "cache_statistics" {
		return false, nil
	}
	var report Totals
	if err := json.Unmarshal(p.Payload, &report); err != nil {
		return true, fmt.Errorf("report of edge %s: %w", p.EdgeID, err) // no other receiver could read it either
	}
	for _, key := range []string{"edge/" + p.EdgeNamespace + "/" + p.EdgeID, "total"} {
		if err := add(ctx, key, report, p.EdgeTimestamp); err != nil {
			return false, err
		}
	}
	return true, nil
}

func add(ctx edgeplugin.Context, key string, report Totals, at int64) error {
	kv := ctx.Services.KV()
	var t Totals
	b, err := kv.Read(ctx, key)
	switch {
	case errors.Is(err, edgeplugin.ErrNotFound):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(b, &t); err != nil {
			return fmt.Errorf("value of %s: %w", key, err)
		}
	}
	t.Hits += report.Hits
	t.Misses += report.Misses
	t.Stored += report.Stored
	t.BytesSaved += report.BytesSaved
	t.Reports++
	t.LastReport = max(t.LastReport, at)
	if b, err = json.Marshal(t); err != nil {
		return err
	}
	return kv.Write(ctx, key, b)
}
