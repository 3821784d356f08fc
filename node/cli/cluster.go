package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
)

// Cluster is "gw cluster".
type Cluster struct {
	Status   ClusterStatus   `cmd:"" help:"Show the hubs, and how many may fail."`
	Remove   ClusterRemove   `cmd:"" help:"Take a hub out of the cluster for good."`
	Transfer ClusterTransfer `cmd:"" help:"Hand leadership to another hub."`
	Recover  ClusterRecover  `cmd:"" help:"Offline, when most hubs are lost for good: make this one the only voter."`
}

// Examples returns the examples of the command's help.
func (*Cluster) Examples() string {
	return `
gw cluster status
gw cluster transfer
gw cluster remove 4f2a9c1e`
}

// ClusterStatus is "gw cluster status".
type ClusterStatus struct {
	Stale
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*ClusterStatus) Examples() string {
	return `
gw cluster status
gw cluster status --stale
gw cluster status -o json | jq .failureTolerance`
}

// Run shows the hubs.
func (s *ClusterStatus) Run(ctx context.Context, c *Context) error {
	h, err := s.openStale(c, &s.Connection)
	if err != nil {
		return err
	}
	status, err := h.cluster.GetClusterStatus(ctx, &gwv1.GetClusterStatusRequest{})
	if err != nil {
		return err
	}
	if !s.forPeople() {
		return s.one(c, status)
	}
	return showCluster(c, status)
}

// showCluster prints the cluster, what is wrong with it, and its hubs.
func showCluster(c *Context, s *gwv1.GetClusterStatusResponse) error {
	colors := c.colors(c.Stdout)
	head := &table{headings: []string{"CLUSTER", printable(s.GetClusterId())}}
	head.add("epoch", itoa(s.GetEpoch()))
	head.add("leader", leaderCell(s))
	head.add("term", itoa(s.GetTerm()))
	head.add("commit index", itoa(s.GetCommitIndex()))
	head.add("tolerates", toleranceCell(s))
	head.add("answered by", shortHub(s.GetHubs(), s.GetAnsweredBy()))
	if err := head.write(c.Stdout, colors); err != nil {
		return err
	}
	for _, alarm := range s.GetAlarms() {
		fmt.Fprintln(c.Stdout, red.on("! "+strings.ReplaceAll(printable(alarm), "\n", " "), colors))
	}
	fmt.Fprintln(c.Stdout)
	t := &table{headings: []string{"HUB", "ADDRESS", "ROLE", "VOTE", "LAG", "VERSION", "LAST CONTACT", "DISK FREE", "FAULT"}}
	for _, h := range s.GetHubs() {
		vote := "yes"
		if !h.GetVoter() {
			vote = "no"
		}
		lag, free, contact := itoa(h.GetLag()), byteSize(h.GetDiskFreeBytes()), c.ago(h.GetLastContact())
		switch h.GetRole() {
		case gwv1.HubRole_HUB_ROLE_UNREACHABLE: // nobody knows
			lag, free = "", ""
		case gwv1.HubRole_HUB_ROLE_LEADER: // it needs none with itself
			contact = ""
		}
		t.add(shortHub(s.GetHubs(), h.GetId()), h.GetAddress(), roleCell(h), vote, lag, h.GetVersion(), contact, free, cell{h.GetFault(), red})
	}
	return t.write(c.Stdout, colors)
}

func leaderCell(s *gwv1.GetClusterStatusResponse) cell {
	if s.GetLeaderId() == "" {
		return cell{"none", red}
	}
	text := shortHub(s.GetHubs(), s.GetLeaderId())
	for _, h := range s.GetHubs() {
		if h.GetId() == s.GetLeaderId() {
			text += " at " + h.GetAddress()
		}
	}
	return cell{text, plainText}
}

// toleranceCell is the number of failures the cluster can take, and what that means.
func toleranceCell(s *gwv1.GetClusterStatusResponse) cell {
	voters, alive := countVoters(s.GetHubs(), "")
	number := counted(s.GetFailureTolerance(), "failure")
	switch {
	case s.GetLeaderId() == "":
		return cell{number + ": without a leader nothing can be changed; edges go on serving", red}
	case s.GetFailureTolerance() > 0:
		return cell{fmt.Sprintf("%s: %d of %d voters answer, %d are needed for changes", number, alive, voters, majority(voters)), green}
	case voters == 1:
		return cell{number + ": it is one hub alone; add two with: gw join-token create --role hub", yellow}
	case voters == 2:
		return cell{number + ": without either of the two voters nothing can be changed; add a third", yellow}
	default:
		return cell{fmt.Sprintf("%s: %d of %d voters answer, %d are needed for changes; bring the others back", number, alive, voters, majority(voters)), red}
	}
}

func majority(voters int) int { return voters/2 + 1 }

// countVoters counts the voters, and those of them that answer and serve. The hub with the ID without isn't counted.
func countVoters(hubs []*gwv1.HubStatus, without string) (voters, alive int) {
	for _, h := range hubs {
		if !h.GetVoter() || h.GetId() == without {
			continue
		}
		voters++
		if h.GetRole() != gwv1.HubRole_HUB_ROLE_UNREACHABLE && h.GetFault() == "" {
			alive++
		}
	}
	return voters, alive
}

func roleCell(h *gwv1.HubStatus) cell {
	colors := map[gwv1.HubRole]paint{gwv1.HubRole_HUB_ROLE_LEADER: green, gwv1.HubRole_HUB_ROLE_LEARNER: yellow, gwv1.HubRole_HUB_ROLE_UNREACHABLE: red}
	return cell{word(h.GetRole()), colors[h.GetRole()]}
}

