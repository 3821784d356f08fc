package rpc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/raftstore"
	"gw/rpc/gwv1"
)

// ClusterServer shows the hubs and changes which there are.
type ClusterServer struct{ *core }

// transferTime is how long the hub that was given leadership may take to be seen as leader.
const transferTime = 5 * time.Second

// GetClusterStatus says how every hub is, as the answering hub sees it; the leader sees most.
func (s *ClusterServer) GetClusterStatus(ctx context.Context, r *gwv1.GetClusterStatusRequest) (*gwv1.GetClusterStatusResponse, error) {
	if _, err := admit(ctx, r, RoleViewer); err != nil {
		return nil, err
	}
	members, err := s.store.Members()
	if err != nil {
		return nil, fmt.Errorf("show the cluster: %w", err)
	}
	c := s.store.State().Cluster()
	leader, _ := s.store.Leader()
	answer := &gwv1.GetClusterStatusResponse{
		ClusterId: c.ClusterId, Epoch: c.Epoch, LeaderId: leader, Term: s.store.Term(),
		CommitIndex: s.store.CommitIndex(), AnsweredBy: s.store.NodeID(),
	}
	all := s.describeAll(ctx, members)
	for _, d := range all { // a follower learns of commits a little later than those that are ahead of it
		answer.CommitIndex = max(answer.CommitIndex, d.DescribeResponse.GetAppliedIndex())
	}
	for _, d := range all {
		answer.Hubs = append(answer.Hubs, s.statusOf(d, answer.CommitIndex))
	}
	answer.FailureTolerance = tolerance(answer.Hubs)
	answer.Alarms = s.alarms(answer)
	return answer, nil
}

func (s *ClusterServer) statusOf(d described, commit uint64) *gwv1.HubStatus {
	h := &gwv1.HubStatus{Id: d.ID, Address: d.Address, Voter: d.Voter, Role: gwv1.HubRole_HUB_ROLE_FOLLOWER}
	switch {
	case d.DescribeResponse == nil:
		h.Role = gwv1.HubRole_HUB_ROLE_UNREACHABLE
	case d.Leader:
		h.Role = gwv1.HubRole_HUB_ROLE_LEADER
	case !d.Voter:
		h.Role = gwv1.HubRole_HUB_ROLE_LEARNER
	}
	if record, ok := s.store.State().Hub(d.ID); ok {
		h.Version = record.Version
	}
	h.AppliedIndex = d.Match // until it says so itself
	if say := d.DescribeResponse; say != nil {
		h.AppliedIndex, h.Version, h.DiskFreeBytes, h.Fault = say.AppliedIndex, say.Version, say.DiskFreeBytes, say.Fault
	}
	h.Lag = commit - min(commit, h.AppliedIndex)
	switch {
	case d.LastContact >= 0:
		h.LastContact = timestamppb.New(s.now().Add(-d.LastContact))
	case d.DescribeResponse.GetLeaderContact() != nil:
		h.LastContact = timestamppb.New(s.now().Add(-d.LeaderContact.AsDuration()))
	}
	return h
}

// sound reports whether a hub answers and serves.
func sound(h *gwv1.HubStatus) bool {
	return h.Role != gwv1.HubRole_HUB_ROLE_UNREACHABLE && h.Fault == ""
}

// tolerance is how many of the voters that are sound now may fail before there is no majority.
func tolerance(hubs []*gwv1.HubStatus) uint32 {
	voters, good := votersOf(hubs)
	return uint32(max(0, good-(voters/2+1)))
}

func votersOf(hubs []*gwv1.HubStatus) (voters, good int) {
	for _, h := range hubs {
		if h.Voter {
			voters++
			if sound(h) {
				good++
			}
		}
	}
	return voters, good
}

const (
	// lowDisk is when a hub's disk is worth a word, farLag when its lag is.
	lowDisk = 512 << 20
	farLag  = 10_000
)

