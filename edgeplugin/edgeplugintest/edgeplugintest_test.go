package edgeplugintest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"gw/edgeplugin"
	"gw/edgeplugin/edgeplugintest"
)

// witness is a plugin that notes which bodies it is shown, and counts payloads.
type witness struct {
	edgeplugin.BasePlugin
	manifest edgeplugin.Manifest
	seen     []string
	calls    chan edgeplugin.Context // each call gives its context and takes the leave to return
}

func (w *witness) Manifest() edgeplugin.Manifest { return w.manifest }

func (w *witness) HandlePostAuth(_ edgeplugin.Context, r *edgeplugin.EnrichedRequest) (*edgeplugin.PluginResponse, error) {
	w.seen = append(w.seen, fmt.Sprintf("%q %v", r.Body, r.BodyOmitted))
	return nil, nil
}

func (w *witness) OnResponse(_ edgeplugin.Context, r *edgeplugin.EnrichedResponse) (*edgeplugin.PluginResponse, error) {
	w.seen = append(w.seen, fmt.Sprintf("%q %q %v", r.Request.Body, r.Body, r.BodyOmitted))
	return nil, nil
}

func (w *witness) AcceptEdgePayload(ctx edgeplugin.Context, p *edgeplugin.EdgePayload) (bool, error) {
	if w.calls != nil {
		w.calls <- ctx
		<-w.calls
		return true, nil
	}
	kv := ctx.Services.KV()
	b, err := kv.Read(ctx, "count")
	if err != nil && !errors.Is(err, edgeplugin.ErrNotFound) {
		return false, err
	}
	return true, kv.Write(ctx, "count", append(b, 'x'))
}

func TestAPluginIsShownTheBodiesItsManifestAsksFor(t *testing.T) {
	for _, c := range []struct {
		name     string
		manifest edgeplugin.Manifest
		streams  bool
		want     string
	}{
		{"none", edgeplugin.Manifest{}, false, `"" false, "" "" false`},
		{"requests", edgeplugin.Manifest{RequestBodies: true}, false, `"asked" false, "" "" false`},
		{"answers", edgeplugin.Manifest{ResponseBodies: true}, false, `"" false, "" "answered" false`},
		{"small ones", edgeplugin.Manifest{RequestBodies: true, ResponseBodies: true, MaxBody: 5}, false, `"asked" false, "" "" true`},
		{"smaller ones", edgeplugin.Manifest{RequestBodies: true, ResponseBodies: true, MaxBody: 4}, false, `"" true, "" "" true`},
		{"of a stream", edgeplugin.Manifest{RequestBodies: true, ResponseBodies: true}, true, `"asked" false, "" "" true`},
	} {
		w := &witness{manifest: c.manifest}
		run := edgeplugintest.Start(t, w, edgeplugintest.Options{Upstream: func(q *edgeplugin.EnrichedRequest) *edgeplugin.EnrichedResponse {
			if string(q.Body) != "asked" {
				t.Errorf("%s: the upstream got %q", c.name, q.Body)
			}
			return &edgeplugin.EnrichedResponse{StatusCode: 200, Body: []byte("answered"), Streams: c.streams}
		}})
		if a := run.Do(&edgeplugin.EnrichedRequest{Body: []byte("asked")}); string(a.Body) != "answered" {
			t.Errorf("%s: the caller got %q", c.name, a.Body)
		}
		if got := strings.Join(w.seen, ", "); got != c.want {
			t.Errorf("%s: seen %s, want %s", c.name, got, c.want)
		}
	}
}

func TestPayloadsFromAnyGoroutineAreTakenOneAtATime(t *testing.T) {
	const n = 50
	hub := edgeplugintest.Start(t, &witness{}, edgeplugintest.Options{})
	var calls sync.WaitGroup
	for range n {
		calls.Go(func() {
			if handled, err := hub.Accept(&edgeplugin.EdgePayload{}); !handled || err != nil {
				t.Errorf("handled %v, %v", handled, err)
			}
		})
	}
	calls.Wait()
	if got := len(hub.KV()["count"]); got != n {
		t.Errorf("%d payloads are counted, want %d", got, n)
	}
}

func TestAContextIsOfOnePayloadOnly(t *testing.T) {
	w := &witness{calls: make(chan edgeplugin.Context)}
	hub := edgeplugintest.Start(t, w, edgeplugintest.Options{})
	accepted := make(chan struct{})
	accept := func() {
		hub.Accept(&edgeplugin.EdgePayload{})
		accepted <- struct{}{}
	}
	go accept()
	first := <-w.calls
	w.calls <- first
	<-accepted
	go accept()
	second := <-w.calls
	if err := first.Services.KV().Write(context.WithoutCancel(first), "late", nil); err == nil {
		t.Error("a write with the context of a call that has returned became part of the next call")
	}
	w.calls <- second
	<-accepted
}
