package edgeplugin

import (
	"context"
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gw/edgeplugin/pluginv1"
)

type requestHook func(Context, *EnrichedRequest) (*PluginResponse, error)

// server is a plugin as gw calls it.
type server struct {
	pluginv1.UnimplementedPluginServer
	plugin Plugin
	alone  bool // it is the plugin of this process
	dial   func(uint32) (grpc.ClientConnInterface, error)

	// What the plugin can do; nil: it can't.
	requests   map[pluginv1.Hook]requestHook
	onResponse func(Context, *EnrichedResponse) (*PluginResponse, error)
	onChunk    func(Context, *StreamChunk) (*StreamChunkResponse, error)
	accept     func(Context, *EdgePayload) (bool, error)

	base atomic.Pointer[Context] // from Initialize on; its context ends with the plugin
	end  context.CancelFunc
}

func newServer(p Plugin, alone bool, dial func(uint32) (grpc.ClientConnInterface, error)) *server {
	s := &server{plugin: p, alone: alone, dial: dial, requests: map[pluginv1.Hook]requestHook{}}
	switch h := p.(type) {
	case PreAuthHandler:
		s.requests[pluginv1.Hook_HOOK_PRE_AUTH] = h.HandlePreAuth
	case preAuthHandler:
		s.requests[pluginv1.Hook_HOOK_PRE_AUTH] = func(ctx Context, r *EnrichedRequest) (*PluginResponse, error) { return h.HandlePreAuth(ctx, r) }
	}
	switch h := p.(type) {
	case AuthHandler:
		s.requests[pluginv1.Hook_HOOK_AUTH] = h.HandleAuth
	case authHandler:
		s.requests[pluginv1.Hook_HOOK_AUTH] = func(ctx Context, r *EnrichedRequest) (*PluginResponse, error) { return h.HandleAuth(ctx, r) }
	}
	switch h := p.(type) {
	case PostAuthHandler:
		s.requests[pluginv1.Hook_HOOK_POST_AUTH] = h.HandlePostAuth
	case postAuthHandler:
		s.requests[pluginv1.Hook_HOOK_POST_AUTH] = func(ctx Context, r *EnrichedRequest) (*PluginResponse, error) { return h.HandlePostAuth(ctx, r) }
	}
	switch h := p.(type) {
	case ResponseHandler:
		s.onResponse = h.OnResponse
	case responseHandler:
		s.onResponse = func(ctx Context, r *EnrichedResponse) (*PluginResponse, error) { return h.OnResponse(ctx, r) }
	}
	switch h := p.(type) {
	case StreamChunkHandler:
		s.onChunk = h.OnStreamChunk
	case streamChunkHandler:
		s.onChunk = func(ctx Context, c *StreamChunk) (*StreamChunkResponse, error) { return h.OnStreamChunk(ctx, c) }
	}
	switch h := p.(type) {
	case EdgePayloadReceiver:
		s.accept = h.AcceptEdgePayload
	case edgePayloadReceiver:
		s.accept = func(ctx Context, p *EdgePayload) (bool, error) { return h.AcceptEdgePayload(ctx, p) }
	}
	return s
}

// failure is an author's error as gw is to see it. It has no code of its own: the codes of gRPC say how the call went, and
// an author's context.DeadlineExceeded, from a call of the plugin's own, would be taken for the plugin's silence.
func failure(err error) error { return status.Error(codes.Unknown, errorText(err)) }

// call returns the context of one call.
func (s *server) call(ctx context.Context) (Context, error) {
	base := s.base.Load()
	if base == nil {
		return Context{}, status.Error(codes.FailedPrecondition, ErrNotInitialized.Error())
	}
	c := *base
	c.Context = context.WithValue(ctx, hostKey{}, c.Services.host)
	return c, nil
}

// Manifest implements the service.
func (s *server) Manifest(context.Context, *pluginv1.ManifestRequest) (*pluginv1.ManifestResponse, error) {
	m := s.plugin.Manifest()
	r := &pluginv1.ManifestResponse{Name: m.Name, Version: m.Version, Description: m.Description,
		AcceptsEdgePayloads: s.accept != nil, RequestBodies: m.RequestBodies, ResponseBodies: m.ResponseBodies, MaxBodyBytes: m.MaxBody}
	for _, h := range []pluginv1.Hook{pluginv1.Hook_HOOK_PRE_AUTH, pluginv1.Hook_HOOK_AUTH, pluginv1.Hook_HOOK_POST_AUTH} {
		if s.requests[h] != nil {
			r.Hooks = append(r.Hooks, h)
		}
	}
	if s.onResponse != nil {
		r.Hooks = append(r.Hooks, pluginv1.Hook_HOOK_ON_RESPONSE)
	}
	if s.onChunk != nil {
		r.Hooks = append(r.Hooks, pluginv1.Hook_HOOK_ON_STREAM_CHUNK)
	}
	return r, nil
}

// ConfigSchema implements the service.
func (s *server) ConfigSchema(context.Context, *pluginv1.ConfigSchemaRequest) (*pluginv1.ConfigSchemaResponse, error) {
	p, ok := s.plugin.(ConfigSchemaProvider)
	if !ok {
		return &pluginv1.ConfigSchemaResponse{}, nil
	}
	b, err := p.ConfigSchema()
	if err != nil {
		return nil, failure(err)
	}
	return &pluginv1.ConfigSchemaResponse{JsonSchema: b}, nil
}

