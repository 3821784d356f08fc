package edgeplugin_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"gw/edgeplugin"
	"gw/edgeplugin/edgeplugintest"
)

func TestPayloadsBeyondALimitAreNotSent(t *testing.T) {
	var ctx context.Context
	run := edgeplugintest.Start(t, &odd{BasePlugin: base("odd"), start: func(c edgeplugin.Context) { ctx = c }}, edgeplugintest.Options{})
	entries := map[string]string{}
	for i := range 51 {
		entries[fmt.Sprint(i)] = ""
	}
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		name     string
		size     int
		id       string
		metadata map[string]string
		want     error
	}{
		{"at every limit", 1 << 20, long(256), map[string]string{long(256): long(4096)}, nil},
		{"1 MiB and a byte", 1<<20 + 1, "", nil, edgeplugin.ErrPayloadTooLarge},
		{"more than any message", 20 << 20, "", nil, edgeplugin.ErrPayloadTooLarge},
		{"51 entries", 1, "", entries, edgeplugin.ErrInvalidMetadata},
		{"a long key", 1, "", map[string]string{long(257): ""}, edgeplugin.ErrInvalidMetadata},
		{"a long value", 1, "", map[string]string{"k": long(4097)}, edgeplugin.ErrInvalidMetadata},
		{"a value of more than any message", 1, "", map[string]string{"k": long(20 << 20)}, edgeplugin.ErrInvalidMetadata},
		{"a key that is no text", 1, "", map[string]string{"\xff": ""}, edgeplugin.ErrInvalidMetadata},
		{"a value that is no text", 1, "", map[string]string{"k": "\xff"}, edgeplugin.ErrInvalidMetadata},
		{"a correlation ID that is no text", 1, "\xff", nil, edgeplugin.ErrInvalidMetadata},
		{"a long correlation ID", 1, long(257), nil, edgeplugin.ErrInvalidMetadata},
	} {
		_, err := edgeplugin.SendToControl(ctx, make([]byte, c.size), c.id, c.metadata)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if n := len(run.Payloads()); n != 1 {
		t.Errorf("%d payloads were sent, want 1", n)
	}
}
