package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/resource"
)

// now is the time at which every test runs.
var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const bearer = "gwa_test"

// fakeHub answers the admin API from memory, as simply as a hub can. It keeps what was sent in its log.
type fakeHub struct {
	gwv1connect.UnimplementedConfigServiceHandler
	gwv1connect.UnimplementedReleaseServiceHandler
	gwv1connect.UnimplementedFleetServiceHandler
	gwv1connect.UnimplementedAccessServiceHandler
	gwv1connect.UnimplementedClusterServiceHandler
	gwv1connect.UnimplementedAuditServiceHandler
	gwv1connect.UnimplementedPluginServiceHandler

	mu       sync.Mutex
	log      []string
	refusals map[string]error               // method → what it is refused with
	keys     map[string]bool                // idempotency keys seen
	falters  map[string]*falter             // method → how it fails first
	done     map[string]connect.AnyResponse // idempotency key → the answer that got lost

	saved, released map[resource.Key]*gwv1.Resource
	releases        []*gwv1.Release // newest first
	edges           []*gwv1.ListEdgesResponse
	progress        [][]*gwv1.WatchPushResponse // what WatchPush sends: each list once, the last for ever
	hold            bool                        // it stays open afterwards
	impact          *gwv1.NamespacePreview      // merged into that of each namespace
	apps            []*gwv1.App
	tokens          []*gwv1.Token
	secrets         []*gwv1.Secret
	joinTokens      []*gwv1.JoinToken
	fakeCluster
}

// falter is a method's failures before it works.
type falter struct {
	left int
	err  error
	// lost: the first call is done, and its answer lost.
	lost bool
	// key is that of the first call, which the next ones must have.
	key string
}

func newFakeHub() *fakeHub {
	return &fakeHub{refusals: map[string]error{}, keys: map[string]bool{}, falters: map[string]*falter{}, done: map[string]connect.AnyResponse{}, saved: map[resource.Key]*gwv1.Resource{}, released: map[resource.Key]*gwv1.Resource{}}
}

// ServeHTTP implements http.Handler.
func (h *fakeHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mux := http.NewServeMux()
	options := connect.WithInterceptors(h)
	mux.Handle(gwv1connect.NewConfigServiceHandler(h, options))
	mux.Handle(gwv1connect.NewReleaseServiceHandler(h, options))
	mux.Handle(gwv1connect.NewFleetServiceHandler(h, options))
	mux.Handle(gwv1connect.NewAccessServiceHandler(h, options))
	mux.Handle(gwv1connect.NewAuditServiceHandler(h, options))
	mux.Handle(gwv1connect.NewPluginServiceHandler(h, options))
	mux.Handle(gwv1connect.NewClusterServiceHandler(h, options))
	if path.Base(r.URL.Path) == "Restore" && r.ProtoMajor != 2 {
		http.Error(w, "Restore was called over "+r.Proto, http.StatusHTTPVersionNotSupported)
		return
	}
	mux.ServeHTTP(w, r)
}

func (h *fakeHub) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if err := h.admit(req.Spec(), req.Header(), req.Any().(proto.Message)); err != nil {
			return nil, err
		}
		res, err := h.answer(ctx, req, next)
		h.mu.Lock()
		defer h.mu.Unlock()
		if err == nil && h.staleAge != "" && req.Header().Get("Gw-Consistency") == "stale" {
			res.Header().Set("Gw-Age", h.staleAge)
		}
		return res, err
	}
}

// answer calls the handler, unless the method falters or has done this before.
func (h *fakeHub) answer(ctx context.Context, req connect.AnyRequest, next connect.UnaryFunc) (connect.AnyResponse, error) {
	key, method := req.Header().Get("Idempotency-Key"), path.Base(req.Spec().Procedure)
	h.mu.Lock()
	f, done := h.falters[method], h.done[key]
	fails := f != nil && f.left > 0
	if fails {
		f.left--
	} else {
		delete(h.falters, method)
	}
	h.mu.Unlock()
	switch {
	case fails && (!f.lost || done != nil):
		return nil, f.err
	case done != nil:
		return done, nil
	}
	res, err := next(ctx, req)
	if err == nil && fails {
		h.mu.Lock()
		h.done[key] = res
		h.mu.Unlock()
		if detail, err := f.err.(*connect.Error).Details()[0].Value(); err == nil && detail.(*gwv1.ErrorDetail).Reason == "cut" {
			panic(http.ErrAbortHandler)
		}
		return nil, f.err
	}
	return res, err
}

