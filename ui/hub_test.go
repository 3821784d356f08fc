package ui

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/rpc/gwv1"
)

// hub stands in for the handlers at the console's boundary: a fleet in memory that answers as the messages promise.
type hub struct {
	mu         sync.Mutex
	edges      []*gwv1.Edge
	names      []*gwv1.Namespace
	releases   []*gwv1.Release
	preview    *gwv1.PreviewPushResponse
	progress   map[uint64]*gwv1.WatchPushResponse
	push       *gwv1.PushResponse
	pushed     []*gwv1.PushRequest
	freezes    []*gwv1.PushFreeze
	rolledBack []*gwv1.RollbackRequest
	sessions   map[string]*gwv1.WhoAmIResponse
	throttle   bool
	fault      error // returned by every call but those about sessions
	pushErr    error
	activity   map[string]*gwv1.Activity
	events     map[string][]*gwv1.EdgeEvent
	retried    []string // edges asked to try again
	revision   uint64
	woken      chan struct{}
	now        func() time.Time
	born       time.Time
}

type visitorKey struct{}

func newHub() *hub {
	return &hub{
		sessions: map[string]*gwv1.WhoAmIResponse{}, woken: make(chan struct{}), progress: map[uint64]*gwv1.WatchPushResponse{},
		preview: &gwv1.PreviewPushResponse{Base: "base-1"}, push: &gwv1.PushResponse{}, now: time.Now, born: time.Now(),
		names: []*gwv1.Namespace{{Name: "default", Edges: 1}, {Name: "eu", Edges: 2}},
	}
}

// change changes what the hub holds and wakes whoever waits.
func (h *hub) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.revision++
	close(h.woken)
	h.woken = make(chan struct{})
}

func (h *hub) wake(ctx context.Context, after uint64) (uint64, error) {
	for {
		h.mu.Lock()
		revision, woken := h.revision, h.woken
		h.mu.Unlock()
		if revision > after {
			return revision, nil
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return after, ctx.Err()
		}
	}
}

func (h *hub) enter(ctx context.Context, role string) error {
	who, ok := ctx.Value(visitorKey{}).(*gwv1.WhoAmIResponse)
	if !ok {
		return connect.NewError(connect.CodeUnauthenticated, errors.New("no principal"))
	}
	roles := []string{"viewer", "operator", "admin"}
	if slices.Index(roles, who.Role) < slices.Index(roles, role) {
		return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("%s has the role %s", who.User, who.Role))
	}
	return h.fault
}

func (h *hub) ListEdges(ctx context.Context, r *gwv1.ListEdgesRequest) (*gwv1.ListEdgesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "viewer"); err != nil {
		return nil, err
	}
	out := &gwv1.ListEdgesResponse{Summary: &gwv1.FleetSummary{NamespacesUnpushed: 1, NewestPush: 42, NewestPushAt: timestamppb.New(h.born.Add(-12 * time.Minute))}}
	for _, a := range h.activity {
		out.Summary.Reporting++
		out.Summary.RequestsPerSecond += a.Rates.RequestsPerSecond
		out.Summary.ErrorsPerSecond += a.Rates.RequestsPerSecond * a.Rates.ErrorRatio
	}
	var found []*gwv1.Edge
	for _, e := range h.edges {
		if r.Namespace != "" && e.Namespace != r.Namespace {
			continue
		}
		summarise(out.Summary, e)
		if !strings.Contains(e.Id+" "+e.RemoteAddress, r.Query) || r.Connection != 0 && e.Connection != r.Connection || r.Sync != 0 && e.Sync != r.Sync {
			continue
		}
		found = append(found, proto.CloneOf(e))
	}
	key := map[string]func(*gwv1.Edge) string{
		"id": func(e *gwv1.Edge) string { return e.Id }, "namespace": func(e *gwv1.Edge) string { return e.Namespace },
		"version": func(e *gwv1.Edge) string { return e.Version }, "heartbeat": func(e *gwv1.Edge) string { return e.LastHeartbeat.AsTime().String() },
		"connection": func(e *gwv1.Edge) string { return e.Connection.String() }, "sync": func(e *gwv1.Edge) string { return e.Sync.String() },
	}[strings.TrimPrefix(r.Sort, "-")]
	slices.SortStableFunc(found, func(a, b *gwv1.Edge) int {
		if strings.HasPrefix(r.Sort, "-") {
			a, b = b, a
		}
		return cmp.Compare(key(a), key(b))
	})
	out.Total = uint32(len(found))
	from := min(int(r.Offset), len(found))
	out.Edges = found[from:min(from+int(r.PageSize), len(found))]
	return out, nil
}

