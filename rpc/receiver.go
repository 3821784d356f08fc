package rpc

import (
	"context"
	"errors"
	"time"

	"gw/rpc/gwv1"
)

var (
	// ErrNoPlugin means that no hub plugin with the ID is configured.
	ErrNoPlugin = errors.New("no hub plugin has this ID")
	// ErrPluginNotRunning means that a hub plugin is configured and can't be asked now: it is starting, waits to be
	// restarted, or can't be started.
	ErrPluginNotRunning = errors.New("the hub plugin is not running")
	// ErrPluginCrashed means that the plugin's process ended while it worked on the call.
	ErrPluginCrashed = errors.New("the hub plugin went down")
	// ErrPluginTooSlow means that the plugin had not answered by its deadline.
	ErrPluginTooSlow = errors.New("the hub plugin did not answer in time")
)

// HubPlugins are the hub plugins of this process, which run while it leads. Methods are called from any goroutine.
type HubPlugins interface {
	// Accept hands a payload to a plugin, until the plugin's own deadline. What the plugin reads and writes with the
	// context of this call goes to kv, which is of no use once Accept has returned. handled: the plugin has dealt with the
	// payload, and err is what it said went wrong. Otherwise err may wrap one of the errors above; any other one, or none,
	// means that the plugin does not want the payload.
	Accept(ctx context.Context, plugin uint32, p Payload, kv PluginKV) (handled bool, err error)
	// Receivers are the IDs of the running plugins that take payloads, ascending.
	Receivers() []uint32
	// Processes says how each plugin is that is configured, sorted by ID.
	Processes() []*gwv1.PluginProcess
}

// Payload is what a plugin at an edge sent.
type Payload struct {
	Payload                              []byte
	EdgeID, EdgeNamespace, CorrelationID string
	Metadata                             map[string]string
	// SentAt is by the clock of the edge, ReceivedAt by that of the hub.
	SentAt, ReceivedAt time.Time
}

// PluginKV is what a plugin keeps, by keys of 1 to 512 bytes of text with values of up to 64 KiB.
type PluginKV interface {
	// Read returns a value the caller must not change; ok: there is one.
	Read(ctx context.Context, key string) (value []byte, ok bool, err error)
	// Write sets a value; a zero expires is never.
	Write(ctx context.Context, key string, value []byte, expires time.Time) error
	// Delete reports whether there was a value.
	Delete(ctx context.Context, key string) (bool, error)
	// List returns the keys that begin with prefix, sorted.
	List(ctx context.Context, prefix string) ([]string, error)
}

// noPlugins is a hub without plugins.
type noPlugins struct{}

func (noPlugins) Accept(context.Context, uint32, Payload, PluginKV) (bool, error) {
	return false, ErrNoPlugin
}
func (noPlugins) Receivers() []uint32              { return nil }
func (noPlugins) Processes() []*gwv1.PluginProcess { return nil }
