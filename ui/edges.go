package ui

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/rpc/gwv1"
	"gw/ui/page"
)

// perPage is how many rows a page of the fleet has.
const perPage = 100

// maxPages bounds the page number an address may ask for.
const maxPages = 10_000

var connections = map[string]gwv1.Connection{
	"connected": gwv1.Connection_CONNECTION_CONNECTED, "stale": gwv1.Connection_CONNECTION_STALE,
	"disconnected": gwv1.Connection_CONNECTION_DISCONNECTED,
}

var syncs = map[string]gwv1.Sync{
	"in-sync": gwv1.Sync_SYNC_IN_SYNC, "pending": gwv1.Sync_SYNC_PENDING,
	"stale": gwv1.Sync_SYNC_STALE, "unknown": gwv1.Sync_SYNC_UNKNOWN,
}

var sorts = []string{"id", "namespace", "connection", "sync", "version", "heartbeat"}

// parseQuery reads a view of the fleet from an address. What it does not know it leaves out: an old bookmark shows more
// rather than nothing.
func parseQuery(v url.Values) page.Query {
	q := page.Query{Text: strings.TrimSpace(clip(v.Get("q"), 256)), Namespace: clip(v.Get("ns"), 63), Sort: "id", Page: 1}
	if _, ok := connections[v.Get("conn")]; ok {
		q.Connection = v.Get("conn")
	}
	if _, ok := syncs[v.Get("sync")]; ok {
		q.Sync = v.Get("sync")
	}
	if slices.Contains(sorts, strings.TrimPrefix(v.Get("sort"), "-")) {
		q.Sort = v.Get("sort")
	}
	if n, err := strconv.Atoi(v.Get("page")); err == nil && n >= 1 && n <= maxPages {
		q.Page = n
	}
	return q
}

// clip cuts s to at most n bytes, and to valid UTF-8, which is what messages may hold.
func clip(s string, n int) string {
	return strings.ToValidUTF8(s[:min(len(s), n)], "")
}

// edges shows the fleet. That it cannot be read now is said where the rows would be; the rest of the page stays useful.
func (k *console) edges(w http.ResponseWriter, r *http.Request, v *visitor) error {
	p, err := k.fleet(v.ctx, v, parseQuery(r.URL.Query()), k.Now())
	if code := connect.CodeOf(err); err != nil && code != connect.CodeUnavailable && code != connect.CodeDeadlineExceeded {
		return err
	}
	status := http.StatusOK
	if err != nil {
		status = http.StatusServiceUnavailable
		p = page.Edges{Query: parseQuery(r.URL.Query()), Problem: sentence(message(err)), PerPage: perPage}
	}
	p.Shell = k.shell(v, "Edges", "/edges")
	if id := r.URL.Query().Get("removed"); len(id) <= 63 {
		p.Removed = id
	}
	p.Live = liveURL(p.Query.URL(), edgesPicture(p))
	return send(w, r, status, page.EdgesPage(p))
}

// fleet takes a view of the fleet; its Shell is left to the caller but for what rows depend on.
func (k *console) fleet(ctx context.Context, v *visitor, q page.Query, now time.Time) (page.Edges, error) {
	list, err := call(k, ctx, k.Fleet.ListEdges, &gwv1.ListEdgesRequest{
		Namespace: q.Namespace, Query: q.Text, Connection: connections[q.Connection], Sync: syncs[q.Sync],
		Sort: q.Sort, PageSize: perPage, Offset: uint32((q.Page - 1) * perPage),
	})
	if err != nil {
		return page.Edges{}, err
	}
	names, err := call(k, ctx, k.Fleet.ListNamespaces, &gwv1.ListNamespacesRequest{})
	if err != nil {
		return page.Edges{}, err
	}
	s := list.GetSummary()
	p := page.Edges{
		Shell: page.Shell{CanRemove: v.mayRemove()}, Query: q, Total: int(list.GetTotal()), PerPage: perPage,
		HubURL: k.HubURL, Now: now, Ever: s.GetEdges() > 0 || q.Namespace != "",
		Summary: page.Summary{
			Known: true,
			Edges: s.GetEdges(), Connected: s.GetConnected(), Stale: s.GetStale(), Disconnected: s.GetDisconnected(),
			InSync: s.GetInSync(), Pending: s.GetPending(), SyncStale: s.GetSyncStale(), Unknown: s.GetUnknown(),
			NewestPush: s.GetNewestPush(), NewestPushAt: when(s.GetNewestPushAt()), Unpushed: s.GetNamespacesUnpushed(),
			Traffic: traffic(s),
		},
	}
	for _, n := range names.GetNamespaces() {
		p.Namespaces = append(p.Namespaces, n.GetName())
	}
	for _, e := range list.GetEdges() {
		p.Rows = append(p.Rows, row(e))
	}
	return p, nil
}

// traffic is what the edges that say so do together.
func traffic(s *gwv1.FleetSummary) string {
	if s.GetReporting() == 0 {
		return ""
	}
	share := 0.0
	if r := s.GetRequestsPerSecond(); r > 0 {
		share = 100 * s.GetErrorsPerSecond() / r
	}
	return decimal(s.GetRequestsPerSecond()) + " requests/s, " + decimal(share) + " % errors"
}

// row is an edge as the table shows it.
func row(e *gwv1.Edge) page.Row {
	return page.Row{
		ID: e.GetId(), Namespace: e.GetNamespace(), Address: e.GetRemoteAddress(),
		Connection: page.Connection(e.GetConnection()), ConnectionWhy: e.GetConnectionReason(),
		Sync: page.Sync(e.GetSync()), SyncWhy: e.GetSyncReason(),
		Away:   e.GetConnection() == gwv1.Connection_CONNECTION_DISCONNECTED,
		Health: page.Health(e.GetHealth()), HealthWhy: e.GetHealthReason(),
		Ailing:   e.GetHealth() == gwv1.Health_HEALTH_DEGRADED || e.GetHealth() == gwv1.Health_HEALTH_FAILING,
		Conflict: e.GetConflictingSessionId() != "", Loaded: e.GetLoadedChecksum(),
		Version: e.GetVersion(), Build: e.GetBuild(), Heartbeat: when(e.GetLastHeartbeat()),
	}
}

// when is the zero time for an absent timestamp.
func when(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
