package pluginhost

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gw/edgeplugin/pluginv1"
)

// hostServer is what gw offers to one instance of a plugin.
type hostServer struct {
	pluginv1.UnimplementedHostServer
	process *process

	mu    sync.Mutex
	bound map[string]KV // ID of a running call → what its KV calls go to
}

func newHostServer(p *process) *hostServer { return &hostServer{process: p, bound: map[string]KV{}} }

// bind makes KV calls with the returned ID go to kv until unbind is called.
func (s *hostServer) bind(kv KV) (id string, unbind func()) {
	id = rand.Text()
	s.mu.Lock()
	s.bound[id] = kv
	s.mu.Unlock()
	return id, func() {
		s.mu.Lock()
		delete(s.bound, id)
		s.mu.Unlock()
	}
}

func (s *hostServer) kv(call string) (KV, error) {
	if call != "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		if kv, ok := s.bound[call]; ok {
			return kv, nil
		}
		return nil, status.Error(codes.FailedPrecondition, "the call whose context this is has returned")
	}
	if s.process.host.c.KV == nil {
		return nil, status.Error(codes.Unimplemented, "plugins keep nothing here")
	}
	return s.process.host.c.KV(s.process.plugin.ID), nil
}

// SendToControl implements the service.
func (s *hostServer) SendToControl(ctx context.Context, r *pluginv1.SendToControlRequest) (*pluginv1.SendToControlResponse, error) {
	send := s.process.host.c.Send
	if send == nil {
		return nil, status.Error(codes.Unimplemented, "only plugins at edges send to the hub")
	}
	pending, err := send(ctx, s.process.plugin.ID, r.Payload, r.CorrelationId, r.Metadata)
	answer := &pluginv1.SendToControlResponse{Pending: pending}
	switch {
	case err == nil:
		return answer, nil
	case errors.Is(err, ErrPayloadTooLarge):
		answer.Refusal = pluginv1.Refusal_REFUSAL_PAYLOAD_TOO_LARGE
	case errors.Is(err, ErrInvalidMetadata):
		answer.Refusal = pluginv1.Refusal_REFUSAL_INVALID_METADATA
	case errors.Is(err, ErrQueueFull):
		answer.Refusal = pluginv1.Refusal_REFUSAL_QUEUE_FULL
	default:
		return nil, status.Error(codes.Internal, err.Error())
	}
	answer.Message = err.Error()
	return answer, nil
}

// KVRead implements the service.
func (s *hostServer) KVRead(ctx context.Context, r *pluginv1.KVReadRequest) (*pluginv1.KVReadResponse, error) {
	kv, err := s.kv(r.CallId)
	if err != nil {
		return nil, err
	}
	value, ok, err := kv.Read(ctx, r.Key)
	return &pluginv1.KVReadResponse{Value: value, Found: ok}, refused(err)
}

// KVWrite implements the service.
func (s *hostServer) KVWrite(ctx context.Context, r *pluginv1.KVWriteRequest) (*pluginv1.KVWriteResponse, error) {
	kv, err := s.kv(r.CallId)
	if err != nil {
		return nil, err
	}
	var expires time.Time
	if r.ExpiresAt != 0 {
		expires = time.Unix(0, r.ExpiresAt)
	}
	return &pluginv1.KVWriteResponse{}, refused(kv.Write(ctx, r.Key, r.Value, expires))
}

// KVDelete implements the service.
func (s *hostServer) KVDelete(ctx context.Context, r *pluginv1.KVDeleteRequest) (*pluginv1.KVDeleteResponse, error) {
	kv, err := s.kv(r.CallId)
	if err != nil {
		return nil, err
	}
	deleted, err := kv.Delete(ctx, r.Key)
	return &pluginv1.KVDeleteResponse{Deleted: deleted}, refused(err)
}

// KVList implements the service.
func (s *hostServer) KVList(ctx context.Context, r *pluginv1.KVListRequest) (*pluginv1.KVListResponse, error) {
	kv, err := s.kv(r.CallId)
	if err != nil {
		return nil, err
	}
	keys, err := kv.List(ctx, r.Prefix)
	if err != nil {
		return nil, refused(err)
	}
	after, found := slices.BinarySearch(keys, r.After)
	if found {
		after++
	}
	keys = keys[after:]
	n := firstBytes(keys, int(r.MaxBytes))
	return &pluginv1.KVListResponse{Keys: keys[:n], More: n < len(keys)}, nil
}

// firstBytes returns how many of the first keys take about most bytes in a message; 0 is no limit.
func firstBytes(keys []string, most int) int {
	size := 0
	for i, key := range keys {
		if size += len(key) + 4; most > 0 && size >= most {
			return i + 1
		}
	}
	return len(keys)
}

// refused keeps an error's words on their way to the plugin, which is no place for internals of another kind.
func refused(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}

// Log implements the service.
func (s *hostServer) Log(_ context.Context, r *pluginv1.LogRequest) (*pluginv1.LogResponse, error) {
	for _, l := range r.Lines {
		s.process.output.line(slog.Level(l.Level), l.Message, l.Fields)
	}
	return &pluginv1.LogResponse{}, nil
}
