package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"gw/node/cli"
	"gw/node/edgestore"
	"gw/node/gateway"
	"gw/node/pluginhost"
	"gw/node/uplink"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// EdgeConfig says how an edge runs. Its zero value is not usable: the flags' defaults make it complete.
type EdgeConfig struct {
	Config         string            `placeholder:"FILE" help:"Read flags from this YAML or JSON file."`
	DataDir        string            `default:"gw-edge" placeholder:"DIR" help:"Where the edge keeps its identity and the releases it can start from."`
	Hub            []string          `placeholder:"URL" help:"Hubs to join, https://HOST:PORT. Needed once; later the data directory knows them."`
	JoinToken      string            `placeholder:"TOKEN" help:"What a hub gave for joining (gw join-token create). Needed once."`
	ID             string            `name:"id" env:"GW_EDGE_ID" placeholder:"NAME" help:"The edge's name. Default: this machine's name. Fixed once joined."`
	Listen         string            `default:":8080" placeholder:"ADDR" help:"Address callers are served on, HTTP; \"off\" for none."`
	TLSListen      string            `name:"tls-listen" placeholder:"ADDR" help:"Address callers are served on, HTTPS. Needs --tls-cert and --tls-key."`
	TLSCert        string            `name:"tls-cert" placeholder:"FILE" help:"Certificate for --tls-listen, PEM; read again when it changes."`
	TLSKey         string            `name:"tls-key" placeholder:"FILE" help:"Its key, PEM."`
	OpsListen      string            `default:"127.0.0.1:9090" placeholder:"ADDR" help:"Address of /livez, /readyz and /metrics; \"off\" for none."`
	OfflineGrace   time.Duration     `default:"24h" help:"How long a known token is served past its last validation while no hub answers; 0: not at all."`
	TokenTTL       time.Duration     `default:"5m" help:"How long a token is served before a hub is asked again."`
	UnknownTokens  int               `name:"unknown-tokens-per-minute" default:"120" placeholder:"N" help:"How many unknown tokens of one address hubs are asked about; 0: no bound. Valid tokens don't count."`
	MaxRequestBody int64             `default:"67108864" placeholder:"BYTES" help:"The largest request body forwarded."`
	Metadata       map[string]string `mapsep:"," placeholder:"KEY=VALUE" help:"Shown beside the edge in the console."`
	AccessLog      string            `default:"-" placeholder:"FILE" help:"Where requests are logged as JSON lines: a file, \"-\" for standard output, \"off\"."`
	LogLevel       slog.Level        `default:"info" help:"Least level logged: debug, info, warn or error."`

	// Now is the clock; nil: time.Now.
	Now func() time.Time `kong:"-"`
}

// Examples are shown by "gw edge --help".
func (*EdgeConfig) Examples() string {
	return `
gw edge --hub https://hub-1.example:50051 --join-token gwj_...
gw edge --data-dir gw-edge
gw edge --tls-listen :8443 --tls-cert edge.pem --tls-key edge.key`
}

// Run runs the edge until ctx ends.
func (c *EdgeConfig) Run(ctx context.Context, std *cli.Context) error {
	e, err := openEdge(ctx, *c, std.Stdout, newLogger(std.Stderr, c.LogLevel))
	if err != nil {
		return err
	}
	return e.run(ctx, func() { e.log.Info("edge started", e.addresses()...) })
}

// edge is one running edge, from its disk up to its listeners.
type edge struct {
	config    EdgeConfig
	log       *slog.Logger
	accessLog io.WriteCloser // nil: none
	store     *edgestore.Store
	spool     *edgestore.Spool
	metrics   *prometheus.Registry
	tokens    *uplink.Tokens[*gateway.App]
	gateway   *gateway.Gateway
	uplink    *uplink.Uplink
	plugins   *pluginhost.Host
	release   *releaseLoader

	began       time.Time
	connections atomic.Int64 // of callers
	space       func(dir string) (free, total uint64, err error)
	draining    atomic.Bool // the process is about to end

	callers *server // nil: off
	tls     *server // nil: off
	ops     *server // nil: off
}

// openEdge builds an edge bottom-up, with the newest release on its disk; it serves once run is called. Whatever was
// opened is closed again on failure.
func openEdge(ctx context.Context, c EdgeConfig, stdout io.Writer, log *slog.Logger) (e *edge, err error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	e = &edge{config: c, log: log, metrics: prometheus.NewRegistry(), began: time.Now(), space: diskSpace}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	e.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if e.store, err = edgestore.Open(c.DataDir); err != nil {
		return e, err
	}
	for _, found := range e.store.Found() {
		log.Error(found)
	}
	if err := e.checkJoin(); err != nil {
		return e, err
	}
	if err := e.openSpool(); err != nil {
		return e, err
	}
	if e.accessLog, err = openAccessLog(c.AccessLog, stdout); err != nil {
		return e, err
	}
	e.openPlugins()
	e.buildGateway()
	if err := e.buildUplink(); err != nil {
		return e, err
	}
	e.release.loadFromDisk(ctx, e.uplink.Status().Namespace)
	return e, e.openListeners()
}

