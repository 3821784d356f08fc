package rpc

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"gw/raftstore"
	"gw/rpc/gwv1"
)

const (
	// BeaconInterval is the time between two comparisons of all hubs' states.
	BeaconInterval = 30 * time.Second
	// beaconPatience is how long hubs may take to reach a beacon; those that don't are compared at the next.
	beaconPatience = 10 * time.Second
	beaconLook     = 200 * time.Millisecond
)

// beacons is what the last comparison found.
type beacons struct {
	mu    sync.Mutex // guards alarm
	alarm string     // "" if nothing is wrong
}

func (b *beacons) set(alarm string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.alarm = alarm
}

func (b *beacons) get() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.alarm
}

// keepComparing compares the hubs' states every interval until ctx ends.
func (k *core) keepComparing(ctx context.Context) {
	ticks, stop := k.ticker(BeaconInterval)
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		members, err := k.store.Members()
		if err != nil || len(members) < 2 {
			continue // nobody to compare with
		}
		if err := k.compare(ctx); err != nil && ctx.Err() == nil {
			k.log.WarnContext(ctx, "the hubs' states could not be compared; they will be again", "error", err)
		}
	}
}

// compare has every hub compute the digest of its state at one index, and tells those that are wrong.
func (k *core) compare(ctx context.Context) error {
	result, err := k.propose(ctx, &gwv1.Command{Body: &gwv1.Command_Beacon{Beacon: &gwv1.Beacon{}}})
	if err != nil {
		return fmt.Errorf("light a beacon: %w", err)
	}
	reports, err := k.collect(ctx, result.Index)
	if err != nil {
		return err
	}
	sightings := make([]raftstore.Sighting, len(reports))
	for i, r := range reports {
		sightings[i] = raftstore.Sighting{ID: r.ID, Voter: r.Voter, Digest: r.digest}
	}
	right, odd, ok := raftstore.Compare(sightings)
	if !ok {
		if disagree(reports) {
			k.beacons.set(fmt.Sprintf("hubs disagree about the state at index %d, and no majority has the same: compare backups of each, and keep one", result.Index))
		}
		return nil
	}
	k.beacons.set("")
	for _, r := range reports {
		if !slices.Contains(odd, r.ID) {
			continue
		}
		k.log.ErrorContext(ctx, "a hub's state differs from most others'; it is told to stop", "hub", r.ID, "index", result.Index)
		k.beacons.set(fmt.Sprintf("hub %s had another state than most at index %d and was stopped: remove it, and let it join again with an empty directory", r.ID, result.Index))
		if r.Self {
			k.diverged(ctx, result.Index, r.digest, right)
			return nil
		}
		if err := k.condemn(ctx, r, result.Index, right); err != nil {
			k.log.WarnContext(ctx, "a hub that is wrong could not be told; it will be at the next beacon", "hub", r.ID, "error", err)
		}
	}
	return nil
}

// report is a member's digest at a beacon; nil if it hasn't told.
type report struct {
	raftstore.Member
	digest []byte
}

// collect asks until every member has reached a beacon, or it has taken too long.
func (k *core) collect(ctx context.Context, index uint64) ([]report, error) {
	members, err := k.store.Members()
	if err != nil {
		return nil, fmt.Errorf("compare states: %w", err)
	}
	patience, cancel := context.WithTimeout(ctx, beaconPatience)
	defer cancel()
	for {
		var reports []report
		missing := 0
		for _, d := range k.describeAll(patience, members) {
			r := report{Member: d.Member}
			if d.DescribeResponse != nil && d.BeaconIndex == index {
				r.digest = d.BeaconDigest
			} else {
				missing++
			}
			reports = append(reports, r)
		}
		if missing == 0 || pauseAbout(patience, beaconLook) != nil {
			return reports, ctx.Err()
		}
	}
}

func disagree(reports []report) bool {
	var first []byte
	for _, r := range reports {
		switch {
		case r.digest == nil:
		case first == nil:
			first = r.digest
		case !bytes.Equal(first, r.digest):
			return true
		}
	}
	return false
}

func (k *core) condemn(ctx context.Context, r report, index uint64, right []byte) error {
	client, err := k.peer(r.Address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	_, err = client.Verdict(ctx, &gwv1.VerdictRequest{BeaconIndex: index, Digest: right})
	return err
}

// diverged stops this hub, whose state is not the cluster's.
func (k *core) diverged(ctx context.Context, index uint64, own, right []byte) {
	k.log.ErrorContext(ctx, "this hub's state differs from most others'; it stops", "index", index,
		"digest", fmt.Sprintf("%x", own), "majority", fmt.Sprintf("%x", right))
	k.store.Halt(fmt.Sprintf("its state at index %d differs from that of most hubs: remove it, and let it join again with an empty directory", index))
}
