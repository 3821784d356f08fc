package node

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// together is a hub and an edge in this process.
type together struct {
	hub  *hub
	edge *edge
	ctx  context.Context // the hub's own calls are made with it
}

// startTogether starts a hub and an edge that has joined it. Both end with the test. edits, if any, change how the hub
// runs.
func startTogether(t *testing.T, edits ...func(*HubConfig)) *together {
	t.Helper()
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	config := HubConfig{
		DataDir: filepath.Join(dir, "hub"), Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0",
		ElectionTimeout: time.Second, HeartbeatInterval: time.Second,
	}
	for _, edit := range edits {
		edit(&config)
	}
	h, err := openHub(ctx, config, log)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() { done <- h.run(ctx, func() {}) }()
	token, err := h.joinToken(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e, err := openEdge(ctx, EdgeConfig{
		DataDir: filepath.Join(dir, "edge"), ID: "edge-1", Hub: []string{h.urls()[0]}, JoinToken: token,
		Listen: "127.0.0.1:0", OpsListen: "127.0.0.1:0", TokenTTL: time.Minute, AccessLog: "off",
	}, io.Discard, log)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- e.run(ctx, func() {}) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return &together{hub: h, edge: e, ctx: h.asHub(ctx)}
}

// awaitEdge waits until what the hub says of the edge satisfies a condition.
func (w *together) awaitEdge(t *testing.T, what string, ok func(*gwv1.Edge) bool) *gwv1.Edge {
	t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	var last *gwv1.Edge
	for revision := uint64(0); ; {
		if answer, err := w.hub.services.Fleet.GetEdge(ctx, &gwv1.GetEdgeRequest{Id: "edge-1"}); err == nil {
			if last = answer.Edge; ok(last) {
				return last
			}
		}
		var err error
		if revision, err = w.hub.services.Wake(ctx, revision); err != nil {
			t.Fatalf("%s: %v; last %v", what, err, last)
		}
	}
}

func (w *together) apply(t *testing.T, text string) {
	t.Helper()
	docs, err := resource.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	req := &gwv1.ApplyResourcesRequest{}
	for _, d := range docs {
		req.Resources = append(req.Resources, d.Proto())
	}
	if _, err := w.hub.services.Config.ApplyResources(w.ctx, req); err != nil {
		t.Fatal(err)
	}
}

func inSync(e *gwv1.Edge) bool { return e.Sync == gwv1.Sync_SYNC_IN_SYNC }

const keyless = `
kind: API
metadata: {name: hello}
spec: {paths: [/hello], auth: keyless, upstreams: [{url: "http://127.0.0.1:1"}]}
`

func TestReleaseThatCanNotLoadIsRefusedBeforeItIsMade(t *testing.T) {
	w := startTogether(t)
	w.apply(t, keyless+"---"+strings.Replace(keyless, "name: hello", "name: other", 1))
	_, err := w.hub.services.Releases.Push(w.ctx, &gwv1.PushRequest{})
	if err == nil || !strings.Contains(err.Error(), "API/other") || !strings.Contains(err.Error(), "spec.paths[0]") {
		t.Errorf("two APIs on one path: %v, want a refusal that names API/other and spec.paths[0]", err)
	}
	w.apply(t, strings.NewReplacer("name: hello", "name: other", "[/hello]", "[/other]", "http://127.0.0.1:1", "http://127.0.0.1:port").Replace(keyless))
	_, err = w.hub.services.Releases.Push(w.ctx, &gwv1.PushRequest{})
	if err == nil || !strings.Contains(err.Error(), "API/other") || !strings.Contains(err.Error(), "spec.upstreams[0].url") {
		t.Errorf("a bad upstream URL: %v, want a refusal that names API/other and spec.upstreams[0].url", err)
	}
	if _, ok := w.hub.store.State().Target(resource.Default); ok {
		t.Error("a refused push made a release")
	}
}

func TestReleaseForcedPastTheHubLeavesTheOldTableServing(t *testing.T) {
	w := startTogether(t)
	w.apply(t, keyless)
	if _, err := w.hub.services.Releases.Push(w.ctx, &gwv1.PushRequest{}); err != nil {
		t.Fatal(err)
	}
	w.awaitEdge(t, "in sync with the first release", inSync)
	before := w.edge.gateway.Table()

	w.force(t, &gwv1.APISpec{Paths: []string{"/bad"}, Auth: gwv1.Auth_AUTH_KEYLESS, Upstreams: []*gwv1.Upstream{{Url: "ftp://nowhere", Weight: proto.Uint32(1)}}})
	e := w.awaitEdge(t, "the edge's error", func(e *gwv1.Edge) bool { return e.ApplyError != nil })
	if got := e.ApplyError; got.Code != "compile" || got.Kind != "API" || got.Name != "bad" || got.Field != "spec.upstreams[0].url" || got.Release != 2 {
		t.Errorf("the edge's error is %v", got)
	}
	if e.Sync != gwv1.Sync_SYNC_STALE || !strings.Contains(e.SyncReason, "API/bad") {
		t.Errorf("the edge is %v: %s, want stale because of API/bad", e.Sync, e.SyncReason)
	}
	if w.edge.gateway.Table() != before {
		t.Error("the serving table was replaced")
	}
	answer, err := http.Get(w.edge.callers.url() + "/hello")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusBadGateway { // nothing listens on port 1: the route is there
		t.Errorf("GET /hello: %d, want 502 from the old table", answer.StatusCode)
	}
}

func TestSecretOfTheOldTableIsRotatedThoughTheTargetDoesNotNameIt(t *testing.T) {
	w := startTogether(t)
	put := func(value string) {
		if _, err := w.hub.services.Access.PutSecret(w.ctx, &gwv1.PutSecretRequest{Name: "key", Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	put("one")
	w.apply(t, strings.Replace(keyless, "auth: keyless", "auth: keyless, credential: {secret: key}", 1))
	if _, err := w.hub.services.Releases.Push(w.ctx, &gwv1.PushRequest{}); err != nil {
		t.Fatal(err)
	}
	w.awaitEdge(t, "in sync with the first release", inSync)
	w.apply(t, keyless)
	w.force(t, &gwv1.APISpec{Paths: []string{"/bad"}, Auth: gwv1.Auth_AUTH_KEYLESS, Upstreams: []*gwv1.Upstream{{Url: "ftp://nowhere", Weight: proto.Uint32(1)}}})
	w.awaitEdge(t, "the edge's error", func(e *gwv1.Edge) bool { return e.ApplyError != nil })
	put("two")
	deadline := time.After(20 * time.Second)
	for v := ""; v != "two"; v, _ = w.edge.uplink.Secret("key") {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatal("the edge serves with the value from before")
		}
	}
}

// force releases a resource without asking anyone whether it loads.
func (w *together) force(t *testing.T, spec *gwv1.APISpec) {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	digest := resource.DigestOf("API", "bad", b)
	w.propose(t, &gwv1.Command{Body: &gwv1.Command_ChangeResources{ChangeResources: &gwv1.ChangeResources{
		Edits: []*gwv1.ResourceEdit{{Kind: "API", Namespace: resource.Default, Name: "bad", Digest: digest[:], Spec: b}},
	}}})
	sum := w.hub.store.Manifest(resource.Default).Checksum
	w.propose(t, &gwv1.Command{Body: &gwv1.Command_PushReleases{PushReleases: &gwv1.PushReleases{
		Namespaces: []*gwv1.NamespaceChecksum{{Namespace: resource.Default, Checksum: sum[:]}},
	}}})
}

func (w *together) propose(t *testing.T, c *gwv1.Command) {
	t.Helper()
	c.Actor, c.ProposedAt = "test", time.Now().UnixNano()
	if _, err := w.hub.store.Propose(w.ctx, c); err != nil {
		t.Fatal(err)
	}
}

func TestDevConfigurationLoads(t *testing.T) {
	sample := strings.ReplaceAll(sampleConfiguration, "%s", "http://127.0.0.1:8081")
	for text, want := range map[string]int{sample: 2, sample + "---\n" + samplePlugins: 7} {
		docs, err := resource.Parse("sample", []byte(strings.NewReplacer("$DIR", "/p", "$DATA", "/d", "$UPSTREAM", "http://127.0.0.1:1").Replace(text)))
		if err != nil || len(docs) != want {
			t.Errorf("%d documents, %v, want %d", len(docs), err, want)
		}
	}
}
