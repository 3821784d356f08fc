package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/rpc/gwv1"
)

// Edges is "gw edges".
type Edges struct {
	Show   EdgesShow   `cmd:"" default:"withargs" help:"List edges, or show one."`
	Label  EdgesLabel  `cmd:"" help:"Set or remove labels of an edge."`
	Retry  EdgesRetry  `cmd:"" help:"Make an edge try again to load a release it has rejected."`
	Remove EdgesRemove `cmd:"" help:"Forget an edge and end its stream."`
	Revoke EdgesRevoke `cmd:"" help:"End an edge's certificates; every hub refuses it at once."`
}

// Examples returns the examples of the command's help.
func (*Edges) Examples() string {
	return `
gw edges
gw edges edge-1
gw edges --sync stale -o json
gw edges retry edge-1
gw edges label edge-1 zone=eu tier-
gw edges revoke edge-1`
}

// EdgesShow is "gw edges [ID]".
type EdgesShow struct {
	ID         string            `arg:"" name:"id" optional:"" help:"Edge to show in full."`
	Namespace  string            `short:"n" help:"Only of this namespace."`
	Query      string            `short:"q" help:"Only with this in the ID, an address, a metadata value or a label."`
	Label      map[string]string `short:"l" placeholder:"KEY=VALUE" help:"Only with this label."`
	Connection string            `enum:",connected,stale,disconnected" default:"" placeholder:"STATE" help:"Only connected, stale or disconnected ones."`
	Sync       string            `enum:",in_sync,pending,stale,unknown" default:"" placeholder:"STATE" help:"Only in_sync, pending, stale or unknown ones."`
	Sort       string            `placeholder:"KEY" help:"id, namespace, connection, sync, version or heartbeat; with - before it, backwards."`
	Stale
	Output
	Hub Connection `embed:""`
}

// Examples returns the examples of the command's help.
func (*EdgesShow) Examples() string {
	return `
gw edges
gw edges edge-1
gw edges -n staging --connection disconnected
gw edges -l zone=eu -l tier=1
gw edges -o json | jq -r '.[] | select(.sync != "in_sync").id'`
}

// Run lists edges or shows one.
func (e *EdgesShow) Run(ctx context.Context, c *Context) error {
	h, err := e.openStale(c, &e.Hub)
	if err != nil {
		return err
	}
	if e.ID != "" {
		if e.Namespace+e.Query+e.Connection+e.Sync+e.Sort != "" || len(e.Label) > 0 {
			return usageError("an ID names one edge, so there is nothing to select or sort")
		}
		res, err := h.fleet.GetEdge(ctx, &gwv1.GetEdgeRequest{Id: e.ID})
		if err != nil {
			return err
		}
		if !e.forPeople() {
			return e.value(c, wholeEdge(res))
		}
		return showEdge(c, res)
	}
	req := &gwv1.ListEdgesRequest{Namespace: e.Namespace, Query: e.Query, Sort: e.Sort, Labels: e.Label}
	req.Connection = gwv1.Connection(enumOf(gwv1.Connection(0).Descriptor(), e.Connection))
	req.Sync = gwv1.Sync(enumOf(gwv1.Sync(0).Descriptor(), e.Sync))
	edges, err := h.listEdges(ctx, req)
	if err != nil {
		return err
	}
	none := "No edge is registered yet. Get one's command line with: gw join-token create"
	if e.Namespace+e.Query+e.Connection+e.Sync != "" || len(e.Label) > 0 {
		none = "No edge matches."
	}
	t := &table{headings: []string{"EDGE", "NAMESPACE", "CONNECTION", "SYNC", "HEALTH", "RELEASE", "VERSION", "HEARTBEAT", "WHY"}}
	return list(&e.Output, c, edges, none, t, func(e *gwv1.Edge) {
		t.add(e.GetId(), e.GetNamespace(), connectionCell(e), syncCell(e), healthCell(e), releaseText(e), e.GetVersion(), c.ago(e.GetLastHeartbeat()), whyOdd(e))
	})
}

