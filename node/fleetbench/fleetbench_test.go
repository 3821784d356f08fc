package fleetbench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gw/node"
	"gw/node/fleetbench"
	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

// TestMain lets the hubs that a run starts be this test binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "hub" {
		os.Exit(node.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// measure runs "gw bench fleet" and returns its report.
func measure(t *testing.T, flags ...string) fleetbench.Report {
	t.Helper()
	var out, errs bytes.Buffer
	args := append([]string{"bench", "fleet", "-o", "json", "--timeout", "1m", "--patience", "20s"}, flags...)
	if code := node.Main(args, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, errs.String(), out.String())
	}
	var r fleetbench.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return r
}

// samples are how many each scenario's distributions have, by the start of what they measure.
func samples(r fleetbench.Report, scenario string) (counts []int) {
	for _, row := range r.Rows {
		if row.Scenario == scenario && row.Count > 0 {
			counts = append(counts, row.Count)
		}
	}
	return counts
}

// value returns a row's value by the start of what it measures.
func value(t *testing.T, r fleetbench.Report, scenario, what string) float64 {
	t.Helper()
	for _, row := range r.Rows {
		if row.Scenario == scenario && strings.HasPrefix(row.What, what) && row.Value != nil {
			return *row.Value
		}
	}
	t.Fatalf("no value of %s for %q in %+v", scenario, what, r.Rows)
	return 0
}

func TestEveryScenarioOnAHubOfItsOwn(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	r := measure(t, "--edges", "20", "--resources", "10", "--steady", "2s", "--heartbeat-interval", "1s",
		"--pushes", "2", "--revocations", "3", "--election-timeout", "500ms")
	if n := value(t, r, fleetbench.Steady, "connections per edge"); n != 1 {
		t.Errorf("%v connections per edge, want 1", n)
	}
	if n := value(t, r, fleetbench.Steady, "heartbeats per second"); n < 10 || n > 40 {
		t.Errorf("%v heartbeats a second of 20 edges, want about 20", n)
	}
	if n := value(t, r, fleetbench.Steady, "hubs' CPU per heartbeat"); n <= 0 {
		t.Errorf("heartbeats cost %v µs", n)
	}
	for scenario, want := range map[string][]int{
		fleetbench.Push:    {40, 40, 2}, // loaded, reported, bytes
		fleetbench.Revoke:  {60, 3},
		fleetbench.Restart: {1, 1, 1},
	} {
		got := samples(r, scenario)
		if len(got) < len(want) || fmt.Sprint(got[:len(want)]) != fmt.Sprint(want) {
			t.Errorf("%s: samples %v, want %v", scenario, got, want)
		}
	}
	for _, row := range r.Rows {
		if row.Count > 0 && (*row.P50 <= 0 || *row.P50 > *row.P90 || *row.P90 > *row.P99 || *row.P99 > *row.Max) {
			t.Errorf("%s, %s: p50 %v, p90 %v, p99 %v, max %v", row.Scenario, row.What, *row.P50, *row.P90, *row.P99, *row.Max)
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestAnExistingClusterIsLeftAsItWas(t *testing.T) {
	admin, token := startHub(t)
	t.Setenv("GW_ADDR", admin)
	t.Setenv("GW_TOKEN", token)
	r := measure(t, "--existing", "--edges", "5", "--resources", "3", "--pushes", "1", "--revocations", "1", "--steady", "100ms",
		"--scenario", "steady,push,restart")
	if got := samples(r, fleetbench.Push); fmt.Sprint(got) != "[5 5 1]" {
		t.Errorf("samples %v of 5 edges and one push", got)
	}
	if n := value(t, r, fleetbench.Steady, "memory (RSS) of http"); n < 1<<20 {
		t.Errorf("the hub takes %v bytes, going by its metrics", n)
	}
	if len(samples(r, fleetbench.Restart)) > 0 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "restart") {
		t.Errorf("a hub that is not this run's was killed, or nobody is told that it wasn't: %q", r.Notes)
	}
	client := &http.Client{Transport: bearer(token)}
	ctx := t.Context()
	edges, err := gwv1connect.NewFleetServiceClient(client, admin).ListEdges(ctx, &gwv1.ListEdgesRequest{})
	if err != nil || edges.Total != 0 {
		t.Errorf("%d edges are left (%v)", edges.GetTotal(), err)
	}
	resources, err := gwv1connect.NewConfigServiceClient(client, admin).ListResources(ctx, &gwv1.ListResourcesRequest{})
	if err != nil || len(resources.Resources) != 0 {
		t.Errorf("%d resources are left (%v)", len(resources.GetResources()), err)
	}
	access := gwv1connect.NewAccessServiceClient(client, admin)
	apps, err := access.ListApps(ctx, &gwv1.ListAppsRequest{})
	if err != nil || len(apps.Apps) != 0 {
		t.Errorf("%d apps are left (%v)", len(apps.GetApps()), err)
	}
	joins, err := access.ListJoinTokens(ctx, &gwv1.ListJoinTokensRequest{})
	if err != nil || len(joins.JoinTokens) != 1 {
		t.Errorf("%d join tokens, want the one of the first start (%v)", len(joins.GetJoinTokens()), err)
	}
}

type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// startHub runs a hub until the test ends, and returns its admin URL and an admin's token.
func startHub(t *testing.T) (admin, token string) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, "hub", "--data-dir", filepath.Join(t.TempDir(), "hub"), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-level", "error")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	var welcome []byte
	said := regexp.MustCompile(`(?s)console\s+(\S+).*sign in\s+(\S+), password (\S+).*an edge `)
	for buffer := make([]byte, 4096); !said.Match(welcome); {
		n, err := out.Read(buffer)
		welcome = append(welcome, buffer[:n]...)
		if err != nil {
			t.Fatalf("the hub ended: %v\n%s", err, welcome)
		}
	}
	go io.Copy(io.Discard, out) // ends with the hub
	m := said.FindSubmatch(welcome)
	answer, err := gwv1connect.NewAccessServiceClient(http.DefaultClient, string(m[1])).SignIn(ctx, &gwv1.SignInRequest{User: string(m[2]), Password: string(m[3])})
	if err != nil {
		t.Fatal(err)
	}
	return string(m[1]), answer.BearerToken
}