func summarise(s *gwv1.FleetSummary, e *gwv1.Edge) {
	s.Edges++
	*map[gwv1.Connection]*uint32{1: &s.Connected, 2: &s.Stale, 3: &s.Disconnected}[e.Connection]++
	*map[gwv1.Sync]*uint32{1: &s.Unknown, 2: &s.InSync, 3: &s.Pending, 4: &s.SyncStale}[e.Sync]++
}

func (h *hub) GetEdge(ctx context.Context, r *gwv1.GetEdgeRequest) (*gwv1.GetEdgeResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "viewer"); err != nil {
		return nil, err
	}
	for _, e := range h.edges {
		if e.Id == r.Id {
			return h.whole(e), nil
		}
	}
	return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no edge %q", r.Id))
}

// whole adds to an edge what it does and what happened to it, if there is something.
func (h *hub) whole(e *gwv1.Edge) *gwv1.GetEdgeResponse {
	out := &gwv1.GetEdgeResponse{Edge: proto.CloneOf(e), Activity: h.activity[e.Id], Events: h.events[e.Id]}
	if out.Events != nil {
		out.ListeningSince = timestamppb.New(h.born.Add(-5 * time.Hour))
	}
	return out
}

// ListAudit has a few entries of every sort, and answers from them a hundred times over.
func (h *hub) ListAudit(ctx context.Context, r *gwv1.ListAuditRequest) (*gwv1.ListAuditResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "viewer"); err != nil {
		return nil, err
	}
	sorts := []*gwv1.AuditEntry{
		{Actor: "ada", ActorAddress: "10.0.0.9", Action: "revoke_edge", Object: "edge/edge-ams3-000", Namespace: "default"},
		{Actor: "lin", ActorAddress: "10.0.0.12", Action: "push", Object: "push/43"},
		{Actor: "lin", ActorAddress: "10.0.0.12", Action: "apply", Object: "API/orders", Namespace: "eu"},
		{Actor: "edge/edge-blr1-001", Action: "enroll_edge", Object: "edge/edge-blr1-001", Namespace: "eu"},
		{Actor: "hub/9c1e", Action: "remove_edge", Object: "edge/gone", Namespace: "default"},
	}
	out := &gwv1.ListAuditResponse{Oldest: timestamppb.New(h.now().Add(-9 * 24 * time.Hour))}
	for i := uint64(500); i > 0; i-- {
		e := proto.CloneOf(sorts[(500-i)%5])
		e.Index, e.At = i, timestamppb.New(h.now().Add(-time.Duration(501-i)*11*time.Minute))
		switch {
		case r.Before > 0 && i >= r.Before, r.Actor != "" && e.Actor != r.Actor, r.Action != "" && e.Action != r.Action,
			!strings.Contains(e.Object, r.Object), r.Namespace != "" && e.Namespace != r.Namespace:
		case len(out.Entries) == int(r.PageSize):
			out.NextBefore = out.Entries[len(out.Entries)-1].Index
			return out, nil
		default:
			out.Entries = append(out.Entries, e)
		}
	}
	return out, nil
}

// ListPlugins has a cache at an edge and its counterpart at the hub, if there are edges.
func (h *hub) ListPlugins(ctx context.Context, _ *gwv1.ListPluginsRequest) (*gwv1.ListPluginsResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "viewer"); err != nil || len(h.edges) == 0 {
		return &gwv1.ListPluginsResponse{}, err
	}
	return &gwv1.ListPluginsResponse{Plugins: []*gwv1.PluginInfo{
		{Id: 7, Type: "edge", Name: "cache", Namespace: "default", Configured: true, Places: []*gwv1.PluginPlace{{
			EdgeId: "edge-ams3-000", Process: &gwv1.PluginProcess{Id: 7, State: gwv1.PluginState_PLUGIN_STATE_RUNNING, Restarts: 2},
			Queue: &gwv1.PluginQueue{PluginId: 7, Pending: 12, Expired: 3, Oldest: timestamppb.New(h.now().Add(-time.Minute)), Halted: "hub plugin 7 is not running"},
		}}},
		{Id: 7, Type: "hub", Name: "cachestats", Namespace: "global", Configured: true, KvKeys: 4, Places: []*gwv1.PluginPlace{{
			HubId: "9c1e6b0f77", Process: &gwv1.PluginProcess{Id: 7, State: gwv1.PluginState_PLUGIN_STATE_FAILED, Reason: "/opt/cachestats is not on this machine"},
		}}},
		{Id: 9, Type: "edge", Name: "audit", Namespace: "eu", Configured: true},
	}}, nil
}

