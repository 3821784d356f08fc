package node

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

const ledgerResources = `kind: API
metadata: {name: ledger}
spec: {paths: [/ledger], auth: keyless, upstreams: [{url: "http://127.0.0.1:1"}]}
---
kind: Plugin
metadata: {name: ledger-edge}
spec: {id: 7, hooks: [pre_auth], timeout: 10s, command: "file://%[1]s/ledger", config: {pid_file: %[1]s/edge.pid}}
---
kind: Plugin
metadata: {name: ledger-hub, namespace: global}
spec: {id: 7, type: hub, command: "file://%[1]s/ledger", config: {pid_file: %[1]s/hub.pid}}
`

// sender has payloads sent by the edge's plugin, one batch after the other, and keeps the names of those that were taken.
type sender struct {
	url string

	mu    sync.Mutex // guards taken
	taken map[string]bool
}

const batchSize = 20

func (s *sender) run(ctx context.Context) {
	client := &http.Client{Timeout: 12 * time.Second}
	defer client.CloseIdleConnections()
	for n := 0; ctx.Err() == nil; n++ {
		// The edge or its plugin may be down: whatever was taken and not told may come, but only once.
		_ = s.batch(ctx, client, fmt.Sprintf("b%d", n))
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (s *sender) batch(ctx context.Context, client *http.Client, name string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Send", strconv.Itoa(batchSize))
	r.Header.Set("Batch", name)
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", answer.StatusCode, body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range strings.Fields(string(body)) {
		s.taken[name] = true
	}
	return nil
}

func (s *sender) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.taken)
}

// kill -9 of everything a payload passes, while payloads are sent: the edge's plugin, the edge, the hub's plugin, the
// leader. Each payload that was taken has its effect on the hub plugin's KV once, or is a dead letter; none has it twice.
func TestChaosPayloads(t *testing.T) {
	t.Parallel()
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("the plugin is built with the Go toolchain: install it (https://go.dev/dl)")
	}
	c := newCluster(t, 3, "--election-timeout", "500ms", "--heartbeat-interval", "1s")
	if out, err := exec.CommandContext(t.Context(), goTool, "build", "-o", filepath.Join(c.dir, "ledger"), "gw/node/testdata/ledger").CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	file := filepath.Join(c.dir, "ledger.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, ledgerResources, c.dir), 0o600); err != nil {
		t.Fatal(err)
	}
	c.gw(c.hubs[0], "apply", "-f", file)
	c.gw(c.hubs[0], "push", "--yes")
	e := c.newEdges(1, 1, "default")[0]
	e.launch()
	c.awaitInSync([]*edgeProcess{e}, 30*time.Second)

	s := &sender{url: e.callers + "/ledger", taken: map[string]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	sending.Go(func() { s.run(ctx) })
	t.Cleanup(func() { stop(); sending.Wait() })
	more := func(what string) {
		from := s.count()
		c.await(30*time.Second, what, func() error {
			if n := s.count(); n < from+2*batchSize {
				return fmt.Errorf("%d of %d more payloads were taken", n-from, 2*batchSize)
			}
			return nil
		})
	}
	more("payloads are taken")
	for range rounds(1, 25) {
		killPlugin(t, filepath.Join(c.dir, "edge.pid"))
		more("payloads are taken after the edge's plugin was killed")
		killPlugin(t, filepath.Join(c.dir, "hub.pid"))
		more("payloads are taken after the hub's plugin was killed")
		e.kill()
		e.launch()
		more("payloads are taken after the edge was killed")
		victim := c.leader()
		victim.kill()
		more("payloads are taken after the leader was killed")
		victim.start()
		c.awaitVoters(3)
	}
	stop()
	sending.Wait()
	s.judge(t, c)
}

// killPlugin is kill -9 of the process that wrote its ID into a file last. It may be gone.
func killPlugin(t *testing.T, file string) {
	t.Helper()
	pid, err := strconv.Atoi(read(file))
	if err != nil || pid <= 1 {
		t.Fatalf("%s holds no process ID: %v", file, err)
	}
	if strings.Contains(read(fmt.Sprintf("/proc/%d/cmdline", pid)), "ledger") {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone by now
	}
}

// judge waits until everything has arrived, and compares.
func (s *sender) judge(t *testing.T, c *cluster) {
	t.Helper()
	plugins := gwv1connect.NewPluginServiceClient(c.http, c.up()[0].admin)
	var seen map[string]bool
	letters := map[string]bool{}
	c.await(time.Minute, "every payload has arrived or is a dead letter", func() (err error) {
		if seen, err = keysOf(t.Context(), plugins, "seen/"); err != nil {
			return err
		}
		answer, err := plugins.ListDeadLetters(t.Context(), &gwv1.ListDeadLettersRequest{PageSize: 1000})
		if err != nil {
			return err
		}
		for _, l := range answer.DeadLetters {
			letters[l.CorrelationId] = true
		}
		for name := range s.taken {
			if !seen[name] && !letters[name] {
				return fmt.Errorf("%s was taken, and is neither counted nor among %d dead letters", name, len(letters))
			}
		}
		return nil
	})
	c.await(10*time.Second, "the total is that of the payloads seen", func() error {
		total, err := plugins.GetPluginKV(t.Context(), &gwv1.GetPluginKVRequest{PluginId: 7, Key: "total"})
		if err != nil {
			return err
		}
		if seen, err = keysOf(t.Context(), plugins, "seen/"); err != nil {
			return err
		}
		if got := string(total.Entry.Value); got != strconv.Itoa(len(seen)) {
			return fmt.Errorf("it is %s, but %d payloads were seen", got, len(seen))
		}
		return nil
	})
	twice, err := keysOf(t.Context(), plugins, "twice/")
	if err != nil {
		t.Fatal(err)
	}
	if len(twice) > 0 {
		t.Errorf("payloads that took effect twice: %v", twice)
	}
	t.Logf("%d payloads were taken, %d arrived, %d are dead letters", len(s.taken), len(seen), len(letters))
}

// keysOf returns the hub plugin's keys below a prefix, without it.
func keysOf(ctx context.Context, plugins gwv1connect.PluginServiceClient, prefix string) (map[string]bool, error) {
	keys := map[string]bool{}
	for token := ""; ; {
		page, err := plugins.ListPluginKV(ctx, &gwv1.ListPluginKVRequest{PluginId: 7, Prefix: prefix, PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, e := range page.Entries {
			keys[strings.TrimPrefix(e.Key, prefix)] = true
		}
		if token = page.NextPageToken; token == "" {
			return keys, nil
		}
	}
}
