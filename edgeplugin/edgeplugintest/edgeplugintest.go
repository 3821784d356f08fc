// Package edgeplugintest runs a plugin against made-up traffic and a made-up hub, in the test's own process and over the
// same gRPC that gw uses:
//
//	edge := edgeplugintest.Start(t, llmcache.New(), edgeplugintest.Options{Config: map[string]string{"ttl": "1m"}})
//	answer := edge.Do(&edgeplugin.EnrichedRequest{Method: "POST", Target: "LLM/openai", Body: []byte(`{}`)})
//	hub := edgeplugintest.Start(t, cachestats.New(), edgeplugintest.Options{})
//	edge.Deliver(hub)
package edgeplugintest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"gw/edgeplugin"
	"gw/edgeplugin/pluginv1"
)

// Options are how a plugin is run. The zero value will do.
type Options struct {
	// Config is what Initialize gets.
	Config map[string]string
	// ID and Name are the plugin's; 0 means 1, and "" the manifest's name.
	ID   uint32
	Name string
	// Upstream answers requests that the plugin lets pass; nil: status 200 with the request's body.
	Upstream func(*edgeplugin.EnrichedRequest) *edgeplugin.EnrichedResponse
	// Runtime is where the plugin is to believe it runs; "": at the hub if it takes payloads and has no hooks, else at an edge.
	Runtime edgeplugin.Runtime
	// SendError is what SendToControl returns: nil, or one of edgeplugin's errors.
	SendError error
}

// Run is a running plugin with what it did. Its methods may be called from any goroutine.
type Run struct {
	t         testing.TB
	o         Options
	plugin    pluginv1.PluginClient
	manifest  *pluginv1.ManifestResponse
	host      *host
	seq       atomic.Uint64 // of what gw would have made an ID for
	accepting sync.Mutex    // held while a payload is with the plugin
}

// Start initializes a plugin and returns it running; it is shut down when the test ends. A plugin that can't be initialized
// ends the test; use Initialize to look at the error.
func Start(t testing.TB, p edgeplugin.Plugin, o Options) *Run {
	t.Helper()
	r, err := Initialize(t, p, o)
	if err != nil {
		t.Fatalf("initialize the plugin: %v", err)
	}
	return r
}

// Initialize is Start that returns what Initialize said.
func Initialize(t testing.TB, p edgeplugin.Plugin, o Options) (*Run, error) {
	t.Helper()
	if o.ID == 0 {
		o.ID = 1
	}
	h := &host{sendError: o.SendError, kv: map[string]value{}, calls: map[string]map[string]value{}}
	hostConn := serve(t, func(s *grpc.Server) { pluginv1.RegisterHostServer(s, h) })
	server := edgeplugin.NewServer(p, func(uint32) (grpc.ClientConnInterface, error) { return hostConn, nil })
	r := &Run{t: t, o: o, host: h, plugin: pluginv1.NewPluginClient(serve(t, func(s *grpc.Server) { pluginv1.RegisterPluginServer(s, server) }))}
	ctx := context.Background() // a plugin ends after the test's own context
	m, err := r.plugin.Manifest(ctx, &pluginv1.ManifestRequest{})
	if err != nil {
		return nil, err
	}
	r.manifest = m
	if o.Name == "" {
		r.o.Name = m.Name
	}
	side := pluginv1.Side_SIDE_EDGE
	if o.Runtime == edgeplugin.RuntimeHub || o.Runtime == "" && m.AcceptsEdgePayloads && len(m.Hooks) == 0 {
		side = pluginv1.Side_SIDE_HUB
	}
	_, err = r.plugin.Initialize(ctx, &pluginv1.InitializeRequest{Config: o.Config, PluginId: o.ID, PluginName: r.o.Name, Side: side})
	if err != nil {
		return nil, errors.New(status.Convert(err).Message())
	}
	t.Cleanup(r.Shutdown)
	return r, nil
}

