package node

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gw/rpc"
	"gw/rpc/gwv1"
)

// buildPlugin builds one of the example plugins.
func buildPlugin(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "gw/edgeplugin/examples/"+name).CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

func (w *together) push(t *testing.T, text string) {
	t.Helper()
	w.apply(t, text)
	if _, err := w.hub.services.Releases.Push(w.ctx, &gwv1.PushRequest{}); err != nil {
		t.Fatal(err)
	}
}

// post asks the edge, and returns status, X-Cache and body.
func (w *together) post(t *testing.T, body string) (int, string, string) {
	t.Helper()
	resp, err := http.Post(w.edge.callers.url()+"/orders", "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("X-Cache"), string(b)
}

func ordersAPI(upstream string) string {
	return "kind: API\nmetadata: {name: orders}\nspec:\n  paths: [/orders]\n  auth: keyless\n  upstreams: [{url: \"" + upstream + "\"}]\n---\n"
}

func pluginFile(path, config string) string {
	return "kind: Plugin\nmetadata: {name: cache}\nspec:\n  id: 7\n  hooks: [post_auth, on_response]\n  command: file://" + path + "\n" + config
}

func countingUpstream(t *testing.T) (url string, asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "answer to %s", b)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func TestAnEdgeRunsThePluginsOfItsRelease(t *testing.T) {
	w := startTogether(t)
	upstream, asked := countingUpstream(t)
	cache := buildPlugin(t, "llmcache")
	w.push(t, ordersAPI(upstream)+pluginFile(cache, "  config: {report_every: 50ms}\n"))
	w.awaitEdge(t, "in sync", inSync)
	for i, want := range []string{"miss", "hit", "hit"} {
		if status, cached, body := w.post(t, "one"); status != 200 || cached != want || body != "answer to one" {
			t.Errorf("request %d: %d %s %q, want %s", i, status, cached, body, want)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the upstream was asked %d times, want once", n)
	}
	edge := w.awaitEdge(t, "its payloads are in the spool", func(*gwv1.Edge) bool {
		payloads, _, _ := w.edge.spool.Totals()
		return payloads > 0
	})
	if edge.Health != gwv1.Health_HEALTH_OK {
		t.Errorf("health %v: %s", edge.Health, edge.HealthReason)
	}
}

// A release that changes a plugin takes over from the one before without a request in between that fails.
func TestAPluginIsReplacedWithoutLosingARequest(t *testing.T) {
	w := startTogether(t)
	upstream, _ := countingUpstream(t)
	cache := buildPlugin(t, "llmcache")
	w.push(t, ordersAPI(upstream)+pluginFile(cache, "  config: {ttl: 1m}\n"))
	w.awaitEdge(t, "in sync", inSync)
	stop, failed := make(chan struct{}), make(chan string, 1)
	var served atomic.Int64
	go func() {
		defer close(failed)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			resp, err := http.Post(w.edge.callers.url()+"/orders", "text/plain", strings.NewReader(fmt.Sprint(i%5)))
			if err != nil {
				failed <- err.Error()
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || resp.Header.Get("X-Cache") == "" {
				failed <- fmt.Sprintf("request %d: %s, X-Cache %q", i, resp.Status, resp.Header.Get("X-Cache"))
				return
			}
			served.Add(1)
		}
	}()
	first := w.edge.plugins.States()[0].PID
	for round := range 3 {
		w.push(t, pluginFile(cache, fmt.Sprintf("  config: {ttl: %dm}\n", round+2)))
		w.awaitEdge(t, "in sync again", inSync)
	}
	close(stop)
	for problem := range failed {
		t.Error(problem)
	}
	if pid := w.edge.plugins.States()[0].PID; pid == first || served.Load() == 0 {
		t.Errorf("pid %d, was %d; %d requests", pid, first, served.Load())
	}
}

// A hub plugin that is changed takes over from the one before without a payload in between that fails.
func TestAHubPluginIsReplacedWithoutLosingAPayload(t *testing.T) {
	w := startTogether(t)
	audit := buildPlugin(t, "auditlog")
	plugins := w.hub.plugins
	pid := func() int {
		if states := plugins.host.States(); len(states) == 1 {
			return states[0].PID
		}
		return 0
	}
	save := func(keep string) {
		was := pid()
		w.apply(t, "kind: Plugin\nmetadata: {name: audit, namespace: global}\nspec:\n  type: hub\n  id: 7\n  command: file://"+audit+"\n  config: {keep: "+keep+"}\n")
		for end := time.Now().Add(20 * time.Second); pid() == was || pid() == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the plugin was not started: %+v", plugins.host.States())
			}
		}
	}
	save("1h")
	stop, failed := make(chan struct{}), make(chan string, 1)
	served := 0
	go func() {
		defer close(failed)
		for ; ; served++ {
			select {
			case <-stop:
				return
			default:
			}
			if handled, err := plugins.Accept(w.ctx, 7, rpc.Payload{Payload: []byte("[]"), Metadata: map[string]string{"type": "audit_records"}}, nil); !handled || err != nil {
				failed <- fmt.Sprintf("payload %d: handled %v, %v", served, handled, err)
				return
			}
		}
	}()
	for _, keep := range []string{"2h", "3h", "4h"} {
		save(keep)
	}
	close(stop)
	for problem := range failed {
		t.Error(problem)
	}
	if served == 0 {
		t.Error("no payload was taken")
	}
}