func (h *fakeHub) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (h *fakeHub) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := h.admit(conn.Spec(), conn.RequestHeader(), nil); err != nil {
			return err
		}
		return next(ctx, conn)
	}
}

// admit logs a call and refuses what must be refused before its handler.
func (h *fakeHub) admit(spec connect.Spec, header http.Header, req proto.Message) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	method := path.Base(spec.Procedure)
	line := method
	if req != nil {
		data, err := protojson.Marshal(req)
		if err != nil {
			return err
		}
		var same any // protojson varies its spaces on purpose
		if err := json.Unmarshal(data, &same); err != nil {
			return err
		}
		data, _ = json.Marshal(same)
		line += " " + string(data)
	}
	if header.Get("Gw-Consistency") == "stale" {
		line += " stale"
	}
	h.log = append(h.log, line)
	key := header.Get("Idempotency-Key")
	if f := h.falters[method]; f != nil && mutating(spec) {
		if f.key != "" && f.key != key {
			return refusal(connect.CodeInvalidArgument, "bad_key", "a repeated call has another idempotency key")
		}
		if f.key != "" {
			delete(h.keys, key)
		}
		f.key = key
	}
	if mutating(spec) && (len(key) != 32 || h.keys[key]) {
		return refusal(connect.CodeInvalidArgument, "bad_key", fmt.Sprintf("idempotency key %q is missing or used", key))
	}
	h.keys[key] = true
	if method != "SignIn" && header.Get("Authorization") != "Bearer "+bearer {
		return refusal(connect.CodeUnauthenticated, "unauthenticated", "the token is not valid")
	}
	return h.refusals[method]
}

func mutating(spec connect.Spec) bool {
	return spec.IdempotencyLevel != connect.IdempotencyNoSideEffects && spec.StreamType == connect.StreamTypeUnary
}

func refusal(code connect.Code, reason, message string, violations ...*gwv1.Violation) error {
	err := connect.NewError(code, fmt.Errorf("%s", message))
	detail, detailErr := connect.NewErrorDetail(&gwv1.ErrorDetail{Reason: reason, Violations: violations})
	if detailErr != nil {
		return detailErr
	}
	err.AddDetail(detail)
	return err
}

func (h *fakeHub) ApplyResources(_ context.Context, req *gwv1.ApplyResourcesRequest) (*gwv1.ApplyResourcesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := maps.Clone(h.saved)
	res := new(gwv1.ApplyResourcesResponse)
	outcome := func(key resource.Key, change gwv1.Change) {
		res.Outcomes = append(res.Outcomes, &gwv1.ResourceOutcome{Kind: key.Kind, Namespace: key.Namespace, Name: key.Name, Change: change, Version: 7})
	}
	batch := map[resource.Key]bool{}
	for _, r := range req.Resources {
		d, err := resource.FromProto(r)
		if err != nil {
			return nil, err
		}
		change := gwv1.Change_CHANGE_CREATED
		if was := next[d.Key]; was != nil {
			change = gwv1.Change_CHANGE_UPDATED
			if proto.Equal(was.Spec, r.Spec) {
				change = gwv1.Change_CHANGE_UNCHANGED
			}
		}
		r.Status = &gwv1.ResourceStatus{Version: 7, UpdatedBy: "admin", UpdatedAt: timestamppb.New(now.Add(-90 * time.Second))}
		batch[d.Key], next[d.Key] = true, r
		outcome(d.Key, change)
	}
	for _, key := range sortedKeys(h.saved) {
		if slices.Contains(req.PruneNamespaces, key.Namespace) && !batch[key] {
			delete(next, key)
			outcome(key, gwv1.Change_CHANGE_DELETED)
		}
	}
	if !req.DryRun {
		h.saved = next
	}
	return res, nil
}

