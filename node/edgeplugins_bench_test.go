package node

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gw/edgeplugin/pluginv1"
	"gw/node/gateway"
	"gw/node/pluginhost"
	"gw/rpc/resource"
)

// BenchmarkRequestWithPlugins is a request of 1 KB through the gateway, one after the other on each processor, by how many
// plugins are asked about it.
func BenchmarkRequestWithPlugins(b *testing.B) {
	program := filepath.Join(b.TempDir(), "testplugin")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", program, "gw/node/pluginhost/testdata/testplugin").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "ok")
	}))
	defer upstream.Close()
	host, err := pluginhost.New(pluginhost.Config{Side: pluginv1.Side_SIDE_EDGE, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer host.Close()
	for _, n := range []int{0, 1, 4} {
		b.Run(fmt.Sprintf("plugins=%d", n), func(b *testing.B) {
			text := ordersAPI(upstream.URL)
			for i := range n {
				text += fmt.Sprintf("kind: Plugin\nmetadata: {name: p%d}\nspec: {id: %d, hooks: [pre_auth], command: \"file://%s\"}\n---\n", i, i+1, program)
			}
			docs, err := resource.Parse("bench.yaml", []byte(strings.TrimSuffix(text, "---\n")))
			if err != nil {
				b.Fatal(err)
			}
			var snapshot gateway.Snapshot
			for _, d := range docs {
				spec, digest := d.Canonical()
				snapshot.Resources = append(snapshot.Resources, gateway.Resource{Kind: d.Kind, Name: d.Name, Digest: digest, Spec: spec})
			}
			table, err := gateway.Compile(snapshot)
			if err != nil {
				b.Fatal(err)
			}
			set, err := host.Prepare(b.Context(), pluginsOf(table))
			if err != nil {
				b.Fatal(err)
			}
			g := gateway.New(gateway.Config{})
			defer g.Close()
			g.Swap(table, set)
			host.Adopt(set)
			edge := httptest.NewServer(g)
			defer edge.Close()
			body := strings.Repeat("x", 1<<10)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					resp, err := http.Post(edge.URL+"/orders", "text/plain", strings.NewReader(body))
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode != http.StatusOK {
						b.Errorf("status %d", resp.StatusCode)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
		})
	}
}
