// Package gateway is the data plane: it compiles a snapshot of configuration into an immutable request table, serves by
// it, and swaps it atomically.
package gateway

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
)

// DefaultMaxRequestBody is the most bytes of a request's body that are forwarded unless Config says otherwise.
const DefaultMaxRequestBody = 64 << 20

// DefaultMaxBufferedBodies is the most memory bodies take that are read whole, unless Config says otherwise.
const DefaultMaxBufferedBodies = 1 << 30

// Config is what a Gateway needs. Authenticator is required.
type Config struct {
	// Authenticator knows the tokens callers present. It is asked once per request that needs a token.
	Authenticator Authenticator
	// Secret returns the value of a secret by its name, now; nil: no secret is known. It must not block.
	Secret func(name string) (string, bool)
	// Logger gets what an operator must act on; nil: nothing is logged.
	Logger *slog.Logger
	// AccessLog gets one line of JSON per request, written in batches by one goroutine; nil: none. Close does not close it.
	AccessLog io.Writer
	// Now is the clock of durations and of the access log; nil: time.Now.
	Now func() time.Time
	// Metrics is where the gateway registers its metrics; nil: nowhere.
	Metrics prometheus.Registerer
	// MaxRequestBody is the most bytes a request's body may have; 0: DefaultMaxRequestBody.
	MaxRequestBody int64
	// MaxBufferedBodies is the most memory, in bytes, that bodies may take which are read before they are forwarded, all
	// requests together; 0: DefaultMaxBufferedBodies.
	MaxBufferedBodies int64
	// UpstreamRoots are the authorities https upstreams' certificates must come from; nil: the system's.
	UpstreamRoots *x509.CertPool
}

// Gateway is an http.Handler that serves by the table it was last given. All its methods may be called at any time from
// any goroutine, except that Close comes last.
type Gateway struct {
	auth    Authenticator
	secret  func(name string) (string, bool)
	logger  *slog.Logger
	log     *accessLog // nil: none
	now     func() time.Time
	maxBody int64
	memory  *semaphore.Weighted // bytes of bodies that are read whole
	metrics *metrics
	pools   *pools
	streams streams
	noRoute *targetMetrics

	serving  atomic.Pointer[serving]
	inFlight atomic.Int64
	vitals   vitals
	failures failures
	draining atomic.Bool
	idle     chan struct{} // capacity 1: nothing was in flight while draining

	swapping sync.Mutex // held while serving is replaced or swept
}

// serving is a table with what lives outside of it, resolved once.
type serving struct {
	table    *Table
	runtimes []runtime // by the target's index
	plugins  Plugins   // nil: none run
}

// runtime is what a target needs that outlives its table.
type runtime struct {
	transports []*http.Transport // by the upstream's place
	series     atomic.Pointer[targetMetrics]
}

// New returns a gateway without a table: until the first Swap it answers 503. Close releases what it holds.
func New(c Config) *Gateway {
	g := &Gateway{
		auth: c.Authenticator, secret: c.Secret, logger: c.Logger, now: c.Now, maxBody: c.MaxRequestBody,
		pools: &pools{byKey: map[poolKey]*http.Transport{}, roots: c.UpstreamRoots},
		idle:  make(chan struct{}, 1),
	}
	if g.secret == nil {
		g.secret = func(string) (string, bool) { return "", false }
	}
	if g.logger == nil {
		g.logger = slog.New(slog.DiscardHandler)
	}
	if g.now == nil {
		g.now = time.Now
	}
	if g.maxBody <= 0 {
		g.maxBody = DefaultMaxRequestBody
	}
	if c.MaxBufferedBodies <= 0 {
		c.MaxBufferedBodies = DefaultMaxBufferedBodies
	}
	g.memory = semaphore.NewWeighted(c.MaxBufferedBodies)
	if c.AccessLog != nil {
		g.log = newAccessLog(c.AccessLog)
	}
	g.streams.running = map[*exchange]struct{}{}
	g.metrics = newMetrics(g, c.Metrics)
	g.noRoute = g.metrics.of(nil)
	return g
}

// Probe asks the table itself: for every resource it makes up requests that should reach it, and returns an error naming
// the first that doesn't.
func (g *Gateway) Probe(t *Table) error { return t.probe() }

// Swap makes t what new requests are served by, with the plugins that run for it, at most one; without, those that t
// names are taken as failing. Requests in flight end on the table and with the plugins they began with.
func (g *Gateway) Swap(t *Table, plugins ...Plugins) {
	g.swapping.Lock()
	defer g.swapping.Unlock()
	s := &serving{table: t, runtimes: make([]runtime, len(t.targets))}
	if len(plugins) > 0 && len(t.plugins) > 0 {
		s.plugins = plugins[0]
	}
	for i, target := range t.targets {
		transports := make([]*http.Transport, len(target.upstreams))
		for j := range target.upstreams {
			transports[j] = g.pools.get(keyOf(target, &target.upstreams[j]))
		}
		s.runtimes[i].transports = transports
	}
	g.serving.Store(s)
}

// Table returns what is served now, nil before the first Swap.
func (g *Gateway) Table() *Table {
	if s := g.serving.Load(); s != nil {
		return s.table
	}
	return nil
}

// SweepUpstreams closes the idle connections of upstreams that the table no longer names, and forgets the metrics of
// targets that are gone.
func (g *Gateway) SweepUpstreams() {
	g.swapping.Lock()
	defer g.swapping.Unlock()
	keys, refs := map[poolKey]struct{}{}, map[string]struct{}{}
	if s := g.serving.Load(); s != nil {
		for _, t := range s.table.targets {
			refs[t.ref] = struct{}{}
			for i := range t.upstreams {
				keys[keyOf(t, &t.upstreams[i])] = struct{}{}
			}
		}
	}
	g.pools.sweep(keys)
	g.metrics.sweep(refs)
}

// CutStreams ends the running streams and WebSockets whose token's hash and app match accepts, and returns how many. A
// stream that begins while it runs is checked against the Authenticator again; so what refuses new requests must be in
// place before CutStreams is called.
func (g *Gateway) CutStreams(match func(hash [32]byte, app *App) bool) int {
	return g.streams.cut(match)
}

// Shutdown waits until no request is in flight. When ctx ends before, it cuts what still streams and returns an error.
// It refuses no request: whoever owns the listeners closes them first.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.draining.Store(true)
	for g.inFlight.Load() > 0 {
		select {
		case <-g.idle:
		case <-ctx.Done():
			n := g.inFlight.Load()
			g.streams.cutAll()
			return fmt.Errorf("drain %d requests: %w", n, ctx.Err())
		}
	}
	return nil
}

// Close writes out the access log and closes idle upstream connections. No request may be served after.
func (g *Gateway) Close() error {
	if g.log != nil {
		g.log.close()
	}
	g.pools.sweep(nil)
	return nil
}

// begin and end count a request in flight.
func (g *Gateway) begin() { g.inFlight.Add(1) }

func (g *Gateway) end() {
	if g.inFlight.Add(-1) == 0 && g.draining.Load() {
		signal(g.idle)
	}
}

// seriesOf returns the metrics of a target, resolved at its first request.
func (g *Gateway) seriesOf(rt *runtime, t *target) *targetMetrics {
	if s := rt.series.Load(); s != nil {
		return s
	}
	s := g.metrics.of(t)
	rt.series.Store(s)
	return s
}