// alarms are sentences about what needs attention, the worst first.
func (s *ClusterServer) alarms(a *gwv1.GetClusterStatusResponse) []string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	voters, good := votersOf(a.Hubs)
	if a.LeaderId == "" {
		say("no hub leads: nothing can be changed until one does")
	}
	if good < voters/2+1 {
		say("%d of %d voters answer, which is no majority: nothing can be changed until another one does", good, voters)
	}
	if alarm := s.beacons.get(); alarm != "" {
		all = append(all, alarm)
	}
	versions := map[string]bool{}
	for _, h := range a.Hubs {
		switch {
		case h.Fault != "":
			say("hub %s at %s has stopped serving: %s", h.Id, h.Address, h.Fault)
		case !sound(h):
			say("hub %s at %s does not answer: start it again, or remove it with `gw cluster remove %s`", h.Id, h.Address, h.Id)
		case !h.Voter:
			say("hub %s at %s has no vote yet", h.Id, h.Address)
		case h.Lag > farLag:
			say("hub %s at %s is %d entries behind", h.Id, h.Address, h.Lag)
		}
		if h.DiskFreeBytes > 0 && h.DiskFreeBytes < lowDisk {
			say("hub %s at %s has %d MiB of disk left", h.Id, h.Address, h.DiskFreeBytes>>20)
		}
		if h.Version != "" {
			versions[h.Version] = true
		}
	}
	if voters > 1 && a.FailureTolerance == 0 && good >= voters/2+1 {
		say("no voter may fail: the next failure stops all changes")
	}
	if len(versions) > 1 {
		say("hubs run different versions: %s", strings.Join(slices.Sorted(mapKeys(versions)), ", "))
	}
	return all
}

func mapKeys(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// RemoveHub takes a hub out of the cluster for good: its ID is never a member again.
func (s *ClusterServer) RemoveHub(ctx context.Context, r *gwv1.RemoveHubRequest) (*gwv1.RemoveHubResponse, error) {
	if _, err := admit(ctx, r, RoleAdmin, ""); err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	members, err := s.store.Members()
	if err != nil {
		return nil, fmt.Errorf("remove hub %s: %w", r.Id, err)
	}
	isMember := slices.ContainsFunc(members, func(m raftstore.Member) bool { return m.ID == r.Id })
	record, known := st.Hub(r.Id)
	if !known && !isMember {
		return nil, notFound("hub", r.Id)
	}
	if err := s.store.Removable(r.Id); err != nil {
		return nil, fmt.Errorf("remove hub %s: %w", r.Id, err)
	}
	if r.Id == s.store.NodeID() {
		// Whoever leads next removes it. This call says that it wasn't done here, and is passed on to that hub.
		return nil, s.store.RemoveMember(ctx, r.Id)
	}
	// Recorded first: a crash in between leaves a member that is refused, and that the leader's duties take out.
	if !record.GetRemoved() {
		_, err := s.change(ctx, &gwv1.Command{Body: &gwv1.Command_RemoveHub{RemoveHub: &gwv1.RemoveHubRecord{Id: r.Id}}})
		if err != nil {
			return nil, err
		}
	}
	if err := s.store.RemoveMember(ctx, r.Id); err != nil {
		return nil, fmt.Errorf("remove hub %s: %w", r.Id, err)
	}
	return &gwv1.RemoveHubResponse{}, nil
}

// TransferLeadership hands leadership over, and returns when another hub is seen to lead.
func (s *ClusterServer) TransferLeadership(ctx context.Context, r *gwv1.TransferLeadershipRequest) (*gwv1.TransferLeadershipResponse, error) {
	if _, err := admit(ctx, r, RoleAdmin, ""); err != nil {
		return nil, err
	}
	if _, err := s.read(ctx); err != nil { // only the leader can
		return nil, err
	}
	own := s.store.NodeID()
	if r.To == own {
		return &gwv1.TransferLeadershipResponse{LeaderId: own}, nil
	}
	if err := s.store.TransferLeadership(ctx, r.To); err != nil {
		return nil, fmt.Errorf("transfer leadership: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, transferTime)
	defer cancel()
	for {
		if id, _ := s.store.Leader(); id != "" && id != own {
			return &gwv1.TransferLeadershipResponse{LeaderId: id}, nil
		}
		if err := pauseAbout(ctx, 20*time.Millisecond); err != nil {
			return nil, &Error{Reason: ReasonUnknownOutcome, Message: "this hub has given leadership up, and no other is seen to have taken it yet"}
		}
	}
}
