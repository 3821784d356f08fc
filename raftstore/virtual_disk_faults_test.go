package raftstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"gw/raftstore/state"
)

// I16: a disk that fails or hangs, under a leader or a follower, stops that hub for good; the others go on within 15 s.
func TestI16BadDiskStopsOneHub(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults diskFaults
		leader bool
	}{
		{"failing, leader", diskFaults{fails: true}, true}, {"failing, follower", diskFaults{fails: true}, false},
		{"hung, leader", diskFaults{hangs: true}, true}, {"hung, follower", diskFaults{hangs: true}, false},
	} {
		t.Run(c.name, func(t *testing.T) { bubble(t, func(t *testing.T) { badDisk(t, c.faults, c.leader) }) })
	}
}

func badDisk(t *testing.T, f diskFaults, leader bool) {
	v := newVirtual(t, virtualOptions{seed: 1})
	defer v.close()
	bad := v.mustLead(t)
	bad.mustWrite(t, "before")
	if !leader {
		bad = v.another(bad)
	}
	bad.disk.misbehave(f)
	began := time.Now()
	acks := make(chan error, 1)
	v.tasks.Go(func() { acks <- neverAcks(bad) })
	var took time.Duration
	for n := 0; ; n++ {
		if l := v.leader(); l != nil && l != bad && l.write(fmt.Sprintf("during%d", n)) == nil {
			took = time.Since(began)
			break
		}
		if time.Since(began) > 15*time.Second {
			t.Fatalf("no write within 15 s\n%s", v.told())
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("the others wrote after %v", took)
	if err := <-acks; err != nil {
		t.Error(err)
	}
	if failed := time.Since(began); failed > diskPatience+10*time.Second {
		t.Errorf("the hub with the bad disk noticed after %v", failed)
	}
}

// neverAcks asks a hub until it has failed, and returns an error if it ever says yes.
func neverAcks(l *life) error {
	for n := 0; ; n++ {
		if err := l.write(fmt.Sprintf("bad%d", n)); err == nil {
			return fmt.Errorf("the hub with the bad disk acknowledged write %d", n)
		}
		select {
		case <-l.store.Failed():
			if _, err := l.store.Read(context.Background()); err == nil {
				return fmt.Errorf("the hub with the bad disk answered a read")
			}
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (l *life) write(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err := l.store.Propose(ctx, save("default", name, name))
	return err
}

func (l *life) mustWrite(t *testing.T, name string) {
	t.Helper()
	if err := l.write(name); err != nil {
		t.Fatalf("write %s: %v", name, err)
	}
}

func (v *virtual) mustLead(t *testing.T) *life {
	t.Helper()
	l := v.awaitLeader(recoveryBound)
	if l == nil {
		t.Fatalf("no leader\n%s", v.told())
	}
	return l
}

// another returns an incarnation that is none of these.
func (v *virtual) another(not ...*life) *life {
	for _, h := range v.all() {
		if l := h.now(); l != nil && !slices.Contains(not, l) {
			return l
		}
	}
	return nil
}

// catchUp waits until a hub has what the leader had when it was called.
func (v *virtual) catchUp(t *testing.T, l *life, patience time.Duration) *state.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	want, err := v.mustLead(t).store.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.store.machine.await(ctx, func(s *state.State) bool { return s.Index() >= want.Index() })
	if err != nil {
		t.Fatalf("%s did not catch up: %v\n%s", l.hub.name, err, v.told())
	}
	return got
}

// damagedHub has a cluster in which one hub is down, with a snapshot and a short log; more snapshots if older is true.
func damagedHub(t *testing.T, v *virtual, older bool) *virtualHub {
	l := v.mustLead(t)
	h := v.another(l).hub
	for round := range 2 {
		for i := range 20 {
			l.mustWrite(t, fmt.Sprintf("round%d-%d", round, i))
		}
		if round == 1 || older {
			v.catchUp(t, h.now(), 5*time.Second)
			v.snapshot(context.Background(), h)
		}
	}
	v.crash(h)
	l.mustWrite(t, "after")
	return h
}

// I20: a hub whose snapshots are damaged says so and does not start, or starts right; the others go on.
func TestI20DamagedSnapshotIsNoticed(t *testing.T) {
	for _, older := range []bool{false, true} {
		t.Run(fmt.Sprintf("older one is whole %v", older), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				v := newVirtual(t, virtualOptions{seed: 1, snapshotAfter: 1 << 40, trailing: 5})
				defer v.close()
				h := damagedHub(t, v, older)
				snaps := h.platter.snaps
				newest := snaps[len(snaps)-1]
				newest.data = bytes.Clone(newest.data)
				newest.data[len(newest.data)/2] ^= 0x10
				d := openMemDisk(h.platter, v.rand, diskFaults{})
				s, err := Open(v.config(h, d))
				if err != nil {
					t.Logf("it does not start: %v", err)
				} else {
					l := &life{hub: h, store: s, disk: d, crashed: make(chan struct{})}
					h.mu.Lock()
					h.life = l
					h.mu.Unlock()
					got := v.catchUp(t, l, 10*time.Second)
					if leads := v.mustLead(t).store.State(); leads.Index() == got.Index() && digestOf(got) != digestOf(leads) {
						t.Error("the hub started with a damaged state")
					}
				}
				v.mustLead(t).mustWrite(t, "at-last")
			})
		})
	}
}

// I20: a hub whose log is damaged shows itself at the next beacon, and only it.
func TestI20DamagedLogIsFoundByTheBeacon(t *testing.T) {
	bubble(t, func(t *testing.T) {
		v := newVirtual(t, virtualOptions{seed: 1})
		defer v.close()
		l := v.mustLead(t)
		h := v.another(l).hub
		l.mustWrite(t, "intact-value")
		v.catchUp(t, h.now(), 5*time.Second)
		v.crash(h)
		damaged := 0
		for i, e := range h.platter.logs {
			if at := bytes.LastIndex(e.Data, []byte("intact-value")); at >= 0 {
				c := copyLog(e)
				c.Data[at] ^= 1
				h.platter.logs[i] = c
				damaged++
			}
		}
		if damaged != 1 {
			t.Fatalf("%d entries damaged", damaged)
		}
		v.revive(h)
		time.Sleep(12 * time.Second) // two beacons
		digests := map[string][32]byte{}
		var at uint64
		for _, h := range v.all() {
			i, digest := h.now().store.Beacon()
			if at != 0 && i != at {
				t.Fatalf("beacons at %d and %d", at, i)
			}
			at, digests[h.name] = i, digest
		}
		if _, odd, ok := Compare(votersWith(digests)); !ok || !slices.Equal(odd, []string{h.name}) {
			t.Errorf("the beacon finds %v (majority %v), want %s", odd, ok, h.name)
		}
	})
}
