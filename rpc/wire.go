package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"connectrpc.com/validate"
	"google.golang.org/protobuf/proto"

	"gw/raftstore"
	"gw/rpc/gwv1/gwv1connect"
)

const (
	maxAdminRequest = 32 << 20
	// maxEdgeRequest is what a heartbeat with all that it may say needs: the leader remembers the last one of every edge.
	maxEdgeRequest  = 1 << 20
	maxPayloadBatch = 8 << 20
	maxHubRequest   = 64 << 10
	compressFrom    = 1 << 10
)

func adminMux(h *Hub) http.Handler {
	options := h.core.options(maxAdminRequest, connect.WithRequestGate(h.core.adminGate))
	mux := http.NewServeMux()
	mux.Handle(gwv1connect.NewConfigServiceHandler(h.Config, options...))
	mux.Handle(gwv1connect.NewReleaseServiceHandler(h.Releases, options...))
	mux.Handle(gwv1connect.NewFleetServiceHandler(h.Fleet, options...))
	mux.Handle(gwv1connect.NewAccessServiceHandler(h.Access, options...))
	mux.Handle(gwv1connect.NewClusterServiceHandler(h.Cluster, options...))
	mux.Handle(gwv1connect.NewAuditServiceHandler(h.Audit, options...))
	mux.Handle(gwv1connect.NewPluginServiceHandler(h.Plugins, options...))
	// What services there are is no secret, so tools may ask without a token.
	reflector := grpcreflect.NewStaticReflector(
		gwv1connect.ConfigServiceName, gwv1connect.ReleaseServiceName, gwv1connect.FleetServiceName, gwv1connect.AccessServiceName,
		gwv1connect.ClusterServiceName, gwv1connect.AuditServiceName, gwv1connect.PluginServiceName)
	mux.Handle(grpcreflect.NewHandlerV1(reflector))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector))
	return mux
}

func edgeMux(h *Hub) http.Handler {
	own := connect.WithConditionalHandlerOptions(func(spec connect.Spec) []connect.HandlerOption {
		switch spec.Procedure {
		case gwv1connect.EdgeServiceFetchReleaseProcedure, gwv1connect.EdgeServiceWatchProcedure:
			// Parts of a release are compressed already, and nothing else of a stream is large.
			return []connect.HandlerOption{connect.WithCompression("gzip", nil, nil)}
		case gwv1connect.EdgeServiceSendPluginControlBatchProcedure:
			return []connect.HandlerOption{connect.WithReadMaxBytes(maxPayloadBatch)}
		}
		return nil
	})
	path, handler := gwv1connect.NewEdgeServiceHandler(h.Edges, h.core.options(maxEdgeRequest, own, connect.WithCodec(knownFields{}))...)
	mux := http.NewServeMux()
	mux.Handle(path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == gwv1connect.EdgeServiceWatchProcedure { // those stay, and admission bounds how many come
			handler.ServeHTTP(w, r)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), arrivalKey{}, h.core.now()))
		leave, err := h.Edges.calls.enter(r.Context())
		if err != nil {
			return // the edge is gone
		}
		defer leave()
		handler.ServeHTTP(w, r)
	}))
	return mux
}

// knownFields is the binary codec, which forgets fields that this version has no name for: what an edge says is
// remembered, and nothing bounds those.
type knownFields struct{}

// Name implements connect.Codec.
func (knownFields) Name() string { return "proto" }

// Marshal implements connect.Codec.
func (knownFields) Marshal(m any) ([]byte, error) { return proto.Marshal(m.(proto.Message)) }

// MarshalAppend spares connect a copy.
func (knownFields) MarshalAppend(b []byte, m any) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(b, m.(proto.Message))
}

// Unmarshal implements connect.Codec.
func (knownFields) Unmarshal(b []byte, m any) error {
	return proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m.(proto.Message))
}

type arrivalKey struct{}

// arrivedAt returns when an edge's call arrived, before it waited for its lane; now, if it didn't.
func arrivedAt(ctx context.Context, now time.Time) time.Time {
	if at, ok := ctx.Value(arrivalKey{}).(time.Time); ok {
		return at
	}
	return now
}

func hubMux(h *Hub) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(gwv1connect.NewHubServiceHandler(h.Hubs, h.core.options(maxHubRequest)...))
	return mux
}

