// Command llmcache is a plugin that answers a repeated request from memory: of the same app, to the same target, with the
// same body. It is called at post_auth and on_response. How often it could is sent to the hub plugin with its ID, which
// examples/cachestats is.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gw/edgeplugin"
)

func main() { edgeplugin.Serve(New()) }

// Cache is the plugin.
type Cache struct {
	edgeplugin.BasePlugin
	ttl        time.Duration
	maxEntries int
	now        func() time.Time

	hits, misses, stored atomic.Int64
	saved                atomic.Int64 // bytes of answers that no upstream had to send

	mu      sync.Mutex
	entries map[key]entry
	order   []key          // oldest first
	asked   map[string]key // exchange ID → what to keep its answer under
	waiting []string       // their IDs, oldest first
}

var (
	_ edgeplugin.PostAuthHandler      = (*Cache)(nil)
	_ edgeplugin.ResponseHandler      = (*Cache)(nil)
	_ edgeplugin.ConfigSchemaProvider = (*Cache)(nil)
)

type key [sha256.Size]byte

type entry struct {
	body        []byte
	contentType string
	expires     time.Time
}

// Statistics is what is sent to the hub: counts since the last report.
type Statistics struct {
	Hits       int64 `json:"hits"`
	Misses     int64 `json:"misses"`
	Stored     int64 `json:"stored"`
	BytesSaved int64 `json:"bytes_saved"`
}

// maxAsked bounds the requests whose answers are waited for.
const maxAsked = 10_000

// New returns the plugin.
func New() *Cache {
	return &Cache{
		BasePlugin: edgeplugin.NewBasePlugin("llmcache", "1.0.0", "Answers repeated requests from memory."),
		ttl:        5 * time.Minute, maxEntries: 1000, now: time.Now,
		entries: map[key]entry{}, asked: map[string]key{},
	}
}

// Manifest asks for bodies in both directions.
func (c *Cache) Manifest() edgeplugin.Manifest {
	m := c.BasePlugin.Manifest()
	m.RequestBodies, m.ResponseBodies, m.MaxBody = true, true, 1<<20
	return m
}

// ConfigSchema describes the settings.
func (c *Cache) ConfigSchema() ([]byte, error) {
	return []byte(`{"type": "object", "additionalProperties": false, "properties": {
		"ttl": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "description": "how long an answer is kept, such as 5m"},
		"max_entries": {"type": "integer", "minimum": 1, "maximum": 1000000},
		"report_every": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "description": "how often statistics are sent, such as 10s"}}}`), nil
}

// Initialize reads the settings and starts reporting.
func (c *Cache) Initialize(ctx edgeplugin.Context, config map[string]string) (err error) {
	every := 10 * time.Second
	for name, at := range map[string]*time.Duration{"ttl": &c.ttl, "report_every": &every} {
		if v, ok := config[name]; ok {
			if *at, err = time.ParseDuration(v); err != nil || *at <= 0 {
				return fmt.Errorf("%s: %q is no duration above zero", name, v)
			}
		}
	}
	if v, ok := config["max_entries"]; ok {
		if c.maxEntries, err = strconv.Atoi(v); err != nil {
			return fmt.Errorf("max_entries: %w", err)
		}
	}
	go c.report(ctx, every)
	return nil
}

// report sends statistics until ctx ends. What could not be sent is part of the next report.
func (c *Cache) report(ctx edgeplugin.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := c.sendStatistics(ctx); err != nil {
				ctx.Services.Logger().Warn("statistics could not be sent", "error", err)
			}
		}
	}
}

func (c *Cache) sendStatistics(ctx context.Context) error {
	s := Statistics{Hits: c.hits.Swap(0), Misses: c.misses.Swap(0), Stored: c.stored.Swap(0), BytesSaved: c.saved.Swap(0)}
	if s == (Statistics{}) {
		return nil
	}
	_, err := edgeplugin.SendToControlJSON(ctx, s, "", map[string]string{"type": "cache_statistics"})
	refused := errors.Is(err, edgeplugin.ErrQueueFull) || errors.Is(err, edgeplugin.ErrPayloadTooLarge) || errors.Is(err, edgeplugin.ErrInvalidMetadata)
	if refused { // after another error it may have been taken: counting twice would be worse than not at all
		c.hits.Add(s.Hits)
		c.misses.Add(s.Misses)
		c.stored.Add(s.Stored)
		c.saved.Add(s.BytesSaved)
	}
	return err
}

// Shutdown sends what has been counted since the last report.
func (c *Cache) Shutdown(ctx edgeplugin.Context) error { return c.sendStatistics(ctx) }

// HandlePostAuth answers what is known, and remembers what is asked.
func (c *Cache) HandlePostAuth(_ edgeplugin.Context, req *edgeplugin.EnrichedRequest) (*edgeplugin.PluginResponse, error) {
	if req.Method != "POST" || req.BodyOmitted || len(req.Body) == 0 || strings.Contains(req.Headers["Cache-Control"], "no-cache") {
		return nil, nil
	}
	k := keyOf(req)
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[k]; ok && c.now().Before(e.expires) {
		c.hits.Add(1)
		c.saved.Add(int64(len(e.body)))
		return &edgeplugin.PluginResponse{Block: true, StatusCode: 200, ResponseBody: e.body,
			Headers: map[string]string{"Content-Type": e.contentType, "X-Cache": "hit"}}, nil
	}
	c.misses.Add(1)
	if len(c.waiting) >= maxAsked { // those whose answers never came
		delete(c.asked, c.waiting[0])
		c.waiting = c.waiting[1:]
	}
	c.asked[req.ExchangeID] = k
	c.waiting = append(c.waiting, req.ExchangeID)
	return nil, nil
}

// keyOf is what makes two requests the same: app, target, path, query and body.
func keyOf(req *edgeplugin.EnrichedRequest) key {
	h := sha256.New()
	app := ""
	if req.App != nil {
		app = req.App.ID
	}
	for _, part := range []string{app, req.Target, req.Path, req.Query, req.Headers["Accept"], string(req.Body)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return key(h.Sum(nil))
}

// OnResponse keeps the answers to what was asked.
func (c *Cache) OnResponse(_ edgeplugin.Context, resp *edgeplugin.EnrichedResponse) (*edgeplugin.PluginResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.asked[resp.Request.ExchangeID]
	if !ok {
		return nil, nil
	}
	delete(c.asked, resp.Request.ExchangeID)
	if resp.StatusCode != 200 || resp.Streams || resp.BodyOmitted || resp.Headers["Content-Encoding"] != "" ||
		strings.Contains(resp.Headers["Cache-Control"], "no-store") || resp.Headers["Set-Cookie"] != "" {
		return nil, nil
	}
	if _, replaced := c.entries[k]; !replaced {
		c.order = append(c.order, k)
	}
	c.entries[k] = entry{body: resp.Body, contentType: resp.Headers["Content-Type"], expires: c.now().Add(c.ttl)}
	for len(c.order) > c.maxEntries {
		delete(c.entries, c.order[0])
		c.order = c.order[1:]
	}
	c.stored.Add(1)
	return &edgeplugin.PluginResponse{Modified: true, Headers: map[string]string{"X-Cache": "miss"}}, nil
}