func TestAConfigThatThePluginRefusesRejectsTheRelease(t *testing.T) {
	w := startTogether(t)
	upstream, _ := countingUpstream(t)
	cache := buildPlugin(t, "llmcache")
	w.push(t, ordersAPI(upstream)+pluginFile(cache, "  config: {max_entries: \"10\"}\n"))
	w.awaitEdge(t, "in sync", inSync)
	w.push(t, pluginFile(cache, "  config: {max_entries: \"none\"}\n"))
	edge := w.awaitEdge(t, "the release is rejected", func(e *gwv1.Edge) bool { return e.ApplyError != nil })
	if e := edge.ApplyError; e.Kind != "Plugin" || e.Name != "cache" || e.Field != `spec.config["max_entries"]` || e.Code != "compile" {
		t.Errorf("apply error %v", e)
	}
	if status, cached, _ := w.post(t, "x"); status != 200 || cached != "miss" {
		t.Errorf("the release before serves %d, X-Cache %q", status, cached)
	}
}

func TestAPluginThatIsNotThereYetIsTriedAgain(t *testing.T) {
	w := startTogether(t)
	upstream, _ := countingUpstream(t)
	cache := buildPlugin(t, "llmcache")
	path := filepath.Join(t.TempDir(), "later")
	w.push(t, ordersAPI(upstream))
	w.awaitEdge(t, "in sync", inSync)
	w.push(t, pluginFile(path, ""))
	edge := w.awaitEdge(t, "the plugin is missed", func(e *gwv1.Edge) bool { return e.ApplyError != nil })
	if e := edge.ApplyError; e.Code != "plugin" || !strings.Contains(e.Message, "there is no file "+path) {
		t.Errorf("apply error %v", e)
	}
	if status, _, _ := w.post(t, "x"); status != 200 {
		t.Errorf("the release before serves %d", status)
	}
	if err := os.Rename(cache, path); err != nil {
		t.Fatal(err)
	}
	w.awaitEdge(t, "in sync once it is there", inSync)
	if _, cached, _ := w.post(t, "x"); cached != "miss" {
		t.Error("the plugin is not asked")
	}
}

func TestAPluginThatGoesDownIsToldAndRequestsAreRefused(t *testing.T) {
	w := startTogether(t)
	upstream, _ := countingUpstream(t)
	cache := buildPlugin(t, "llmcache")
	w.push(t, ordersAPI(upstream)+pluginFile(cache, ""))
	w.awaitEdge(t, "in sync", inSync)
	if err := os.Remove(cache); err != nil { // so it can't be started again
		t.Fatal(err)
	}
	process, err := os.FindProcess(w.edge.plugins.States()[0].PID)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	edge := w.awaitEdge(t, "health fails", func(e *gwv1.Edge) bool { return e.Health == gwv1.Health_HEALTH_FAILING })
	if !strings.Contains(edge.HealthReason, "plugin cache is restarting") || !strings.Contains(edge.HealthReason, "its requests are refused") {
		t.Errorf("reason %q", edge.HealthReason)
	}
	if status, _, body := w.post(t, "x"); status != 503 || !strings.Contains(body, "plugin_failed") {
		t.Errorf("got %d %s", status, body)
	}
	w.push(t, pluginFile(cache, "  on_failure: open\n"))
	// The file is gone, so the release can't be loaded yet: the one before goes on refusing, as its resource says.
	w.awaitEdge(t, "the release waits for the file", func(e *gwv1.Edge) bool { return e.ApplyError.GetCode() == "plugin" })
}
