package edgeplugin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"gw/edgeplugin"
	"gw/edgeplugin/edgeplugintest"
)

// start runs a plugin as edgeplugintest.Start does, in examples, which have no testing.T.
func start(p edgeplugin.Plugin, o edgeplugintest.Options) (*edgeplugintest.Run, func()) {
	t := &example{}
	return edgeplugintest.Start(t, p, o), t.end
}

type example struct {
	testing.TB
	cleanups []func()
}

func (*example) Helper()                   {}
func (*example) Context() context.Context  { return context.Background() }
func (e *example) Cleanup(f func())        { e.cleanups = append(e.cleanups, f) }
func (*example) Fatal(args ...any)         { panic(fmt.Sprint(args...)) }
func (*example) Fatalf(s string, a ...any) { panic(fmt.Sprintf(s, a...)) }
func (e *example) end() {
	for i := len(e.cleanups) - 1; i >= 0; i-- {
		e.cleanups[i]()
	}
}
func base(name string) edgeplugin.BasePlugin { return edgeplugin.NewBasePlugin(name, "1.0.0", "") }

type officeHours struct{ edgeplugin.BasePlugin }

func (officeHours) HandlePreAuth(_ edgeplugin.Context, req *edgeplugin.EnrichedRequest) (*edgeplugin.PluginResponse, error) {
	if strings.HasPrefix(req.RemoteAddress, "10.") {
		return nil, nil // let it pass
	}
	return &edgeplugin.PluginResponse{Block: true, StatusCode: 403, ErrorMessage: "only from the office"}, nil
}

func ExamplePreAuthHandler() {
	run, end := start(officeHours{base("office")}, edgeplugintest.Options{})
	defer end()
	fmt.Println(run.Do(&edgeplugin.EnrichedRequest{RemoteAddress: "10.0.0.1:99"}).StatusCode)
	a := run.Do(&edgeplugin.EnrichedRequest{RemoteAddress: "192.0.2.1:99"})
	fmt.Println(a.StatusCode, a.ErrorMessage)
	// Output:
	// 200
	// 403 only from the office
}

type basicAuth struct{ edgeplugin.BasePlugin }

// HandleAuth is written with a context.Context, which is accepted too.
func (basicAuth) HandleAuth(_ context.Context, req *edgeplugin.EnrichedRequest) (*edgeplugin.PluginResponse, error) {
	switch req.Headers["Authorization"] {
	case "Basic YW5uOnB3":
		return &edgeplugin.PluginResponse{App: &edgeplugin.App{ID: "ann", Name: "Ann's app"}}, nil
	case "":
		return nil, nil // not of this kind: gw asks for a token
	}
	return &edgeplugin.PluginResponse{Block: true}, nil // 401
}

func ExampleAuthHandler() {
	run, end := start(basicAuth{base("basic")}, edgeplugintest.Options{})
	defer end()
	fmt.Println(run.Do(&edgeplugin.EnrichedRequest{Headers: map[string]string{"Authorization": "Basic YW5uOnB3"}}).App.Name)
	fmt.Println(run.Do(&edgeplugin.EnrichedRequest{Headers: map[string]string{"Authorization": "Basic bm8="}}).StatusCode)
	// Output:
	// Ann's app
	// 401
}

type redact struct{ edgeplugin.BasePlugin }

func (r redact) Manifest() edgeplugin.Manifest {
	m := r.BasePlugin.Manifest()
	m.RequestBodies = true
	return m
}

func (redact) HandlePostAuth(ctx edgeplugin.Context, req *edgeplugin.EnrichedRequest) (*edgeplugin.PluginResponse, error) {
	ctx.Services.Logger().Debug("asked", "target", req.Target)
	return &edgeplugin.PluginResponse{Modified: true, Headers: map[string]string{"X-Redacted": "1"},
		Body: bytes.ReplaceAll(req.Body, []byte("1234"), []byte("****"))}, nil
}

func ExamplePostAuthHandler() {
	run, end := start(redact{base("redact")}, edgeplugintest.Options{})
	defer end()
	up := run.Do(&edgeplugin.EnrichedRequest{Target: "LLM/openai", Body: []byte("my PIN is 1234")}).Upstream
	fmt.Println(string(up.Body), up.Headers["X-Redacted"])
	// Output: my PIN is **** 1
}

type hide struct{ edgeplugin.BasePlugin }

