package edgeplugin

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"gw/edgeplugin/pluginv1"
)

// host is gw as the plugin sees it.
type host struct {
	client pluginv1.HostClient
	log    *logQueue
}

var _ KV = (*host)(nil)

func newHost(conn grpc.ClientConnInterface) *host {
	client := pluginv1.NewHostClient(conn)
	return &host{client: client, log: newLogQueue(client)}
}

func callOf(ctx context.Context) string {
	id, _ := ctx.Value(callKey{}).(string)
	return id
}

// Read implements KV.
func (h *host) Read(ctx context.Context, key string) ([]byte, error) {
	r, err := h.client.KVRead(ctx, &pluginv1.KVReadRequest{Key: key, CallId: callOf(ctx)})
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", key, err)
	}
	if !r.Found {
		return nil, fmt.Errorf("read %q: %w", key, ErrNotFound)
	}
	return r.Value, nil
}

// Write implements KV.
func (h *host) Write(ctx context.Context, key string, value []byte, expireAt ...*time.Time) error {
	r := &pluginv1.KVWriteRequest{Key: key, Value: value, CallId: callOf(ctx)}
	for _, t := range expireAt {
		if t != nil {
			r.ExpiresAt = t.UnixNano()
		}
	}
	if _, err := h.client.KVWrite(ctx, r); err != nil {
		return fmt.Errorf("write %q: %w", key, err)
	}
	return nil
}

// Delete implements KV.
func (h *host) Delete(ctx context.Context, key string) (bool, error) {
	r, err := h.client.KVDelete(ctx, &pluginv1.KVDeleteRequest{Key: key, CallId: callOf(ctx)})
	if err != nil {
		return false, fmt.Errorf("delete %q: %w", key, err)
	}
	return r.Deleted, nil
}

// List implements KV.
func (h *host) List(ctx context.Context, prefix string) (keys []string, err error) {
	q := &pluginv1.KVListRequest{Prefix: prefix, CallId: callOf(ctx), MaxBytes: maxListed}
	for {
		r, err := h.client.KVList(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("list %q: %w", prefix, err)
		}
		keys = append(keys, r.Keys...)
		if !r.More || len(r.Keys) == 0 {
			return keys, nil
		}
		q.After = r.Keys[len(r.Keys)-1]
	}
}

// maxListed is how many bytes of keys come in one message.
const maxListed = 4 << 20
