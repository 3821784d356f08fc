package raftstore

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
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

// KeepBeacon is a duty of the leader: it proposes a beacon now and after every Config.BeaconInterval. It blocks like
// LeadDuties.
func (s *Store) KeepBeacon(ctx context.Context) error {
	return s.LeadDuties(ctx, func(ctx context.Context) error {
		for {
			_, err := s.Propose(ctx, &gwv1.Command{Body: &gwv1.Command_Beacon{Beacon: &gwv1.Beacon{}}})
			if err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotLeader) {
				s.log.Warn("no beacon", "error", err)
			}
			select {
			case <-time.After(s.config.beaconInterval()):
			case <-ctx.Done():
				return nil
			}
		}
	})
}

// Compare takes what hubs (by their ID) have for one and the same beacon. It returns the digest that more than half of
// them have, and the IDs of those that have another, sorted. ok is false if no digest has such a majority: then nobody
// can say who is right.
func Compare(digests map[string][32]byte) (majority [32]byte, odd []string, ok bool) {
	votes := map[[32]byte]int{}
	for _, d := range digests {
		votes[d]++
	}
	for d, n := range votes {
		if 2*n > len(digests) {
			majority, ok = d, true
		}
	}
	if !ok {
		return [32]byte{}, nil, false
	}
	for id, d := range digests {
		if d != majority {
			odd = append(odd, id)
		}
	}
	slices.SortFunc(odd, cmp.Compare)
	return majority, odd, true
}
