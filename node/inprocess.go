package node

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"

	"gw/rpc/gwv1/gwv1connect"
)

// inProcess is a connect.HTTPClient whose server is a handler of this process: the console calls the admin API by it,
// through the very checks a call from elsewhere meets. Calls carry the visitor of their context.
type inProcess struct{ handler http.Handler }

// visitor is who a console request comes from.
type visitor struct{ bearer, address string }

type visitorKey struct{}

func withVisitor(ctx context.Context, v visitor) context.Context {
	return context.WithValue(ctx, visitorKey{}, v)
}

// withRemote notes the address a console request came from.
func withRemote(ctx context.Context, address string) context.Context {
	v, _ := ctx.Value(visitorKey{}).(visitor)
	v.address = address
	return withVisitor(ctx, v)
}

// withBearer notes the bearer token of a console session.
func withBearer(ctx context.Context, bearer string) context.Context {
	v, _ := ctx.Value(visitorKey{}).(visitor)
	v.bearer = bearer
	return withVisitor(ctx, v)
}

// Do serves a request. It returns when the handler has sent its headers; the body streams. The handler's goroutine ends
// with the request's context or when the body is closed.
func (p inProcess) Do(r *http.Request) (*http.Response, error) {
	v, _ := r.Context().Value(visitorKey{}).(visitor)
	ctx, cancel := context.WithCancel(r.Context())
	body, pipe := io.Pipe()
	w := &pipeResponse{header: http.Header{}, pipe: pipe, started: make(chan struct{})}
	served := r.Clone(ctx)
	served.RequestURI, served.RemoteAddr = r.URL.RequestURI(), v.address
	served.Proto, served.ProtoMajor, served.ProtoMinor = "HTTP/2.0", 2, 0
	if served.Body == nil {
		served.Body = http.NoBody
	}
	if v.bearer != "" {
		served.Header.Set("Authorization", "Bearer "+v.bearer)
	}
	go func() {
		defer cancel()
		// A proxy aborts by panicking, and net/http, which would recover, is not in between.
		defer func() {
			if v := recover(); v != nil {
				w.WriteHeader(http.StatusBadGateway)
				pipe.CloseWithError(fmt.Errorf("the call was aborted: %v", v))
			}
		}()
		p.handler.ServeHTTP(w, served)
		w.WriteHeader(http.StatusOK)
		pipe.Close()
	}()
	<-w.started
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: w.sent, Body: cancelBody{body, cancel}, ContentLength: -1, Request: r, Trailer: http.Header{},
	}, nil
}

// cancelBody ends the handler with the body.
type cancelBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b cancelBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// pipeResponse is an http.ResponseWriter into a pipe. Only the handler's goroutine uses it until started is closed.
type pipeResponse struct {
	header  http.Header
	pipe    *io.PipeWriter
	once    sync.Once
	started chan struct{}
	status  int         // set before started is closed
	sent    http.Header // likewise: the header as it was then
}

func (w *pipeResponse) Header() http.Header { return w.header }

func (w *pipeResponse) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.started)
	})
}

func (w *pipeResponse) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.pipe.Write(b)
}

// Flush does nothing: a pipe holds nothing back.
func (w *pipeResponse) Flush() { w.WriteHeader(http.StatusOK) }

// adminClients are the admin API as the console calls it.
type adminClients struct {
	fleet    gwv1connect.FleetServiceClient
	releases gwv1connect.ReleaseServiceClient
	access   gwv1connect.AccessServiceClient
	audit    gwv1connect.AuditServiceClient
	plugins  gwv1connect.PluginServiceClient
}

func newAdminClients(handler http.Handler) adminClients {
	const url = "http://in-process" // never dialled
	c := inProcess{handler}
	return adminClients{
		fleet:    gwv1connect.NewFleetServiceClient(c, url),
		releases: gwv1connect.NewReleaseServiceClient(c, url),
		access:   gwv1connect.NewAccessServiceClient(c, url),
		audit:    gwv1connect.NewAuditServiceClient(c, url),
		plugins:  gwv1connect.NewPluginServiceClient(c, url),
	}
}
