package raftstore

import (
	"bytes"
	"slices"
	"sync"

	"gw/raftstore/state"
)

// beacons takes the state at each beacon from where commands are applied, and digests it elsewhere.
type beacons struct {
	waiting chan *state.State // at most one, the newest

	mu     *sync.Mutex
	newest *sighting
}

// sighting is the digest of a whole state at the index of a beacon.
type sighting struct {
	index  uint64
	digest [32]byte
}

func newBeacons() beacons {
	return beacons{waiting: make(chan *state.State, 1), mu: &sync.Mutex{}, newest: &sighting{}}
}

// pass hands a state on. Only one goroutine calls it.
func (b beacons) pass(s *state.State) {
	select {
	case <-b.waiting: // an older one, which nobody will ask for any more
	default:
	}
	b.waiting <- s
}

// run digests until done ends.
func (b beacons) run(done <-chan struct{}) {
	for {
		select {
		case s := <-b.waiting:
			d := s.Digest()
			b.mu.Lock()
			*b.newest = sighting{s.Index(), d}
			b.mu.Unlock()
		case <-done:
			return
		}
	}
}

// Beacon returns the log index of the newest beacon that was applied and digested here, and the digest of the whole
// state at exactly that index, which must be the same on every hub; 0 if there was none since the store was opened.
func (s *Store) Beacon() (index uint64, digest [32]byte) {
	b := s.machine.beacons
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.newest.index, b.newest.digest
}

// Sighting is what a member has for a beacon.
type Sighting struct {
	// ID of the hub.
	ID    string
	Voter bool
	// Digest is that of its state at the beacon; nil if it hasn't told.
	Digest []byte
}

// Compare decides who is right about one beacon, whose members are all of the cluster's. It returns the digest that more
// than half of the voters have, and the IDs of the members, voters or not, that have another, sorted. A voter that is
// silent still counts as one: ok is false if those that agree are not more than half of all, for then nobody can say who
// is right.
func Compare(members []Sighting) (majority []byte, odd []string, ok bool) {
	voters, with := 0, map[string]int{}
	for _, m := range members {
		if m.Voter {
			voters++
			if m.Digest != nil {
				with[string(m.Digest)]++
			}
		}
	}
	for d, n := range with {
		if 2*n > voters {
			majority, ok = []byte(d), true
		}
	}
	if !ok {
		return nil, nil, false
	}
	for _, m := range members {
		if m.Digest != nil && !bytes.Equal(m.Digest, majority) {
			odd = append(odd, m.ID)
		}
	}
	slices.Sort(odd)
	return majority, odd, true
}
