package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"gw/rpc"
	"gw/rpc/gwv1"
)

// What every fault does to /livez and /readyz: the first says whether the process has to be started again, and never
// depends on others; the second whether the hub can serve. Disks that are full, hubs that are cut off and hubs that were
// removed are in the tests about them.
func TestChaosHealth(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, "--election-timeout", "500ms")
	for _, h := range c.up() {
		h.awaitReady(http.StatusOK, healed)
		h.must(http.StatusOK, http.StatusOK)
	}

	t.Log("the leader is lost")
	c.leader().kill()
	c.await(healed, "another hub leads", func() error {
		for _, h := range c.up() {
			if live := h.livez(); live.code != http.StatusOK {
				t.Errorf("/livez of %s: %v", h.name, live)
			}
			if ready := h.readyz(); len(ready.failed) > 1 || len(ready.failed) == 1 && ready.failed[0] != "leader" {
				t.Errorf("/readyz of %s: %v", h.name, ready)
			}
		}
		if !slices.ContainsFunc(c.up(), func(h *process) bool { return h.readyz().details["leader"] == "this hub leads" }) {
			return errors.New("not yet")
		}
		return nil
	})
	for _, h := range c.up() {
		h.awaitReady(http.StatusOK, healed)
		h.must(http.StatusOK, http.StatusOK)
	}

	t.Log("the quorum is lost")
	c.leader().kill()
	last := c.up()[0]
	last.awaitReady(http.StatusServiceUnavailable, healed)
	last.must(http.StatusOK, http.StatusServiceUnavailable, "leader")
	for _, h := range c.hubs {
		if !h.running() {
			h.start()
		}
	}
	for _, h := range c.up() {
		h.awaitReady(http.StatusOK, healed)
		h.must(http.StatusOK, http.StatusOK)
	}

	t.Log("a hub joins from an address that nobody reaches")
	lost := c.newHub()
	lost.start(append(lost.joining(), "--advertise", freePort(t))...)
	lost.must(http.StatusOK, http.StatusServiceUnavailable, "member", "leader", "caught_up")
	c.await(healed, "it is told why", func() error {
		if !strings.Contains(lost.log(), "the leader does not reach this hub at") {
			return errors.New("it was not yet")
		}
		return nil
	})
	for _, h := range c.others(lost) {
		if took := c.awaitWrite(h, healed); took > time.Second {
			t.Errorf("%s accepts a write after %v only", h.name, took)
		}
	}
	lost.kill()
	lost.start(lost.joining()...) // where it is
	c.await(healed*2, "it votes", func() error {
		status, err := lost.status()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(status.Hubs, func(m *gwv1.HubStatus) bool { return m.Id == lost.self() && m.Voter }) {
			return fmt.Errorf("not yet: %v", status.Hubs)
		}
		return nil
	})
	lost.awaitReady(http.StatusOK, healed)
	lost.must(http.StatusOK, http.StatusOK)
}

// A hub that has stopped serving, because its state is not that of the others, goes on to say so.
func TestHaltedHubIsLiveAndNotReady(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	h, err := openHub(ctx, HubConfig{
		DataDir: filepath.Join(t.TempDir(), "hub"), Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0",
		ElectionTimeout: time.Second, HeartbeatInterval: time.Second,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.run(ctx, func() {}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	ask := func(path string, want int) string {
		t.Helper()
		answer, err := http.Get(h.admin.url() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != want {
			t.Errorf("%s: %d %s %v, want %d", path, answer.StatusCode, body, err, want)
		}
		return string(body)
	}
	ask("/livez", http.StatusOK)
	ask("/readyz", http.StatusOK)
	h.store.Halt("its state differs")
	ask("/livez", http.StatusOK)
	if body := ask("/readyz", http.StatusServiceUnavailable); !strings.Contains(body, "its state differs") {
		t.Errorf("/readyz says %q", body)
	}
	_, err = h.services.Config.ApplyResources(h.asHub(t.Context()), save(0, "late", "x"))
	if err = h.services.Error(t.Context(), err); connect.CodeOf(err) != connect.CodeUnavailable || reasonOf(err) != rpc.ReasonNotProposed {
		t.Errorf("a write: %v", err)
	}
	if _, err := h.services.Config.GetResource(h.asHub(t.Context()), &gwv1.GetResourceRequest{Kind: "API", Name: "late"}); err == nil {
		t.Error("a halted hub answers a linearizable read")
	}
}
