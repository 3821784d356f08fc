package edgeplugin

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"unicode/utf8"

	"gw/edgeplugin/pluginv1"
)

// serving is the host of the plugin this process serves.
var serving atomic.Pointer[host]

// hostKey is where a context keeps the host of its plugin; callKey the ID of its call.
type (
	hostKey struct{}
	callKey struct{}
)

func hostOf(ctx context.Context) (*host, error) {
	if h, ok := ctx.Value(hostKey{}).(*host); ok {
		return h, nil
	}
	if h := serving.Load(); h != nil {
		return h, nil
	}
	return nil, ErrNotInitialized
}

// SendToControl hands a payload to the edge, which brings it to the hub plugin with this plugin's ID. It returns when the
// payload is on the edge's disk, with the number of this plugin's payloads that wait there. correlationID and metadata may
// be empty. The error wraps ErrPayloadTooLarge, ErrInvalidMetadata or ErrQueueFull if the payload was not taken for that
// reason; after any other error, such as ctx's end, it may have been. It may be called from any goroutine after
// Initialize.
func SendToControl(ctx context.Context, payload []byte, correlationID string, metadata map[string]string) (pendingCount int64, err error) {
	h, err := hostOf(ctx)
	if err != nil {
		return 0, fmt.Errorf("send to control: %w", err)
	}
	if err := checkPayload(payload, correlationID, metadata); err != nil {
		return 0, fmt.Errorf("send to control: %w", err)
	}
	r, err := h.client.SendToControl(ctx, &pluginv1.SendToControlRequest{Payload: payload, CorrelationId: correlationID, Metadata: metadata})
	if err != nil {
		return 0, fmt.Errorf("send to control: %w", err)
	}
	switch r.Refusal {
	case pluginv1.Refusal_REFUSAL_UNSPECIFIED:
		return r.Pending, nil
	case pluginv1.Refusal_REFUSAL_PAYLOAD_TOO_LARGE:
		err = ErrPayloadTooLarge
	case pluginv1.Refusal_REFUSAL_INVALID_METADATA:
		err = ErrInvalidMetadata
	case pluginv1.Refusal_REFUSAL_QUEUE_FULL:
		err = ErrQueueFull
	default:
		return r.Pending, fmt.Errorf("send to control: refused: %s", r.Message)
	}
	return r.Pending, fmt.Errorf("send to control: %w: %s", err, r.Message)
}

// checkPayload says which limit a payload breaks. gw looks itself; but what is far too large doesn't get as far.
func checkPayload(payload []byte, correlationID string, metadata map[string]string) error {
	const maxPayload, maxEntries, maxKey, maxValue, maxCorrelationID = 1 << 20, 50, 256, 4096, 256
	switch {
	case len(payload) > maxPayload:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrPayloadTooLarge, len(payload), maxPayload)
	case len(metadata) > maxEntries:
		return fmt.Errorf("%w: %d entries, at most %d", ErrInvalidMetadata, len(metadata), maxEntries)
	case len(correlationID) > maxCorrelationID || !utf8.ValidString(correlationID):
		return fmt.Errorf("%w: the correlation ID has %d bytes, at most %d of UTF-8", ErrInvalidMetadata, len(correlationID), maxCorrelationID)
	}
	for k, v := range metadata {
		switch {
		case len(k) > maxKey || !utf8.ValidString(k):
			return fmt.Errorf("%w: a key has %d bytes, at most %d of UTF-8", ErrInvalidMetadata, len(k), maxKey)
		case len(v) > maxValue || !utf8.ValidString(v):
			return fmt.Errorf("%w: the value of %q has %d bytes, at most %d of UTF-8", ErrInvalidMetadata, k, len(v), maxValue)
		}
	}
	return nil
}

// SendToControlJSON is SendToControl with value as JSON.
func SendToControlJSON(ctx context.Context, value any, correlationID string, metadata map[string]string) (pendingCount int64, err error) {
	b, err := json.Marshal(value)
	if err != nil {
		return 0, fmt.Errorf("send to control: %w", err)
	}
	return SendToControl(ctx, b, correlationID, metadata)
}
