package rpc

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"connectrpc.com/validate"

	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
)

const (
	maxAdminRequest = 32 << 20
	maxEdgeRequest  = 8 << 20
	compressFrom    = 1 << 10
)

func adminHandler(h *Hub) http.Handler {
	options := h.core.options(maxAdminRequest, connect.WithRequestGate(h.core.adminGate))
	mux := http.NewServeMux()
	mux.Handle(gwv1connect.NewConfigServiceHandler(h.Config, options...))
	mux.Handle(gwv1connect.NewReleaseServiceHandler(h.Releases, options...))
	mux.Handle(gwv1connect.NewFleetServiceHandler(h.Fleet, options...))
	mux.Handle(gwv1connect.NewAccessServiceHandler(h.Access, options...))
	// What services there are is no secret, so tools may ask without a token.
	reflector := grpcreflect.NewStaticReflector(
		gwv1connect.ConfigServiceName, gwv1connect.ReleaseServiceName, gwv1connect.FleetServiceName, gwv1connect.AccessServiceName)
	mux.Handle(grpcreflect.NewHandlerV1(reflector))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector))
	return mux
}

func edgeHandler(h *Hub) http.Handler {
	// Parts of a release are compressed already.
	fetch := connect.WithConditionalHandlerOptions(func(spec connect.Spec) []connect.HandlerOption {
		if spec.Procedure == gwv1connect.EdgeServiceFetchReleaseProcedure {
			return []connect.HandlerOption{connect.WithCompression("gzip", nil, nil)}
		}
		return nil
	})
	mux := http.NewServeMux()
	mux.Handle(gwv1connect.NewEdgeServiceHandler(h.Edges, h.core.options(maxEdgeRequest, fetch)...))
	return withCaller(mux)
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
	key := header.Get("Idempotency-Key")
	if err := checkIdempotencyKey(key); err != nil {
		return ctx, errorOf(ctx, k.log, err)
	}
	ctx = WithIdempotencyKey(WithAddress(ctx, peer.Addr), key)
	if spec.Procedure == gwv1connect.AccessServiceSignInProcedure {
		return ctx, nil
	}
	scheme, bearer, _ := strings.Cut(header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		bearer = ""
	}
	p, err := k.authenticate(strings.TrimSpace(bearer))
	if err != nil {
		return ctx, errorOf(ctx, k.log, err)
	}
	p.Address = host(peer.Addr)
	return WithPrincipal(ctx, p), nil
}

// withCaller puts the edge at the other end into the request's context, if the connection has a verified certificate
// of one; and the address it comes from.
func withCaller(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := WithAddress(r.Context(), r.RemoteAddr)
		if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && len(r.TLS.PeerCertificates) > 0 {
			certificate := r.TLS.PeerCertificates[0]
			if who, err := identity.EdgeOf(certificate); err == nil { // a hub's names none
				ctx = context.WithValue(ctx, callerKey{}, caller{Edge: who, certificate: certificate, address: r.RemoteAddr})
			}
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// translator turns what handlers return into what callers see.
type translator struct{ k *core }

func (t *translator) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		answer, err := next(ctx, r)
		if err != nil {
			return nil, errorOf(ctx, t.k.log, err)
		}
		return answer, nil
	}
}

func (t *translator) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (t *translator) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := next(ctx, conn); err != nil {
			return errorOf(ctx, t.k.log, err)
		}
		return nil
	}
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
