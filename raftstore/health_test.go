package raftstore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gw/rpc/gwv1"
)

// failing are the names of the checks that fail, those of /livez first.
func failing(s *Store) (live, ready []string) {
	for _, c := range s.Health() {
		switch {
		case c.OK:
		case c.Live:
			live = append(live, c.Name)
		default:
			ready = append(ready, c.Name)
		}
	}
	return live, ready
}

func wantFailing(t *testing.T, s *Store, live, ready string) {
	t.Helper()
	var l, r []string
	eventually(t, fmt.Sprintf("failing checks %q and %q", live, ready), func() bool {
		l, r = failing(s)
		return strings.Join(l, " ") == live && strings.Join(r, " ") == ready
	})
}

func TestHealthyHub(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	wantFailing(t, s, "", "")
	for _, c := range s.Health() {
		if c.Name == "" || c.Detail == "" {
			t.Errorf("a check without a word: %+v", c)
		}
	}
}

func TestHubThatWaitsToJoinIsLiveAndNotReady(t *testing.T) {
	s := mustJoin(t)
	wantFailing(t, s, "", "member leader caught_up")
	founder := mustOpen(t, hubConfig(t, t.TempDir()))
	founder.mustAdd(t, s)
	wantFailing(t, s, "", "")
}

// Without a quorum a hub is not ready; starting it again would not help, so it is live.
func TestHubWithoutQuorumIsLiveAndNotReady(t *testing.T) {
	hubs := three(t)
	for _, s := range hubs {
		wantFailing(t, s, "", "")
	}
	for _, s := range hubs[1:] {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantFailing(t, hubs[0], "", "leader")
}

func TestRemovedHubIsNotReady(t *testing.T) {
	hubs := three(t)
	if err := hubs[0].RemoveMember(within(t, 10*time.Second), hubs[2].id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it notices", func() bool {
		live, ready := failing(hubs[2])
		return len(live) == 0 && slices.Contains(ready, "member")
	})
}

func TestHaltedHubIsLiveAndNotReady(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	s.Halt("it has diverged")
	s.Halt("another reason")
	live, ready := failing(s)
	if len(live) != 0 || !slices.Contains(ready, "serving") {
		t.Errorf("failing %q and %q", live, ready)
	}
	for _, c := range s.Health() {
		if c.Name == "serving" && !strings.Contains(c.Detail, "it has diverged") {
			t.Errorf("it says %q", c.Detail)
		}
	}
	if err := s.Halted(); !errors.Is(err, ErrHalted) {
		t.Errorf("Halted: %v", err)
	}
}

func TestBrokenDiskIsNotLive(t *testing.T) {
	c := testConfig(t.TempDir())
	var d *faultyDisk
	c.wrapDisk = func(inner disk) disk { d = &faultyDisk{disk: inner}; return d }
	s := mustOpen(t, c)
	d.fail(syscall.EIO)
	if _, err := s.Propose(t.Context(), save("default", "a", "x")); err == nil {
		t.Fatal("a broken disk took a command")
	}
	<-s.Failed()
	live, _ := failing(s)
	if !slices.Contains(live, "disk") {
		t.Errorf("not live for %q, want disk", live)
	}
}

// A disk that hangs holds Raft's main loop: that alone is seen by /livez, before the watchdog trips.
func TestHungMainLoopIsNotLive(t *testing.T) {
	c := testConfig(t.TempDir())
	var d *faultyDisk
	c.wrapDisk = func(inner disk) disk { d = &faultyDisk{disk: inner}; return d }
	s := mustOpen(t, c)
	release := make(chan struct{})
	d.hangWrites(release)
	done := make(chan error, 1)
	go func() {
		_, err := s.Propose(t.Context(), save("default", "a", "x"))
		done <- err
	}()
	d.awaitHang()
	live, _ := failing(s)
	if !slices.Contains(live, "raft") {
		t.Errorf("not live for %q, want raft", live)
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the write that hung: %v", err)
	}
	wantFailing(t, s, "", "")
}

