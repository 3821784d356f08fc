package raftstore

import (
	"slices"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

func TestCompare(t *testing.T) {
	a, b, c := [32]byte{1}, [32]byte{2}, [32]byte{3}
	for _, k := range []struct {
		name     string
		digests  map[string][32]byte
		majority [32]byte
		odd      []string
		ok       bool
	}{
		{"nobody", nil, [32]byte{}, nil, false},
		{"alone", map[string][32]byte{"x": a}, a, nil, true},
		{"agreed", map[string][32]byte{"x": a, "y": a, "z": a}, a, nil, true},
		{"one is odd", map[string][32]byte{"x": a, "y": b, "z": a}, a, []string{"y"}, true},
		{"two are odd", map[string][32]byte{"v": c, "w": a, "x": b, "y": a, "z": a}, a, []string{"v", "x"}, true},
		{"one against one", map[string][32]byte{"x": a, "y": b}, [32]byte{}, nil, false},
		{"each alone", map[string][32]byte{"x": a, "y": b, "z": c}, [32]byte{}, nil, false},
		{"half", map[string][32]byte{"w": a, "x": a, "y": b, "z": c}, [32]byte{}, nil, false},
	} {
		majority, odd, ok := Compare(k.digests)
		if majority != k.majority || !slices.Equal(odd, k.odd) || ok != k.ok {
			t.Errorf("%s: %x %q %v, want %x %q %v", k.name, majority[:1], odd, ok, k.majority[:1], k.odd, k.ok)
		}
	}
}

// sightings waits until all hubs have digested a beacon at or after an index, the same one, and returns what they have.
func sightings(t *testing.T, from uint64, hubs ...*Store) map[string][32]byte {
	t.Helper()
	var all map[string][32]byte
	eventually(t, "every hub has seen the beacon", func() bool {
		all = map[string][32]byte{}
		at, _ := hubs[0].Beacon()
		for _, s := range hubs {
			i, d := s.Beacon()
			if i != at || i < from {
				return false
			}
			all[s.id] = d
		}
		return true
	})
	return all
}

func beacon() *gwv1.Command {
	return &gwv1.Command{Body: &gwv1.Command_Beacon{Beacon: &gwv1.Beacon{}}}
}

// Healthy hubs agree, also one that was started again and one that joined late; a hub that applies something else is
// found at the next beacon.
func TestBeaconFindsTheHubThatDiverged(t *testing.T) {
	var odd atomic.Value // the directory of the hub that applies something else
	odd.Store("")
	hubs := three(t, func(c *Config) {
		dir := c.Dir
		c.alterCommand = func(c *gwv1.Command) *gwv1.Command {
			if c.GetPutUser() == nil || odd.Load() != dir {
				return c
			}
			wrong := proto.CloneOf(c)
			wrong.GetPutUser().User.Role = "admin"
			return wrong
		}
	})
	a := hubs[0]
	r := a.mustPropose(t, beacon())
	if _, others, ok := Compare(sightings(t, r.Index, hubs...)); !ok || len(others) != 0 {
		t.Fatalf("healthy hubs: odd %q, %v", others, ok)
	}
	late := mustJoin(t)
	a.mustAdd(t, late)
	r = a.mustPropose(t, beacon())
	if _, others, ok := Compare(sightings(t, r.Index, append(hubs, late)...)); !ok || len(others) != 0 {
		t.Fatalf("with one that joined late: odd %q, %v", others, ok)
	}

	odd.Store(hubs[2].config.Dir)
	a.mustPropose(t, &gwv1.Command{Actor: "ann", Body: &gwv1.Command_PutUser{PutUser: &gwv1.PutUserRecord{
		Create: true, User: &gwv1.UserRecord{Name: "bob", Role: "viewer"},
	}}})
	r = a.mustPropose(t, beacon())
	majority, others, ok := Compare(sightings(t, r.Index, hubs...))
	if !ok || !slices.Equal(others, []string{hubs[2].id}) {
		t.Fatalf("odd %q, %v; want %s", others, ok, hubs[2].id)
	}
	if _, own := a.Beacon(); own != majority {
		t.Error("the majority is not what the healthy ones have")
	}
}

func TestLeaderKeepsTheBeacon(t *testing.T) {
	c := testConfig(t.TempDir())
	c.BeaconInterval = 1 // the next follows at once
	s := mustOpen(t, c)
	done := make(chan error, 1)
	go func() { done <- s.KeepBeacon(t.Context()) }()
	first := uint64(0)
	eventually(t, "two beacons", func() bool {
		i, d := s.Beacon()
		if first == 0 {
			first = i
		}
		return first > 0 && i > first && d != [32]byte{}
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