func sortedKeys(m map[resource.Key]*gwv1.Resource) []resource.Key {
	return slices.SortedFunc(maps.Keys(m), func(a, b resource.Key) int {
		return strings.Compare(a.Namespace+"/"+a.String(), b.Namespace+"/"+b.String())
	})
}

// ListResources has pages of two, so that clients must turn them.
func (h *fakeHub) ListResources(_ context.Context, req *gwv1.ListResourcesRequest) (*gwv1.ListResourcesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	res := new(gwv1.ListResourcesResponse)
	for _, key := range sortedKeys(h.saved) {
		id := key.Namespace + "/" + key.String()
		if req.Kind != "" && req.Kind != key.Kind || req.Namespace != "" && req.Namespace != key.Namespace || id <= req.PageToken {
			continue
		}
		if len(res.Resources) == 2 {
			last := res.Resources[1]
			res.NextPageToken = last.Metadata.Namespace + "/" + last.Kind + "/" + last.Metadata.Name
			break
		}
		res.Resources = append(res.Resources, h.saved[key])
	}
	return res, nil
}

func (h *fakeHub) GetResource(_ context.Context, req *gwv1.GetResourceRequest) (*gwv1.GetResourceResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := resource.Key{Kind: req.Kind, Namespace: orDefault(req.Namespace), Name: req.Name}
	if r := h.saved[key]; r != nil {
		return &gwv1.GetResourceResponse{Resource: r}, nil
	}
	return nil, refusal(connect.CodeNotFound, "not_found", fmt.Sprintf("%s is not saved in %s", key, key.Namespace))
}

func orDefault(namespace string) string {
	if namespace == "" {
		return resource.Default
	}
	return namespace
}

func (h *fakeHub) DeleteResources(_ context.Context, req *gwv1.DeleteResourcesRequest) (*gwv1.DeleteResourcesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	res := new(gwv1.DeleteResourcesResponse)
	for _, k := range req.Keys {
		key := resource.Key{Kind: k.Kind, Namespace: orDefault(k.Namespace), Name: k.Name}
		if h.saved[key] == nil {
			return nil, refusal(connect.CodeNotFound, "not_found", fmt.Sprintf("%s is not saved in %s", key, key.Namespace))
		}
		res.Outcomes = append(res.Outcomes, &gwv1.ResourceOutcome{Kind: key.Kind, Namespace: key.Namespace, Name: key.Name, Change: gwv1.Change_CHANGE_DELETED})
	}
	for _, o := range res.Outcomes {
		delete(h.saved, resource.Key{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name})
	}
	return res, nil
}

// previewLocked compares without an overlay: the fake's namespaces have nothing to do with global.
func (h *fakeHub) previewLocked(scope *gwv1.Scope) *gwv1.PreviewPushResponse {
	res := &gwv1.PreviewPushResponse{Base: fmt.Sprintf("base-%d", len(h.releases))}
	both := maps.Clone(h.saved)
	maps.Copy(both, h.released)
	byNamespace := map[string]*gwv1.NamespacePreview{}
	for _, key := range sortedKeys(both) {
		if len(scope.GetNamespaces()) > 0 && !slices.Contains(scope.Namespaces, key.Namespace) {
			continue
		}
		n := byNamespace[key.Namespace]
		if n == nil {
			n = &gwv1.NamespacePreview{Namespace: key.Namespace, ReleasedChecksum: "same", ExpectedChecksum: "same", SizeBytes: 2048, MaxSizeBytes: 64 << 20, Edges: 3, ConnectedEdges: 2}
			for _, r := range slices.Backward(h.releases) {
				if r.Namespace == key.Namespace {
					n.Release = r.Number
				}
			}
			if h.impact != nil {
				proto.Merge(n, h.impact)
			}
			byNamespace[key.Namespace] = n
			res.Namespaces = append(res.Namespaces, n)
		}
		was, is := h.released[key].GetSpec(), h.saved[key].GetSpec()
		if proto.Equal(was, is) {
			continue
		}
		n.ExpectedChecksum = "other"
		change := gwv1.Change_CHANGE_UPDATED
		if was == nil {
			change = gwv1.Change_CHANGE_CREATED
		} else if is == nil {
			change = gwv1.Change_CHANGE_DELETED
		}
		n.Changes = append(n.Changes, &gwv1.ResourceChange{Kind: key.Kind, Name: key.Name, Change: change, Before: was, After: is})
	}
	return res
}