// listEdges returns the edges of all pages.
func (h *hub) listEdges(ctx context.Context, req *gwv1.ListEdgesRequest) ([]*gwv1.Edge, error) {
	var all []*gwv1.Edge
	req.PageSize = 1000
	for {
		req.Offset = uint32(len(all))
		res, err := h.fleet.ListEdges(ctx, req)
		if err != nil {
			return nil, err
		}
		all = append(all, res.GetEdges()...)
		if len(res.GetEdges()) == 0 || len(all) >= int(res.GetTotal()) {
			return all, nil
		}
	}
}

// enumOf returns the value that a short word names, 0 for none.
func enumOf(e protoreflect.EnumDescriptor, name string) protoreflect.EnumNumber {
	for i := range e.Values().Len() {
		if n := e.Values().Get(i).Number(); name != "" && enumWord(e, n) == name {
			return n
		}
	}
	return 0
}

func connectionCell(e *gwv1.Edge) cell {
	switch e.GetConnection() {
	case gwv1.Connection_CONNECTION_CONNECTED:
		return cell{"Connected", green}
	case gwv1.Connection_CONNECTION_STALE:
		return cell{"Stale", yellow}
	case gwv1.Connection_CONNECTION_DISCONNECTED:
		return cell{"Disconnected", red}
	}
	return cell{word(e.GetConnection()), plainText}
}

func syncCell(e *gwv1.Edge) cell {
	switch e.GetSync() {
	case gwv1.Sync_SYNC_IN_SYNC:
		return cell{"In Sync", green}
	case gwv1.Sync_SYNC_PENDING:
		return cell{"Pending", yellow}
	case gwv1.Sync_SYNC_STALE:
		return cell{"Stale", red}
	case gwv1.Sync_SYNC_UNKNOWN:
		return cell{"Unknown", faint}
	}
	return cell{word(e.GetSync()), plainText}
}

func healthCell(e *gwv1.Edge) cell {
	switch e.GetHealth() {
	case gwv1.Health_HEALTH_OK:
		return cell{"OK", green}
	case gwv1.Health_HEALTH_DEGRADED:
		return cell{"Degraded", yellow}
	case gwv1.Health_HEALTH_FAILING:
		return cell{"Failing", red}
	}
	return cell{word(e.GetHealth()), plainText}
}

// releaseText is what an edge runs and, if that is another, what it should.
func releaseText(e *gwv1.Edge) string {
	if e.GetLoadedRelease() == e.GetTargetRelease() {
		return itoa(e.GetLoadedRelease())
	}
	return fmt.Sprintf("%d → %d", e.GetLoadedRelease(), e.GetTargetRelease())
}

// whyOdd is the reason for what isn't as it should be, the most telling one.
func whyOdd(e *gwv1.Edge) string {
	switch {
	case e.GetConflictingSessionId() != "":
		return "two processes carry this ID"
	case e.GetApplyError() != nil:
		return applyError(e.GetApplyError())
	case e.GetConnection() != gwv1.Connection_CONNECTION_CONNECTED:
		return e.GetConnectionReason()
	case e.GetSync() != gwv1.Sync_SYNC_IN_SYNC:
		return e.GetSyncReason()
	case e.GetHealth() != gwv1.Health_HEALTH_OK:
		return e.GetHealthReason()
	}
	return ""
}

// applyError is "release 3 API/orders spec.paths: what is wrong (compile)".
func applyError(a *gwv1.ApplyError) string {
	text := fmt.Sprintf("release %d", a.GetRelease())
	if a.GetKind() != "" || a.GetName() != "" {
		text += " " + a.GetKind() + "/" + a.GetName()
	}
	if a.GetField() != "" {
		text += " " + a.GetField()
	}
	return text + ": " + a.GetMessage() + " (" + a.GetCode() + ")"
}

func pairs(m map[string]string) string {
	texts := make([]string, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		texts = append(texts, key+"="+m[key])
	}
	return strings.Join(texts, " ")
}

func stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}
