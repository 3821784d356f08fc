package raftstore

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// machineFor is a machine that applies commands without a log beneath.
type machineFor struct {
	*machine
	index uint64
}

func newTestMachine() *machineFor { return &machineFor{machine: newMachine(newLatch())} }

func (m *machineFor) apply(t testing.TB, c *gwv1.Command) {
	t.Helper()
	c.FeatureLevel = 1
	data, err := state.EncodeCommand(c)
	if err != nil {
		t.Fatal(err)
	}
	m.index++
	answer := m.ApplyBatch([]*raft.Log{{Index: m.index, Type: raft.LogCommand, Data: data}})[0]
	r, ok := answer.(*gwv1.Result)
	if !ok || r.Refusal != nil {
		t.Fatalf("apply: %v", answer)
	}
}

func checkManifest(t *testing.T, m *manifests, namespace string) {
	t.Helper()
	got, s := m.of(namespace), m.machine.now.Load()
	var want []resource.Entry
	var size uint64
	for r := range s.Effective(namespace) {
		want = append(want, resource.Entry{Kind: r.Kind, Name: r.Name, Digest: resource.DigestOf(r.Kind, r.Name, r.Spec)})
		size += uint64(len(r.Spec))
	}
	if !slices.Equal(got.Entries, want) || got.Checksum != resource.Checksum(slices.Values(want)) ||
		got.Size != size || got.Index != s.Index() {
		t.Fatalf("%s at %d: got %d entries, %d bytes, %s at %d; want %d entries, %d bytes", namespace, s.Index(),
			len(got.Entries), got.Size, got.Checksum.Short(), got.Index, len(want), size)
	}
}

func TestManifestIsThatComputedFromScratch(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m := newTestMachine()
		memo := &manifests{machine: m.machine, memo: map[string]*memo{}}
		names := []string{resource.Global, "default", "team", "empty"}
		for step := range 150 {
			namespace, name := names[rng.IntN(3)], fmt.Sprintf("r%d", rng.IntN(12))
			if rng.IntN(3) == 0 {
				m.apply(t, remove(namespace, name))
			} else {
				c := save(namespace, name, fmt.Sprint(rng.IntN(4)))
				c.GetChangeResources().Edits[0].OutsideReleases = rng.IntN(8) == 0
				m.apply(t, c)
			}
			if step == 75 {
				restore(t, m.machine)
			}
			if rng.IntN(3) == 0 { // often several changes behind
				checkManifest(t, memo, names[rng.IntN(len(names))])
			}
		}
		for _, n := range names {
			checkManifest(t, memo, n)
		}
	}
}

// A batch larger than what is remembered makes memos start over.
func TestManifestAfterAHugeBatch(t *testing.T) {
	m := newTestMachine()
	memo := &manifests{machine: m.machine, memo: map[string]*memo{}}
	m.apply(t, save("default", "first", "x"))
	checkManifest(t, memo, "default")
	for batch := range 3 {
		c := save("default", "seed", fmt.Sprint(batch))
		for i := range maxTouched / 2 {
			e := save("default", fmt.Sprintf("r%d", i), fmt.Sprint(batch)).GetChangeResources().Edits[0]
			c.GetChangeResources().Edits = append(c.GetChangeResources().Edits, e)
		}
		m.apply(t, c)
	}
	if m.touched.floor == 0 {
		t.Fatal("nothing was forgotten")
	}
	checkManifest(t, memo, "default")
}

func fill(t testing.TB, m *machineFor, n int) {
	c := save("default", "seed", "x")
	spec := make([]byte, 1024)
	for i := range n {
		e := save("default", fmt.Sprintf("orders-%05d", i), string(spec)).GetChangeResources().Edits[0]
		c.GetChangeResources().Edits = append(c.GetChangeResources().Edits, e)
	}
	m.apply(t, c)
}

// BenchmarkManifestAfterOneEdit is the time from an applied edit to the checksum of 10,000 resources.
func BenchmarkManifestAfterOneEdit(b *testing.B) {
	m := newTestMachine()
	fill(b, m, 10_000)
	memo := &manifests{machine: m.machine, memo: map[string]*memo{}}
	memo.of("default")
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		m.apply(b, save("default", "orders-05000", fmt.Sprint(i)))
		b.StartTimer()
		memo.of("default")
	}
}
