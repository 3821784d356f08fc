package rpc

import (
	"context"
	"fmt"
	"time"
)

// roomInterval is how often the leader looks whether there is room on its disk.
const roomInterval = time.Second

// keepRoom hands leadership to a hub that has more room, once the disk of this one is so full that it takes no changes:
// as a follower it is no hindrance. It returns when it has tried, which is done once per leadership, or ctx ends.
func (k *core) keepRoom(ctx context.Context) {
	ticks, stop := k.ticker(roomInterval)
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		full := k.store.DiskLow()
		if full == nil {
			continue
		}
		to, err := k.roomiest(ctx)
		if err != nil {
			k.log.WarnContext(ctx, "nobody can take leadership from this hub, whose disk is too full for it", "disk", full, "error", err)
		}
		if to == "" {
			continue
		}
		k.log.WarnContext(ctx, "this hub's disk is too full to lead", "disk", full, "to", to)
		if err := k.store.TransferLeadership(ctx, to); err != nil && ctx.Err() == nil {
			k.log.ErrorContext(ctx, "leadership could not be handed over, so nothing can be saved until there is room", "disk", full, "error", err)
		}
		return
	}
}

// roomiest returns the voter with most room, if that is more than twice what this hub has: so that leadership never goes
// round in circles. "" if there is none.
func (k *core) roomiest(ctx context.Context) (id string, err error) {
	members, err := k.store.Members()
	if err != nil {
		return "", fmt.Errorf("look for a disk with room: %w", err)
	}
	most := 2 * k.diskFree()
	for _, d := range k.describeAll(ctx, members) {
		if !d.Self && d.Voter && d.DescribeResponse != nil && d.Fault == "" && d.DiskFreeBytes > most {
			id, most = d.ID, d.DiskFreeBytes
		}
	}
	return id, nil
}
