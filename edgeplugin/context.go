package edgeplugin

import (
	"context"
	"errors"
	"time"
)

// Context is the context of a call, or of the plugin's life, with what gw offers.
type Context struct {
	context.Context
	Services Services
	// PluginID and PluginName are those of the resource; Runtime is where the plugin runs.
	PluginID   uint32
	PluginName string
	Runtime    Runtime
}

// Runtime is where a plugin runs.
type Runtime string

// Where plugins run.
const (
	RuntimeEdge Runtime = "edge"
	RuntimeHub  Runtime = "hub"
)

// Services is what gw offers a plugin. It is valid from Initialize on, from any goroutine.
type Services struct{ host *host }

// Logger writes into gw's own log, with the plugin's name.
func (s Services) Logger() Logger { return Logger(s) }

// KV is the plugin's store.
func (s Services) KV() KV { return s.host }

// KV keeps values by key for one plugin; see the package's comment for where. Keys have 1 to 512 bytes, values at most 64
// KiB. Calls made with the context of an AcceptEdgePayload see and become part of that call's commit, and fail once it
// has returned.
type KV interface {
	// Read returns a value; ErrNotFound if there is none.
	Read(ctx context.Context, key string) ([]byte, error)
	// Write sets a value, which goes away at expireAt; none or nil: never.
	Write(ctx context.Context, key string, value []byte, expireAt ...*time.Time) error
	// Delete reports whether there was a value.
	Delete(ctx context.Context, key string) (bool, error)
	// List returns the keys that begin with prefix, sorted. Of many it asks in parts, between which they may change.
	List(ctx context.Context, prefix string) ([]string, error)
}

// Errors of services, to be tested with errors.Is.
var (
	// ErrPayloadTooLarge says that a payload has more than 1 MiB.
	ErrPayloadTooLarge = errors.New("payload too large")
	// ErrInvalidMetadata says that metadata has more than 50 entries, a key of more than 256 bytes or a value of more
	// than 4,096, that the correlation ID has more than 256 bytes, or that one of them is no UTF-8.
	ErrInvalidMetadata = errors.New("invalid metadata")
	// ErrQueueFull says that too many payloads wait at this edge; the payload was not taken.
	ErrQueueFull = errors.New("queue full")
	// ErrNotFound says that the KV has no value under a key.
	ErrNotFound = errors.New("not found")
	// ErrNotInitialized says that gw was called before Initialize.
	ErrNotInitialized = errors.New("the plugin is not initialized yet")
)
