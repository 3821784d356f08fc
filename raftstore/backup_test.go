package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// A backup taken while others write is the state at one point between its start and its end: it has everything that was
// acknowledged before, and of each writer a prefix.
func TestBackupUnderWritesIsOnePoint(t *testing.T) {
	hubs := three(t)
	const writers = 4
	ctx, cancel := context.WithCancel(t.Context())
	counts := make(chan int, writers)
	for w := range writers {
		go func() {
			n := 0
			for ctx.Err() == nil {
				if _, err := hubs[0].Propose(t.Context(), save("default", fmt.Sprintf("w%d-%04d", w, n), "x")); err == nil {
					n++
				}
			}
			counts <- n
		}()
	}
	acknowledged := hubs[0].mustPropose(t, save("default", "before", "x"))
	st, err := hubs[0].Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := hubs[0].Backup(&b, st); err != nil {
		t.Fatal(err)
	}
	cancel()
	total := 0
	for range writers {
		total += <-counts
	}
	got, err := VerifyBackup(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest() != st.Digest() || got.Index() < acknowledged.Index {
		t.Errorf("the backup is of index %d, want %d", got.Index(), st.Index())
	}
	found := 0
	for w := range writers {
		for n := 0; ; n++ {
			if _, ok := got.Resource("API", "default", fmt.Sprintf("w%d-%04d", w, n)); !ok {
				break
			}
			found++
		}
	}
	if all := len(slices.Collect(got.Resources("default"))); found+1 != all {
		t.Errorf("%d of %d resources are prefixes of what was written", found, all-1)
	}
	t.Logf("%d of %d writes are in the backup", found, total)
}

func TestDamagedBackupIsRefused(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	s.mustPropose(t, save("default", "a", "x"))
	var b bytes.Buffer
	if err := s.Backup(&b, s.State()); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	for n := range whole {
		if _, err := VerifyBackup(bytes.NewReader(whole[:n])); !errors.Is(err, state.ErrCorrupt) {
			t.Errorf("cut to %d of %d bytes: %v", n, len(whole), err)
		}
		flipped := bytes.Clone(whole)
		flipped[n] ^= 0x10
		// A flip that a decompressor ignores must give the same state; any other is refused.
		if st, err := VerifyBackup(bytes.NewReader(flipped)); err == nil && st.Digest() != s.State().Digest() {
			t.Errorf("byte %d flipped gives another state", n)
		}
	}
	if _, err := VerifyBackup(bytes.NewReader(append(bytes.Clone(whole), "more"...))); err == nil {
		t.Error("bytes after the end were not seen")
	}
}

// FuzzVerifyBackup: no file makes a program that reads it fail in another way than by an error.
func FuzzVerifyBackup(f *testing.F) {
	var b bytes.Buffer
	if err := compress(&b, state.New()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd})
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := VerifyBackup(bytes.NewReader(data))
		if (st == nil) == (err == nil) {
			t.Errorf("state %v, error %v", st, err)
		}
	})
}

