// Command auditlog is a plugin that records who called what, when, and with which outcome. It is both sides: at edges it is
// called on_response and brings records to the hub plugin with its ID in batches of at most a second; as a hub plugin it
// counts them by day and target in its KV, each exactly once, and appends them to a file if it is told one. No body is
// recorded. Requests that the gateway refused before an upstream was asked are in the access log only.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"gw/edgeplugin"
)

func main() { edgeplugin.Serve(New()) }

// Record is one request.
type Record struct {
	At         time.Time `json:"at"`
	Edge       string    `json:"edge,omitempty"` // namespace/ID, in the hub's file
	RequestID  string    `json:"request_id"`     // as in the access log; callers may choose it
	ExchangeID string    `json:"exchange_id"`    // no other request's
	App        string    `json:"app,omitempty"`
	Target     string    `json:"target"`
	Model      string    `json:"model,omitempty"`
	Method     string    `json:"method"`
	Path       string    `json:"path"`
	Client     string    `json:"client"`
	Status     int       `json:"status"`
}

// Count is what the hub side keeps under "2006-01-02/TARGET", in UTC.
type Count struct {
	Requests int64 `json:"requests"`
	Errors   int64 `json:"errors"` // answers from 400 on
}

// Log is the plugin.
type Log struct {
	edgeplugin.BasePlugin
	keep time.Duration
	now  func() time.Time
	file *os.File // a copy as JSON lines; nil: none

	sending sync.Mutex // held while a batch is under way

	mu      sync.Mutex
	records []Record
	lost    int // that will not reach the hub
}

var (
	_ edgeplugin.ResponseHandler      = (*Log)(nil)
	_ edgeplugin.EdgePayloadReceiver  = (*Log)(nil)
	_ edgeplugin.HealthChecker        = (*Log)(nil)
	_ edgeplugin.ConfigSchemaProvider = (*Log)(nil)
)

const (
	batchRecords = 500     // in one payload
	batchBytes   = 1 << 20 // which is what gw takes
	maxRecords   = 50_000  // kept while payloads can't be queued
)

// New returns the plugin.
func New() *Log {
	return &Log{BasePlugin: edgeplugin.NewBasePlugin("auditlog", "1.0.0", "Records who called what."), keep: 31 * 24 * time.Hour, now: time.Now}
}

// ConfigSchema describes the settings.
func (l *Log) ConfigSchema() ([]byte, error) {
	return []byte(`{"type": "object", "additionalProperties": false, "properties": {
		"file": {"type": "string", "minLength": 1, "description": "where records are also appended as JSON lines"},
		"keep": {"type": "string", "pattern": "^[0-9]+(m|h)$", "description": "how long the hub keeps counts, such as 744h"}}}`), nil
}

// Initialize opens the file and, at an edge, starts sending.
func (l *Log) Initialize(ctx edgeplugin.Context, config map[string]string) (err error) {
	if path := config["file"]; path != "" {
		if l.file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return err
		}
	}
	if v, ok := config["keep"]; ok {
		if l.keep, err = time.ParseDuration(v); err != nil {
			return fmt.Errorf("keep: %w", err)
		}
	}
	if ctx.Runtime == edgeplugin.RuntimeHub {
		return nil
	}
	go func() {
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if err := l.send(ctx); err != nil {
					ctx.Services.Logger().Warn("records could not be sent", "error", err)
				}
			}
		}
	}()
	return nil
}

// OnResponse records the request. The answer is left alone.
func (l *Log) OnResponse(_ edgeplugin.Context, resp *edgeplugin.EnrichedResponse) (*edgeplugin.PluginResponse, error) {
	q := resp.Request
	r := Record{At: l.now().UTC(), RequestID: q.RequestID, ExchangeID: q.ExchangeID, Target: q.Target, Model: q.Model, Method: q.Method, Path: q.Path, Client: q.RemoteAddress, Status: resp.StatusCode}
	if q.App != nil {
		r.App = q.App.ID
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.records) >= maxRecords {
		l.lost++
		return nil, nil
	}
	l.records = append(l.records, r)
	return nil, nil
}