// ListDeadLetters has one, if there are edges.
func (h *hub) ListDeadLetters(ctx context.Context, _ *gwv1.ListDeadLettersRequest) (*gwv1.ListDeadLettersResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "viewer"); err != nil || len(h.edges) == 0 {
		return &gwv1.ListDeadLettersResponse{}, err
	}
	return &gwv1.ListDeadLettersResponse{Total: 1, DeadLetters: []*gwv1.DeadLetter{{
		Id: "1f0c9a3be27d5c48", PluginId: 7, EdgeId: "edge-ams3-000", Namespace: "default", CorrelationId: "report-17", Size: 512,
		State: gwv1.DeadLetterState_DEAD_LETTER_STATE_HELD, Message: "none of 2 hub plugins wanted it", SentAt: timestamppb.New(h.now().Add(-time.Hour)),
	}}}, nil
}

func (h *hub) RedeliverDeadLetters(ctx context.Context, r *gwv1.RedeliverDeadLettersRequest) (*gwv1.RedeliverDeadLettersResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &gwv1.RedeliverDeadLettersResponse{Ordered: uint32(len(r.Ids))}, h.enter(ctx, "operator")
}

func (h *hub) DropDeadLetters(ctx context.Context, r *gwv1.DropDeadLettersRequest) (*gwv1.DropDeadLettersResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &gwv1.DropDeadLettersResponse{Ordered: uint32(len(r.Ids))}, h.enter(ctx, "operator")
}

// busy gives the first edge work to do and a past.
func (h *hub) busy() *hub {
	e := h.edges[0]
	h.activity = map[string]*gwv1.Activity{e.Id: {
		Vitals: &gwv1.Vitals{UptimeMs: 277_000_000, RequestsTotal: 48_211_903, ActiveRequests: 41, ActiveStreams: 7, ActiveConnections: 212, Cpus: 4, RssBytes: 58 << 20,
			Goroutines: 1043, DiskFreeBytes: 31 << 30, DiskTotalBytes: 80 << 30, PayloadsPending: 12, PayloadBytesPending: 48_000, UsagePending: 3},
		Rates: &gwv1.Rates{Window: durationpb.New(30 * time.Second), RequestsPerSecond: 1843.2, ErrorRatio: 0.0042, RefusedRatio: 0.013,
			P50: durationpb.New(2_310_000), P95: durationpb.New(41 * time.Millisecond), P99: durationpb.New(1300 * time.Millisecond), CpuRatio: 0.37},
	}}
	at := func(d time.Duration, kind gwv1.EdgeEventKind, text, by string) *gwv1.EdgeEvent {
		return &gwv1.EdgeEvent{At: timestamppb.New(h.now().Add(-d)), Kind: kind, Text: text, By: by}
	}
	h.events = map[string][]*gwv1.EdgeEvent{e.Id: {
		at(40*time.Second, gwv1.EdgeEventKind_EDGE_EVENT_KIND_RETRY_ASKED, "asked to try its target again", "ada"),
		at(3*time.Minute, gwv1.EdgeEventKind_EDGE_EVENT_KIND_APPLY_FAILED, `could not apply release 43: API/orders spec.paths[0]: "/v1" is taken by API/chat`, ""),
		at(12*time.Minute, gwv1.EdgeEventKind_EDGE_EVENT_KIND_RELEASE_LOADED, "loaded release 42", ""),
		at(2*time.Hour, gwv1.EdgeEventKind_EDGE_EVENT_KIND_BACK, "back from 10.10.0.7 after 14s", ""),
		at(2*time.Hour+14*time.Second, gwv1.EdgeEventKind_EDGE_EVENT_KIND_STREAM_BROKE, "its watch stream broke", ""),
		at(8*time.Hour, gwv1.EdgeEventKind_EDGE_EVENT_KIND_CERTIFICATE_RENEWED, "certificate renewed: until 2026-01-02T03:04:05Z", ""),
		at(90*24*time.Hour, gwv1.EdgeEventKind_EDGE_EVENT_KIND_ENROLLED, "enrolled: join token 3f9a", ""),
	}}
	return h
}

