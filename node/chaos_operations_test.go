package node

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

// gw runs one of the operator's commands against a hub and returns what it printed. It ends the test if that fails.
func (c *cluster) gw(h *process, args ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.command[len(h.command)-1], args...)
	cmd.Env = append(os.Environ(), "HOME="+c.dir, "GW_ADDR="+h.admin, "GW_TOKEN="+c.token)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("gw %s: %v\n%s%s", strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

// A backup made under load, by a follower's operator, is the state as it was at some moment while it was made. Restored
// under load it is the whole state again: the epoch rises, and an edge keeps what it runs, is shown as ahead, and
// follows the next push.
func TestChaosRestore(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, "--election-timeout", "500ms", "--heartbeat-interval", "1s")
	leader := c.leader()
	follower := c.others(leader)[0]
	leader.put("pushed", "before")
	c.gw(follower, "push", "--yes")
	c.startEdge()
	c.awaitEdge(gwv1.Sync_SYNC_IN_SYNC, "")

	l := c.startLoad()
	l.awaitAccepted(50, healed)
	file := filepath.Join(c.dir, "state.gwb")
	made := &interval{from: l.now()}
	c.gw(follower, "backup", "-f", file)
	made.to = l.now()
	l.awaitAccepted(50, healed)
	l.end()
	if out := c.gw(follower, "backup", "verify", file); !strings.Contains(out, "epoch") {
		t.Errorf("gw backup verify says:\n%s", out)
	}
	l.readAll(leader, nil)
	leader.put("pushed", "after")
	c.gw(leader, "push", "--yes", "--wait", "100%")

	busy := c.startLoad() // what it writes is replaced
	busy.awaitAccepted(20, healed)
	out := c.gw(follower, "restore", file, "--yes")
	if !strings.Contains(out, "epoch is 2") {
		t.Errorf("gw restore says:\n%s", out)
	}
	busy.awaitAccepted(20, healed)
	busy.end()
	c.awaitSame(healed)
	if value, err := follower.value("pushed", false); err != nil || value != "before" {
		t.Errorf("restored, there is %q, %v", value, err)
	}
	l.readAll(follower, made) // as if all of them had been read while the backup was made
	l.judgeRegisters()

	c.awaitEdge(gwv1.Sync_SYNC_STALE, "ahead")
	c.gw(follower, "push", "--yes", "--wait", "100%")
	c.awaitEdge(gwv1.Sync_SYNC_IN_SYNC, "")
	again := c.startLoad()
	again.awaitAccepted(20, healed)
	again.judge()
}

// startEdge starts an edge, edge-1, which ends with the test.
func (c *cluster) startEdge() {
	c.t.Helper()
	h := c.up()[0]
	answer, err := h.access.CreateJoinToken(c.t.Context(), &gwv1.CreateJoinTokenRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(c.dir, "edge.log"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(h.command[0], "edge", "--id", "edge-1", "--data-dir", filepath.Join(c.dir, "edge"), "--listen", freePort(c.t),
		"--ops-listen", "off", "--access-log", "off", "--hub", "https://"+h.address, "--join-token", answer.Credential)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if c.t.Failed() {
			c.t.Logf("edge:\n%s", read(log.Name()))
		}
	})
}

// awaitEdge waits until the edge is shown as in sync or not, for a reason that begins like this.
func (c *cluster) awaitEdge(sync gwv1.Sync, reason string) {
	c.t.Helper()
	h := c.up()[0]
	fleet := gwv1connect.NewFleetServiceClient(c.http, h.admin)
	c.await(2*healed, fmt.Sprintf("the edge is %v %s", sync, reason), func() error {
		ctx, cancel := context.WithTimeout(c.t.Context(), callTimeout)
		defer cancel()
		answer, err := fleet.GetEdge(ctx, &gwv1.GetEdgeRequest{Id: "edge-1"})
		if err != nil {
			return err
		}
		if e := answer.Edge; e.Sync != sync || !strings.HasPrefix(e.SyncReason, reason) {
			return fmt.Errorf("it is %v: %s", e.Sync, e.SyncReason)
		}
		return nil
	})
}

// Two of three hubs are lost for good. The third, told to, goes on alone with all it has, under a new epoch; those of
// old are kept out, and two new ones join.
func TestChaosRecover(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, "--election-timeout", "500ms")
	l := c.startLoad()
	l.awaitAccepted(50, healed)
	l.judge() // and so every hub has everything

	survivor, lost := c.hubs[1], []*process{c.hubs[0], c.hubs[2]}
	for _, h := range lost {
		h.kill()
	}
	survivor.awaitReady(503, healed)
	survivor.kill()
	c.gw(survivor, "cluster", "recover", "--data-dir", survivor.dir, "--yes")
	survivor.start()
	t.Logf("recovered, it accepts a write after %v", c.awaitWrite(survivor, healed).Round(time.Millisecond))
	status, err := survivor.status()
	if err != nil || len(status.Hubs) != 1 || status.Epoch != 2 {
		t.Fatalf("recovered, it says %v, %v", status, err)
	}
	lost[0].launch() // with its old data, which nobody must listen to
	lost[0].mustEndRemoved()

	c.hubs = []*process{survivor}
	c.grow(3)
	l.readAll(c.hubs[2], nil)
	l.judgeRegisters()
	l.judgeTokens()
	again := c.startLoad()
	again.awaitAccepted(50, healed)
	again.judge()
}
