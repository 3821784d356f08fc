package state

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

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
	t = proto.CloneOf(t)
	t.Made = x.stamp()
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
	if r := x.takeIn(t, m.Edge); r != nil {
		return r
	}
	x.audit("enroll_edge", "edge/"+m.Edge.Id, m.Edge.Namespace)
	return nil
}

// OldJoinToken says why an edge that was revoked can't come back by a join token from before that.
func OldJoinToken(r *gwv1.RevocationRecord) string {
	return fmt.Sprintf("edge %s was revoked by %s, and this join token is older than that; it needs one that was made since (gw join-token create)", r.EdgeId, r.By)
}

// takeIn registers an edge that enrols. One that was revoked comes back as a new one, and only by a join token that was made
// since: with one that it may have kept it would undo the revocation.
func (x *change) takeIn(t *gwv1.JoinTokenRecord, edge *gwv1.EdgeRecord) *gwv1.Refusal {
	e := proto.CloneOf(edge)
	if x.revoked(e) {
		return refuse(gwv1.RefusalCode_REFUSAL_CODE_CHANGED, "changed", fmt.Sprintf("edge %s was revoked in this moment; enrol again", e.Id))
	}
	if r, ok := one[*gwv1.RevocationRecord](x.tx, tableRevocations, byID, []byte(e.Id)); ok && t.Made < r.Before {
		return refuse(gwv1.RefusalCode_REFUSAL_CODE_DENIED, "revoked", OldJoinToken(r))
	}
	e.Retry = 0
	if old, ok := one[*gwv1.EdgeRecord](x.tx, tableEdges, byID, []byte(e.Id)); ok {
		if old.Namespace != e.Namespace {
			return refuse(gwv1.RefusalCode_REFUSAL_CODE_ALREADY_EXISTS, "already_exists",
				fmt.Sprintf("edge ID %q is registered in another namespace; remove that edge first", e.Id))
		}
		e.Retry = old.Retry
		if !x.revoked(old) {
			e.FirstSeen = old.FirstSeen
			e.Labels = bothLabels(old.Labels, e.Labels)
		}
	}
	if e.FirstSeen == 0 {
		e.FirstSeen = x.at
	}
	x.put(tableEdges, e)
	x.noteOutcomes(e.Id, e.Namespace, e)
	x.happened(e.Id, e.Namespace, &gwv1.TimelineEntry{Event: gwv1.TimelineEvent_TIMELINE_EVENT_ENROLLED, Text: "join token " + t.Id})
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
// two certificates the one that lasts longer is the newer, and with it goes the namespace it names. What admins decide
// is not taken from it.
func (x *change) updateEdges(m *gwv1.UpdateEdges) *gwv1.Refusal {
	for _, e := range m.GetEdges() {
		if p := validEdge(e); p != "" {
			return invalid(p)
		}
	}
	for _, seen := range m.GetEdges() {
		if x.revoked(seen) {
			continue // heard just before
		}
		e := proto.CloneOf(seen)
		old, ok := one[*gwv1.EdgeRecord](x.tx, tableEdges, byID, []byte(e.Id))
		if !ok {
			x.registerAgain(e)
			continue
		}
		e.FirstSeen, e.Labels, e.Ephemeral, e.Retry = old.FirstSeen, old.Labels, old.Ephemeral, old.Retry
		if old.CertificateNotAfter > e.CertificateNotAfter {
			e.Namespace, e.CertificateSerial, e.CertificateNotAfter, e.Lineage = old.Namespace, old.CertificateSerial, old.CertificateNotAfter, old.Lineage
		}
		if old.Namespace != e.Namespace {
			e.Labels = nil // an admin gave them to an edge of the other namespace
		}
		if proto.Equal(old, e) {
			continue
		}
		x.put(tableEdges, e)
		x.noteOutcomes(e.Id, old.Namespace, e)
		x.happened(e.Id, e.Namespace, differences(old, e)...)
	}
	return nil
}

// registerAgain takes in an edge that has a certificate and no entry.
func (x *change) registerAgain(e *gwv1.EdgeRecord) {
	if e.FirstSeen == 0 {
		e.FirstSeen = x.at
	}
	e.Retry = 0
	x.put(tableEdges, e)
	x.noteOutcomes(e.Id, e.Namespace, e)
	x.happened(e.Id, e.Namespace, &gwv1.TimelineEntry{Event: gwv1.TimelineEvent_TIMELINE_EVENT_REGISTERED_AGAIN, Release: e.LoadedRelease})
}

func (x *change) removeEdge(m *gwv1.RemoveEdgeRecord) *gwv1.Refusal {
	e, ok := one[*gwv1.EdgeRecord](x.tx, tableEdges, byID, []byte(m.GetId()))
	if !ok {
		return notFound("edge", m.GetId())
	}
	x.drop(tableEdges, e)
	x.noteOutcomes(e.Id, e.Namespace, nil)
	x.happened(e.Id, e.Namespace, &gwv1.TimelineEntry{Event: gwv1.TimelineEvent_TIMELINE_EVENT_REMOVED, By: x.command.Actor})
	x.audit("remove_edge", "edge/"+e.Id, e.Namespace)
	return nil
}

// stamp is that of the command being applied: greater than every one before, over restores and recoveries too.
func (x *change) stamp() uint64 { return Stamp(x.cluster.Epoch, x.index) }

// Stamp orders commands by epoch and log index. Both are cut to what fits: 2^16 restores and 2^48 commands.
func Stamp(epoch, index uint64) uint64 {
	return min(epoch, 1<<16-1)<<48 | min(index, 1<<48-1)
}

// Stamp is that of the last command applied.
func (s *State) Stamp() uint64 { return Stamp(s.cluster.Epoch, s.index) }

// Revocation returns the newest revocation of an edge ID, whether or not there is an edge of that ID now.
func (s *State) Revocation(edgeID string) (*gwv1.RevocationRecord, bool) {
	return one[*gwv1.RevocationRecord](s.db.Txn(false), tableRevocations, byID, []byte(edgeID))
}

// Revocations are all that are kept, sorted by edge ID.
func (s *State) Revocations() iter.Seq[*gwv1.RevocationRecord] {
	return list[*gwv1.RevocationRecord](s.db.Txn(false), tableRevocations, byID, nil)
}

// Revoked returns the revocation that ends certificates of a lineage; nil if they are good.
func (s *State) Revoked(edgeID string, lineage uint64) *gwv1.RevocationRecord {
	if r, ok := s.Revocation(edgeID); ok && lineage < r.Before {
		return r
	}
	return nil
}

// revoked reports whether the certificate that a record speaks of was revoked.
func (x *change) revoked(e *gwv1.EdgeRecord) bool {
	r, ok := one[*gwv1.RevocationRecord](x.tx, tableRevocations, byID, []byte(e.Id))
	return ok && e.Lineage < r.Before
}

// revokeEdge ends every certificate that an edge ID has. The entry stays, to be seen.
func (x *change) revokeEdge(m *gwv1.RevokeEdgeRecord) *gwv1.Refusal {
	e, ok := one[*gwv1.EdgeRecord](x.tx, tableEdges, byID, []byte(m.GetId()))
	if !ok {
		return notFound("edge", m.GetId())
	}
	x.put(tableRevocations, &gwv1.RevocationRecord{EdgeId: e.Id, Before: x.stamp(), At: x.at, By: x.command.Actor})
	x.cluster.EdgeNotice = x.stamp()
	x.happened(e.Id, e.Namespace, &gwv1.TimelineEntry{Event: gwv1.TimelineEvent_TIMELINE_EVENT_REVOKED, By: x.command.Actor})
	x.audit("revoke_edge", "edge/"+e.Id, e.Namespace)
	return nil
}

// forgetRevocation drops a revocation that is older than any certificate that could still be used, and with it the
// entry of an edge that never enrolled again.
func (x *change) forgetRevocation(r *gwv1.RevocationRecord) {
	e, ok := one[*gwv1.EdgeRecord](x.tx, tableEdges, byID, []byte(r.EdgeId))
	if ok && e.Lineage < r.Before {
		x.drop(tableEdges, e)
		x.noteOutcomes(e.Id, e.Namespace, nil)
		x.happened(e.Id, e.Namespace, &gwv1.TimelineEntry{Event: gwv1.TimelineEvent_TIMELINE_EVENT_REMOVED, Text: "long revoked"})
	}
	x.drop(tableRevocations, r)
}

// retryEdge raises the value at which an edge's rejections count.
func (x *change) retryEdge(m *gwv1.RetryEdgeRecord) *gwv1.Refusal {
	old, ok := one[*gwv1.EdgeRecord](x.tx, tableEdges, byID, []byte(m.GetId()))
	if !ok {
		return notFound("edge", m.GetId())
	}
	if x.revoked(old) {
		return refuse(gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION, "revoked",
			fmt.Sprintf("edge %s is revoked: no hub talks to it before it enrols again", old.Id))
	}
	e := proto.CloneOf(old)
	e.Retry = x.stamp()
	x.cluster.EdgeNotice = e.Retry
	x.put(tableEdges, e)
	x.happened(e.Id, e.Namespace, &gwv1.TimelineEntry{Event: gwv1.TimelineEvent_TIMELINE_EVENT_RETRY_ASKED, By: x.command.Actor})
	x.audit("retry_edge", "edge/"+e.Id, e.Namespace)
	return nil
}

// labelEdge changes the labels it names and leaves the others.
func (x *change) labelEdge(m *gwv1.LabelEdgeRecord) *gwv1.Refusal {
	old, ok := one[*gwv1.EdgeRecord](x.tx, tableEdges, byID, []byte(m.GetId()))
	if !ok {
		return notFound("edge", m.GetId())
	}
	e := proto.CloneOf(old)
	if e.Labels == nil {
		e.Labels = make(map[string]string, len(m.Set))
	}
	for _, k := range m.Remove {
		delete(e.Labels, k)
	}
	maps.Copy(e.Labels, m.Set)
	if p := labelsProblem(e.Labels); p != "" {
		return invalid(p)
	}
	if maps.Equal(e.Labels, old.Labels) {
		return nil
	}
	x.put(tableEdges, e)
	x.happened(e.Id, e.Namespace, &gwv1.TimelineEntry{Event: gwv1.TimelineEvent_TIMELINE_EVENT_LABELS_CHANGED, By: x.command.Actor, Text: shownLabels(e.Labels)})
	x.audit("label_edge", "edge/"+e.Id, e.Namespace)
	return nil
}

// bothLabels are an edge's labels when it enrols again: those it had, and its join token's, which win. If that is too many,
// its join token's alone.
func bothLabels(had, token map[string]string) map[string]string {
	if len(had) == 0 {
		return token
	}
	both := maps.Clone(had)
	maps.Copy(both, token)
	if labelsProblem(both) != "" {
		return token
	}
	return both
}

// shownLabels is "a=1 b=2".
func shownLabels(labels map[string]string) string {
	pairs := make([]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, k+"="+labels[k])
	}
	if len(pairs) == 0 {
		return "none left"
	}
	return strings.Join(pairs, " ")
}