// Initialize implements the service.
func (s *server) Initialize(_ context.Context, r *pluginv1.InitializeRequest) (*pluginv1.InitializeResponse, error) {
	if s.base.Load() != nil {
		return nil, status.Error(codes.FailedPrecondition, "the plugin is initialized already")
	}
	conn, err := s.dial(r.HostBrokerId)
	if err != nil {
		return nil, fmt.Errorf("connect to gw: %w", err)
	}
	h := newHost(conn)
	if s.alone {
		serving.Store(h)
	}
	ctx, end := context.WithCancel(context.WithValue(context.Background(), hostKey{}, h))
	base := &Context{Context: ctx, Services: Services{h}, PluginID: r.PluginId, PluginName: r.PluginName, Runtime: RuntimeEdge}
	if r.Side == pluginv1.Side_SIDE_HUB {
		base.Runtime = RuntimeHub
	}
	if err := s.plugin.Initialize(*base, r.Config); err != nil {
		end()
		return nil, failure(err)
	}
	s.end = end
	s.base.Store(base)
	return &pluginv1.InitializeResponse{}, nil
}

// HandlePreAuth implements the service.
func (s *server) HandlePreAuth(ctx context.Context, r *pluginv1.Request) (*pluginv1.Decision, error) {
	return s.request(ctx, pluginv1.Hook_HOOK_PRE_AUTH, r)
}

// HandleAuth implements the service.
func (s *server) HandleAuth(ctx context.Context, r *pluginv1.Request) (*pluginv1.Decision, error) {
	return s.request(ctx, pluginv1.Hook_HOOK_AUTH, r)
}

// HandlePostAuth implements the service.
func (s *server) HandlePostAuth(ctx context.Context, r *pluginv1.Request) (*pluginv1.Decision, error) {
	return s.request(ctx, pluginv1.Hook_HOOK_POST_AUTH, r)
}

func (s *server) request(ctx context.Context, hook pluginv1.Hook, r *pluginv1.Request) (*pluginv1.Decision, error) {
	c, err := s.call(ctx)
	if err != nil {
		return nil, err
	}
	f := s.requests[hook]
	if f == nil {
		return nil, status.Error(codes.Unimplemented, "the plugin has no method for this hook")
	}
	answer, err := f(c, requestOf(r))
	if err != nil {
		return nil, failure(err)
	}
	return decisionOf(answer, false), nil
}

// OnResponse implements the service.
func (s *server) OnResponse(ctx context.Context, r *pluginv1.Response) (*pluginv1.Decision, error) {
	c, err := s.call(ctx)
	if err != nil {
		return nil, err
	}
	if s.onResponse == nil {
		return nil, status.Error(codes.Unimplemented, "the plugin has no method for this hook")
	}
	answer, err := s.onResponse(c, &EnrichedResponse{Request: requestOf(r.GetRequest()), StatusCode: int(r.StatusCode),
		Headers: headersOf(r.Headers), Body: r.Body, BodyOmitted: r.BodyOmitted, Streams: r.Streams})
	if err != nil {
		return nil, failure(err)
	}
	return decisionOf(answer, true), nil
}

// OnStreamChunk implements the service.
func (s *server) OnStreamChunk(ctx context.Context, r *pluginv1.StreamChunk) (*pluginv1.StreamChunkDecision, error) {
	c, err := s.call(ctx)
	if err != nil {
		return nil, err
	}
	if s.onChunk == nil {
		return nil, status.Error(codes.Unimplemented, "the plugin has no method for this hook")
	}
	d, err := s.onChunk(c, &StreamChunk{RequestID: r.RequestId, ExchangeID: r.ExchangeId, Target: r.Target, Sequence: r.Sequence, Data: r.Data})
	if err != nil {
		return nil, failure(err)
	}
	if d == nil {
		d = &StreamChunkResponse{}
	}
	return &pluginv1.StreamChunkDecision{Modified: d.Modified, Data: d.Data, Block: d.Block, ErrorMessage: text(d.ErrorMessage)}, nil
}

// AcceptEdgePayload implements the service.
func (s *server) AcceptEdgePayload(ctx context.Context, r *pluginv1.EdgePayload) (*pluginv1.AcceptEdgePayloadResponse, error) {
	c, err := s.call(context.WithValue(ctx, callKey{}, r.CallId))
	if err != nil {
		return nil, err
	}
	if s.accept == nil {
		return nil, status.Error(codes.Unimplemented, "the plugin takes no payloads")
	}
	handled, err := s.accept(c, &EdgePayload{Payload: r.Payload, EdgeID: r.EdgeId, EdgeNamespace: r.EdgeNamespace, CorrelationID: r.CorrelationId,
		Metadata: r.Metadata, EdgeTimestamp: r.EdgeTimestamp, ReceivedTimestamp: r.ReceivedTimestamp})
	answer := &pluginv1.AcceptEdgePayloadResponse{Handled: handled}
	if err != nil {
		answer.Error = errorText(err)
	}
	return answer, nil
}

// Health implements the service.
func (s *server) Health(ctx context.Context, _ *pluginv1.HealthRequest) (*pluginv1.HealthResponse, error) {
	p, ok := s.plugin.(HealthChecker)
	if !ok {
		return &pluginv1.HealthResponse{}, nil
	}
	c, err := s.call(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.Health(c); err != nil {
		return &pluginv1.HealthResponse{Problem: errorText(err)}, nil
	}
	return &pluginv1.HealthResponse{}, nil
}

// Shutdown implements the service.
func (s *server) Shutdown(ctx context.Context, _ *pluginv1.ShutdownRequest) (*pluginv1.ShutdownResponse, error) {
	c, err := s.call(ctx)
	if err != nil {
		return nil, err
	}
	err = s.plugin.Shutdown(c)
	s.end()
	c.Services.host.log.flush(ctx)
	if err != nil {
		return nil, failure(err)
	}
	return &pluginv1.ShutdownResponse{}, nil
}
