package state

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// Restoration is how a state from a backup takes the place of a cluster's own.
type Restoration struct {
	// Index is a log index greater than every one in both states.
	Index uint64
	// At is the proposer's clock, Unix nanoseconds.
	At int64
	// Adopt gives the cluster the backup's identity: its ID and its certificate authority.
	Adopt bool
	// Who asked for it, and from where; for the audit.
	Actor, ActorAddress string
}

// Restore returns the state a cluster goes on with when backup takes the place of current. Everything is the backup's
// but for what must not go back: the epoch rises above both, push numbers and time don't fall, the members stay those of
// current (a hub that only the backup knows counts as removed), the open term stays open, and edges that were revoked
// stay revoked. Edges are told to ask anew about every token they know. Half-staged batches are dropped.
func Restore(current, backup *State, r Restoration) (*State, error) {
	now := max(current.cluster.Now, r.At)
	x := begin(backup, r.Index, &gwv1.Command{Actor: r.Actor, ActorAddress: r.ActorAddress, ProposedAt: now})
	defer x.tx.Abort() // nothing, once committed
	if p := x.checkEnvelope(); p != nil {
		return nil, fmt.Errorf("restore: %s", p.Message)
	}
	x.cluster.Epoch = max(current.cluster.Epoch, backup.cluster.Epoch) + 1
	x.cluster.PushNumber = max(current.cluster.PushNumber, backup.cluster.PushNumber)
	x.cluster.FeatureLevel = max(current.cluster.FeatureLevel, backup.cluster.FeatureLevel)
	x.cluster.OpenTerm, x.cluster.OpenTermNode = current.cluster.OpenTerm, current.cluster.OpenTermNode
	if !r.Adopt && current.cluster.ClusterId != "" {
		own := proto.CloneOf(current.cluster)
		x.cluster.ClusterId, x.cluster.CaCertificate, x.cluster.SealedCaKey = own.ClusterId, own.CaCertificate, own.SealedCaKey
	}
	for _, c := range slices.Collect(list[*gwv1.AccessChangeRecord](x.tx, tableAccess, byID, nil)) {
		x.dropAccessChange(c)
	}
	x.cluster.AccessVersion, x.floor = r.Index, r.Index
	for _, b := range slices.Collect(list[*gwv1.StagedBlob](x.tx, tableStaged, byID, nil)) {
		x.dropStaged(b)
	}
	x.keepHubs(current)
	x.keepRevocations(current)
	x.audit("restore", "cluster/"+x.cluster.ClusterId, "")
	if x.err != nil {
		return nil, fmt.Errorf("restore: %w", x.err)
	}
	next, _, _ := x.commit()
	return next, nil
}

// keepHubs makes the hubs those of current.
func (x *change) keepHubs(current *State) {
	for _, h := range slices.Collect(list[*gwv1.HubRecord](x.tx, tableHubs, byID, nil)) {
		if _, ok := current.Hub(h.Id); !ok && !h.Removed {
			gone := proto.CloneOf(h)
			gone.Removed = true
			x.put(tableHubs, gone)
		}
	}
	for h := range current.Hubs() {
		x.put(tableHubs, h)
	}
}

// keepRevocations adds the revocations of current: a stolen edge must not come back with a backup.
func (x *change) keepRevocations(current *State) {
	for r := range list[*gwv1.RevocationRecord](current.db.Txn(false), tableRevocations, byID, nil) {
		if was, ok := one[*gwv1.RevocationRecord](x.tx, tableRevocations, byID, []byte(r.EdgeId)); !ok || was.Before < r.Before {
			x.put(tableRevocations, r)
		}
	}
}