// A full disk refuses what is large, and in the end everything but what takes something away.
func TestFullDisk(t *testing.T) {
	c := testConfig(t.TempDir())
	var free atomic.Uint64
	free.Store(600 << 20)
	c.diskSpace = func(dir string) (uint64, uint64, error) { return free.Load(), 10 << 30, nil }
	s := mustOpen(t, c)
	set := func(n uint64) {
		free.Store(n)
		s.space.mu.Lock()
		s.space.at = time.Time{}
		s.space.mu.Unlock()
	}
	secret := &gwv1.Command{Body: &gwv1.Command_PutSecret{PutSecret: &gwv1.PutSecretRecord{
		Secret: &gwv1.SecretRecord{Namespace: "default", Name: "s", Sealed: []byte("x")},
	}}}
	revoke := &gwv1.Command{Body: &gwv1.Command_RevokeToken{RevokeToken: &gwv1.RevokeTokenRecord{Id: "t"}}}
	push := &gwv1.Command{Body: &gwv1.Command_PushReleases{PushReleases: &gwv1.PushReleases{}}}
	stage := &gwv1.Command{Body: &gwv1.Command_StageBlobs{StageBlobs: &gwv1.StageBlobs{Stage: "s", Blobs: [][]byte{[]byte("x")}}}}
	s.mustPropose(t, save("default", "a", "x"))
	for _, k := range []struct {
		free    uint64
		low     []*gwv1.Command
		allowed []*gwv1.Command
	}{
		{512 << 20, nil, []*gwv1.Command{save("default", "a", "x"), secret, revoke, push, stage}},
		{512<<20 - 1, []*gwv1.Command{save("default", "b", "x"), push, stage}, []*gwv1.Command{secret, revoke, remove("default", "a")}},
		{128<<20 - 1, []*gwv1.Command{save("default", "b", "x"), push, stage, secret}, []*gwv1.Command{revoke, remove("default", "a")}},
	} {
		set(k.free)
		for _, c := range k.low {
			if _, err := s.Propose(t.Context(), c); !errors.Is(err, ErrDiskLow) || !errors.Is(err, ErrNotProposed) {
				t.Errorf("%d MiB free: %T gives %v, want ErrDiskLow", k.free>>20, c.Body, err)
			}
		}
		for _, c := range k.allowed {
			if _, err := s.Propose(t.Context(), c); errors.Is(err, ErrDiskLow) {
				t.Errorf("%d MiB free: %T gives %v", k.free>>20, c.Body, err)
			}
		}
		live, ready := failing(s)
		if len(live) != 0 || slices.Contains(ready, "disk_space") != (len(k.low) > 0) || (len(s.Alarms()) > 0) != (len(k.low) > 0) {
			t.Errorf("%d MiB free: failing %q and %q, alarms %q", k.free>>20, live, ready, s.Alarms())
		}
	}
	set(600 << 20)
	s.mustPropose(t, save("default", "b", "x"))
	wantFailing(t, s, "", "")
}

// On a critically full disk an admin can sign in to revoke, and the cluster can go on being one.
func TestCriticallyFullDiskTakesSignInsHubsAndBeacons(t *testing.T) {
	p := &space{measure: func(string) (free, total uint64, err error) { return 1 << 20, 10 << 30, nil }}
	for _, c := range []*gwv1.Command{
		{Body: &gwv1.Command_PutSession{PutSession: &gwv1.PutSessionRecord{}}},
		{Body: &gwv1.Command_PutHub{PutHub: &gwv1.PutHubRecord{}}},
		{Body: &gwv1.Command_EnrollHub{EnrollHub: &gwv1.EnrollHub{}}},
		beacon(),
	} {
		if err := p.refuses(c); err != nil {
			t.Errorf("%T: %v", c.Body, err)
		}
	}
	for _, c := range []*gwv1.Command{
		save("default", "a", "x"),
		{Body: &gwv1.Command_PutSecret{PutSecret: &gwv1.PutSecretRecord{}}},
		{Body: &gwv1.Command_PushReleases{PushReleases: &gwv1.PushReleases{}}},
	} {
		if err := p.refuses(c); !errors.Is(err, ErrDiskLow) {
			t.Errorf("%T: %v, want ErrDiskLow", c.Body, err)
		}
	}
}