// Restoring takes every hub back, under writes, and raises the epoch; what comes after goes on from there.
func TestRestoreReachesEveryHub(t *testing.T) {
	hubs := three(t)
	a := hubs[0]
	a.mustPropose(t, save("default", "then", "x"))
	backup, err := a.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.mustPropose(t, save("default", "later", "x"))
	before := a.State()
	manifest := a.Manifest("default")
	index, err := a.RestoreAs(within(t, 30*time.Second), backup, Restoration{Actor: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	st, err := a.Read(within(t, 10*time.Second)) // it must not wait for an entry that nobody applies
	if err != nil {
		t.Fatal(err)
	}
	if st.Cluster().Epoch != before.Cluster().Epoch+1 || st.Index() < index || index <= before.Index() {
		t.Errorf("epoch %d, index %d; before %d, %d", st.Cluster().Epoch, st.Index(), before.Cluster().Epoch, before.Index())
	}
	if _, ok := st.Resource("API", "default", "later"); ok {
		t.Error("what was saved after the backup is still there")
	}
	if m := a.Manifest("default"); m.Checksum == manifest.Checksum || len(m.Entries) != 1 {
		t.Errorf("the manifest has %d entries", len(m.Entries))
	}
	a.mustPropose(t, save("default", "after", "y"))
	r := a.mustPropose(t, beacon())
	if _, odd, ok := Compare(votersWith(sightings(t, r.Index, hubs...))); !ok || len(odd) > 0 {
		t.Errorf("after a restore: odd %q, %v", odd, ok)
	}
	for _, s := range hubs {
		has(t, s, "then", "x")
		has(t, s, "after", "y")
		if s.State().Cluster().Epoch != st.Cluster().Epoch {
			t.Errorf("hub %s is in epoch %d", s.id, s.State().Cluster().Epoch)
		}
	}
	if err := hubs[1].Restore(within(t, 10*time.Second), backup); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a follower restores: %v", err)
	}
	dir := hubs[2].config.Dir
	if err := hubs[2].Close(); err != nil {
		t.Fatal(err)
	}
	again := mustOpen(t, hubConfig(t, dir))
	leaderOf(t, hubs[0], hubs[1]).mustAdd(t, again)
	has(t, again, "after", "y")
}

func TestRestoreOfAnotherClusterIsAsked(t *testing.T) {
	there := mustOpen(t, testConfig(t.TempDir()))
	there.mustPropose(t, save("default", "elsewhere", "x"))
	for range 30 {
		there.mustPropose(t, save("default", "busy", fmt.Sprint(there.State().Index())))
	}
	c := testConfig(t.TempDir())
	here := mustOpen(t, c)
	own := here.State().Cluster().ClusterId
	if err := here.Restore(t.Context(), there.State()); !errors.Is(err, ErrOtherCluster) || !errors.Is(err, ErrNotProposed) {
		t.Errorf("without being asked to adopt it: %v", err)
	}
	if here.State().Cluster().ClusterId != own {
		t.Error("a refused restore changed something")
	}
	if _, err := here.RestoreAs(t.Context(), there.State(), Restoration{Adopt: true}); err != nil {
		t.Fatal(err)
	}
	check := func(s *Store) {
		t.Helper()
		has(t, s, "elsewhere", "x")
		if got := s.State().Cluster(); got.ClusterId != there.State().Cluster().ClusterId || got.Epoch != 2 {
			t.Errorf("the cluster is %v", got)
		}
	}
	check(here)
	if err := here.Close(); err != nil {
		t.Fatal(err)
	}
	here = mustOpen(t, c) // leads again: its terms go on
	check(here)
	here.mustPropose(t, save("default", "after", "y"))
}

// Two hubs of three are lost for good. The third goes on alone with everything it had, and grows again.
func TestRecoveryAfterLostQuorum(t *testing.T) {
	hubs := three(t)
	for i := range 20 {
		hubs[0].mustPropose(t, save("default", fmt.Sprint("r", i), "x"))
	}
	for _, s := range hubs {
		hubs[0].mustPropose(t, &gwv1.Command{Body: &gwv1.Command_PutHub{PutHub: &gwv1.PutHubRecord{
			Hub: &gwv1.HubRecord{Id: s.id, Address: s.address()},
		}}})
	}
	survivor := hubs[2]
	eventually(t, "the survivor has everything", func() bool { return survivor.State().Index() == hubs[0].State().Index() })
	had, dir := survivor.State(), survivor.config.Dir
	for _, s := range hubs {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	found, err := Recover(dir, RecoverConfig{Logger: survivor.config.Logger})
	if err != nil {
		t.Fatal(err)
	}
	if found.Done || found.NodeID != survivor.id || found.ClusterID != had.Cluster().ClusterId || found.Epoch != 1 ||
		len(found.Members) != 3 || found.LastIndex < had.Index() || found.Entries == 0 || found.LastTerm == 0 ||
		found.LastWrite.Before(time.Now().Add(-time.Hour)) {
		t.Errorf("found %+v", found)
	}
	// Looking changed nothing: alone it still can't lead.
	still := mustOpen(t, hubConfig(t, dir))
	if len(voters(t, still)) != 3 {
		t.Error("looking changed the members")
	}
	if err := still.Close(); err != nil {
		t.Fatal(err)
	}

	c := hubConfig(t, dir)
	found, err = Recover(dir, RecoverConfig{Logger: c.Logger, Confirmed: true, Address: c.Stream.Addr().String()})
	if err != nil || !found.Done {
		t.Fatalf("recover: %+v, %v", found, err)
	}
	s := mustOpen(t, c)
	if !s.Leading() {
		t.Fatal("the recovered hub does not lead")
	}
	eventually(t, "the epoch is raised", func() bool {
		_, marked, err := s.place.marked(markRecovered)
		return err == nil && !marked && s.State().Cluster().Epoch == 2
	})
	for i := range 20 {
		if _, ok := s.State().Resource("API", "default", fmt.Sprint("r", i)); !ok {
			t.Errorf("r%d is lost", i)
		}
	}
	for _, o := range hubs[:2] {
		if h, ok := s.State().Hub(o.id); !ok || !h.Removed {
			t.Errorf("hub %s is not marked as removed", o.id)
		}
		if err := s.AddLearner(within(t, 5*time.Second), o.id, "127.0.0.1:1"); !errors.Is(err, ErrMembership) {
			t.Errorf("hub %s of old is added again: %v", o.id, err)
		}
	}
	if h, _ := s.State().Hub(s.id); h.GetRemoved() {
		t.Error("the survivor removed itself")
	}

	term := s.Term()
	old := mustOpen(t, hubConfig(t, hubs[0].config.Dir)) // one of the lost ones comes back with its directory
	fresh := []*Store{mustJoin(t), mustJoin(t)}
	s.mustAdd(t, fresh...)
	keep(t, quick, s, fresh[0], fresh[1])
	for _, f := range append(fresh, s) {
		eventually(t, "three voters again", func() bool { return len(voters(t, f)) == 3 })
	}
	write(t, "after", "y", s, fresh[0], fresh[1])
	has(t, fresh[1], "after", "y")
	has(t, fresh[1], "r7", "x")
	if old.Leading() || s.Term() != term {
		t.Errorf("the old hub leads (%v) or disturbs the new cluster: term %d, was %d", old.Leading(), s.Term(), term)
	}
	if _, err := Recover(dir, RecoverConfig{}); err == nil {
		t.Error("a directory in use was recovered")
	}
	if _, err := Recover(t.TempDir(), RecoverConfig{Confirmed: true}); err == nil {
		t.Error("an empty directory was recovered")
	}
}

// A hub that comes late is sent a snapshot, and has what the others have.
func TestLateHubIsSentASnapshot(t *testing.T) {
	hubs := three(t, func(c *Config) { c.snapshotThreshold, c.trailingLogs = 1<<40, 2 })
	for i := range 30 {
		hubs[0].mustPropose(t, save("default", fmt.Sprint("r", i), "x"))
	}
	if err := hubs[0].raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	late := mustJoin(t)
	hubs[0].mustAdd(t, late)
	r := hubs[0].mustPropose(t, beacon())
	if _, odd, ok := Compare(votersWith(sightings(t, r.Index, append(hubs, late)...))); !ok || len(odd) > 0 {
		t.Errorf("odd %q, %v", odd, ok)
	}
	if kept, err := late.place.snapshots.List(); err != nil || len(kept) == 0 {
		t.Errorf("the late hub has %d snapshots (%v): it was sent the log", len(kept), err)
	}
}

// forgetful gives back other bytes than were written.
type forgetful struct{ raft.SnapshotStore }

func (f forgetful) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, at uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := f.SnapshotStore.Create(v, index, term, c, at, t)
	return damagingSink{sink}, err
}

type damagingSink struct{ raft.SnapshotSink }

func (s damagingSink) Write(b []byte) (int, error) {
	bad := bytes.Clone(b)
	bad[len(bad)/2] ^= 1
	return s.SnapshotSink.Write(bad)
}

func TestSnapshotThatCannotBeReadBackFailsTheStore(t *testing.T) {
	c := testConfig(t.TempDir())
	c.openPlace = func() (*place, error) {
		p, err := openPlace(c.Dir, &raftLogger{log: c.Logger, name: "raft"})
		if err == nil {
			p.snapshots = forgetful{p.snapshots}
		}
		return p, err
	}
	s := mustOpen(t, c)
	s.mustPropose(t, save("default", "kept", "x"))
	if err := s.raft.Snapshot().Error(); err == nil {
		t.Fatal("a damaged snapshot was taken for good")
	}
	<-s.Failed()
	if err := s.Close(); err != nil {
		t.Logf("close: %v", err)
	}
	c.openPlace = nil
	has(t, mustOpen(t, c), "kept", "x") // the log was not shortened for it
}

// Once the state is restored, no error of the command that ends it may say that nothing happened.
func TestRestoreThatCannotBeEndedHasAnUnknownOutcome(t *testing.T) {
	follower := three(t)[1]
	_, err := follower.endRestore(t.Context())
	if !errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrNotLeader) || errors.Is(err, ErrNotProposed) {
		t.Errorf("got %v, want ErrUnknownOutcome and nothing that contradicts it", err)
	}
}

func TestRestoreIsEndedOnAFullDisk(t *testing.T) {
	c := testConfig(t.TempDir())
	c.diskSpace = func(string) (free, total uint64, err error) { return 1 << 20, 10 << 30, nil }
	s := mustOpen(t, c)
	st := s.State()
	if _, err := s.RestoreAs(within(t, 20*time.Second), st, Restoration{}); err != nil {
		t.Fatal(err)
	}
	if got := s.State().Cluster().Epoch; got <= st.Cluster().Epoch {
		t.Errorf("the epoch is %d, was %d", got, st.Cluster().Epoch)
	}
}

func TestCutShortRestoreKeepsTheHubFromStarting(t *testing.T) {
	c := testConfig(t.TempDir())
	s := mustOpen(t, c)
	if err := s.place.mark(markCutShort, "a restore was cut short"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c); err == nil {
		t.Error("it started")
	}
	if err := os.Remove(filepath.Join(c.Dir, markCutShort)); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, c)
}
