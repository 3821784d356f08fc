package raftstore

import (
	"bytes"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

func TestCompare(t *testing.T) {
	// A voter is "name:digest", silent without a digest; a member without a vote has "?" before it.
	for _, k := range []struct{ name, members, majority, odd string }{
		{"nobody", "", "none", ""},
		{"alone", "x:a", "a", ""},
		{"agreed", "x:a y:a z:a", "a", ""},
		{"one is odd", "x:a y:b z:a", "a", "y"},
		{"two are odd", "v:c w:a x:b y:a z:a", "a", "v x"},
		{"one against one", "x:a y:b", "none", ""},
		{"each alone", "x:a y:b z:c", "none", ""},
		{"half", "w:a x:a y:b z:c", "none", ""},
		{"one is silent", "x:a y:a z:", "a", ""},
		{"two are silent", "x:a y: z:", "none", ""},
		{"half agree and the rest is silent", "w:a x:a y: z:", "none", ""},
		{"one without a vote is odd", "x:a y:a z:a ?n:b", "a", "n"},
		{"those without a vote decide nothing", "x:a y:b ?m:a ?n:a", "none", ""},
	} {
		var members []Sighting
		for _, word := range strings.Fields(k.members) {
			name, digest, _ := strings.Cut(word, ":")
			m := Sighting{ID: strings.TrimPrefix(name, "?"), Voter: name[0] != '?'}
			if digest != "" {
				m.Digest = []byte(digest)
			}
			members = append(members, m)
		}
		majority, odd, ok := Compare(members)
		got := "none"
		if ok {
			got = string(majority)
		}
		if got != k.majority || strings.Join(odd, " ") != k.odd {
			t.Errorf("%s: majority %s, odd %q; want %s, %q", k.name, got, odd, k.majority, k.odd)
		}
	}
}

// votersWith is one voter for each digest.
func votersWith(digests map[string][32]byte) (members []Sighting) {
	for id, d := range digests {
		members = append(members, Sighting{ID: id, Voter: true, Digest: d[:]})
	}
	return members
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
	if _, others, ok := Compare(votersWith(sightings(t, r.Index, hubs...))); !ok || len(others) != 0 {
		t.Fatalf("healthy hubs: odd %q, %v", others, ok)
	}
	late := mustJoin(t)
	a.mustAdd(t, late)
	r = a.mustPropose(t, beacon())
	if _, others, ok := Compare(votersWith(sightings(t, r.Index, append(hubs, late)...))); !ok || len(others) != 0 {
		t.Fatalf("with one that joined late: odd %q, %v", others, ok)
	}

	odd.Store(hubs[2].config.Dir)
	a.mustPropose(t, &gwv1.Command{Actor: "ann", Body: &gwv1.Command_PutUser{PutUser: &gwv1.PutUserRecord{
		Create: true, User: &gwv1.UserRecord{Name: "bob", Role: "viewer"},
	}}})
	r = a.mustPropose(t, beacon())
	majority, others, ok := Compare(votersWith(sightings(t, r.Index, hubs...)))
	if !ok || !slices.Equal(others, []string{hubs[2].id}) {
		t.Fatalf("odd %q, %v; want %s", others, ok, hubs[2].id)
	}
	if _, own := a.Beacon(); !bytes.Equal(own[:], majority) {
		t.Error("the majority is not what the healthy ones have")
	}
}
