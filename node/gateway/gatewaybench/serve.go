package gatewaybench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"gw/node/gateway"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

// serve is what a child does: it serves in its role until in ends.
func serve(role string, in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	if !lines.Scan() {
		return fmt.Errorf("bench %s: started without a parent", role)
	}
	var h hello
	if err := json.Unmarshal(lines.Bytes(), &h); err != nil {
		return fmt.Errorf("bench %s: %w", role, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	stop, err := start(role, h, listener)
	if err != nil {
		return fmt.Errorf("bench %s: %w", role, err)
	}
	defer stop()
	answer := json.NewEncoder(out)
	if err := answer.Encode(listener.Addr().String()); err != nil {
		return err
	}
	for lines.Scan() {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			return err
		}
		if err := answer.Encode(time.Duration(u.Utime.Nano() + u.Stime.Nano())); err != nil {
			return err
		}
	}
	return lines.Err()
}

// start begins to serve and returns how to end it.
func start(role string, h hello, listener net.Listener) (stop func(), err error) {
	switch role {
	case "upstream":
		return serveUpstream(listener, h.Body), nil
	case "bare":
		return serveHTTP(listener, bareProxy(h.Upstream)), nil
	case "gateway":
		g, closeGateway, err := newGateway(h)
		if err != nil {
			return nil, err
		}
		stop := serveHTTP(listener, g)
		return func() { stop(); closeGateway() }, nil
	}
	return nil, fmt.Errorf("unknown role")
}

func serveHTTP(listener net.Listener, handler http.Handler) (stop func()) {
	server := &http.Server{Handler: handler}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) }) // ends with Close
	return func() { server.Close(); running.Wait() }
}

// bareProxy is a reverse proxy as one would tune it by hand: enough idle connections and pooled buffers.
func bareProxy(upstream string) http.Handler {
	target := &url.URL{Scheme: "http", Host: upstream}
	return &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		BufferPool: &buffers{sync.Pool{New: func() any { return new([32 << 10]byte) }}},
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 1024, IdleConnTimeout: 90 * time.Second, DisableCompression: true,
		},
	}
}

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte  { return b.pool.Get().(*[32 << 10]byte)[:] }
func (b *buffers) Put(p []byte) { b.pool.Put((*[32 << 10]byte)(p)) }

// oneToken is an Authenticator that knows one token.
type oneToken struct{ apps sync.Map }

func (o *oneToken) Authenticate(_ context.Context, hash [32]byte, _ string) (*gateway.App, error) {
	if app, ok := o.apps.Load(hash); ok {
		return app.(*gateway.App), nil
	}
	return nil, gateway.ErrUnknownToken
}

// newGateway makes a gateway as an edge runs it: token check, metrics, an access log in a file.
func newGateway(h hello) (*gateway.Gateway, func(), error) {
	spec, err := proto.MarshalOptions{Deterministic: true}.Marshal(&gwv1.APISpec{
		Paths:     []string{"/bench"},
		Upstreams: []*gwv1.Upstream{{Url: "http://" + h.Upstream}},
	})
	if err != nil {
		return nil, nil, err
	}
	table, err := gateway.Compile(gateway.Snapshot{Number: 1, Resources: []gateway.Resource{
		{Kind: "API", Name: "bench", Digest: resource.DigestOf("API", "bench", spec), Spec: spec},
	}})
	if err != nil {
		return nil, nil, err
	}
	log, err := os.CreateTemp("", "gw-bench-*.log")
	if err != nil {
		return nil, nil, err
	}
	tokens := &oneToken{}
	tokens.apps.Store(identity.HashCredential(h.Token), gateway.NewApp("app-1", "bench", "token-1", []string{"API/bench"}, nil))
	g := gateway.New(gateway.Config{Authenticator: tokens, AccessLog: log, Metrics: prometheus.NewRegistry()})
	g.Swap(table)
	return g, func() { g.Close(); log.Close(); os.Remove(log.Name()) }, nil
}

// serveUpstream answers every request with a JSON body of n bytes.
func serveUpstream(listener net.Listener, n int) (stop func()) {
	body := jsonBody(n)
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: %s\r\nContent-Length: %d\r\n\r\n%s",
		time.Now().UTC().Format(http.TimeFormat), len(body), body)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			// It ends when the proxies close their connections, which end first.
			running.Go(func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for {
					_, length, err := readHead(r)
					if err != nil {
						return
					}
					if _, err := r.Discard(length); err != nil {
						return
					}
					if _, err := conn.Write(answer); err != nil {
						return
					}
				}
			})
		}
	})
	return func() { listener.Close(); running.Wait() }
}