// serve serves on a connection in memory until the test ends.
func serve(t testing.TB, register func(*grpc.Server)) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer(grpc.MaxRecvMsgSize(8 << 20))
	register(s)
	go s.Serve(l) // ends with Stop
	conn, err := grpc.NewClient("passthrough:memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<20), grpc.MaxCallSendMsgSize(8<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); s.Stop() })
	return conn
}

// Shutdown shuts the plugin down; it may be called more than once.
func (r *Run) Shutdown() {
	_, _ = r.plugin.Shutdown(context.Background(), &pluginv1.ShutdownRequest{})
}

// Answer is what the caller of a request gets.
type Answer struct {
	StatusCode int
	Headers    map[string]string
	Body       []byte
	// Blocked says that a plugin answered, ErrorMessage what it said.
	Blocked      bool
	ErrorMessage string
	// App is who the plugin said the caller is; nil: it said nothing.
	App *edgeplugin.App
	// Upstream is the request as the upstream got it; nil: it got none.
	Upstream *edgeplugin.EnrichedRequest
	// Err is the first error a hook returned; gw would go by the plugin's on_failure.
	Err error
}

// Do sends one request through the plugin's hooks and the upstream, in the order gw has. An empty RequestID or ExchangeID
// becomes one of its own. The plugin is shown the bodies that its manifest asks for.
func (r *Run) Do(req *edgeplugin.EnrichedRequest) (a Answer) {
	r.t.Helper()
	q := *req
	q.Headers = maps.Clone(req.Headers)
	if q.Headers == nil {
		q.Headers = map[string]string{}
	}
	n := r.seq.Add(1)
	if q.RequestID == "" {
		q.RequestID = fmt.Sprintf("request-%d", n)
	}
	if q.ExchangeID == "" {
		q.ExchangeID = fmt.Sprintf("exchange-%d", n)
	}
	ctx := r.t.Context()
	for _, hook := range []struct {
		hook pluginv1.Hook
		call func(context.Context, *pluginv1.Request, ...grpc.CallOption) (*pluginv1.Decision, error)
	}{{pluginv1.Hook_HOOK_PRE_AUTH, r.plugin.HandlePreAuth}, {pluginv1.Hook_HOOK_AUTH, r.plugin.HandleAuth}, {pluginv1.Hook_HOOK_POST_AUTH, r.plugin.HandlePostAuth}} {
		if !slices.Contains(r.manifest.Hooks, hook.hook) {
			continue
		}
		d, err := hook.call(ctx, r.shown(&q))
		if err != nil {
			a.Err = errors.New(status.Convert(err).Message())
			return a
		}
		if d.Block {
			return blocked(d, hook.hook)
		}
		if d.Authenticated != nil {
			a.App = &edgeplugin.App{ID: d.Authenticated.Id, Name: d.Authenticated.Name, Targets: d.Authenticated.Targets, Policies: d.Authenticated.Policies}
			q.App = a.App
		}
		if d.Modified {
			edit(q.Headers, d)
			if d.ReplaceBody {
				q.Body = d.Body
			}
		}
	}
	a.Upstream = &q
	resp := &edgeplugin.EnrichedResponse{StatusCode: 200, Body: q.Body}
	if r.o.Upstream != nil {
		resp = r.o.Upstream(&q)
	}
	return r.answer(ctx, a, &q, resp)
}

