package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gw/rpc/identity"
)

const (
	// handshakeTimeout bounds a TLS handshake on a hub's port.
	handshakeTimeout = 10 * time.Second
	// maxHandshakes is how many run at a time, and maxEdgeHandshakes how many of them are edges', which are turned away
	// beyond that: what is left is for hubs, and for connections that have not yet said whose they are.
	maxHandshakes     = 4096
	maxEdgeHandshakes = 1024
	// maxComputing is how many of them compute a hub's answer at a time, on each processor; the others wait for the network or
	// their turn. A handshake takes a processor for a millisecond, and a call of an admin would wait for as many of them at
	// each step. Hubs don't take turns: votes and calls that are passed on would wait for the fleet that waits for them.
	maxComputing = 1
	// maxTurnWait is how long an edge's handshake waits for its turn. Who waits longer is turned away before it has cost
	// much, and comes again after a pause of its own: a hub that let a queue grow until edges give up would spend all its
	// time on handshakes that nobody waits for any more.
	maxTurnWait = 2 * time.Second
)

// port is a hub's one TLS port. Its connections go, by the protocol they negotiate, to the HTTP server or to Raft.
type port struct {
	listener net.Listener
	log      *slog.Logger
	web      *branch
	raft     *branch

	identity   atomic.Pointer[portIdentity]
	edges      chan struct{} // has a value for each handshake of an edge,
	computing  chan struct{} // and for each that computes
	turnedAway prometheus.Counter

	ctx    context.Context // ends when the port is closed
	cancel context.CancelFunc
	done   sync.WaitGroup // the accepting goroutine and every handshake
}

// portIdentity is what the port shows and whom it trusts, once the hub knows its cluster.
type portIdentity struct {
	ca              *identity.CA
	web, raft, dial *tls.Config
	ticketPeriod    atomic.Int64 // that web's session ticket keys are of
	// member reports whether a hub may speak Raft with this one.
	member func(hubID string) bool
}

// openPort binds an address and begins to route. Until it is given an identity, handshakes fail. The caller closes it.
func openPort(address string, log *slog.Logger) (*port, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for edges and hubs on %s: %w", address, err)
	}
	p := &port{listener: l, log: log, web: newBranch(l.Addr()), raft: newBranch(l.Addr())}
	p.edges = make(chan struct{}, maxEdgeHandshakes)
	p.computing = make(chan struct{}, maxComputing*runtime.GOMAXPROCS(0))
	p.turnedAway = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "gw_port_handshakes_turned_away_total", Help: "Connections of edges that were closed because too many came at a time.",
	})
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.done.Go(p.accept)
	return p, nil
}

// identify gives the port a hub's identity. certificate is called at every handshake.
func (p *port) identify(ca *identity.CA, certificate func() *tls.Certificate, member func(hubID string) bool) {
	root, cluster := ca.Certificate, ca.ClusterID()
	p.identity.Store(&portIdentity{
		ca:     ca,
		web:    identity.HubTLS(root, cluster, certificate),
		raft:   identity.RaftServerTLS(root, cluster, certificate),
		dial:   identity.HubClientTLS(root, cluster, certificate, identity.RaftALPN),
		member: member,
	})
}

// close stops listening, ends handshakes and both branches, and returns when nothing of it runs.
func (p *port) close() {
	p.cancel()
	p.listener.Close()
	p.web.Close()
	p.raft.Close()
	p.done.Wait()
}

func (p *port) accept() {
	slots := make(chan struct{}, maxHandshakes)
	for {
		select {
		case slots <- struct{}{}:
		case <-p.ctx.Done():
			return
		}
		c, err := p.listener.Accept()
		if err != nil {
			if p.ctx.Err() != nil {
				return
			}
			p.log.Warn("a connection could not be accepted", "error", err) // out of file descriptors, most likely
			<-slots
			select {
			case <-time.After(100 * time.Millisecond):
			case <-p.ctx.Done():
			}
			continue
		}
		p.done.Go(func() {
			p.handshake(c)
			<-slots
		})
	}
}

// handshake negotiates with one connection and hands it on.
func (p *port) handshake(c net.Conn) {
	ctx, cancel := context.WithTimeout(p.ctx, handshakeTimeout)
	defer cancel()
	conn, to, err := p.negotiate(ctx, c)
	if err != nil {
		p.log.Debug("a handshake failed", "remote", c.RemoteAddr(), "error", err)
		c.Close()
		return
	}
	to.hand(ctx, conn)
}

