package node

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gw/node/uplink"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// A release that the disk refuses serves, health says that it is not on disk, and it is saved once the disk takes it.
func TestReleaseThatCouldNotBeSavedIsSavedLater(t *testing.T) {
	dir := t.TempDir()
	e := openTestEdge(t, dir)
	other, err := sql.Open("sqlite", filepath.Join(dir, "config.db")+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	busy, err := other.Begin() // nobody else can write now
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	sum := resource.EmptyChecksum
	if err := e.release.apply(ctx, uplink.Release{Target: &gwv1.Target{Epoch: 1, Number: 7, Checksum: sum[:]}, Namespace: "default"}); err != nil {
		t.Fatal(err)
	}
	if got := e.release.loaded().Number; got != 7 {
		t.Errorf("release %d serves, want 7", got)
	}
	if h := e.health(); h.State != gwv1.Health_HEALTH_DEGRADED || !strings.Contains(h.Reason, "save release 7") {
		t.Errorf("got health %v, %q", h.State, h.Reason)
	}
	if err := busy.Rollback(); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(30 * time.Second)
	for tick := time.Tick(20 * time.Millisecond); e.health().State != gwv1.Health_HEALTH_OK; {
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("it was not saved: %s", e.health().Reason)
		}
	}
	r, _, err := e.store.LoadRelease(t.Context(), 0)
	if err != nil || r.Target.Number != 7 {
		t.Errorf("on disk: %v, %v", r, err)
	}
}
