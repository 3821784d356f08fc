package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gw/rpc/gwv1"
)

// A hub is removed under load: it ends by itself and says why, also when it is started again; with an empty directory
// it joins under a new ID. One whose log alone was wiped is a new hub as well.
func TestChaosRemove(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, "--election-timeout", "500ms")
	l := c.startLoad()
	for i := range rounds(1, 6) {
		l.awaitAccepted(20, healed)
		victim := c.others(c.leader())[0]
		if i%2 == 1 {
			victim = c.leader()
		}
		old := victim.self()
		ctx, cancel := context.WithTimeout(t.Context(), healed)
		_, err := c.others(victim)[0].cluster.RemoveHub(ctx, &gwv1.RemoveHubRequest{Id: old})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		victim.mustEndRemoved()
		t.Logf("removed → it has ended: %v", time.Since(began).Round(time.Millisecond))
		l.awaitAccepted(20, healed)

		victim.launch()
		victim.mustEndRemoved()

		victim.wipe(victim.dir)
		victim.start(victim.joining()...)
		c.awaitVoters(3)
		if victim.self() == old {
			t.Error("with an empty directory it has the ID it had")
		}
	}

	t.Log("a hub's log is wiped")
	victim := c.others(c.leader())[0]
	old := victim.self()
	victim.kill()
	victim.wipe(filepath.Join(victim.dir, "raft"))
	victim.start(victim.joining()...)
	c.await(healed, "it is not taken for the hub it was", func() error {
		if !strings.Contains(victim.log(), "is the address of hub "+old+"; remove that hub first") {
			return errors.New("it was not told so yet")
		}
		return nil
	})
	status, err := c.leader().staleStatus()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range status.Hubs {
		if h.Id == old && h.AppliedIndex >= status.CommitIndex {
			t.Errorf("what is at the address of hub %s takes entries in its place: %v", old, h)
		}
	}
	l.awaitAccepted(20, healed)
	ctx, cancel := context.WithTimeout(t.Context(), healed)
	defer cancel()
	if _, err := c.others(victim)[0].cluster.RemoveHub(ctx, &gwv1.RemoveHubRequest{Id: old}); err != nil {
		t.Fatal(err)
	}
	c.awaitVoters(3)
	if victim.self() == old {
		t.Error("with a wiped log it has the ID it had")
	}
	l.judge()
}

// wipe deletes a directory of a hub that is down; it will be another hub.
func (h *process) wipe(dir string) {
	h.c.t.Helper()
	if h.running() {
		h.c.t.Fatalf("%s runs", h.name)
	}
	if err := os.RemoveAll(dir); err != nil {
		h.c.t.Fatal(err)
	}
	h.id = ""
}

// mustEndRemoved waits until a removed hub has ended by itself, and checks what it says.
func (h *process) mustEndRemoved() {
	h.c.t.Helper()
	h.awaitExit(30 * time.Second)
	if h.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(h.tail(), errRemoved.Error()) {
		h.c.t.Errorf("it exited with %v\n%s", h.cmd.ProcessState, h.tail())
	}
}
