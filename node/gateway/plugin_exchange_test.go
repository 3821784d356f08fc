package gateway

import (
	"io"
	"net/http"
	"sync"
	"testing"

	"gw/edgeplugin/pluginv1"
)

func TestPluginsKnowARequestByAnIDThatNoCallerChose(t *testing.T) {
	up := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
	})
	var mu sync.Mutex
	seen := map[string][]string{} // exchange ID → the hooks that saw it
	note := func(id, hook, requestID string) {
		mu.Lock()
		defer mu.Unlock()
		if requestID != "mine" {
			t.Errorf("%s: request ID %q", hook, requestID)
		}
		seen[id] = append(seen[id], hook)
	}
	p := &scripted{
		request: func(_ int, hook pluginv1.Hook, r *pluginv1.Request) (*pluginv1.Decision, error) {
			note(r.ExchangeId, hook.String(), r.RequestId)
			return &pluginv1.Decision{}, nil
		},
		response: func(_ int, r *pluginv1.Response) (*pluginv1.Decision, error) {
			note(r.Request.ExchangeId, "on_response", r.Request.RequestId)
			return &pluginv1.Decision{}, nil
		},
		chunk: func(_ int, c *pluginv1.StreamChunk) (*pluginv1.StreamChunkDecision, error) {
			note(c.ExchangeId, "on_stream_chunk", c.RequestId)
			return &pluginv1.StreamChunkDecision{}, nil
		}}
	e := startPlugins(t, p, api("a", "paths: [/a]\nauth: keyless\nupstreams: [{url: "+up+"}]")+pluginOf("p", 1, "hooks: [pre_auth, post_auth, on_response, on_stream_chunk]"))
	for range 2 {
		if r := send(t, "GET", e.url+"/a", "", "X-Request-Id", "mine"); r.status != 200 || r.header.Get("X-Gw-Request-Id") != "mine" {
			t.Fatalf("got %d %v", r.status, r.header)
		}
	}
	if len(seen) != 2 || seen[""] != nil || seen["mine"] != nil {
		t.Errorf("seen %v, want an ID for each of two requests", seen)
	}
	for id, hooks := range seen {
		if len(hooks) != 4 {
			t.Errorf("%s was seen at %v, want each hook once", id, hooks)
		}
	}
}