func (h *fakeHub) PreviewPush(_ context.Context, req *gwv1.PreviewPushRequest) (*gwv1.PreviewPushResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.previewLocked(req.Scope), nil
}

func (h *fakeHub) Push(_ context.Context, req *gwv1.PushRequest) (*gwv1.PushResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	preview := h.previewLocked(req.Scope)
	if req.Base != "" && req.Base != preview.Base {
		return nil, refusal(connect.CodeFailedPrecondition, "changed", "what would be released is no longer what was asked for")
	}
	res := new(gwv1.PushResponse)
	number := uint64(41 + len(h.releases))
	for _, n := range preview.Namespaces {
		pushed := &gwv1.PushedNamespace{Namespace: n.Namespace, Release: n.Release}
		if len(n.Changes) > 0 {
			res.Number = number
			pushed.Released, pushed.Release, pushed.Updated = true, number, uint32(len(n.Changes))
			for _, r := range h.releases {
				r.Target = r.Target && r.Namespace != n.Namespace
			}
			h.releases = slices.Insert(h.releases, 0, &gwv1.Release{Namespace: n.Namespace, Number: number, Checksum: strings.Repeat("ab", 32), CreatedAt: timestamppb.New(now.Add(-time.Hour)), CreatedBy: "admin", Note: req.Note, Resources: 1, SizeBytes: 2048, Target: true})
			maps.DeleteFunc(h.released, func(key resource.Key, _ *gwv1.Resource) bool { return key.Namespace == n.Namespace })
			for key, r := range h.saved {
				if key.Namespace == n.Namespace {
					h.released[key] = r
				}
			}
		}
		res.Namespaces = append(res.Namespaces, pushed)
	}
	return res, nil
}

func (h *fakeHub) WatchPush(ctx context.Context, req *gwv1.WatchPushRequest, stream *connect.ServerStream[gwv1.WatchPushResponse]) error {
	h.mu.Lock()
	var progress []*gwv1.WatchPushResponse
	if len(h.progress) > 0 {
		progress = h.progress[0]
	}
	if len(h.progress) > 1 {
		h.progress = h.progress[1:]
	}
	hold := h.hold
	h.mu.Unlock()
	for _, p := range progress {
		p.Number = req.Number
		if err := stream.Send(p); err != nil {
			return err
		}
	}
	if hold {
		<-ctx.Done()
	}
	return nil
}

func (h *fakeHub) ListReleases(_ context.Context, req *gwv1.ListReleasesRequest) (*gwv1.ListReleasesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &gwv1.ListReleasesResponse{Releases: h.releases[:min(len(h.releases), int(req.Limit))]}, nil
}

// ListEdges gives each of the scripted answers once, and the last one for ever.
func (h *fakeHub) ListEdges(_ context.Context, req *gwv1.ListEdgesRequest) (*gwv1.ListEdgesResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.edges) == 0 {
		return new(gwv1.ListEdgesResponse), nil
	}
	all := h.edges[0].Edges
	if len(h.edges) > 1 {
		h.edges = h.edges[1:]
	}
	// Pages of two, so that clients must turn them.
	page := all[min(int(req.Offset), len(all)):]
	return &gwv1.ListEdgesResponse{Edges: page[:min(2, len(page))], Total: uint32(len(all))}, nil
}

