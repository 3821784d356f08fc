// Package rpc owns the wire: the handlers of every service, who may call them, and the one table from errors to codes.
package rpc

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gw/node/fleet"
	"gw/raftstore"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

const (
	// MaxConfiguration is the most bytes of specs an effective configuration may have.
	MaxConfiguration = 64 << 20
	// CertificateTTL is how long an edge's certificate lives.
	CertificateTTL = 24 * time.Hour
	// TickInterval is the time between two ticks of a watch stream.
	TickInterval = 5 * time.Second
	// ephemeralAway is how long an ephemeral edge may be away before its entry is deleted.
	ephemeralAway = 24 * time.Hour
)

// HubConfig is what a Hub needs. Store, Fleet, Sealer and Compile are required; the Hub closes none of them.
type HubConfig struct {
	Store *raftstore.Store
	Fleet *fleet.Fleet
	// Sealer has the cluster's key: it seals secrets and opens the key of the CA.
	Sealer *identity.Sealer
	// Compile does what an edge of the namespace will do with these resources, which come sorted by kind and name and
	// must not be changed. What would not load is a resource.Errors.
	Compile func(ctx context.Context, namespace string, resources iter.Seq[*gwv1.ResourceRecord]) error
	// HubURLs returns where edges reach this cluster; nil means nowhere known.
	HubURLs func() []string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Ticker returns a channel that receives every d until stop is called; nil means time.NewTicker.
	Ticker func(d time.Duration) (ticks <-chan time.Time, stop func())
	// Logger is for what an operator must know; nil means none.
	Logger *slog.Logger

	// CA is the cluster's, which issued the certificates of whoever calls at the TLS port. nil means the one in the
	// state, of which a hub that was just started may have none yet.
	CA *x509.Certificate
	// Address is the host:port at which other hubs reach this one's TLS port; "" means that it stays alone.
	Address string
	// Version of this binary, as other hubs show it.
	Version string
	// ClusterKey is what Sealer was made with; hubs that join get it. nil means that none can join here.
	ClusterKey []byte
	// PeerTransport makes requests of other hubs, at https://ADDRESS, showing this hub's certificate. It should notice by
	// itself a connection that died without a word. nil means that this hub reaches no other.
	PeerTransport http.RoundTripper
	// DialHub connects to another hub over identity.RaftALPN and completes the handshake. The connection has
	// ConnectionState() tls.ConnectionState, as *tls.Conn does, and is closed by the Hub. nil means that none can join here.
	DialHub func(ctx context.Context, address string) (net.Conn, error)
	// DiskFree returns the bytes free where the store lives; nil means what the store measures.
	DiskFree func() uint64
	// Membership says when hubs that join get a vote.
	Membership raftstore.MembershipConfig
	// Plugins are the hub plugins of this process; nil means none.
	Plugins HubPlugins
	// Admission bounds what edges may ask for per second. Its zero value bounds nothing.
	Admission Admission
	// Metrics is where gw_rpc_… and gw_fleet_… are registered; nil means nowhere.
	Metrics prometheus.Registerer
}