func (h *hub) RevokeEdge(ctx context.Context, r *gwv1.RevokeEdgeRequest) (*gwv1.RevokeEdgeResponse, error) {
	return &gwv1.RevokeEdgeResponse{}, h.changeEdge(ctx, "admin", r.Id, func(e *gwv1.Edge) {
		e.Connection, e.ConnectionReason = gwv1.Connection_CONNECTION_DISCONNECTED, "revoked by admin 0s ago"
		e.RevokedAt, e.RevokedBy = timestamppb.New(h.now()), "admin"
	})
}

func (h *hub) RetryEdge(ctx context.Context, r *gwv1.RetryEdgeRequest) (*gwv1.RetryEdgeResponse, error) {
	return &gwv1.RetryEdgeResponse{}, h.changeEdge(ctx, "operator", r.Id, func(e *gwv1.Edge) { h.retried = append(h.retried, e.Id) })
}

func (h *hub) changeEdge(ctx context.Context, role, id string, f func(*gwv1.Edge)) error {
	h.mu.Lock()
	err := h.enter(ctx, role)
	h.mu.Unlock()
	if err != nil {
		return err
	}
	err = connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no edge %q", id))
	h.change(func() {
		for _, e := range h.edges {
			if e.Id == id {
				f(e)
				err = nil
			}
		}
	})
	return err
}

func (h *hub) RemoveEdge(ctx context.Context, r *gwv1.RemoveEdgeRequest) (*gwv1.RemoveEdgeResponse, error) {
	h.mu.Lock()
	err := h.enter(ctx, "admin")
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	h.change(func() { h.edges = slices.DeleteFunc(h.edges, func(e *gwv1.Edge) bool { return e.Id == r.Id }) })
	return &gwv1.RemoveEdgeResponse{}, nil
}

func (h *hub) ListNamespaces(ctx context.Context, r *gwv1.ListNamespacesRequest) (*gwv1.ListNamespacesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &gwv1.ListNamespacesResponse{Namespaces: h.names}, h.enter(ctx, "viewer")
}

func (h *hub) PreviewPush(ctx context.Context, r *gwv1.PreviewPushRequest) (*gwv1.PreviewPushResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := proto.CloneOf(h.preview)
	if only := r.Scope.GetNamespaces(); len(only) > 0 {
		out.Namespaces = slices.DeleteFunc(out.Namespaces, func(n *gwv1.NamespacePreview) bool { return n.Namespace != only[0] })
	}
	out.Freezes = h.freezes
	return out, h.enter(ctx, "viewer")
}

func (h *hub) Push(ctx context.Context, r *gwv1.PushRequest) (*gwv1.PushResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := cmp.Or(h.enter(ctx, "operator"), h.pushErr); err != nil {
		return nil, err
	}
	h.pushed = append(h.pushed, r)
	return h.push, nil
}

func (h *hub) ListReleases(ctx context.Context, r *gwv1.ListReleasesRequest) (*gwv1.ListReleasesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*gwv1.Release
	for _, rel := range h.releases {
		if r.Namespace == "" || rel.Namespace == r.Namespace {
			out = append(out, rel)
		}
	}
	return &gwv1.ListReleasesResponse{Releases: out}, h.enter(ctx, "viewer")
}

func (h *hub) GetPush(ctx context.Context, r *gwv1.GetPushRequest) (*gwv1.GetPushResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "viewer"); err != nil {
		return nil, err
	}
	p, ok := h.progress[r.Number]
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no push %d", r.Number))
	}
	return h.pushOf(p), nil
}

