package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/structpb"

	"gw/edgeplugin/pluginv1"
	"gw/node/cli"
	"gw/node/edgestore/spoolbench"
	"gw/node/gateway"
	"gw/node/pluginhost"
	"gw/node/pluginhost/hookbench"
	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/resource"
)

// benchPlugins is "gw bench plugins". The plugin it measures is this program itself: see hookbench.
type benchPlugins struct {
	Dir      string        `placeholder:"DIR" help:"Where the edge's and hub's directories are made, on the disk to be measured. Default: the system's for temporary files."`
	Part     []string      `enum:"hook,requests,send,drain" default:"hook,requests,send,drain" help:"What to measure: hook (one call), requests (a second, by how many plugins are asked), send (payloads onto the edge's disk), drain (from an edge's plugin to the hub's)."`
	Rounds   int           `default:"5" help:"Turns of each contender; their medians are compared."`
	Turn     time.Duration `default:"1s" help:"How long a turn lasts."`
	Calls    int           `default:"5000" help:"Calls of a hook for each size of a body."`
	Callers  int           `default:"4" help:"Requests at a time."`
	Payloads int           `default:"20000" help:"Payloads sent from an edge's plugin to the hub's, at most 100,000."`
	Senders  int           `default:"64" help:"Goroutines of the plugin that send them."`
}

// Examples are shown by "gw bench plugins --help".
func (*benchPlugins) Examples() string {
	return `
gw bench plugins
gw bench plugins --part hook --calls 20000
gw bench plugins --part send,drain --dir /var/lib/gw --payloads 50000`
}

// Run measures and prints tables.
func (c *benchPlugins) Run(ctx context.Context, std *cli.Context) error {
	if c.Payloads < 1 || c.Payloads > 100_000 || c.Senders < 1 || c.Callers < 1 || c.Rounds < 1 || c.Calls < 1 || c.Turn < time.Millisecond {
		return usage("want 1 to 100,000 payloads, at least 1 sender, caller, round and call, and a turn of 1 ms at least")
	}
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"hook", func() error { return hookbench.Run(ctx, hookbench.Config{Calls: c.Calls}, std.Stdout) }},
		{"requests", func() error { return c.requests(ctx, std.Stdout) }},
		{"send", func() error {
			return spoolbench.Run(ctx, spoolbench.Config{Dir: c.Dir, Rounds: c.Rounds, Turn: c.Turn}, std.Stdout)
		}},
		{"drain", func() error { return c.drain(ctx, std.Stdout) }},
	} {
		if !slices.Contains(c.Part, part.name) {
			continue
		}
		if err := part.run(); err != nil {
			return err
		}
	}
	return nil
}

// pluginCounts are how many plugins requests are sent through; the first is what the others are compared with.
var pluginCounts = []int{0, 1, 4}