func (c *HubConfig) complete() error {
	switch {
	case c.Store == nil, c.Fleet == nil, c.Sealer == nil, c.Compile == nil:
		return errors.New("a hub's services need a store, a fleet, a sealer and a compiler")
	}
	if c.HubURLs == nil {
		c.HubURLs = func() []string { return nil }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Ticker == nil {
		c.Ticker = func(d time.Duration) (<-chan time.Time, func()) {
			t := time.NewTicker(d)
			return t.C, t.Stop
		}
	}
	if c.Plugins == nil {
		c.Plugins = noPlugins{}
	}
	if c.DiskFree == nil {
		c.DiskFree = c.Store.DiskFree
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Hub is the services of one hub. Its handlers may be called in-process, by a context with a principal (WithPrincipal):
// they check the caller and the request as they do for calls from the wire. Error turns the errors they return into what
// the wire would show.
type Hub struct {
	Config   *ConfigServer
	Releases *ReleaseServer
	Fleet    *FleetServer
	Access   *AccessServer
	Edges    *EdgeServer
	Cluster  *ClusterServer
	Hubs     *HubServer
	Audit    *AuditServer
	Plugins  *PluginServer

	core *core
}

// NewHub returns the services of a hub. They answer at once; Run keeps streams prompt and the registry of edges true.
func NewHub(c HubConfig) (*Hub, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	k := &core{
		root:  c.CA,
		store: c.Store, fleet: c.Fleet, sealer: c.Sealer, compile: c.Compile, hubURLs: c.HubURLs,
		now: c.Now, ticker: c.Ticker, log: c.Logger, notices: newNotices(), tenure: newTenure(),
		address: c.Address, version: c.Version, clusterKey: c.ClusterKey, peerTransport: c.PeerTransport,
		dialHub: c.DialHub, diskFree: c.DiskFree, membership: c.Membership, procedures: procedures(),
		plugins: c.Plugins, admission: c.Admission,
		newer: resource.NewerThan,
	}
	k.delivery = newDelivery(k)
	var err error
	if k.metrics, err = newMetrics(c.Metrics, k); err != nil {
		return nil, err
	}
	return &Hub{
		Config: &ConfigServer{k}, Releases: &ReleaseServer{k}, Fleet: &FleetServer{k},
		Access:  &AccessServer{core: k, throttle: newThrottle(maxTries, k.now), addresses: newThrottle(maxAddressTries, k.now), queue: newTurns()},
		Edges:   &EdgeServer{core: k, throttle: newThrottle(maxTries, k.now), gates: newGates(c.Admission, k.now, k.metrics), telling: newLanes(), calls: newLanes(), loading: newLoading()},
		Cluster: &ClusterServer{core: k},
		Audit:   &AuditServer{k},
		Hubs:    &HubServer{core: k, throttle: newThrottle(maxTries, k.now)},
		Plugins: &PluginServer{k},
		core:    k,
	}, nil
}

// core is what every service works with.
type core struct {
	store   *raftstore.Store
	fleet   *fleet.Fleet
	sealer  *identity.Sealer
	compile func(ctx context.Context, namespace string, resources iter.Seq[*gwv1.ResourceRecord]) error
	newer   func(schemaLevel uint32, kind, name string, spec []byte) ([]resource.Newer, error) // as resource.NewerThan
	hubURLs func() []string
	now     func() time.Time
	ticker  func(d time.Duration) (ticks <-chan time.Time, stop func())
	log     *slog.Logger

	address       string
	version       string
	clusterKey    []byte
	peerTransport http.RoundTripper // nil: none
	dialHub       func(ctx context.Context, address string) (net.Conn, error)
	diskFree      func() uint64
	membership    raftstore.MembershipConfig
	plugins       HubPlugins
	delivery      *delivery
	procedures    map[string]procedure // path → procedure; never changed
	metrics       *metrics

	notices *notices
	tenure  *tenure
	ca      caCache
	root    *x509.Certificate
	issued  issued
	beacons beacons

	admission  Admission
	registered registered
}

// Wake blocks until what the console shows has moved past revision after, and returns the revision it is at: any change
// of the state or of the fleet moves it. 0, or a revision of another process, is answered at once.
func (h *Hub) Wake(ctx context.Context, after uint64) (uint64, error) {
	return h.core.wake(ctx, after)
}

// Error returns what the wire would show of an error that a handler returned, a *connect.Error with one
// gwv1.ErrorDetail; nil for nil. What is unexpected goes to the log, and the caller gets a reference to it.
func (h *Hub) Error(ctx context.Context, err error) error {
	if err == nil {
		return nil // not a nil *connect.Error, which would be an error
	}
	return errorOf(ctx, h.core.log, err)
}

// revision is the sum of two numbers that only rise: it moves when either does.
func (k *core) revision() (state, fleet, sum uint64) {
	state, fleet = k.store.State().Index(), k.fleet.Revision()
	return state, fleet, state + fleet + 1
}

func (k *core) wake(ctx context.Context, after uint64) (uint64, error) {
	index, revision, sum := k.revision()
	if sum != after {
		return sum, nil
	}
	waiting, cancel := context.WithCancel(ctx)
	woken := make(chan struct{}, 2)
	go func() {
		k.store.Wait(waiting, index) // an error means that the wait ended, which is all we ask
		woken <- struct{}{}
	}()
	go func() {
		k.fleet.Wait(waiting, revision)
		woken <- struct{}{}
	}()
	<-woken
	cancel()
	<-woken
	_, _, sum = k.revision()
	if sum == after {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		return sum, fmt.Errorf("wait for a change: %w", raftstore.ErrNotLeader)
	}
	return sum, nil
}

// AdminHandler serves every admin service and reflection, over Connect, gRPC and gRPC-Web, by bearer tokens or for the
// principal that a caller in-process has put into the request's context. It serves on any hub: what needs the leader is
// held until there is one and passed on.
func (h *Hub) AdminHandler() http.Handler { return newRelay(h.core).admin(adminMux(h)) }

// EdgeHandler serves the TLS port: EdgeService, HubService, and the calls that other hubs pass on. Who calls follows from
// the verified client certificate of the request's TLS connection.
func (h *Hub) EdgeHandler() http.Handler { return portHandler(h) }
