package state

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// enrollHub uses the join token up by one and registers the hub. A hub that lost its certificate enrols again under its
// ID; one that was removed never does, because its directory holds votes and entries of a cluster that has gone on.
func (x *change) enrollHub(m *gwv1.EnrollHub) *gwv1.Refusal {
	if m.GetHub() == nil {
		return invalid("no hub")
	}
	if p := validHub(m.Hub); p != "" {
		return invalid(p)
	}
	if m.Hub.Removed {
		return invalid("a hub that enrols can't be a removed one")
	}
	t, ok := one[*gwv1.JoinTokenRecord](x.tx, tableJoinTokens, byID, []byte(m.JoinTokenId))
	if !ok {
		return notFound("join token", m.JoinTokenId)
	}
	if r := x.admits(t, roleHub, ""); r != nil {
		return r
	}
	h := proto.CloneOf(m.Hub)
	if old, ok := x.hub(h.Id); ok {
		if old.Removed {
			return hubRemoved(h.Id)
		}
		h.JoinedAt = old.JoinedAt
		if h.Address == "" {
			h.Address = old.Address
		}
	} else if h.JoinedAt == 0 {
		h.JoinedAt = x.at
	}
	used := proto.CloneOf(t)
	used.Uses++
	x.put(tableJoinTokens, used)
	x.put(tableHubs, h)
	x.audit("enroll_hub", "hub/"+h.Id, "")
	return nil
}

// putHub records where a hub is reached and what it runs. The hub that founded the cluster enters itself so.
func (x *change) putHub(m *gwv1.PutHubRecord) *gwv1.Refusal {
	if m.GetHub() == nil {
		return invalid("no hub")
	}
	if p := validHub(m.Hub); p != "" {
		return invalid(p)
	}
	if m.Hub.Removed {
		return invalid("a hub is removed by another command")
	}
	h := proto.CloneOf(m.Hub)
	if old, ok := x.hub(h.Id); ok {
		if old.Removed {
			return hubRemoved(h.Id)
		}
		h.JoinedAt = old.JoinedAt
		if proto.Equal(old, h) {
			return nil
		}
	} else if h.JoinedAt == 0 {
		h.JoinedAt = x.at
	}
	x.put(tableHubs, h)
	x.audit("put_hub", "hub/"+h.Id, "")
	return nil
}

// removeHub marks a hub as removed, for good. One that was never entered is marked too: it may still have a
// certificate.
func (x *change) removeHub(m *gwv1.RemoveHubRecord) *gwv1.Refusal {
	if p := idProblem("hub ID", m.GetId()); p != "" {
		return invalid(p)
	}
	h := &gwv1.HubRecord{Id: m.Id}
	if old, ok := x.hub(m.Id); ok {
		if old.Removed {
			return nil
		}
		h = proto.CloneOf(old)
	}
	h.Removed = true
	x.put(tableHubs, h)
	x.audit("remove_hub", "hub/"+h.Id, "")
	return nil
}

func (x *change) hub(id string) (*gwv1.HubRecord, bool) {
	return one[*gwv1.HubRecord](x.tx, tableHubs, byID, []byte(id))
}

func hubRemoved(id string) *gwv1.Refusal {
	return refuse(gwv1.RefusalCode_REFUSAL_CODE_DENIED, "removed",
		fmt.Sprintf("hub %q was removed from the cluster; it can join again with an empty data directory", shown(id)))
}

// raiseEpoch makes what was released before older than everything released from now on.
func (x *change) raiseEpoch(m *gwv1.RaiseEpoch) *gwv1.Refusal {
	if x.cluster.ClusterId == "" {
		return refuse(gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION, "no_cluster", "the cluster has no ID yet")
	}
	if m.GetAtLeast() > math.MaxInt64 || x.cluster.Epoch > math.MaxInt64 {
		return invalid("epoch: want less than 2^63")
	}
	x.cluster.Epoch = max(x.cluster.Epoch+1, m.GetAtLeast())
	x.audit("raise_epoch", fmt.Sprintf("cluster/%s", x.cluster.ClusterId), "")
	return nil
}
