package edgeplugin

import (
	"context"
)

// Plugin is what Serve serves. Embed a BasePlugin, which has all of it, and write the methods that should differ.
type Plugin interface {
	// Initialize comes once, before any other call but Manifest and ConfigSchema, with the resource's config. The
	// context ends with the plugin. An error keeps the plugin from running; gw tries again later.
	Initialize(ctx Context, config map[string]string) error
	// Manifest says what the plugin is and which bodies it wants.
	Manifest() Manifest
	// Shutdown comes when gw has no more calls for the plugin. The process is ended when it returns, or after 3 s.
	Shutdown(ctx Context) error
}

// Manifest describes a plugin to gw.
type Manifest struct {
	Name, Version, Description string
	// RequestBodies makes requests come with their bodies. gw then reads a body before it forwards the request.
	RequestBodies bool
	// ResponseBodies makes answers come with their bodies, unless they stream. gw then holds an answer back until
	// OnResponse has returned.
	ResponseBodies bool
	// MaxBody is the largest body wanted, in bytes; larger ones are omitted. 0 means 4 MiB, which is the most.
	MaxBody int64
}

// BasePlugin supplies everything a plugin need not have. Make it with NewBasePlugin.
type BasePlugin struct{ manifest Manifest }

// NewBasePlugin returns a BasePlugin to embed.
func NewBasePlugin(name, version, description string) BasePlugin {
	return BasePlugin{Manifest{Name: name, Version: version, Description: description}}
}

// Initialize does nothing.
func (b BasePlugin) Initialize(Context, map[string]string) error { return nil }

// Manifest returns what NewBasePlugin was given, without bodies. To get bodies, write a Manifest method that sets fields
// of what this one returns.
func (b BasePlugin) Manifest() Manifest { return b.manifest }

// Shutdown does nothing.
func (b BasePlugin) Shutdown(Context) error { return nil }

// PreAuthHandler is called before the caller is authenticated (hook "pre_auth"). A nil response lets the request pass.
type PreAuthHandler interface {
	HandlePreAuth(ctx Context, req *EnrichedRequest) (*PluginResponse, error)
}

// AuthHandler authenticates callers (hook "auth"). It answers with App set if it knows the caller, with Block set to
// refuse, and with neither (or nil) if the credential is not of its kind: then the next one is asked, and at last a token
// of gw is required.
type AuthHandler interface {
	HandleAuth(ctx Context, req *EnrichedRequest) (*PluginResponse, error)
}

// PostAuthHandler is called when caller and target are known, before the upstream is asked (hook "post_auth"). A nil
// response lets the request pass.
type PostAuthHandler interface {
	HandlePostAuth(ctx Context, req *EnrichedRequest) (*PluginResponse, error)
}

// ResponseHandler is called with the upstream's answer (hook "on_response"). A nil response lets it pass.
type ResponseHandler interface {
	OnResponse(ctx Context, resp *EnrichedResponse) (*PluginResponse, error)
}

// StreamChunkHandler is called for each piece of an answer that streams, in order (hook "on_stream_chunk"). A nil decision
// lets the piece pass. The caller waits for each.
type StreamChunkHandler interface {
	OnStreamChunk(ctx Context, chunk *StreamChunk) (*StreamChunkResponse, error)
}

// EdgePayloadReceiver takes, at the hub, what edge plugins sent. handled means that the payload is dealt with, whatever
// err says; err is kept and shown. With handled false the payload is offered to the other receivers, and kept as a dead
// letter if nobody takes it.
type EdgePayloadReceiver interface {
	AcceptEdgePayload(ctx Context, payload *EdgePayload) (handled bool, err error)
}

// HealthChecker is asked every few seconds. An error is shown to admins as the plugin's problem; not answering in time
// makes gw restart the process.
type HealthChecker interface {
	Health(ctx Context) error
}

// ConfigSchemaProvider describes the plugin's config as a JSON Schema of an object with properties. Its values are strings;
// a property of type integer, number or boolean wants a string that can be read as one. gw understands type, properties,
// required, additionalProperties (true or false), enum, const, pattern, minLength, maxLength, minimum and maximum.
type ConfigSchemaProvider interface {
	ConfigSchema() ([]byte, error)
}

// The same hooks, written with a context.Context.
type (
	preAuthHandler interface {
		HandlePreAuth(ctx context.Context, req *EnrichedRequest) (*PluginResponse, error)
	}
	authHandler interface {
		HandleAuth(ctx context.Context, req *EnrichedRequest) (*PluginResponse, error)
	}
	postAuthHandler interface {
		HandlePostAuth(ctx context.Context, req *EnrichedRequest) (*PluginResponse, error)
	}
	responseHandler interface {
		OnResponse(ctx context.Context, resp *EnrichedResponse) (*PluginResponse, error)
	}
	streamChunkHandler interface {
		OnStreamChunk(ctx context.Context, chunk *StreamChunk) (*StreamChunkResponse, error)
	}
	edgePayloadReceiver interface {
		AcceptEdgePayload(ctx context.Context, payload *EdgePayload) (handled bool, err error)
	}
)
