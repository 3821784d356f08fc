package rpc

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"gw/raftstore"
	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

// describeTimeout is how long a hub may take to say how it is before it counts as unreachable.
const describeTimeout = time.Second

// peer returns a client of the hub at an address.
func (k *core) peer(address string) (gwv1connect.HubServiceClient, error) {
	if k.peerTransport == nil {
		return nil, &Error{Reason: ReasonUnreachable, Message: "this hub reaches no other"}
	}
	return gwv1connect.NewHubServiceClient(&http.Client{Transport: k.peerTransport}, "https://"+address,
		connect.WithReadMaxBytes(maxHubRequest)), nil
}

// described is what a member said of itself.
type described struct {
	raftstore.Member
	*gwv1.DescribeResponse       // nil: it did not answer
	err                    error // why
}

// describeAll asks every member how it is, all at once, this hub too; the order is that of the members.
func (k *core) describeAll(ctx context.Context, members []raftstore.Member) []described {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	all := make([]described, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		all[i].Member = m
		if m.Self {
			all[i].DescribeResponse = k.describe()
			continue
		}
		wg.Go(func() { all[i].DescribeResponse, all[i].err = k.askToDescribe(ctx, m) })
	}
	wg.Wait()
	return all
}

func (k *core) askToDescribe(ctx context.Context, m raftstore.Member) (*gwv1.DescribeResponse, error) {
	client, err := k.peer(m.Address)
	if err != nil {
		return nil, err
	}
	d, err := client.Describe(ctx, &gwv1.DescribeRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask hub %s at %s: %w", m.ID, m.Address, err)
	}
	if d.Id != m.ID {
		return nil, &Error{Reason: ReasonUnreachable, Message: fmt.Sprintf("at %s answers hub %s instead of %s", m.Address, d.Id, m.ID)}
	}
	return d, nil
}

// describe says how this hub is.
func (k *core) describe() *gwv1.DescribeResponse {
	d := &gwv1.DescribeResponse{
		Id: k.store.NodeID(), Version: k.version, AppliedIndex: k.store.State().Index(), Term: k.store.Term(),
		Hubs: k.hubAddresses(), FeatureLevel: FeatureLevel, LeaderContact: leaderContact(k.store.LeaderContact()),
		DiskFreeBytes: k.diskFree(), Plugins: k.plugins.Processes(),
	}
	d.LeaderId, d.LeaderAddress = k.store.Leader()
	if err := k.fault(); err != nil {
		d.Fault = err.Error()
	}
	if index, digest := k.store.Beacon(); index > 0 {
		d.BeaconIndex, d.BeaconDigest = index, digest[:]
	}
	return d
}

// fault is why this hub has stopped serving; nil if it hasn't.
func (k *core) fault() error { return cmp.Or(k.store.Err(), k.store.Halted()) }

// hubAddresses returns every member and where it is reached, sorted by ID.
func (k *core) hubAddresses() []*gwv1.HubAddress {
	members, err := k.store.Members()
	if err != nil {
		return nil
	}
	var all []*gwv1.HubAddress
	for _, m := range members {
		all = append(all, &gwv1.HubAddress{Id: m.ID, Address: m.Address})
	}
	slices.SortFunc(all, func(a, b *gwv1.HubAddress) int { return cmp.Compare(a.Id, b.Id) })
	return all
}
