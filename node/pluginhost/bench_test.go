package pluginhost

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"gw/edgeplugin/pluginv1"
)

// BenchmarkHook is one call of a hook, there and back over the socket, by the size of the body that is shown.
func BenchmarkHook(b *testing.B) {
	h, err := New(Config{Side: pluginv1.Side_SIDE_EDGE, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	s, err := h.Prepare(b.Context(), []Plugin{testPlugin(nil)})
	if err != nil {
		b.Fatal(err)
	}
	h.Adopt(s)
	for _, size := range []int{0, 1 << 10, 100 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			r := &pluginv1.Request{Method: "POST", Path: "/v1/chat/completions", Target: "LLM/openai", Body: make([]byte, size),
				Headers: []*pluginv1.Header{{Name: "Do", Values: []string{"count"}}, {Name: "Content-Type", Values: []string{"application/json"}}}}
			took := make([]time.Duration, 0, b.N)
			for b.Loop() {
				began := time.Now()
				if _, err := s.Request(b.Context(), 0, pluginv1.Hook_HOOK_PRE_AUTH, r); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
		})
	}
}
