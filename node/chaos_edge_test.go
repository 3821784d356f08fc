package node

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

// edgeProcess is one edge, on its data directory, its addresses and its link, running or not.
type edgeProcess struct {
	program
	c              *cluster
	namespace, dir string
	callers, ops   string // URLs
	link           *link
	flags          []string
	launched       time.Time
}

// namedForLinks gives a hub free ports of loopback, under a name for which edges take their links.
func namedForLinks(h *process) {
	onLoopback(h)
	_, port, _ := strings.Cut(h.address, ":")
	h.flags = append(h.flags, "--advertise", "LOCALHOST:"+port)
	h.address = "LOCALHOST:" + port
}

// newEdges returns n edges in a namespace, numbered from first, which were not started yet. Those started later end with the test.
func (c *cluster) newEdges(first, n int, namespace string, flags ...string) (edges []*edgeProcess) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), callTimeout)
	defer cancel()
	answer, err := c.up()[0].access.CreateJoinToken(ctx, &gwv1.CreateJoinTokenRequest{Namespace: namespace, Unlimited: true})
	if err != nil {
		c.t.Fatal(err)
	}
	var hubs []string
	for _, h := range c.hubs {
		hubs = append(hubs, "https://"+h.address)
	}
	for i := range n {
		callers, ops := freePort(c.t), freePort(c.t)
		e := &edgeProcess{
			program: program{t: c.t, home: c.dir, name: fmt.Sprintf("%s-%d", namespace, first+i)},
			c:       c, namespace: namespace, callers: "http://" + callers, ops: "http://" + ops, link: newLink(c.t),
		}
		e.dir = filepath.Join(c.dir, e.name)
		e.flags = slices.Concat([]string{"--id", e.name, "--data-dir", e.dir, "--listen", callers, "--ops-listen", ops,
			"--access-log", "off", "--hub", strings.Join(hubs, ","), "--join-token", answer.Credential}, flags)
		edges = append(edges, e)
		c.t.Cleanup(func() {
			e.signal(syscall.SIGKILL)
			e.awaitExit(time.Minute)
			if c.t.Failed() {
				c.t.Logf("%s (%s, %s):\n%s", e.name, e.callers, e.ops, e.tail())
			}
		})
	}
	return edges
}

// launch starts the edge and does not wait for anything.
func (e *edgeProcess) launch() {
	e.c.t.Helper()
	gw, err := exec.LookPath("gw")
	if err != nil {
		e.c.t.Fatal(err)
	}
	e.launched = time.Now()
	e.begin(e.link.environment(), slices.Concat([]string{gw, "edge"}, e.flags)...)
}

// following is whether the edge says that it follows a hub.
func (e *edgeProcess) following(ctx context.Context, client *http.Client) (bool, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, e.ops+"/readyz?verbose", nil)
	if err != nil {
		return false, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return strings.Contains(string(body), "[+] hub "), err
}

// fleet is a client of the first running hub.
func (c *cluster) fleet() gwv1connect.FleetServiceClient {
	return gwv1connect.NewFleetServiceClient(c.http, c.up()[0].admin)
}

// shown is every edge as a hub shows it, by ID.
func (c *cluster) shown() (map[string]*gwv1.Edge, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
	defer cancel()
	answer, err := c.fleet().ListEdges(ctx, &gwv1.ListEdgesRequest{PageSize: 1000})
	edges := map[string]*gwv1.Edge{}
	for _, e := range answer.GetEdges() {
		edges[e.Id] = e
	}
	return edges, err
}

// awaitInSync waits until every edge's own process is shown as connected and in sync.
func (c *cluster) awaitInSync(edges []*edgeProcess, limit time.Duration) time.Duration {
	c.t.Helper()
	return c.await(limit, "all edges are in sync", func() error {
		shown, err := c.shown()
		if err != nil {
			return err
		}
		for _, e := range edges {
			if why := e.wrong(shown[e.name]); why != "" {
				return fmt.Errorf("%s: %s", e.name, why)
			}
		}
		return nil
	})
}

// wrong says what keeps an edge, as a hub shows it, from being this process, connected and in sync; "" is nothing.
func (e *edgeProcess) wrong(shown *gwv1.Edge) string {
	switch {
	case shown == nil:
		return "it is not shown"
	case shown.Connection != gwv1.Connection_CONNECTION_CONNECTED:
		return "connection: " + shown.ConnectionReason
	case shown.StartedAt.AsTime().Before(e.launched):
		return "no heartbeat of the process started last"
	case shown.Sync != gwv1.Sync_SYNC_IN_SYNC:
		return "sync: " + shown.SyncReason
	case shown.ReleasedChecksum != shown.LoadedChecksum || shown.TargetRelease != shown.LoadedRelease:
		return fmt.Sprintf("it is called in sync with release %d loaded and %d released", shown.LoadedRelease, shown.TargetRelease)
	}
	return ""
}