func TestMarksFitSmallDisks(t *testing.T) {
	for _, c := range []struct {
		space                *space
		total, low, critical uint64
	}{
		{&space{}, 16 << 20, 16 << 20 / 10, 16 << 20 * 3 / 100},
		{&space{}, 1 << 40, 512 << 20, 128 << 20},
		{&space{low: 100, critical: 10}, 1 << 40, 100, 10},
		{&space{low: 100}, 1 << 40, 100, 100},
	} {
		if low, critical := c.space.marks(c.total); low != c.low || critical != c.critical {
			t.Errorf("of %d: %d and %d, want %d and %d", c.total, low, critical, c.low, c.critical)
		}
	}
	if free, total, err := statfs(t.TempDir()); err != nil || free == 0 || total < free {
		t.Errorf("this disk: %d of %d, %v", free, total, err)
	}
}

// The disk of one hub is full: that one stops, and never acknowledges anything again; the others go on.
func TestFullDiskOfOneHubStopsOnlyThatHub(t *testing.T) {
	for _, which := range []string{"leader", "follower"} {
		t.Run(which, func(t *testing.T) {
			disks := map[string]*faultyDisk{}
			hubs := three(t, func(c *Config) {
				dir := c.Dir
				c.wrapDisk = func(inner disk) disk { disks[dir] = &faultyDisk{disk: inner}; return disks[dir] }
			})
			victim, others := hubs[0], hubs[1:]
			if which == "follower" {
				victim, others = hubs[2], hubs[:2]
			}
			write(t, "before", "x", hubs...)
			disks[victim.config.Dir].fail(syscall.ENOSPC)
			write(t, "provokes", "x", hubs...)
			<-victim.Failed()
			if !errors.Is(victim.Err(), syscall.ENOSPC) {
				t.Errorf("it failed with %v", victim.Err())
			}
			began := time.Now()
			write(t, "after", "y", others...)
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("the others took %v to write", took)
			}
			disks[victim.config.Dir].broken.Store(nil) // there is room again, which is too late
			if _, err := victim.Propose(t.Context(), save("default", "late", "z")); err == nil {
				t.Error("a failed hub acknowledged something")
			}
			has(t, leaderOf(t, others...), "before", "x")
		})
	}
}

// gathered is the store's metrics by name.
func gathered(t *testing.T, s *Store) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(s.Collector()); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			switch {
			case m.Gauge != nil:
				values[f.GetName()] = m.Gauge.GetValue()
			case m.Histogram != nil:
				values[f.GetName()] = float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return values
}

func TestMetrics(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	before := gathered(t, s)
	for i := range 10 {
		s.mustPropose(t, save("default", fmt.Sprint("r", i), "x"))
	}
	if err := s.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	after := gathered(t, s)
	for name, want := range map[string]float64{
		"gw_raft_leader": 1, "gw_raft_peers": 1, "gw_raft_voters": 1, "gw_raft_failure_tolerance": 0,
		"gw_raft_last_contact_seconds": 0, "gw_raft_applied_index": float64(s.State().Index()),
		"gw_raft_term": float64(s.Term()), "gw_store_snapshot_duration_seconds": 1,
		"gw_raft_commit_duration_seconds": before["gw_raft_commit_duration_seconds"] + 10,
	} {
		if got, ok := after[name]; !ok || got != want {
			t.Errorf("%s is %v (%v), want %v", name, got, ok, want)
		}
	}
	for _, name := range []string{"gw_store_log_bytes", "gw_store_disk_free_bytes", "gw_store_disk_total_bytes",
		"gw_store_snapshot_bytes", "gw_store_snapshot_timestamp_seconds", "gw_raft_commit_index"} {
		if after[name] <= 0 {
			t.Errorf("%s is %v", name, after[name])
		}
	}
	if after["gw_store_log_write_duration_seconds"] < before["gw_store_log_write_duration_seconds"]+10 {
		t.Errorf("log writes %v, were %v", after["gw_store_log_write_duration_seconds"], before["gw_store_log_write_duration_seconds"])
	}
}