// requests measures requests of 1 KB a second through gateways that differ in how many plugins they ask, in turns.
func (c *benchPlugins) requests(ctx context.Context, w io.Writer) (err error) {
	if err := os.Setenv(hookbench.RoleVariable, hookbench.PluginRole); err != nil {
		return err
	}
	host := pluginhost.New(pluginhost.Config{Side: pluginv1.Side_SIDE_EDGE, Logger: slog.New(slog.DiscardHandler)})
	defer func() { err = errors.Join(err, host.Close()) }()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the gateway's proxy finds out what is wrong with it
		_, _ = io.WriteString(w, "ok")
	}))
	defer upstream.Close()
	var edges []*httptest.Server
	for _, n := range pluginCounts {
		g, err := benchGateway(ctx, host, upstream.URL, n)
		if err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		defer g.Close()
		s := httptest.NewServer(g)
		defer s.Close()
		edges = append(edges, s)
	}
	rates := make([][]float64, len(edges))
	for round := -1; round < c.Rounds; round++ {
		for i, s := range edges {
			rate, err := c.load(ctx, s.URL+"/orders")
			if err != nil {
				return fmt.Errorf("bench: %w", err)
			}
			if round >= 0 { // the first round only warms up
				rates[i] = append(rates[i], rate)
			}
		}
	}
	fmt.Fprintf(w, "Requests of 1 KB a second through the gateway, %d at a time, by how many plugins are shown each with its body; caller, upstream and plugins on this machine, median of %d turns of %v each\n\n",
		c.Callers, c.Rounds, c.Turn)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "plugins\trequests /s\tratio")
	base := 0.0
	for i, n := range pluginCounts {
		slices.Sort(rates[i])
		rate := rates[i][len(rates[i])/2]
		if i == 0 {
			base = rate
		}
		fmt.Fprintf(t, "%d\t%.0f\t%.2f\n", n, rate, rate/base)
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// benchGateway is a gateway with one keyless API and n plugins.
func benchGateway(ctx context.Context, host *pluginhost.Host, upstream string, n int) (*gateway.Gateway, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	specs := []gateway.Resource{}
	add := func(kind, name, spec string) error {
		docs, err := resource.Parse("bench", fmt.Appendf(nil, "kind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec))
		if err != nil {
			return err
		}
		canonical, digest := docs[0].Canonical()
		specs = append(specs, gateway.Resource{Kind: kind, Name: name, Digest: digest, Spec: canonical})
		return nil
	}
	err = add("API", "orders", fmt.Sprintf("{paths: [/orders], auth: keyless, upstreams: [{url: %q}]}", upstream))
	for i := range n {
		err = errors.Join(err, add("Plugin", fmt.Sprintf("bench-%d-%d", n, i), fmt.Sprintf("{id: %d, hooks: [pre_auth], command: %q, env: [%s]}", i+1, "file://"+program, hookbench.RoleVariable)))
	}
	if err != nil {
		return nil, err
	}
	table, err := gateway.Compile(gateway.Snapshot{Resources: specs})
	if err != nil {
		return nil, err
	}
	set, err := host.Prepare(ctx, pluginsOf(table))
	if err != nil {
		return nil, err
	}
	g := gateway.New(gateway.Config{})
	g.Swap(table, set)
	return g, nil
}

// load sends requests for a turn and returns how many a second were answered.
func (c *benchPlugins) load(ctx context.Context, url string) (float64, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: c.Callers}}
	defer client.CloseIdleConnections()
	body := strings.Repeat("x", 1<<10)
	counts := make([]int, c.Callers)
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for i := range counts {
		g.Go(func() error {
			for over := false; !over; over = time.Since(began) >= c.Turn {
				if _, err := post(ctx, client, url, http.Header{}, body); err != nil {
					return err
				}
				counts[i]++
			}
			return nil
		})
	}
	err := g.Wait()
	total := 0
	for _, n := range counts {
		total += n
	}
	return float64(total) / time.Since(began).Seconds(), err
}

// post sends one request, which must be answered with 200, and returns the answer's body.
func post(ctx context.Context, client *http.Client, url string, header http.Header, body string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = header
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s: %s", url, resp.Status, bytes.TrimSpace(b))
	}
	return b, err
}

// benchPluginID is that of the plugins of drain; none of the sample configuration has it.
const benchPluginID = 1000

// drain measures the whole way of payloads, from the plugin of an edge by its spool, TLS and the hub to the hub's plugin,
// whose count of them is in the replicated KV.
func (c *benchPlugins) drain(ctx context.Context, w io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp(c.Dir, "gw-bench-*")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	d, stop, err := startBenchDev(ctx, dir)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := d.addPlugins(ctx); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	began := time.Now()
	header := http.Header{hookbench.SendHeader: {strconv.Itoa(c.Payloads)}, hookbench.SendersHeader: {strconv.Itoa(c.Senders)}}
	if _, err := post(ctx, http.DefaultClient, d.Edge+"/shop/", header, ""); err != nil {
		return fmt.Errorf("bench: send payloads: %w", err)
	}
	sent := time.Since(began)
	if err := d.awaitCount(ctx, c.Payloads); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	arrived := time.Since(began)
	_, err = fmt.Fprintf(w, "%d payloads of 512 bytes from an edge's plugin (%d goroutines) to the plugin of one hub, which counts them in its KV; all processes on this machine\n\n"+
		"  all on the edge's disk  %.1f s  %.0f /s\n  all in the hub's KV     %.1f s  %.0f /s\n\n",
		c.Payloads, c.Senders, sent.Seconds(), float64(c.Payloads)/sent.Seconds(), arrived.Seconds(), float64(c.Payloads)/arrived.Seconds())
	return err
}

// benchDev is a development process of its own.
type benchDev struct {
	devFile
	config   gwv1connect.ConfigServiceClient
	releases gwv1connect.ReleaseServiceClient
	plugins  gwv1connect.PluginServiceClient
}

