package state

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

func (x *change) putJoinToken(m *gwv1.PutJoinTokenRecord) *gwv1.Refusal {
	t := m.GetJoinToken()
	if t == nil {
		return invalid("no join token")
	}
	if p := validJoinToken(t); p != "" {
		return invalid(p)
	}
	if t.Uses != 0 {
		return invalid("a new join token can't have been used")
	}
	if _, ok := one[*gwv1.JoinTokenRecord](x.tx, tableJoinTokens, byID, []byte(t.Id)); ok {
		return exists("join token", t.Id)
	}
	x.put(tableJoinTokens, t)
	x.audit("create_join_token", "join_token/"+t.Id, t.Namespace)
	return nil
}

func (x *change) deleteJoinToken(m *gwv1.DeleteJoinTokenRecord) *gwv1.Refusal {
	t, ok := one[*gwv1.JoinTokenRecord](x.tx, tableJoinTokens, byID, []byte(m.GetId()))
	if !ok {
		return notFound("join token", m.GetId())
	}
	x.drop(tableJoinTokens, t)
	x.audit("delete_join_token", "join_token/"+t.Id, t.Namespace)
	return nil
}

// enrollEdge uses the join token up by one and registers the edge. An edge that lost its disk enrols again under its
// ID; an ID registered in another namespace is somebody else's.
func (x *change) enrollEdge(m *gwv1.EnrollEdge) *gwv1.Refusal {
	if m.GetEdge() == nil {
		return invalid("no edge")
	}
	if p := validEdge(m.Edge); p != "" {
		return invalid(p)
	}
	t, ok := one[*gwv1.JoinTokenRecord](x.tx, tableJoinTokens, byID, []byte(m.JoinTokenId))
	if !ok {
		return notFound("join token", m.JoinTokenId)
	}
	if r := x.admits(t, roleEdge, m.Edge.Namespace); r != nil {
		return r
	}
	used := proto.CloneOf(t)
	used.Uses++
	x.put(tableJoinTokens, used)
	e := proto.CloneOf(m.Edge)
	if old, ok := one[*gwv1.EdgeRecord](x.tx, tableEdges, byID, []byte(e.Id)); ok {
		if old.Namespace != e.Namespace {
			return refuse(gwv1.RefusalCode_REFUSAL_CODE_ALREADY_EXISTS, "already_exists",
				fmt.Sprintf("edge ID %q is registered in another namespace; remove that edge first", e.Id))
		}
		e.FirstSeen = old.FirstSeen
	} else if e.FirstSeen == 0 {
		e.FirstSeen = x.at
	}
	x.put(tableEdges, e)
	x.noteOutcomes(e.Id, e)
	x.audit("enroll_edge", "edge/"+e.Id, e.Namespace)
	return nil
}

// admits compares with the command's own time: the cluster's may have been set ahead by another hub's clock.
func (x *change) admits(t *gwv1.JoinTokenRecord, role, namespace string) *gwv1.Refusal {
	denied := func(reason, message string) *gwv1.Refusal {
		return refuse(gwv1.RefusalCode_REFUSAL_CODE_DENIED, reason, message)
	}
	switch {
	case t.ExpiresAt <= x.command.ProposedAt:
		return denied("token_expired", "the join token has expired")
	case t.MaxUses > 0 && t.Uses >= t.MaxUses:
		return denied("token_used_up", "the join token is used up")
	case t.Role != role:
		return denied("forbidden", "the join token is for another role")
	case t.Namespace != namespace:
		return denied("forbidden", "the join token is for another namespace")
	}
	return nil
}

// updateEdges records what the leader saw of edges. The batch may have been made before an edge enrolled anew, so of
// two certificates the one that lasts longer is the newer, and with it goes the namespace it names.
func (x *change) updateEdges(m *gwv1.UpdateEdges) *gwv1.Refusal {
	for _, e := range m.GetEdges() {
		if p := validEdge(e); p != "" {
			return invalid(p)
		}
	}
	for _, seen := range m.GetEdges() {
		e := proto.CloneOf(seen)
		old, ok := one[*gwv1.EdgeRecord](x.tx, tableEdges, byID, []byte(e.Id))
		if ok {
			e.FirstSeen = old.FirstSeen
			if old.CertificateNotAfter > e.CertificateNotAfter {
				e.Namespace, e.CertificateSerial, e.CertificateNotAfter = old.Namespace, old.CertificateSerial, old.CertificateNotAfter
			}
			if proto.Equal(old, e) {
				continue
			}
		} else if e.FirstSeen == 0 {
			e.FirstSeen = x.at
		}
		x.put(tableEdges, e)
		x.noteOutcomes(e.Id, e)
	}
	return nil
}

func (x *change) removeEdge(m *gwv1.RemoveEdgeRecord) *gwv1.Refusal {
	e, ok := one[*gwv1.EdgeRecord](x.tx, tableEdges, byID, []byte(m.GetId()))
	if !ok {
		return notFound("edge", m.GetId())
	}
	x.drop(tableEdges, e)
	x.noteOutcomes(e.Id, nil)
	x.audit("remove_edge", "edge/"+e.Id, e.Namespace)
	return nil
}