// options are those of every service. The order of interceptors is outermost first.
func (k *core) options(maxRequest int, more ...connect.HandlerOption) []connect.HandlerOption {
	return append([]connect.HandlerOption{
		connect.WithReadMaxBytes(maxRequest),
		connect.WithCompressMinBytes(compressFrom),
		connect.WithInterceptors(&translator{k}),
		connect.WithRecover(func(_ context.Context, spec connect.Spec, _ http.Header, cause any) error {
			return fmt.Errorf("panic in %s: %v\n%s", spec.Procedure, cause, debug.Stack())
		}),
		connect.WithInterceptors(validate.NewInterceptor(validate.WithoutErrorDetails()), validated{}),
	}, more...)
}

// adminGate finds out who calls before anything of the request is read.
func (k *core) adminGate(ctx context.Context, spec connect.Spec, peer connect.Peer, header http.Header) (context.Context, error) {
	ctx, err := k.admitCall(ctx, spec, peer, header)
	if err != nil {
		e := errorOf(ctx, k.log, err)
		k.metrics.answered(k.procedures[spec.Procedure], e.Code().String(), 0)
		return ctx, e
	}
	return ctx, nil
}

func (k *core) admitCall(ctx context.Context, spec connect.Spec, peer connect.Peer, header http.Header) (context.Context, error) {
	key := header.Get("Idempotency-Key")
	if err := checkIdempotencyKey(key); err != nil {
		return ctx, err
	}
	ctx = WithIdempotencyKey(ctx, key)
	f, passedOn := forwardedOf(ctx)
	if !passedOn {
		ctx = WithAddress(ctx, peer.Addr)
	}
	if spec.Procedure == gwv1connect.AccessServiceSignInProcedure {
		return ctx, nil
	}
	p, err := k.principalOfCall(ctx, f, passedOn, header)
	if err != nil {
		noteStranger(ctx)
		return ctx, err
	}
	if p.Address == "" {
		p.Address = addressOf(ctx)
	}
	return WithPrincipal(ctx, p), nil
}

// principalOfCall returns who calls: whom another hub names, whom a caller in-process has established, or whose bearer
// token it is.
func (k *core) principalOfCall(ctx context.Context, f forwarded, passedOn bool, header http.Header) (Principal, error) {
	established, ok := PrincipalOf(ctx)
	switch {
	case passedOn && f.user != "":
		return Principal{User: f.user, Role: f.role, Namespaces: f.namespaces, Address: f.address}, nil
	case passedOn:
		return k.ownerOf(f.session)
	case ok:
		return established, nil
	}
	return k.authenticate(bearerOf(header))
}

// bearerOf returns the bearer token of a request, or "".
func bearerOf(header http.Header) string {
	scheme, bearer, _ := strings.Cut(header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(bearer)
}

// translator turns what handlers return into what callers see.
type translator struct{ k *core }

func (t *translator) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		began := arrivedAt(ctx, t.k.now())
		answer, err := next(ctx, r)
		if err := t.end(ctx, r.Spec(), began, err); err != nil {
			return nil, err
		}
		return answer, nil
	}
}

// end notes how a call ended, and returns what the caller is to see of it; nil stays nil.
func (t *translator) end(ctx context.Context, spec connect.Spec, began time.Time, err error) error {
	p, code := t.k.procedures[spec.Procedure], "ok"
	defer func() { t.k.metrics.answered(p, code, t.k.now().Sub(began)) }()
	if err == nil {
		return nil
	}
	noteError(ctx, err)
	if errors.Is(err, raftstore.ErrNotLeader) && !errors.Is(err, raftstore.ErrUnknownOutcome) {
		err = t.elsewhere(p)
	}
	e := errorOf(ctx, t.k.log, err)
	code = e.Code().String()
	return e
}

// elsewhere says that this hub does not lead: to an edge, where to go; to others, that they may try again.
func (t *translator) elsewhere(p procedure) error {
	if p.service == edgeService {
		address, _ := t.k.leaderNow()
		return t.k.notLeader(address)
	}
	return &Error{Reason: ReasonNotProposed, Message: "this hub does not lead any more, and nothing was changed: try again"}
}

func (t *translator) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (t *translator) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		began := t.k.now()
		return t.endStream(ctx, conn, began, next(ctx, conn))
	}
}

// endStream is end for streams. What it needs is not on the stack while they last.
func (t *translator) endStream(ctx context.Context, conn connect.StreamingHandlerConn, began time.Time, err error) error {
	return t.end(ctx, conn.Spec(), began, err)
}

// validated notes that the request has been checked by its schema.
type validated struct{}

func (validated) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		return next(context.WithValue(ctx, validatedKey{}, true), r)
	}
}

func (validated) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (validated) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return next(context.WithValue(ctx, validatedKey{}, true), conn)
	}
}