// startBenchDev starts "gw dev" and returns when it serves. stop ends it.
func startBenchDev(ctx context.Context, dir string) (d *benchDev, stop func() error, err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find this program: %w", err)
	}
	args := []string{"dev", "--data", dir, "--log-level", "error"}
	for _, flag := range []string{"--admin-listen", "--hub-listen", "--edge-listen", "--ops-listen", "--upstream-listen"} {
		args = append(args, flag, "127.0.0.1:0")
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), hookbench.RoleVariable+"="+hookbench.PluginRole)
	cmd.Stderr = &said
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start gw dev: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	stop = func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may be gone
		if err := <-exited; err != nil && ctx.Err() == nil {
			return fmt.Errorf("gw dev: %w\n%s", err, said.Bytes())
		}
		return nil
	}
	d = new(benchDev)
	for tick := time.Tick(20 * time.Millisecond); ; {
		b, err := os.ReadFile(filepath.Join(dir, "dev.json"))
		if err == nil {
			err = json.Unmarshal(b, &d.devFile)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, errors.Join(err, stop())
		}
		select {
		case err := <-exited:
			return nil, nil, fmt.Errorf("gw dev ended: %w\n%s", err, said.Bytes())
		case <-tick:
		}
	}
	bearer := connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			r.Header().Set("Authorization", "Bearer "+d.AdminToken)
			return next(ctx, r)
		}
	}))
	d.config = gwv1connect.NewConfigServiceClient(http.DefaultClient, d.Console, bearer)
	d.releases = gwv1connect.NewReleaseServiceClient(http.DefaultClient, d.Console, bearer)
	d.plugins = gwv1connect.NewPluginServiceClient(http.DefaultClient, d.Console, bearer)
	return d, stop, nil
}

// addPlugins has the edge's and the hub's plugin run, and returns when both do.
func (d *benchDev) addPlugins(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	plugin := func(name, namespace string, more map[string]any) (*gwv1.Resource, error) {
		fields := map[string]any{"id": benchPluginID, "command": "file://" + program, "env": []any{hookbench.RoleVariable}}
		maps.Copy(fields, more)
		spec, err := structpb.NewStruct(fields)
		return &gwv1.Resource{Kind: "Plugin", Metadata: &gwv1.ResourceMetadata{Name: name, Namespace: namespace}, Spec: spec}, err
	}
	atEdge, err := plugin("bench-edge", resource.Default, map[string]any{"hooks": []any{"pre_auth"}, "timeout": "600s"})
	if err != nil {
		return err
	}
	atHub, err := plugin("bench-hub", resource.Global, map[string]any{"type": "hub"})
	if err != nil {
		return err
	}
	if _, err := d.config.ApplyResources(ctx, &gwv1.ApplyResourcesRequest{Resources: []*gwv1.Resource{atEdge, atHub}}); err != nil {
		return fmt.Errorf("save the plugins: %w", err)
	}
	if _, err := d.releases.Push(ctx, &gwv1.PushRequest{Note: "gw bench plugins"}); err != nil {
		return fmt.Errorf("push the plugins: %w", err)
	}
	return d.until(ctx, "both plugins run", func() (bool, error) {
		answer, err := d.plugins.ListPlugins(ctx, &gwv1.ListPluginsRequest{})
		running := 0
		for _, p := range answer.GetPlugins() {
			for _, place := range p.Places {
				if p.Id == benchPluginID && place.Process.GetState() == gwv1.PluginState_PLUGIN_STATE_RUNNING {
					running++
				}
			}
		}
		return running == 2, err
	})
}

// awaitCount returns when the hub's plugin has counted n payloads.
func (d *benchDev) awaitCount(ctx context.Context, n int) error {
	return d.until(ctx, fmt.Sprintf("%d payloads are counted", n), func() (bool, error) {
		answer, err := d.plugins.GetPluginKV(ctx, &gwv1.GetPluginKVRequest{PluginId: benchPluginID, Key: hookbench.CountKey})
		if connect.CodeOf(err) == connect.CodeNotFound {
			return false, nil // nothing has come yet
		}
		count, _ := strconv.Atoi(string(answer.GetEntry().GetValue()))
		return count == n, err
	})
}

// until asks until ok holds, which what says in words.
func (d *benchDev) until(ctx context.Context, what string, ok func() (bool, error)) error {
	for tick := time.Tick(50 * time.Millisecond); ; {
		done, err := ok()
		if done || err != nil {
			return err
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		}
	}
}
