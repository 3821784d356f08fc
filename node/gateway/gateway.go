// Package gateway is the data plane: it compiles a snapshot of configuration into an immutable request table, serves by
// it, and swaps it atomically.
package gateway

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// DefaultMaxRequestBody is the most bytes of a request's body that are forwarded unless Config says otherwise.
const DefaultMaxRequestBody = 64 << 20

// Config is what a Gateway needs. Authenticator is required.
type Config struct {
	// Authenticator knows the tokens callers present. It is asked once per request that needs a token.
	Authenticator Authenticator
	// Secret returns the value of a secret by its name, now; nil: no secret is known. It must not block.
	Secret func(name string) (string, bool)
	// Logger gets what an operator must act on; nil: nothing is logged.
	Logger *slog.Logger
	// AccessLog gets one line of JSON per request, written by one goroutine; nil: none. Close does not close it.
	AccessLog io.Writer
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Metrics is where the gateway registers its metrics; nil: nowhere.
	Metrics prometheus.Registerer
	// MaxRequestBody is the most bytes a request's body may have; 0: DefaultMaxRequestBody.
	MaxRequestBody int64
}

// Gateway is an http.Handler that serves by the table it was last given.
type Gateway struct{}

// New returns a gateway without a table: until the first Swap it answers 503. Close releases what it holds.
func New(c Config) *Gateway { return &Gateway{} }

// ServeHTTP serves one request. It takes r over: it edits r.Header in place.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {}

// Probe asks the table itself: for every resource it builds requests that should reach it, and returns an error naming
// the first that doesn't.
func (g *Gateway) Probe(t *Table) error { return nil }

// Swap makes t what new requests are served by. Requests in flight end on the table they began with.
func (g *Gateway) Swap(t *Table) {}

// Table returns what is served now, nil before the first Swap.
func (g *Gateway) Table() *Table { return nil }

// CutStreams ends the running streams and WebSockets that match accepts, and returns how many.
func (g *Gateway) CutStreams(match func(hash [32]byte, app *App) bool) int { return 0 }

// SweepUpstreams closes the idle connections of upstreams that the table no longer names.
func (g *Gateway) SweepUpstreams() {}

// Shutdown waits until no request is in flight. When ctx ends before, it cuts what still streams and returns ctx's error.
func (g *Gateway) Shutdown(ctx context.Context) error { return nil }

// Close writes out the access log and frees the gateway's goroutines and connections. No request may be served after.
func (g *Gateway) Close() error { return nil }