func (h *fakeHub) GetEdge(_ context.Context, req *gwv1.GetEdgeRequest) (*gwv1.GetEdgeResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, list := range h.edges {
		for _, e := range list.Edges {
			if e.Id == req.Id {
				return h.wholeEdge(e), nil
			}
		}
	}
	return nil, refusal(connect.CodeNotFound, "not_found", fmt.Sprintf("there is no edge %s", req.Id))
}

// wholeEdge adds to an edge what is known of one that is connected.
func (h *fakeHub) wholeEdge(e *gwv1.Edge) *gwv1.GetEdgeResponse {
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	res := &gwv1.GetEdgeResponse{Edge: e, ListeningSince: ago(3 * time.Hour)}
	if e.Id != "edge-b" {
		return res
	}
	res.Activity = &gwv1.Activity{
		Vitals: &gwv1.Vitals{UptimeMs: 7_200_000, RequestsTotal: 9000, ActiveRequests: 2, ActiveStreams: 1, ActiveConnections: 7, Cpus: 4, RssBytes: 31 << 20,
			Goroutines: 55, DiskFreeBytes: 20 << 30, DiskTotalBytes: 80 << 30, PayloadsPending: 3, PayloadBytesPending: 2048, SpoolLost: 4},
		Rates: &gwv1.Rates{Window: durationpb.New(30 * time.Second), RequestsPerSecond: 12.34, ErrorRatio: 0.015, RefusedRatio: 0.002,
			P50: durationpb.New(1_234_567), P95: durationpb.New(45 * time.Millisecond), P99: durationpb.New(1500 * time.Millisecond), CpuRatio: 0.31},
	}
	res.Events = []*gwv1.EdgeEvent{
		{At: ago(time.Minute), Kind: gwv1.EdgeEventKind_EDGE_EVENT_KIND_APPLY_FAILED, Text: "could not apply release 42: LLM/openai spec.x: is not known", Release: 42},
		{At: ago(time.Hour), Kind: gwv1.EdgeEventKind_EDGE_EVENT_KIND_RETRY_ASKED, Text: "asked to try its target again", By: "ann"},
	}
	return res
}

func (h *fakeHub) RevokeEdge(context.Context, *gwv1.RevokeEdgeRequest) (*gwv1.RevokeEdgeResponse, error) {
	return new(gwv1.RevokeEdgeResponse), nil
}

func (h *fakeHub) RetryEdge(context.Context, *gwv1.RetryEdgeRequest) (*gwv1.RetryEdgeResponse, error) {
	return new(gwv1.RetryEdgeResponse), nil
}

func (h *fakeHub) SetEdgeLabels(_ context.Context, req *gwv1.SetEdgeLabelsRequest) (*gwv1.SetEdgeLabelsResponse, error) {
	return &gwv1.SetEdgeLabelsResponse{Labels: req.Set}, nil
}

func (h *fakeHub) RemoveEdge(context.Context, *gwv1.RemoveEdgeRequest) (*gwv1.RemoveEdgeResponse, error) {
	return new(gwv1.RemoveEdgeResponse), nil
}

func (h *fakeHub) ListNamespaces(context.Context, *gwv1.ListNamespacesRequest) (*gwv1.ListNamespacesResponse, error) {
	return &gwv1.ListNamespacesResponse{Namespaces: []*gwv1.Namespace{
		{Name: "default", Edges: 3, Resources: 2, Release: 41, ReleasedChecksum: "abababab00", ExpectedChecksum: "cdcdcdcd00"},
		{Name: "staging", Edges: 0, Resources: 1, Release: 40, ReleasedChecksum: "abababab00", ExpectedChecksum: "abababab00"},
	}}, nil
}

func (h *fakeHub) ListUsers(context.Context, *gwv1.ListUsersRequest) (*gwv1.ListUsersResponse, error) {
	return &gwv1.ListUsersResponse{Users: []*gwv1.User{
		{Name: "ada", Role: "admin", Sessions: 2, CreatedAt: timestamppb.New(now.Add(-time.Hour))},
		{Name: "lin", Role: "operator", Namespaces: []string{"eu", "us"}, CreatedAt: timestamppb.New(now.Add(-time.Minute))},
	}}, nil
}