func (r *Run) answer(ctx context.Context, a Answer, q *edgeplugin.EnrichedRequest, resp *edgeplugin.EnrichedResponse) Answer {
	a.StatusCode, a.Headers, a.Body = resp.StatusCode, maps.Clone(resp.Headers), resp.Body
	if a.Headers == nil {
		a.Headers = map[string]string{}
	}
	if !slices.Contains(r.manifest.Hooks, pluginv1.Hook_HOOK_ON_RESPONSE) {
		return a
	}
	shown := &pluginv1.Response{Request: wire(q), StatusCode: int32(resp.StatusCode), Headers: headers(a.Headers), Streams: resp.Streams}
	if r.manifest.ResponseBodies {
		shown.Body, shown.BodyOmitted = r.body(resp.Body, resp.BodyOmitted || resp.Streams)
	}
	d, err := r.plugin.OnResponse(ctx, shown)
	switch {
	case err != nil:
		a.Err = errors.New(status.Convert(err).Message())
	case d.Block:
		b := blocked(d, pluginv1.Hook_HOOK_ON_RESPONSE)
		b.Upstream, b.App = a.Upstream, a.App
		return b
	case d.Modified:
		edit(a.Headers, d)
		if d.StatusCode != 0 {
			a.StatusCode = int(d.StatusCode)
		}
		if d.ReplaceBody && !resp.Streams {
			a.Body = d.Body
		}
	}
	return a
}

// shown is a request as the plugin sees it.
func (r *Run) shown(q *edgeplugin.EnrichedRequest) *pluginv1.Request {
	w := wire(q)
	if r.manifest.RequestBodies {
		w.Body, w.BodyOmitted = r.body(q.Body, q.BodyOmitted)
	}
	return w
}

// body is what the plugin is shown of a body that it asked for.
func (r *Run) body(b []byte, omitted bool) ([]byte, bool) {
	limit := r.manifest.MaxBodyBytes
	if limit <= 0 || limit > maxBody {
		limit = maxBody
	}
	if omitted || int64(len(b)) > limit {
		return nil, true
	}
	return b, false
}

// maxBody is the largest body that gw shows a plugin.
const maxBody = 4 << 20

// Chunk shows the plugin one piece of an answer that streams and returns what is passed on; ok is false if it ends the
// stream.
func (r *Run) Chunk(c *edgeplugin.StreamChunk) (data []byte, ok bool) {
	r.t.Helper()
	d, err := r.plugin.OnStreamChunk(r.t.Context(), &pluginv1.StreamChunk{RequestId: c.RequestID, ExchangeId: c.ExchangeID, Target: c.Target, Sequence: c.Sequence, Data: c.Data})
	switch {
	case err != nil:
		r.t.Fatalf("on_stream_chunk: %v", status.Convert(err).Message())
	case d.Block:
		return nil, false
	case d.Modified:
		return d.Data, true
	}
	return c.Data, true
}

// Accept hands a payload to a hub plugin, one at a time. A real hub does so with a plugin's own payloads; those that other
// plugins did not handle may come meanwhile. What the plugin writes to its KV with the context of the call is kept only if
// it handled the payload, as at a real hub.
func (r *Run) Accept(p *edgeplugin.EdgePayload) (handled bool, err error) {
	r.t.Helper()
	r.accepting.Lock()
	defer r.accepting.Unlock()
	call := fmt.Sprintf("call-%d", r.seq.Add(1))
	r.host.mu.Lock()
	r.host.calls[call] = maps.Clone(r.host.kv)
	r.host.mu.Unlock()
	answer, err := r.plugin.AcceptEdgePayload(r.t.Context(), &pluginv1.EdgePayload{Payload: p.Payload, EdgeId: p.EdgeID, EdgeNamespace: p.EdgeNamespace,
		CorrelationId: p.CorrelationID, Metadata: p.Metadata, EdgeTimestamp: p.EdgeTimestamp, ReceivedTimestamp: p.ReceivedTimestamp, CallId: call})
	r.host.mu.Lock()
	defer r.host.mu.Unlock()
	if err != nil {
		delete(r.host.calls, call)
		return false, errors.New(status.Convert(err).Message())
	}
	if answer.Handled {
		r.host.kv = r.host.calls[call]
	}
	delete(r.host.calls, call)
	if answer.Error != "" {
		err = errors.New(answer.Error)
	}
	return answer.Handled, err
}