func (p *port) negotiate(ctx context.Context, c net.Conn) (net.Conn, *branch, error) {
	id := p.identity.Load()
	if id == nil {
		return nil, nil, errors.New("this hub does not know its cluster yet")
	}
	turns := &turnConn{Conn: c, places: p.edges, turns: p.computing}
	defer turns.leave()
	conn := tls.Server(turns, &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			switch {
			case slices.Contains(hello.SupportedProtos, identity.RaftALPN):
				return id.raft, nil
			case !slices.Contains(hello.SupportedProtos, identity.HubALPN) && !turns.begin(ctx):
				p.turnedAway.Inc()
				return nil, errors.New("too many edges come at a time")
			}
			id.renewTickets(time.Now())
			return id.web, nil
		},
	})
	err := conn.HandshakeContext(ctx)
	if err != nil {
		return nil, nil, err
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != identity.RaftALPN {
		return conn, p.web, nil
	}
	_, hubID, err := identity.HubOf(state.PeerCertificates[0])
	if err == nil && !id.member(hubID) {
		err = fmt.Errorf("hub %s was removed from the cluster", hubID)
	}
	return conn, p.raft, err
}

// renewTickets has the port use the session ticket keys that all hubs use now.
func (id *portIdentity) renewTickets(now time.Time) {
	period := identity.TicketPeriod(now)
	if id.ticketPeriod.Swap(period) == period {
		return
	}
	if keys, err := id.ca.TicketKeys(period); err == nil { // else sessions are resumed at this hub only
		id.web.SetSessionTicketKeys(keys)
	}
}

// turnConn is the connection of an edge's handshake, which has a place among those that run, and, once it has begun to take
// turns, one whenever it does not wait for the other side. Only the goroutine that shakes hands uses it until it leaves.
type turnConn struct {
	net.Conn
	places, turns  chan struct{}
	placed, taking bool
}

// begin waits for a turn, and reports whether there is one before long.
func (c *turnConn) begin(ctx context.Context) bool {
	select {
	case c.places <- struct{}{}:
		c.placed = true
	default:
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, maxTurnWait)
	defer cancel()
	select {
	case c.turns <- struct{}{}:
		c.taking = true
	case <-ctx.Done():
	}
	return c.taking
}

// leave gives the place back, and the turn. The handshake is over.
func (c *turnConn) leave() {
	if c.taking {
		c.taking = false
		<-c.turns
	}
	if c.placed {
		c.placed = false
		<-c.places
	}
}

// Read implements net.Conn.
func (c *turnConn) Read(p []byte) (int, error) {
	if !c.taking {
		return c.Conn.Read(p)
	}
	<-c.turns
	defer func() { c.turns <- struct{}{} }()
	return c.Conn.Read(p)
}

// dial opens a Raft connection to another hub and returns it with that hub's ID.
func (p *port) dial(ctx context.Context, address string) (net.Conn, string, error) {
	id := p.identity.Load()
	if id == nil {
		return nil, "", errors.New("this hub does not know its cluster yet")
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	dialer := tls.Dialer{NetDialer: &net.Dialer{KeepAlive: 15 * time.Second}, Config: id.dial}
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, "", err
	}
	_, hubID, err := identity.HubOf(c.(*tls.Conn).ConnectionState().PeerCertificates[0])
	if err != nil {
		c.Close()
		return nil, "", err
	}
	return c, hubID, nil
}

// raftStream is the port as raftstore uses it.
type raftStream struct {
	*branch
	port *port
	// memberAt returns the ID of the member that is to be found at an address.
	memberAt func(address string) (id string, err error)
}

// DialHub opens a connection to the member at address. Raft asks and believes addresses: another hub there, such as one
// that lost its disk and is a new hub now, would vote and take entries in the place of the one that has them.
func (s raftStream) DialHub(ctx context.Context, address string) (net.Conn, error) {
	want, err := s.memberAt(address)
	if err != nil {
		return nil, err
	}
	c, id, err := s.port.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	if id != want {
		c.Close()
		return nil, fmt.Errorf("at %s answers hub %s instead of %s", address, id, want)
	}
	return c, nil
}

// branch is the connections of one protocol, as a net.Listener.
type branch struct {
	address net.Addr
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func newBranch(address net.Addr) *branch {
	return &branch{address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept returns the next connection, its handshake done.
func (b *branch) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. Connections that come later are closed.
func (b *branch) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// Addr returns the port's address.
func (b *branch) Addr() net.Addr { return b.address }

// hand gives a connection to whoever accepts on the branch.
func (b *branch) hand(ctx context.Context, c net.Conn) {
	select {
	case b.conns <- c:
	case <-b.closed:
		c.Close()
	case <-ctx.Done():
		c.Close()
	}
}