func (h *fakeHub) CreateUser(_ context.Context, req *gwv1.CreateUserRequest) (*gwv1.CreateUserResponse, error) {
	res := &gwv1.CreateUserResponse{User: &gwv1.User{Name: req.Name, Role: req.Role, Namespaces: req.Namespaces}}
	if req.Password == "" {
		res.Password = "MADEPASSWORD"
	}
	return res, nil
}

func (h *fakeHub) SetUserRole(_ context.Context, req *gwv1.SetUserRoleRequest) (*gwv1.SetUserRoleResponse, error) {
	return &gwv1.SetUserRoleResponse{User: &gwv1.User{Name: req.Name, Role: req.Role, Namespaces: req.Namespaces}}, nil
}

func (h *fakeHub) SetPassword(context.Context, *gwv1.SetPasswordRequest) (*gwv1.SetPasswordResponse, error) {
	return new(gwv1.SetPasswordResponse), nil
}

func (h *fakeHub) DeleteUser(_ context.Context, req *gwv1.DeleteUserRequest) (*gwv1.DeleteUserResponse, error) {
	if req.Name == "ada" {
		return nil, refusal(connect.CodeFailedPrecondition, "last_admin", "ada is the last admin of every namespace; make another one first")
	}
	return new(gwv1.DeleteUserResponse), nil
}

// ListAudit has three entries, and gives at most two of them at a time.
func (h *fakeHub) ListAudit(_ context.Context, req *gwv1.ListAuditRequest) (*gwv1.ListAuditResponse, error) {
	all := []*gwv1.AuditEntry{
		{Index: 30, Actor: "ada", ActorAddress: "10.0.0.9", Action: "revoke_edge", Object: "edge/e1", Namespace: "eu"},
		{Index: 20, Actor: "lin", Action: "push", Object: "push/7"},
		{Index: 10, Actor: "edge/e1", Action: "enroll_edge", Object: "edge/e1", Namespace: "eu"},
	}
	res := &gwv1.ListAuditResponse{Oldest: timestamppb.New(now.Add(-time.Hour))}
	for _, e := range all {
		e.At = timestamppb.New(now.Add(-time.Duration(40-e.Index) * time.Minute))
		switch {
		case req.Before != 0 && e.Index >= req.Before, req.Actor != "" && e.Actor != req.Actor:
		case len(res.Entries) < min(2, int(req.PageSize)):
			res.Entries = append(res.Entries, e)
		default:
			res.NextBefore = res.Entries[len(res.Entries)-1].Index
		}
	}
	return res, nil
}

func (h *fakeHub) CreateApp(_ context.Context, req *gwv1.CreateAppRequest) (*gwv1.CreateAppResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	app := req.App
	app.Id, app.Namespace, app.CreatedAt = fmt.Sprintf("app_%d", len(h.apps)+1), orDefault(app.Namespace), timestamppb.New(now)
	h.apps = append(h.apps, app)
	return &gwv1.CreateAppResponse{App: app}, nil
}

func (h *fakeHub) UpdateApp(_ context.Context, req *gwv1.UpdateAppRequest) (*gwv1.UpdateAppResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, app := range h.apps {
		if app.Id == req.App.Id {
			h.apps[i] = req.App
			return &gwv1.UpdateAppResponse{App: req.App}, nil
		}
	}
	return nil, refusal(connect.CodeNotFound, "not_found", "there is no such app")
}

func (h *fakeHub) ListApps(context.Context, *gwv1.ListAppsRequest) (*gwv1.ListAppsResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &gwv1.ListAppsResponse{Apps: h.apps}, nil
}

func (h *fakeHub) DeleteApp(_ context.Context, req *gwv1.DeleteAppRequest) (*gwv1.DeleteAppResponse, error) {
	return &gwv1.DeleteAppResponse{RevokedTokens: 1}, nil
}