func (hide) OnResponse(_ edgeplugin.Context, resp *edgeplugin.EnrichedResponse) (*edgeplugin.PluginResponse, error) {
	if resp.StatusCode < 500 {
		return nil, nil
	}
	return &edgeplugin.PluginResponse{Modified: true, StatusCode: 502, RemoveHeaders: []string{"X-Powered-By"}, ResponseBody: []byte("try later")}, nil
}

func ExampleResponseHandler() {
	run, end := start(hide{base("hide")}, edgeplugintest.Options{Upstream: func(*edgeplugin.EnrichedRequest) *edgeplugin.EnrichedResponse {
		return &edgeplugin.EnrichedResponse{StatusCode: 500, Headers: map[string]string{"X-Powered-By": "x"}, Body: []byte("stack trace")}
	}})
	defer end()
	a := run.Do(&edgeplugin.EnrichedRequest{})
	fmt.Println(a.StatusCode, string(a.Body), len(a.Headers))
	// Output: 502 try later 0
}

type shout struct{ edgeplugin.BasePlugin }

func (shout) OnStreamChunk(_ edgeplugin.Context, c *edgeplugin.StreamChunk) (*edgeplugin.StreamChunkResponse, error) {
	return &edgeplugin.StreamChunkResponse{Modified: true, Data: bytes.ToUpper(c.Data)}, nil
}

func ExampleStreamChunkHandler() {
	run, end := start(shout{base("shout")}, edgeplugintest.Options{})
	defer end()
	data, goesOn := run.Chunk(&edgeplugin.StreamChunk{Data: []byte("data: hi")})
	fmt.Println(string(data), goesOn)
	// Output: DATA: HI true
}

type count struct{ edgeplugin.BasePlugin }

func (count) HandlePostAuth(ctx edgeplugin.Context, req *edgeplugin.EnrichedRequest) (*edgeplugin.PluginResponse, error) {
	_, err := edgeplugin.SendToControl(ctx, []byte(req.Target), req.RequestID, map[string]string{"type": "target"})
	if errors.Is(err, edgeplugin.ErrQueueFull) {
		return nil, nil // rather lose the count than the request
	}
	return nil, err
}

type total struct{ edgeplugin.BasePlugin }

func (total) AcceptEdgePayload(ctx edgeplugin.Context, p *edgeplugin.EdgePayload) (bool, error) {
	if p.Metadata["type"] != "target" {
		return false, nil // not for this plugin
	}
	kv, key := ctx.Services.KV(), string(p.Payload)
	n, err := kv.Read(ctx, key)
	if err != nil && !errors.Is(err, edgeplugin.ErrNotFound) {
		return false, err
	}
	return true, kv.Write(ctx, key, append(n, '|'))
}

func ExampleEdgePayloadReceiver() {
	edge, end := start(count{base("count")}, edgeplugintest.Options{})
	defer end()
	hub, end := start(total{base("total")}, edgeplugintest.Options{})
	defer end()
	for range 3 {
		edge.Do(&edgeplugin.EnrichedRequest{Target: "API/orders"})
	}
	fmt.Println(edge.Deliver(hub), string(hub.KV()["API/orders"]))
	// Output: 3 |||
}

func ExampleSendToControl() {
	edge, end := start(count{base("count")}, edgeplugintest.Options{SendError: edgeplugin.ErrQueueFull})
	defer end()
	fmt.Println(edge.Do(&edgeplugin.EnrichedRequest{Target: "API/orders"}).StatusCode, len(edge.Payloads()))
	// Output: 200 0
}

type cold struct{ edgeplugin.BasePlugin }

func (cold) Health(edgeplugin.Context) error { return errors.New("the cache is cold") }

func ExampleHealthChecker() {
	run, end := start(cold{base("cold")}, edgeplugintest.Options{})
	defer end()
	fmt.Println(run.Health())
	// Output: the cache is cold
}

type limited struct{ edgeplugin.BasePlugin }

func (limited) ConfigSchema() ([]byte, error) {
	return []byte(`{"type": "object", "required": ["limit"], "additionalProperties": false,
		"properties": {"limit": {"type": "integer", "minimum": 1}}}`), nil
}

// With this schema, an edge refuses a release in which the plugin's config has no limit, or one of 0, before the plugin
// sees it; the admin is told the field, spec.config["limit"].
func ExampleConfigSchemaProvider() {
	schema, _ := limited{base("limited")}.ConfigSchema()
	fmt.Println(bytes.Contains(schema, []byte(`"limit"`)))
	// Output: true
}