// pushOf is a push with a progress: its failures, and as many other edges as it counts.
func (h *hub) pushOf(p *gwv1.WatchPushResponse) *gwv1.GetPushResponse {
	a := &gwv1.GetPushResponse{Total: p.Edges, Push: &gwv1.PushSummary{Number: p.Number, CreatedBy: "ada", Note: "Orders: new upstream", CreatedAt: timestamppb.New(h.born), Progress: proto.CloneOf(p),
		Namespaces: []*gwv1.PushedNamespace{{Namespace: "default", Released: true, Release: p.Number, Checksum: strings.Repeat("7e", 32), Created: 1, Updated: 1, Deleted: 1}, {Namespace: "eu"}}}}
	for _, f := range p.Failures {
		a.Edges = append(a.Edges, &gwv1.PushedEdge{Edge: f.Edge, Namespace: "default", Outcome: gwv1.EdgeOutcome_EDGE_OUTCOME_FAILED, Reason: f.Message})
	}
	for _, e := range h.edges {
		if len(a.Edges) == len(p.Failures)+int(p.Loaded) {
			break
		}
		if slices.ContainsFunc(p.Failures, func(f *gwv1.PushFailure) bool { return f.Edge == e.Id }) {
			continue
		}
		a.Edges = append(a.Edges, &gwv1.PushedEdge{Edge: e.Id, Namespace: "default", Outcome: gwv1.EdgeOutcome_EDGE_OUTCOME_LOADED, Reason: "it runs release 43"})
	}
	return a
}

func (h *hub) ListPushes(ctx context.Context, r *gwv1.ListPushesRequest) (*gwv1.ListPushesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := &gwv1.ListPushesResponse{}
	if p, ok := h.progress[43]; ok {
		a.Pushes = append(a.Pushes, h.pushOf(p).Push)
		back := h.pushOf(p).Push
		back.Number, back.Rollback, back.RollbackTo, back.BreakGlass, back.CreatedBy, back.Note = 42, true, 40, true, "lin", "Orders lost carts"
		a.Pushes = append(a.Pushes, back)
	}
	return a, h.enter(ctx, "viewer")
}

func (h *hub) Rollback(ctx context.Context, r *gwv1.RollbackRequest) (*gwv1.PushResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := cmp.Or(h.enter(ctx, "operator"), h.pushErr); err != nil {
		return nil, err
	}
	h.rolledBack = append(h.rolledBack, r)
	return h.push, nil
}

func (h *hub) DiffReleases(ctx context.Context, r *gwv1.DiffReleasesRequest) (*gwv1.DiffReleasesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := &gwv1.DiffReleasesResponse{From: r.From}
	for _, n := range h.preview.Namespaces {
		if n.Namespace == r.Namespace {
			a.Changes = n.Changes
		}
	}
	return a, h.enter(ctx, "viewer")
}

func (h *hub) Freeze(ctx context.Context, r *gwv1.FreezeRequest) (*gwv1.FreezeResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "operator"); err != nil {
		return nil, err
	}
	if r.Reason == "" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("reason: must not be empty"))
	}
	h.freezes = append(h.freezes, &gwv1.PushFreeze{Namespace: append(r.Scope.Namespaces, "")[0], Reason: r.Reason, By: "ada", At: timestamppb.New(h.born)})
	return &gwv1.FreezeResponse{}, nil
}

func (h *hub) Unfreeze(ctx context.Context, r *gwv1.UnfreezeRequest) (*gwv1.UnfreezeResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enter(ctx, "operator"); err != nil {
		return nil, err
	}
	h.freezes = slices.DeleteFunc(h.freezes, func(f *gwv1.PushFreeze) bool { return f.Namespace == append(r.Scope.Namespaces, "")[0] })
	return &gwv1.UnfreezeResponse{}, nil
}

func (h *hub) ListFreezes(ctx context.Context, r *gwv1.ListFreezesRequest) (*gwv1.ListFreezesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &gwv1.ListFreezesResponse{Freezes: h.freezes}, h.enter(ctx, "viewer")
}

// Users are named after their role; the password of each is "right".
func (h *hub) SignIn(ctx context.Context, r *gwv1.SignInRequest) (*gwv1.SignInResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.throttle {
		return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("too many tries to sign in; try again in 27 s"))
	}
	if r.Password != "right" || !slices.Contains([]string{"viewer", "operator", "admin"}, r.User) {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("no"))
	}
	bearer := fmt.Sprintf("gwa_%s_%d", r.User, len(h.sessions))
	h.sessions[bearer] = &gwv1.WhoAmIResponse{User: r.User, Role: r.User}
	return &gwv1.SignInResponse{BearerToken: bearer, ExpiresAt: timestamppb.New(h.now().Add(24 * time.Hour)), Who: h.sessions[bearer]}, nil
}

