package rpc

import (
	"context"
	"fmt"
	"slices"
	"time"

	"gw/raftstore"
	"gw/rpc/gwv1"
)

const (
	// hubsInterval is how often the leader looks whether what is recorded of hubs is true.
	hubsInterval = 15 * time.Second
	// announceInterval is how often a hub that follows looks whether the members know where it is reached.
	announceInterval = 3 * time.Second
)

// keepHubs keeps what is recorded of hubs true until ctx ends.
func (k *core) keepHubs(ctx context.Context) {
	ticks, stop := k.ticker(hubsInterval)
	defer stop()
	for {
		if err := k.recordHubs(ctx); err != nil && ctx.Err() == nil {
			k.log.WarnContext(ctx, "hubs could not be recorded; they will be again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
	}
}

// recordHubs records where every member is reached and what it runs, and takes out those that were removed and are still
// members, because removing them was cut short.
func (k *core) recordHubs(ctx context.Context) error {
	if k.address == "" {
		return nil // alone, and not to be reached
	}
	members, err := k.store.Members()
	if err != nil {
		return err
	}
	for _, d := range k.describeAll(ctx, members) {
		was, known := k.store.State().Hub(d.ID)
		if was.GetRemoved() {
			if err := k.store.RemoveMember(ctx, d.ID); err != nil {
				return fmt.Errorf("take out hub %s: %w", d.ID, err)
			}
			continue
		}
		now := &gwv1.HubRecord{Id: d.ID, Address: d.Address, Version: was.GetVersion(), FeatureLevel: was.GetFeatureLevel(), JoinedAt: was.GetJoinedAt()}
		if d.DescribeResponse != nil {
			now.Version, now.FeatureLevel = clip(d.DescribeResponse.Version, 128), d.DescribeResponse.FeatureLevel
		}
		if !known {
			now.JoinedAt = k.now().UnixNano()
		}
		if known && was.Address == now.Address && was.Version == now.Version && was.FeatureLevel == now.FeatureLevel {
			continue
		}
		if err := k.putHub(ctx, now); err != nil {
			return err
		}
	}
	return nil
}

// announce tells the leader, until ctx ends, when this hub is reached at another address than the members know.
func (k *core) announce(ctx context.Context) {
	if k.address == "" || k.peerTransport == nil {
		return
	}
	ticks, stop := k.ticker(announceInterval)
	defer stop()
	for {
		if err := k.announceAddress(ctx); err != nil && ctx.Err() == nil {
			k.log.WarnContext(ctx, "the leader could not be told where this hub is reached now", "address", k.address, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
	}
}

func (k *core) announceAddress(ctx context.Context) error {
	leader, _ := k.leaderNow()
	members, err := k.store.Members()
	if err != nil || leader == "" {
		return err
	}
	moved := slices.ContainsFunc(members, func(m raftstore.Member) bool { return m.Self && m.Address != k.address })
	if !moved {
		return nil
	}
	client, err := k.peer(leader)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*dialBackTimeout)
	defer cancel()
	_, err = client.AddHub(ctx, &gwv1.AddHubRequest{Address: k.address, Version: clip(k.version, 128)})
	return err
}