// AcceptEdgePayload counts a batch of records, and appends them to the file. A batch that the hub's plugin was killed over is
// counted once, and may be in the file twice: exchange_id tells.
func (l *Log) AcceptEdgePayload(ctx edgeplugin.Context, p *edgeplugin.EdgePayload) (bool, error) {
	if p.Metadata["type"] != "audit_records" {
		return false, nil
	}
	var batch []Record
	if err := json.Unmarshal(p.Payload, &batch); err != nil {
		return true, fmt.Errorf("records of edge %s: %w", p.EdgeID, err) // no other receiver could read them either
	}
	counts := map[string]Count{}
	for i := range batch {
		r := &batch[i]
		r.Edge = p.EdgeNamespace + "/" + p.EdgeID
		key := r.At.UTC().Format(time.DateOnly) + "/" + r.Target
		c := counts[key]
		c.Requests++
		if r.Status >= 400 {
			c.Errors++
		}
		counts[key] = c
	}
	for key, c := range counts {
		if err := l.count(ctx, key, c); err != nil {
			return false, err
		}
	}
	return true, l.write(batch)
}

func (l *Log) count(ctx edgeplugin.Context, key string, more Count) error {
	kv := ctx.Services.KV()
	var c Count
	b, err := kv.Read(ctx, key)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil && !errors.Is(err, edgeplugin.ErrNotFound) {
		return fmt.Errorf("value of %s: %w", key, err)
	}
	c.Requests += more.Requests
	c.Errors += more.Errors
	if b, err = json.Marshal(c); err != nil {
		return err
	}
	expires := l.now().Add(l.keep)
	return kv.Write(ctx, key, b, &expires)
}

// send hands everything recorded to the edge. What was refused is kept.
func (l *Log) send(ctx context.Context) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	for {
		l.mu.Lock()
		batch := l.records[:min(len(l.records), batchRecords)]
		l.mu.Unlock()
		if len(batch) == 0 {
			return nil
		}
		payload, n, err := encode(batch)
		if err != nil {
			return err
		}
		lost := 0
		if n > 0 {
			_, err = edgeplugin.SendToControl(ctx, payload, batch[0].ExchangeID, map[string]string{"type": "audit_records"})
		} else { // the first is too large by itself
			n, lost = 1, 1
		}
		if errors.Is(err, edgeplugin.ErrQueueFull) {
			return err
		}
		err = errors.Join(err, l.write(batch[:n]))
		l.mu.Lock()
		l.records = l.records[n:]
		l.lost += lost
		l.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// encode returns the first n records as a JSON array of at most batchBytes.
func encode(records []Record) (payload []byte, n int, err error) {
	payload = []byte("[")
	for _, r := range records {
		b, err := json.Marshal(r)
		if err != nil {
			return nil, 0, err
		}
		if len(payload)+len(b)+len(",]") > batchBytes {
			break
		}
		if n > 0 {
			payload = append(payload, ',')
		}
		payload = append(payload, b...)
		n++
	}
	return append(payload, ']'), n, nil
}

// write appends records to the file.
func (l *Log) write(batch []Record) error {
	if l.file == nil {
		return nil
	}
	var b bytes.Buffer
	lines := json.NewEncoder(&b)
	for _, r := range batch {
		if err := lines.Encode(r); err != nil {
			return err
		}
	}
	_, err := l.file.Write(b.Bytes())
	return err
}

// Health tells of records that are lost.
func (l *Log) Health(edgeplugin.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost > 0 {
		return fmt.Errorf("%d records are lost to the hub: its queue was full, or they were too large", l.lost)
	}
	return nil
}

// Shutdown sends what is left.
func (l *Log) Shutdown(ctx edgeplugin.Context) error {
	err := l.send(ctx)
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
	}
	return err
}
