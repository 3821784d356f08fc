package rpc

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"gw/node/fleet"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// FleetServer shows the edges and their states.
type FleetServer struct{ *core }

// view is the fleet as it is now: registered edges, and those that were heard and are not registered yet.
type view struct {
	edges []seen // sorted by ID
}

// seen is one edge of a view.
type seen struct {
	shown  *gwv1.Edge
	rates  *fleet.Rates // nil: it doesn't say
	schema uint32       // the highest schema level it knows; 0: it has not said
}

// counts is how many edges a namespace has.
type counts struct{ edges, connected uint32 }

func (v view) counts() map[string]counts {
	all := map[string]counts{}
	for _, e := range v.edges {
		c := all[e.shown.Namespace]
		c.edges++
		if e.shown.Connection == gwv1.Connection_CONNECTION_CONNECTED {
			c.connected++
		}
		all[e.shown.Namespace] = c
	}
	return all
}

// viewFleet classifies every edge.
func (k *core) viewFleet(st *state.State) view {
	c := k.newClassifier(st)
	live := k.fleet.All()
	var v view
	for r := range st.Edges() {
		v.edges = append(v.edges, c.classify(r, live[r.Id], r.Id))
		delete(live, r.Id)
	}
	for id, l := range live {
		v.edges = append(v.edges, c.classify(nil, l, id))
	}
	slices.SortFunc(v.edges, func(a, b seen) int { return cmp.Compare(a.shown.Id, b.shown.Id) })
	return v
}

// classifier knows what edges are compared with, looked up once per namespace.
type classifier struct {
	core             *core
	state            *state.State
	now, leaderSince time.Time
	interval         time.Duration
	following        bool                              // this hub does not lead
	wanted           map[string]wanted                 // namespace → what its edges should run
	revocations      map[string]*gwv1.RevocationRecord // edge ID → its newest
}

type wanted struct {
	target   fleet.Target
	expected resource.Digest
}

func (k *core) newClassifier(st *state.State) *classifier {
	c := &classifier{core: k, state: st, now: k.now(), leaderSince: k.fleet.LeaderSince(), interval: k.fleet.Interval(), following: !k.store.Leading(),
		wanted: map[string]wanted{}, revocations: map[string]*gwv1.RevocationRecord{}}
	for r := range st.Revocations() {
		c.revocations[r.EdgeId] = r
	}
	return c
}

func (c *classifier) of(namespace string) wanted {
	w, ok := c.wanted[namespace]
	if !ok {
		w = wanted{target: fleet.Target{Checksum: resource.EmptyChecksum}, expected: c.core.store.Manifest(namespace).Checksum}
		if r, ok := c.state.Target(namespace); ok {
			w.target = fleet.Target{Epoch: r.Epoch, Number: r.Number, Checksum: r.Checksum, PushedAt: time.Unix(0, r.CreatedAt)}
		}
		c.wanted[namespace] = w
	}
	return w
}

func (c *classifier) classify(r *gwv1.EdgeRecord, l *fleet.Live, id string) seen {
	namespace := r.GetNamespace()
	if l != nil {
		namespace = l.Namespace
	}
	w := c.of(namespace)
	e := fleet.Classify(fleet.Facts{Record: r, Live: l, Revoked: c.revoked(r, l, id), Target: w.target, Expected: w.expected,
		Now: c.now, LeaderSince: c.leaderSince, Interval: c.interval, Following: c.following})
	e.Id = id
	s := seen{shown: e, schema: r.GetSchemaLevel()}
	if l != nil && e.Connection == gwv1.Connection_CONNECTION_CONNECTED {
		s.rates = l.Rates
	}
	if l != nil && l.Heartbeat != nil {
		s.schema = l.Heartbeat.SchemaLevel
	}
	return s
}

// revoked returns what ended the certificates of an edge; nil if they are good.
func (c *classifier) revoked(r *gwv1.EdgeRecord, l *fleet.Live, id string) *gwv1.RevocationRecord {
	lineage := r.GetLineage()
	if r == nil {
		lineage = l.Certificate.Lineage
	}
	if revoked := c.revocations[id]; revoked != nil && lineage < revoked.Before {
		return revoked
	}
	return nil
}

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
	var matching []*gwv1.Edge
	for _, e := range s.viewFleet(st).edges {
		if r.Namespace != "" && e.shown.Namespace != r.Namespace || !p.sees(e.shown.Namespace) {
			continue
		}
		tally(answer.Summary, e.shown)
		if r := e.rates; r != nil {
			answer.Summary.Reporting++
			answer.Summary.RequestsPerSecond += r.Requests
			answer.Summary.ErrorsPerSecond += r.Errors
		}
		if matches(e.shown, r) {
			matching = append(matching, e.shown)
		}
	}
	slices.SortStableFunc(matching, order)
	answer.Total = uint32(len(matching))
	limit := int(r.PageSize)
	if limit == 0 {
		limit = defaultPage
	}
	from := min(int(r.Offset), len(matching))
	answer.Edges = matching[from:min(from+limit, len(matching))]
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
func tally(sum *gwv1.FleetSummary, e *gwv1.Edge) {
	sum.Edges++
	if e.RevokedAt != nil {
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

func matches(e *gwv1.Edge, r *gwv1.ListEdgesRequest) bool {
	if r.Connection != 0 && e.Connection != r.Connection || r.Sync != 0 && e.Sync != r.Sync {
		return false
	}
	for k, v := range r.Labels {
		if has, ok := e.Labels[k]; !ok || has != v {
			return false
		}
	}
	query := strings.ToLower(r.Query)
	if query == "" || strings.Contains(strings.ToLower(e.Id), query) || strings.Contains(strings.ToLower(e.RemoteAddress), query) {
		return true
	}
	for _, v := range e.Metadata {
		if strings.Contains(strings.ToLower(v), query) {
			return true
		}
	}
	for k, v := range e.Labels {
		if strings.Contains(strings.ToLower(k+"="+v), query) {
			return true
		}
	}
	return false
}

// orders are what edges can be sorted by; equal ones stay in the order of their IDs.
var orders = map[string]func(a, b *gwv1.Edge) int{
	"id":         func(a, b *gwv1.Edge) int { return cmp.Compare(a.Id, b.Id) },
	"namespace":  func(a, b *gwv1.Edge) int { return cmp.Compare(a.Namespace, b.Namespace) },
	"connection": func(a, b *gwv1.Edge) int { return cmp.Compare(a.Connection, b.Connection) },
	"sync":       func(a, b *gwv1.Edge) int { return cmp.Compare(a.Sync, b.Sync) },
	"version":    func(a, b *gwv1.Edge) int { return cmp.Compare(a.Version, b.Version) },
	"heartbeat": func(a, b *gwv1.Edge) int {
		return heardAt(a).Compare(heardAt(b))
	},
}

func heardAt(e *gwv1.Edge) time.Time {
	if e.LastHeartbeat == nil {
		return time.Time{}
	}
	return e.LastHeartbeat.AsTime()
}

func edgeOrder(sort string) (func(a, b *gwv1.Edge) int, error) {
	name, descending := strings.CutPrefix(cmp.Or(sort, "id"), "-")
	order, ok := orders[name]
	switch {
	case !ok:
		return nil, invalid("sort", ReasonInvalid, `want "id", "namespace", "connection", "sync", "version" or "heartbeat", perhaps with "-" before it`)
	case descending:
		return func(a, b *gwv1.Edge) int { return order(b, a) }, nil
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