func (h *hub) SignOut(ctx context.Context, r *gwv1.SignOutRequest) (*gwv1.SignOutResponse, error) {
	h.change(func() {
		for bearer, who := range h.sessions {
			if who == ctx.Value(visitorKey{}) {
				delete(h.sessions, bearer)
			}
		}
	})
	return &gwv1.SignOutResponse{}, nil
}

func (h *hub) WhoAmI(ctx context.Context, r *gwv1.WhoAmIRequest) (*gwv1.WhoAmIResponse, error) {
	return ctx.Value(visitorKey{}).(*gwv1.WhoAmIResponse), nil
}

func (h *hub) principal(ctx context.Context, bearer string) (context.Context, string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	who, ok := h.sessions[bearer]
	if !ok {
		return nil, "", connect.NewError(connect.CodeUnauthenticated, errors.New("unknown token"))
	}
	return context.WithValue(ctx, visitorKey{}, who), who.User, nil
}

// handler returns a console over the hub.
func (h *hub) handler(t testing.TB) http.Handler {
	t.Helper()
	handler, err := New(Config{
		Fleet: h, Releases: h, Sessions: h, Audit: h, Plugins: h, Principal: h.principal, Wake: h.wake,
		Cluster: "acme-prod", Version: "1.2.3", HubURL: "https://hub.acme.internal:50051", Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return h.now() },
	})
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

// session returns the cookie of a new session.
func (h *hub) session(t testing.TB, user string) *http.Cookie {
	t.Helper()
	in, err := h.SignIn(t.Context(), &gwv1.SignInRequest{User: user, Password: "right"})
	if err != nil {
		t.Fatal(err)
	}
	return &http.Cookie{Name: "gw", Value: in.BearerToken}
}