// Payloads returns what the plugin sent with SendToControl and Deliver has not brought away, in order.
func (r *Run) Payloads() []*edgeplugin.EdgePayload {
	r.host.mu.Lock()
	defer r.host.mu.Unlock()
	return slices.Clone(r.host.sent)
}

// Deliver brings what the plugin sent to a hub plugin, in order, and returns how many were handled. One that is not ends the
// test.
func (r *Run) Deliver(hub *Run) int {
	r.t.Helper()
	r.host.mu.Lock()
	sent := r.host.sent
	r.host.sent = nil
	r.host.mu.Unlock()
	for i, p := range sent {
		if handled, err := hub.Accept(p); !handled {
			r.t.Fatalf("payload %d of %d was not handled: %v", i+1, len(sent), err)
		}
	}
	return len(sent)
}

// Health returns what the plugin says is wrong with it, "" if nothing is.
func (r *Run) Health() string {
	r.t.Helper()
	h, err := r.plugin.Health(r.t.Context(), &pluginv1.HealthRequest{})
	if err != nil {
		r.t.Fatalf("health: %v", status.Convert(err).Message())
	}
	return h.Problem
}

// KV returns what the plugin keeps, by key.
func (r *Run) KV() map[string][]byte {
	r.host.mu.Lock()
	defer r.host.mu.Unlock()
	m := map[string][]byte{}
	for k, v := range r.host.kv {
		if v.lives() {
			m[k] = v.bytes
		}
	}
	return m
}

// Log returns what the plugin's logger wrote, a line each, once gw would have it.
func (r *Run) Log() []string {
	r.host.mu.Lock()
	defer r.host.mu.Unlock()
	return slices.Clone(r.host.log)
}

func blocked(d *pluginv1.Decision, hook pluginv1.Hook) Answer {
	a := Answer{StatusCode: int(d.StatusCode), Headers: map[string]string{}, Body: d.ResponseBody, Blocked: true, ErrorMessage: d.ErrorMessage}
	if a.StatusCode == 0 {
		a.StatusCode = 403
		if hook == pluginv1.Hook_HOOK_AUTH {
			a.StatusCode = 401
		}
	}
	edit(a.Headers, d)
	return a
}

func edit(h map[string]string, d *pluginv1.Decision) {
	for _, name := range d.RemoveHeaders {
		delete(h, name)
	}
	for _, header := range d.Headers {
		h[header.Name] = strings.Join(header.Values, ", ")
	}
}

// wire is a request without its body.
func wire(q *edgeplugin.EnrichedRequest) *pluginv1.Request {
	r := &pluginv1.Request{RequestId: q.RequestID, ExchangeId: q.ExchangeID, Method: q.Method, Path: q.Path, Query: q.Query, Host: q.Host, RemoteAddress: q.RemoteAddress,
		Headers: headers(q.Headers), Target: q.Target, Model: q.Model}
	if q.App != nil {
		r.App = &pluginv1.App{Id: q.App.ID, Name: q.App.Name}
	}
	return r
}

func headers(h map[string]string) (out []*pluginv1.Header) {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		out = append(out, &pluginv1.Header{Name: name, Values: []string{h[name]}})
	}
	return out
}

// value is one value in the KV.
type value struct {
	bytes   []byte
	expires time.Time
}

func (v value) lives() bool { return v.expires.IsZero() || time.Now().Before(v.expires) }

// host stands in for gw.
type host struct {
	pluginv1.UnimplementedHostServer
	sendError error

	mu    sync.Mutex
	kv    map[string]value
	calls map[string]map[string]value // what a running call sees and writes
	sent  []*edgeplugin.EdgePayload
	log   []string
}

// values returns what a KV call is about; mu is held.
func (h *host) values(call string) (map[string]value, error) {
	if call == "" {
		return h.kv, nil
	}
	if m, ok := h.calls[call]; ok {
		return m, nil
	}
	return nil, status.Error(codes.FailedPrecondition, "the call whose context this is has returned")
}

