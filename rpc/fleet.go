package rpc

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// FleetServer shows the edges and their states.
type FleetServer struct{ *core }

// ListEdges returns a page of the edges that match, and a summary of all in the namespace.
func (s *FleetServer) ListEdges(ctx context.Context, r *gwv1.ListEdgesRequest) (*gwv1.ListEdgesResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	if r.Namespace != "" {
		if _, err := allow(ctx, RoleViewer, r.Namespace); err != nil {
			return nil, err
		}
	}
	order, err := edgeOrder(r.Sort)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	answer := &gwv1.ListEdgesResponse{Summary: s.summary(st, p, r.Namespace)}
	var matching []*seen
	edges := s.viewFleet(st).edges
	for i := range edges {
		e := &edges[i]
		if r.Namespace != "" && e.namespace() != r.Namespace || !p.sees(e.namespace()) {
			continue
		}
		tally(answer.Summary, e)
		if r := e.rates(); r != nil {
			answer.Summary.Reporting++
			answer.Summary.RequestsPerSecond += r.Requests
			answer.Summary.ErrorsPerSecond += r.Errors
		}
		if e.matches(r) {
			matching = append(matching, e)
		}
	}
	slices.SortStableFunc(matching, order)
	answer.Total = uint32(len(matching))
	limit := int(r.PageSize)
	if limit == 0 {
		limit = defaultPage
	}
	from := min(int(r.Offset), len(matching))
	for _, e := range matching[from:min(from+limit, len(matching))] {
		answer.Edges = append(answer.Edges, e.shown())
	}
	return answer, nil
}

// summary begins a summary with what is not about edges.
func (s *FleetServer) summary(st *state.State, p Principal, namespace string) *gwv1.FleetSummary {
	sum := &gwv1.FleetSummary{}
	for _, ns := range st.Namespaces() {
		if namespace != "" && ns != namespace || !p.sees(ns) {
			continue
		}
		released := resource.EmptyChecksum
		if t, ok := st.Target(ns); ok {
			released = t.Checksum
			if t.Number > sum.NewestPush {
				sum.NewestPush, sum.NewestPushAt = t.Number, stamp(t.CreatedAt)
			}
		}
		if s.store.Manifest(ns).Checksum != released {
			sum.NamespacesUnpushed++
		}
	}
	return sum
}

// tally counts an edge.
func tally(sum *gwv1.FleetSummary, e *seen) {
	sum.Edges++
	if e.revoked != nil {
		sum.Revoked++
	}
	switch e.Connection {
	case gwv1.Connection_CONNECTION_CONNECTED:
		sum.Connected++
	case gwv1.Connection_CONNECTION_STALE:
		sum.Stale++
	case gwv1.Connection_CONNECTION_DISCONNECTED:
		sum.Disconnected++
	}
	switch e.Sync {
	case gwv1.Sync_SYNC_IN_SYNC:
		sum.InSync++
	case gwv1.Sync_SYNC_PENDING:
		sum.Pending++
	case gwv1.Sync_SYNC_STALE:
		sum.SyncStale++
	case gwv1.Sync_SYNC_UNKNOWN:
		sum.Unknown++
	}
}

// matches reports whether the caller wants to see this edge.
func (e *seen) matches(r *gwv1.ListEdgesRequest) bool {
	if r.Connection != 0 && e.Connection != r.Connection || r.Sync != 0 && e.Sync != r.Sync {
		return false
	}
	for k, v := range r.Labels {
		if has, ok := e.record.GetLabels()[k]; !ok || has != v {
			return false
		}
	}
	return r.Query == "" || e.mentions(strings.ToLower(r.Query))
}

// mentions looks for a text in lower case in what identifies the edge.
func (e *seen) mentions(query string) bool {
	has := func(s string) bool { return strings.Contains(strings.ToLower(s), query) }
	if has(e.id) || e.live != nil && has(e.live.Address) {
		return true
	}
	for _, v := range e.heartbeat().GetMetadata() {
		if has(v) {
			return true
		}
	}
	for k, v := range e.record.GetLabels() {
		if has(k + "=" + v) {
			return true
		}
	}
	return false
}

// orders are what edges can be sorted by; equal ones stay in the order of their IDs.
var orders = map[string]func(a, b *seen) int{
	"id":         func(a, b *seen) int { return cmp.Compare(a.id, b.id) },
	"namespace":  func(a, b *seen) int { return cmp.Compare(a.namespace(), b.namespace()) },
	"connection": func(a, b *seen) int { return cmp.Compare(a.Connection, b.Connection) },
	"sync":       func(a, b *seen) int { return cmp.Compare(a.Sync, b.Sync) },
	"version":    func(a, b *seen) int { return cmp.Compare(a.version(), b.version()) },
	"heartbeat":  func(a, b *seen) int { return a.heardAt().Compare(b.heardAt()) },
}

func edgeOrder(sort string) (func(a, b *seen) int, error) {
	name, descending := strings.CutPrefix(cmp.Or(sort, "id"), "-")
	order, ok := orders[name]
	switch {
	case !ok:
		return nil, invalid("sort", ReasonInvalid, `want "id", "namespace", "connection", "sync", "version" or "heartbeat", perhaps with "-" before it`)
	case descending:
		return func(a, b *seen) int { return order(b, a) }, nil
	}
	return order, nil
}

// ListNamespaces returns every namespace something lives in, global first.
func (s *FleetServer) ListNamespaces(ctx context.Context, r *gwv1.ListNamespacesRequest) (*gwv1.ListNamespacesResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	resources := map[string]uint32{}
	for x := range st.Resources("") {
		resources[x.Namespace]++
	}
	edges := s.viewFleet(st).counts()
	answer := &gwv1.ListNamespacesResponse{}
	if resources[resource.Global] > 0 {
		answer.Namespaces = append(answer.Namespaces, &gwv1.Namespace{Name: resource.Global, Resources: resources[resource.Global]})
	}
	for _, ns := range st.Namespaces() {
		if !p.sees(ns) {
			continue
		}
		n := &gwv1.Namespace{Name: ns, Edges: edges[ns].edges, Resources: resources[ns],
			ReleasedChecksum: resource.EmptyChecksum.String(), ExpectedChecksum: s.store.Manifest(ns).Checksum.String()}
		if t, ok := st.Target(ns); ok {
			n.Release, n.ReleasedChecksum = t.Number, t.Checksum.String()
		}
		answer.Namespaces = append(answer.Namespaces, n)
	}
	return answer, nil
}