func (h *fakeHub) CreateToken(_ context.Context, req *gwv1.CreateTokenRequest) (*gwv1.CreateTokenResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	token := &gwv1.Token{Id: fmt.Sprintf("tok_%d", len(h.tokens)+1), App: req.App, Namespace: orDefault(req.Namespace), Note: req.Note, Hint: "gw_abcd", CreatedAt: timestamppb.New(now)}
	if req.Ttl != nil {
		token.ExpiresAt = timestamppb.New(now.Add(req.Ttl.AsDuration()))
	}
	h.tokens = append(h.tokens, token)
	return &gwv1.CreateTokenResponse{Token: token, Credential: "gw_abcdefgh"}, nil
}

func (h *fakeHub) ListTokens(context.Context, *gwv1.ListTokensRequest) (*gwv1.ListTokensResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &gwv1.ListTokensResponse{Tokens: h.tokens}, nil
}

func (h *fakeHub) RevokeToken(context.Context, *gwv1.RevokeTokenRequest) (*gwv1.RevokeTokenResponse, error) {
	return &gwv1.RevokeTokenResponse{AccessVersion: 100}, nil
}

func (h *fakeHub) PutSecret(_ context.Context, req *gwv1.PutSecretRequest) (*gwv1.PutSecretResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	secret := &gwv1.Secret{Name: req.Name, Namespace: orDefault(req.Namespace), Version: uint64(len(h.secrets) + 1), UpdatedBy: "admin", UpdatedAt: timestamppb.New(now)}
	h.secrets = append(h.secrets, secret)
	return &gwv1.PutSecretResponse{Secret: secret}, nil
}

func (h *fakeHub) ListSecrets(context.Context, *gwv1.ListSecretsRequest) (*gwv1.ListSecretsResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &gwv1.ListSecretsResponse{Secrets: h.secrets}, nil
}

func (h *fakeHub) DeleteSecret(context.Context, *gwv1.DeleteSecretRequest) (*gwv1.DeleteSecretResponse, error) {
	return new(gwv1.DeleteSecretResponse), nil
}

func (h *fakeHub) CreateJoinToken(_ context.Context, req *gwv1.CreateJoinTokenRequest) (*gwv1.CreateJoinTokenResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	token := &gwv1.JoinToken{Id: "join1", Role: req.Role, Namespace: orDefault(req.Namespace), Labels: req.Labels, MaxUses: max(1, req.MaxUses), CreatedAt: timestamppb.New(now), ExpiresAt: timestamppb.New(now.Add(time.Hour)), Ephemeral: req.Ephemeral}
	if req.Unlimited {
		token.MaxUses = 0
	}
	if req.Role == "hub" {
		token.Namespace = ""
	}
	h.joinTokens = append(h.joinTokens, token)
	return &gwv1.CreateJoinTokenResponse{JoinToken: token, Credential: "gwj_secret", HubUrls: []string{"https://10.0.0.1:50051", "https://10.0.0.2:50051"}}, nil
}

func (h *fakeHub) ListJoinTokens(context.Context, *gwv1.ListJoinTokensRequest) (*gwv1.ListJoinTokensResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &gwv1.ListJoinTokensResponse{JoinTokens: h.joinTokens}, nil
}

func (h *fakeHub) DeleteJoinToken(context.Context, *gwv1.DeleteJoinTokenRequest) (*gwv1.DeleteJoinTokenResponse, error) {
	return new(gwv1.DeleteJoinTokenResponse), nil
}

func (h *fakeHub) SignIn(_ context.Context, req *gwv1.SignInRequest) (*gwv1.SignInResponse, error) {
	if req.User != "admin" || req.Password != "secret password" {
		return nil, refusal(connect.CodeUnauthenticated, "unauthenticated", "user or password is wrong")
	}
	return &gwv1.SignInResponse{BearerToken: bearer, ExpiresAt: timestamppb.New(now.Add(24 * time.Hour)), Who: whoAmI()}, nil
}

func (h *fakeHub) SignOut(context.Context, *gwv1.SignOutRequest) (*gwv1.SignOutResponse, error) {
	return new(gwv1.SignOutResponse), nil
}

func (h *fakeHub) WhoAmI(context.Context, *gwv1.WhoAmIRequest) (*gwv1.WhoAmIResponse, error) {
	return whoAmI(), nil
}