// SendToControl implements the service.
func (h *host) SendToControl(_ context.Context, r *pluginv1.SendToControlRequest) (*pluginv1.SendToControlResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	answer := &pluginv1.SendToControlResponse{Pending: int64(len(h.sent)), Refusal: refusal(h.sendError)}
	if answer.Refusal != pluginv1.Refusal_REFUSAL_UNSPECIFIED {
		answer.Message = "refused by the test"
		return answer, nil
	}
	if h.sendError != nil {
		return nil, status.Error(codes.Internal, h.sendError.Error())
	}
	now := time.Now().Unix()
	h.sent = append(h.sent, &edgeplugin.EdgePayload{Payload: r.Payload, EdgeID: "edge-1", EdgeNamespace: "default", CorrelationID: r.CorrelationId,
		Metadata: r.Metadata, EdgeTimestamp: now, ReceivedTimestamp: now})
	answer.Pending++
	return answer, nil
}

// refusal says why the test wants a payload not to be taken. What breaks a limit doesn't get here.
func refusal(err error) pluginv1.Refusal {
	switch {
	case errors.Is(err, edgeplugin.ErrPayloadTooLarge):
		return pluginv1.Refusal_REFUSAL_PAYLOAD_TOO_LARGE
	case errors.Is(err, edgeplugin.ErrInvalidMetadata):
		return pluginv1.Refusal_REFUSAL_INVALID_METADATA
	case errors.Is(err, edgeplugin.ErrQueueFull):
		return pluginv1.Refusal_REFUSAL_QUEUE_FULL
	}
	return pluginv1.Refusal_REFUSAL_UNSPECIFIED
}

// KVRead implements the service.
func (h *host) KVRead(_ context.Context, r *pluginv1.KVReadRequest) (*pluginv1.KVReadResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, err := h.values(r.CallId)
	if err != nil {
		return nil, err
	}
	v, ok := m[r.Key]
	return &pluginv1.KVReadResponse{Value: v.bytes, Found: ok && v.lives()}, nil
}

// KVWrite implements the service.
func (h *host) KVWrite(_ context.Context, r *pluginv1.KVWriteRequest) (*pluginv1.KVWriteResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, err := h.values(r.CallId)
	if err != nil {
		return nil, err
	}
	if r.Key == "" || len(r.Key) > 512 || len(r.Value) > 64<<10 {
		return nil, status.Error(codes.FailedPrecondition, "want a key of 1 to 512 bytes and a value of at most 64 KiB")
	}
	v := value{bytes: r.Value}
	if r.ExpiresAt != 0 {
		v.expires = time.Unix(0, r.ExpiresAt)
	}
	m[r.Key] = v
	return &pluginv1.KVWriteResponse{}, nil
}

// KVDelete implements the service.
func (h *host) KVDelete(_ context.Context, r *pluginv1.KVDeleteRequest) (*pluginv1.KVDeleteResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, err := h.values(r.CallId)
	if err != nil {
		return nil, err
	}
	v, ok := m[r.Key]
	delete(m, r.Key)
	return &pluginv1.KVDeleteResponse{Deleted: ok && v.lives()}, nil
}

// KVList implements the service.
func (h *host) KVList(_ context.Context, r *pluginv1.KVListRequest) (*pluginv1.KVListResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, err := h.values(r.CallId)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if strings.HasPrefix(k, r.Prefix) && m[k].lives() {
			keys = append(keys, k)
		}
	}
	return &pluginv1.KVListResponse{Keys: keys}, nil
}

// Log implements the service.
func (h *host) Log(_ context.Context, r *pluginv1.LogRequest) (*pluginv1.LogResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range r.Lines {
		h.log = append(h.log, strings.TrimSpace(l.Message+" "+strings.Join(l.Fields, " ")))
	}
	return &pluginv1.LogResponse{}, nil
}