// checkJoin refuses to start an edge that has never joined and does not know how.
func (e *edge) checkJoin() error {
	_, err := e.store.Identity()
	if err == nil || e.config.JoinToken != "" && len(e.config.Hub) > 0 {
		return nil
	}
	if !errors.Is(err, edgestore.ErrNone) {
		return usage("the identity in %s can't be used (%v); to join again, give --hub and --join-token", e.config.DataDir, err)
	}
	return usage("this edge has not joined a cluster yet: give --hub https://HOST:50051 and --join-token TOKEN.\nOn a machine with the CLI, \"gw join-token create\" prints the whole line; to try gw without a cluster, run \"gw dev\"")
}

func (e *edge) buildGateway() {
	e.tokens = uplink.NewTokens(uplink.TokensConfig{
		Store:            e.store,
		TTL:              e.config.TokenTTL,
		OfflineGrace:     e.config.OfflineGrace,
		OnRevoke:         e.cutStreams,
		UnknownPerMinute: e.config.UnknownTokens,
		Now:              e.config.Now,
		Logger:           e.log.With("room", "uplink"),
	}, func(a *gwv1.ValidateTokenResponse) *gateway.App {
		return gateway.NewApp(a.AppId, a.App, a.TokenId, a.Targets, a.Policies)
	})
	e.store.OnTokensLost(e.tokens.SaveAll)
	c := gateway.Config{
		Authenticator:  authenticator{e.tokens},
		Secret:         func(name string) (string, bool) { return e.uplink.Secret(name) },
		Logger:         e.log.With("room", "gateway"),
		Now:            e.config.Now,
		Metrics:        e.metrics,
		MaxRequestBody: e.config.MaxRequestBody,
	}
	if e.accessLog != nil {
		c.AccessLog = e.accessLog
	}
	e.gateway = gateway.New(c)
}

// cutStreams ends the streams of tokens and apps that may not call any more.
func (e *edge) cutStreams(r uplink.Revocation) {
	n := e.gateway.CutStreams(func(hash [32]byte, app *gateway.App) bool { return r.Covers(hash, app.ID) })
	if n > 0 {
		e.log.Info("streams of revoked tokens were cut", "streams", n)
	}
}

func (e *edge) buildUplink() (err error) {
	e.release = &releaseLoader{gateway: e.gateway, store: e.store, plugins: e.plugins, share: e.spool.Share, log: e.log}
	e.uplink, err = uplink.New(uplink.Config{
		EdgeID:    edgeID(e.config.ID),
		Hubs:      e.config.Hub,
		JoinToken: e.config.JoinToken,
		Store:     e.store,
		Spool:     e.spool,
		Plugins:   func() []*gwv1.PluginProcess { return processesOf(e.plugins.States()) },
		Tokens:    e.tokens,
		Apply:     e.release.apply,
		Loaded:    e.release.loaded,
		SecretsOf: secretsOf,
		Health:    e.health,
		Vitals:    e.vitals,
		Version:   Version(),
		Build:     Build(),
		Metadata:  e.metadata(),
		Addresses: e.served,
		Logger:    e.log.With("room", "uplink"),
		Now:       e.config.Now,
	})
	return err
}

// metadata is what an operator set, over what the machine says of itself.
func (e *edge) metadata() map[string]string {
	m := map[string]string{"os": runtime.GOOS, "arch": runtime.GOARCH}
	if host, err := os.Hostname(); err == nil {
		m["host"] = host
	}
	maps.Copy(m, e.config.Metadata)
	return m
}

// edgeID returns the name to join with: the one given, or else the machine's, made to fit.
func edgeID(given string) string {
	if given != "" {
		return given
	}
	host, err := os.Hostname()
	if err != nil {
		host = "edge"
	}
	host = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(host))
	host = strings.Trim(host[:min(len(host), 63)], ".-")
	if !resource.ValidName(host) {
		return "edge"
	}
	return host
}