func whoAmI() *gwv1.WhoAmIResponse { return &gwv1.WhoAmIResponse{User: "admin", Role: "admin"} }

func unmarshal(data string, m proto.Message) error { return protojson.Unmarshal([]byte(data), m) }

func (h *fakeHub) ListPlugins(context.Context, *gwv1.ListPluginsRequest) (*gwv1.ListPluginsResponse, error) {
	return &gwv1.ListPluginsResponse{Plugins: []*gwv1.PluginInfo{
		{Id: 7, Type: "edge", Name: "cache", Configured: true, Places: []*gwv1.PluginPlace{{EdgeId: "e1",
			Process: &gwv1.PluginProcess{State: gwv1.PluginState_PLUGIN_STATE_RUNNING, Restarts: 2, P50: durationpb.New(150 * time.Microsecond), P99: durationpb.New(2 * time.Millisecond)},
			Queue:   &gwv1.PluginQueue{Pending: 3, PendingBytes: 2048, Expired: 1, Halted: "hub plugin 7 is not running"}}}},
		{Id: 7, Type: "hub", Name: "stats", Configured: true, KvKeys: 2, DeadLetters: 2, Places: []*gwv1.PluginPlace{{HubId: "0123456789abcdef",
			Process: &gwv1.PluginProcess{State: gwv1.PluginState_PLUGIN_STATE_FAILED, Reason: "/opt/stats is not on this machine"}}}},
		{Id: 9, Type: "edge", Name: "audit", Configured: true},
	}}, nil
}

func (h *fakeHub) ListPluginKV(_ context.Context, r *gwv1.ListPluginKVRequest) (*gwv1.ListPluginKVResponse, error) {
	if r.PluginId != 7 {
		return &gwv1.ListPluginKVResponse{}, nil
	}
	return &gwv1.ListPluginKVResponse{Entries: []*gwv1.PluginKVEntry{{Key: "total", Size: 5}}}, nil
}

func (h *fakeHub) GetPluginKV(_ context.Context, r *gwv1.GetPluginKVRequest) (*gwv1.GetPluginKVResponse, error) {
	return &gwv1.GetPluginKVResponse{Entry: &gwv1.PluginKVEntry{Key: r.Key, Size: 5, Value: []byte("hello")}}, nil
}

// letters are a dead letter that an edge holds, and one whose bytes are gone.
var letters = []*gwv1.DeadLetter{
	{Id: "1f0c9a3be27d5c48", State: gwv1.DeadLetterState_DEAD_LETTER_STATE_HELD, PluginId: 7, EdgeId: "e1", Namespace: "eu", Size: 12, Reason: "no_receiver", Message: "nobody wanted it"},
	{Id: "2f0c9a3be27d5c48", State: gwv1.DeadLetterState_DEAD_LETTER_STATE_GONE, PluginId: 7, EdgeId: "e1", Namespace: "eu", Size: 12, Reason: "crashed", Message: "it broke its plugin"},
}

func (h *fakeHub) ListDeadLetters(context.Context, *gwv1.ListDeadLettersRequest) (*gwv1.ListDeadLettersResponse, error) {
	return &gwv1.ListDeadLettersResponse{DeadLetters: letters, Total: 2}, nil
}

func (h *fakeHub) GetDeadLetter(context.Context, *gwv1.GetDeadLetterRequest) (*gwv1.GetDeadLetterResponse, error) {
	return &gwv1.GetDeadLetterResponse{DeadLetter: letters[0]}, nil
}

func (h *fakeHub) RedeliverDeadLetters(context.Context, *gwv1.RedeliverDeadLettersRequest) (*gwv1.RedeliverDeadLettersResponse, error) {
	return &gwv1.RedeliverDeadLettersResponse{}, nil
}

func (h *fakeHub) DropDeadLetters(context.Context, *gwv1.DropDeadLettersRequest) (*gwv1.DropDeadLettersResponse, error) {
	return &gwv1.DropDeadLettersResponse{}, nil
}