// do makes one request; form makes it a POST.
func do(handler http.Handler, cookie *http.Cookie, target string, form ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	if form != nil {
		r = httptest.NewRequest(http.MethodPost, target, strings.NewReader(strings.Join(form, "&")))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if cookie != nil {
		r.AddCookie(cookie)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

// fleetOf fills a hub with n edges in all states.
func (h *hub) fleetOf(n int) *hub {
	regions := []string{"ams3", "blr1", "fra1", "nrt1", "nyc3", "sfo2", "sin1"}
	namespaces := []string{"default", "eu", "labs", "payments"}
	h.names = nil
	for i, name := range namespaces {
		h.names = append(h.names, &gwv1.Namespace{Name: name, Edges: uint32((n + len(namespaces) - 1 - i) / len(namespaces))})
	}
	for i := range n {
		sum := func(seed int) string {
			return fmt.Sprintf("%016x%016x%016x%016x", seed*0x9e3779b97f4a7c1, seed*77777, seed+3, seed*13)[:64]
		}
		e := &gwv1.Edge{
			Id: fmt.Sprintf("edge-%s-%03d", regions[i%len(regions)], i), Namespace: namespaces[i%len(namespaces)],
			Connection: gwv1.Connection_CONNECTION_CONNECTED, ConnectionReason: "Its watch stream is open and its heartbeat is on time.",
			Sync: gwv1.Sync_SYNC_IN_SYNC, SyncReason: "It runs what was pushed, and nothing is unpushed.",
			Health: gwv1.Health_HEALTH_OK, HealthReason: "Everything it needs works.", Version: "1.2.3", Build: "cb286016c4d1",
			LastHeartbeat: timestamppb.New(h.now().Add(-time.Duration(i%29) * time.Second)), LoadedChecksum: sum(i%4 + 1), ReleasedChecksum: sum(i%4 + 1), ExpectedChecksum: sum(i%4 + 1),
			LoadedRelease: 42, TargetRelease: 42, SessionId: fmt.Sprintf("%032x", 0xc00c0759+i), RemoteAddress: fmt.Sprintf("10.%d.%d.%d", 10+i%40, i%250, 7+i%200),
			Labels: map[string]string{"region": regions[i%len(regions)], "tier": "prod"}, Metadata: map[string]string{"provider": "hetzner", "kernel": "6.12.9"},
			FirstSeen: timestamppb.New(h.now().Add(-90 * 24 * time.Hour)), StartedAt: timestamppb.New(h.now().Add(-77 * time.Hour)), CertificateNotAfter: timestamppb.New(h.now().Add(17 * time.Hour)), AccessVersion: 118,
		}
		switch {
		case i%17 == 3:
			e.Connection, e.ConnectionReason = gwv1.Connection_CONNECTION_DISCONNECTED, "No heartbeat for over 2 min."
			e.Sync, e.SyncReason = gwv1.Sync_SYNC_STALE, "It has not loaded release 42 and is not connected."
		case i%13 == 5:
			e.Sync, e.SyncReason, e.ExpectedChecksum = gwv1.Sync_SYNC_PENDING, "There are unpushed changes.", sum(99)
		case i%19 == 7:
			e.Connection, e.ConnectionReason = gwv1.Connection_CONNECTION_STALE, "Its heartbeat is 80 s old."
			e.Health, e.HealthReason = gwv1.Health_HEALTH_DEGRADED, "Disk nearly full."
		case i%23 == 9:
			e.Sync, e.SyncReason, e.LoadedChecksum = gwv1.Sync_SYNC_UNKNOWN, "It has reported no checksum yet.", ""
		}
		h.edges = append(h.edges, e)
	}
	return h
}

// pushable gives a hub something to push and releases to show.
func (h *hub) pushable() *hub {
	h.preview = &gwv1.PreviewPushResponse{Base: "base-1", Namespaces: []*gwv1.NamespacePreview{
		{Namespace: "default", Release: 42, ReleasedChecksum: strings.Repeat("1a", 32), ExpectedChecksum: strings.Repeat("7e", 32), SizeBytes: 18_432, MaxSizeBytes: 64 << 20, Edges: 12, ConnectedEdges: 11,
			Changes: []*gwv1.ResourceChange{{Kind: "API", Name: "orders", Change: gwv1.Change_CHANGE_UPDATED, Fields: []*gwv1.FieldChange{
				{Path: "spec.timeouts.response_header", Before: structpb.NewStringValue("10s"), After: structpb.NewStringValue("30s")},
				{Path: "spec.upstreams[1].url", After: structpb.NewStringValue("http://10.0.0.9:8080")}}},
				{Kind: "LLM", Name: "openai-eu", Change: gwv1.Change_CHANGE_CREATED, After: &structpb.Struct{Fields: map[string]*structpb.Value{"base_url": structpb.NewStringValue("https://eu.api.openai.com")}}}, {Kind: "API", Name: "legacy", Change: gwv1.Change_CHANGE_DELETED}}},
		{Namespace: "eu", Release: 41, ReleasedChecksum: strings.Repeat("2b", 32), ExpectedChecksum: strings.Repeat("2b", 32), SizeBytes: 9_000, MaxSizeBytes: 64 << 20, Edges: 3, ConnectedEdges: 3},
	}}
	h.push = &gwv1.PushResponse{Number: 43, Namespaces: []*gwv1.PushedNamespace{{Namespace: "default", Released: true, Release: 43}}}
	h.progress[43] = &gwv1.WatchPushResponse{Number: 43, Edges: 12, Loaded: 8, Waiting: 2, Failed: 1, Offline: 1,
		Failures: []*gwv1.PushFailure{{Edge: "edge-fra1-002", Message: `API/orders spec.paths[0]: "/v1" is taken by API/chat`}}}
	for i := range 6 {
		h.releases = append(h.releases, &gwv1.Release{Namespace: []string{"default", "eu"}[i%2], Number: uint64(43 - i), Epoch: 1, Checksum: strings.Repeat(fmt.Sprintf("%x", 10+i), 64),
			CreatedAt: timestamppb.New(h.now().Add(-time.Duration(1+i*i*200) * time.Minute)), CreatedBy: []string{"ada", "lin"}[i%2], Note: []string{"Orders: new upstream", "", "Adds openai-eu"}[i%3], Resources: uint32(17 + i), SizeBytes: uint64(18_000 + 901*i), Target: i < 2})
	}
	return h
}