const (
	shortHubID = 8
	// leastHubID is how many characters name a hub at least, so that a slip of the finger doesn't.
	leastHubID = 4
)

// shortHub returns as much of a hub's ID as tells it from the others, at least 8 characters.
func shortHub(hubs []*gwv1.HubStatus, id string) string {
	for n := shortHubID; n < len(id); n++ {
		if !slices.ContainsFunc(hubs, func(h *gwv1.HubStatus) bool { return h.GetId() != id && strings.HasPrefix(h.GetId(), id[:n]) }) {
			return id[:n]
		}
	}
	return id
}

// findHub returns the hub that an ID or its beginning names.
func findHub(hubs []*gwv1.HubStatus, id string) (*gwv1.HubStatus, error) {
	var found []*gwv1.HubStatus
	for _, h := range hubs {
		if h.GetId() == id {
			return h, nil
		}
		if strings.HasPrefix(h.GetId(), id) {
			found = append(found, h)
		}
	}
	switch {
	case len(id) < leastHubID:
		return nil, usageError("%q is too short for a hub's ID; give at least %d characters of it", id, leastHubID)
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0:
		return nil, fmt.Errorf("there is no hub %s in the cluster; see: gw cluster status", id)
	}
	text := fmt.Sprintf("%s is the beginning of more than one hub's ID:", id)
	for _, h := range found {
		text += "\n  " + h.GetId() + " at " + h.GetAddress()
	}
	return nil, usageError("%s", text)
}

// ClusterRemove is "gw cluster remove".
type ClusterRemove struct {
	ID  string `arg:"" name:"id" help:"The hub's ID, or enough of its beginning."`
	Yes bool   `short:"y" env:"-" help:"Don't ask."`
	Connection
}

// Examples returns the examples of the command's help.
func (*ClusterRemove) Examples() string {
	return "gw cluster remove 4f2a9c1e\ngw cluster remove 4f2a9c1e --yes"
}

// Run removes a hub, after saying what that means and asking.
func (r *ClusterRemove) Run(ctx context.Context, c *Context) error {
	h, err := r.open(c)
	if err != nil {
		return err
	}
	status, err := h.cluster.GetClusterStatus(ctx, &gwv1.GetClusterStatusRequest{})
	if err != nil {
		return err
	}
	one, err := findHub(status.GetHubs(), r.ID)
	if err != nil {
		return err
	}
	name := shortHub(status.GetHubs(), one.GetId())
	c.say("%s", removalMeans(status, one))
	if !r.Yes {
		if err := c.confirm(ctx, fmt.Sprintf("Remove hub %s at %s", name, one.GetAddress()), "--yes"); err != nil {
			return err
		}
	}
	// Gone in between, by a call of ours whose answer was lost or by somebody else's, is what was wanted.
	_, err = h.cluster.RemoveHub(ctx, &gwv1.RemoveHubRequest{Id: one.GetId()})
	if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
		return err
	}
	c.say("Removed hub %s.", name)
	return nil
}

// removalMeans says what removing a hub does.
func removalMeans(s *gwv1.GetClusterStatusResponse, one *gwv1.HubStatus) string {
	text := fmt.Sprintf("Hub %s at %s (%s) will stop serving and can't return as it is: to join again it needs an empty data directory and a new join token.",
		shortHub(s.GetHubs(), one.GetId()), one.GetAddress(), word(one.GetRole()))
	if one.GetRole() == gwv1.HubRole_HUB_ROLE_LEADER {
		text += "\nIt leads: until another is elected, changes wait a few seconds."
	}
	if !one.GetVoter() {
		return text + "\nIt has no vote, so as many hubs may fail afterwards as now."
	}
	voters, alive := countVoters(s.GetHubs(), one.GetId())
	switch spare := alive - majority(voters); {
	case voters == 0:
		return text + "\nIt is the only voter, so the cluster would end; the cluster will refuse."
	case spare < 0:
		return text + fmt.Sprintf("\nOf the %s left only %d would answer, and %d are needed; the cluster will refuse.", counted(voters, "voter"), alive, majority(voters))
	default:
		return text + fmt.Sprintf("\nAfterwards %d of %s answer, and the cluster tolerates %s.", alive, counted(voters, "voter"), counted(spare, "failure"))
	}
}

// ClusterTransfer is "gw cluster transfer".
type ClusterTransfer struct {
	To string `placeholder:"ID" help:"The hub that shall lead, or enough of its ID's beginning; default: whichever is most caught up."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*ClusterTransfer) Examples() string {
	return "gw cluster transfer\ngw cluster transfer --to 4f2a9c1e"
}

// Run hands leadership over.
func (t *ClusterTransfer) Run(ctx context.Context, c *Context) error {
	h, err := t.open(c)
	if err != nil {
		return err
	}
	req := new(gwv1.TransferLeadershipRequest)
	if t.To != "" {
		status, err := h.cluster.GetClusterStatus(ctx, &gwv1.GetClusterStatusRequest{})
		if err != nil {
			return err
		}
		to, err := findHub(status.GetHubs(), t.To)
		if err != nil {
			return err
		}
		req.To = to.GetId()
	}
	res, err := h.cluster.TransferLeadership(ctx, req)
	if err != nil {
		return err
	}
	if !t.forPeople() {
		return t.one(c, res)
	}
	c.say("Hub %s leads now.", shortHub(nil, res.GetLeaderId()))
	return nil
}