func (e *edge) openListeners() (err error) {
	c := e.config
	if c.Listen != "off" {
		if e.callers, err = listen("callers", c.Listen, e.gateway, nil, e.log); err != nil {
			return err
		}
	}
	if c.TLSListen != "" {
		if c.TLSCert == "" || c.TLSKey == "" {
			return usage("--tls-listen needs --tls-cert and --tls-key")
		}
		cert, err := loadCertFile(c.TLSCert, c.TLSKey, e.log)
		if err != nil {
			return err
		}
		if e.tls, err = listen("callers over TLS", c.TLSListen, e.gateway, cert.tlsConfig(), e.log); err != nil {
			return err
		}
	}
	countConnections(e.callers, &e.connections)
	countConnections(e.tls, &e.connections)
	if e.callers == nil && e.tls == nil {
		return usage("the edge serves nobody: give --listen or --tls-listen")
	}
	if c.OpsListen != "off" {
		e.ops, err = listen("ops", c.OpsListen, e.opsHandler(), nil, e.log)
	}
	return err
}

// servers returns the listeners that are on, those for callers first.
func (e *edge) servers() []*server {
	return slices.DeleteFunc([]*server{e.callers, e.tls, e.ops}, func(s *server) bool { return s == nil })
}

// addresses describes the listeners, for the log.
func (e *edge) addresses() (args []any) {
	for _, s := range e.servers() {
		args = append(args, s.name, s.url())
	}
	return args
}

// served returns where callers reach this edge, for the console.
func (e *edge) served() (urls []string) {
	for _, s := range []*server{e.callers, e.tls} {
		if s == nil {
			continue
		}
		u := s.url()
		if s.listener.Addr().(*net.TCPAddr).IP.IsUnspecified() {
			u = strings.Replace(u, "127.0.0.1", outwardAddress(), 1)
		}
		urls = append(urls, u)
	}
	return urls
}

// drainTimeout is how long requests may take to end when the edge stops.
const drainTimeout = 10 * time.Second

// run serves until ctx ends or the hubs refuse the edge, then stops in the reverse order of openEdge. serving is called
// once callers are served.
func (e *edge) run(ctx context.Context, serving func()) error {
	defer e.close()
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range e.servers() {
		g.Go(s.serve)
	}
	g.Go(func() error { return e.uplink.Run(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		e.drain()
		return nil
	})
	serving()
	return g.Wait()
}

// drain tells load balancers to go elsewhere, takes no new callers, and lets the requests in flight end. The ops
// listener answers until the last of them has.
func (e *edge) drain() {
	e.draining.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	var callers sync.WaitGroup
	for _, s := range []*server{e.callers, e.tls} {
		if s != nil {
			callers.Go(func() { s.shutdown(drainTimeout) })
		}
	}
	if err := e.gateway.Shutdown(ctx); err != nil { // WebSockets too, which the listeners do not wait for
		e.log.Warn("some requests did not end in time and were cut", "timeout", drainTimeout)
	}
	callers.Wait()
	if e.ops != nil {
		e.ops.shutdown(time.Second)
	}
}

// close closes what is open, in reverse order.
func (e *edge) close() {
	for _, s := range e.servers() {
		s.listener.Close() // already closed after run
	}
	var errs []error
	if e.gateway != nil {
		errs = append(errs, e.gateway.Close())
	}
	if e.plugins != nil {
		errs = append(errs, e.plugins.Close())
	}
	if e.tokens != nil {
		errs = append(errs, e.tokens.Close())
	}
	if e.accessLog != nil {
		errs = append(errs, e.accessLog.Close())
	}
	if e.spool != nil {
		errs = append(errs, e.spool.Close())
	}
	if e.store != nil {
		errs = append(errs, e.store.Close())
	}
	if err := errors.Join(errs...); err != nil {
		e.log.Error("the edge did not stop cleanly", "error", err)
	}
}

// authenticator lets the gateway ask the token cache, whose errors it translates.
type authenticator struct{ tokens *uplink.Tokens[*gateway.App] }

func (a authenticator) Authenticate(ctx context.Context, hash [32]byte, client string) (*gateway.App, error) {
	app, err := a.tokens.Authenticate(ctx, hash, client)
	if err == nil {
		return app, nil
	}
	var unavailable *uplink.Unavailable
	var throttled *uplink.Throttled
	switch {
	case errors.Is(err, uplink.ErrUnknownToken):
		return nil, gateway.ErrUnknownToken
	case errors.As(err, &unavailable):
		return nil, &gateway.Unavailable{RetryAfter: unavailable.RetryAfter}
	case errors.As(err, &throttled):
		return nil, &gateway.Throttled{RetryAfter: throttled.RetryAfter}
	}
	return nil, err
}

// nopCloser keeps standard output open.
type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// openAccessLog returns where the access log goes, nil for nowhere.
func openAccessLog(where string, stdout io.Writer) (io.WriteCloser, error) {
	switch where {
	case "off":
		return nil, nil
	case "-":
		return nopCloser{stdout}, nil
	}
	f, err := os.OpenFile(where, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open the access log: %w", err)
	}
	return f, nil
}
