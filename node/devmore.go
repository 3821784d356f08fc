package node

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"gw/rpc/gwv1"
)

// portStep is the distance between the ports of one development hub or edge and those of the next.
const portStep = 100

// child is a hub or an edge that a development process started beside its own, to be looked at and killed.
type child struct {
	name, address string
	pid           int
}

// startMore starts the second and further hubs and edges, as processes of their own, and waits until the hubs vote and
// the edges serve.
func (d *dev) startMore(ctx context.Context, g *errgroup.Group) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	for i := 2; i <= d.config.Hubs; i++ {
		name, admin := fmt.Sprintf("hub-%d", i), shifted(d.config.AdminListen, i)
		args := []string{"hub", "--data-dir", filepath.Join(d.config.Data, name), "--listen", shifted(d.config.HubListen, i),
			"--admin-listen", admin, "--heartbeat-interval", "10s", "--log-level", "warn"}
		if d.config.Hubs == 2 {
			args = append(args, "--allow-two")
		}
		if err := d.spawn(ctx, g, self, name, "http://"+admin, "hub", args, "--join", "--token"); err != nil {
			return err
		}
	}
	for i := 2; i <= d.config.Edges; i++ {
		name, address := fmt.Sprintf("edge-%d", i), shifted(d.config.EdgeListen, i)
		args := []string{"edge", "--data-dir", filepath.Join(d.config.Data, name), "--id", "dev-" + name, "--listen", address,
			"--ops-listen", shifted(d.config.OpsListen, i), "--access-log", "off", "--log-level", "warn"}
		if err := d.spawn(ctx, g, self, name, "http://"+address, "edge", args, "--hub", "--join-token"); err != nil {
			return err
		}
	}
	return d.awaitAll(d.hub.asHub(ctx))
}

// spawn starts one process with a fresh join token of a role. It ends with ctx.
func (d *dev) spawn(ctx context.Context, g *errgroup.Group, self, name, address, role string, args []string, hubFlag, tokenFlag string) error {
	token, err := d.hub.services.Access.CreateJoinToken(d.hub.asHub(ctx), &gwv1.CreateJoinTokenRequest{Role: role})
	if err != nil {
		return fmt.Errorf("make a join token for %s: %w", name, err)
	}
	cmd := exec.CommandContext(ctx, self, append(args, hubFlag, d.hub.urls()[0], tokenFlag, token.Credential)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	d.children = append(d.children, child{name, address, cmd.Process.Pid})
	g.Go(func() error {
		if err := cmd.Wait(); ctx.Err() == nil {
			// Somebody killed it to see what happens: the rest goes on.
			d.log.Warn("a process ended", "process", name, "error", err)
		}
		return nil
	})
	return nil
}

// awaitAll waits until every hub votes and every edge is in sync.
func (d *dev) awaitAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for revision := uint64(0); ; {
		status, err := d.hub.services.Cluster.GetClusterStatus(ctx, &gwv1.GetClusterStatusRequest{})
		if err != nil {
			return fmt.Errorf("wait for the hubs: %w", err)
		}
		voters := 0
		for _, h := range status.Hubs {
			if h.Voter {
				voters++
			}
		}
		edges, err := d.hub.services.Fleet.ListEdges(ctx, &gwv1.ListEdgesRequest{})
		if err != nil {
			return fmt.Errorf("wait for the edges: %w", err)
		}
		if voters >= d.config.Hubs && int(edges.Summary.GetInSync()) >= d.config.Edges {
			return nil
		}
		if revision, err = d.hub.services.Wake(ctx, revision); err != nil {
			return fmt.Errorf("wait until %d hubs vote (%d do) and %d edges are in sync (%d are): %w",
				d.config.Hubs, voters, d.config.Edges, edges.Summary.GetInSync(), err)
		}
	}
}

// shifted returns an address with the port of the i-th of its kind, the first being 1. Port 0 stays.
func shifted(address string, i int) string {
	host, port, err := net.SplitHostPort(address)
	n, convErr := strconv.Atoi(port)
	if err != nil || convErr != nil || n == 0 {
		return address
	}
	return net.JoinHostPort(host, strconv.Itoa(n+(i-1)*portStep))
}

// describeChildren lists the further processes, "" if there are none.
func (d *dev) describeChildren() string {
	if len(d.children) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nFurther processes, to be killed and watched (gw cluster status, gw edges):\n\n")
	for _, c := range d.children {
		fmt.Fprintf(&b, "  %-8s  %-24s  kill -9 %d\n", c.name, c.address, c.pid)
	}
	return b.String()
}
