package rpc

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gw/node/fleet"
	"gw/raftstore"
	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

// testHub is one of several hubs in this process: a real store, a TLS port for edges, hubs and Raft, an admin address.
type testHub struct {
	t           testing.TB
	id          string
	key         []byte
	sealer      *identity.Sealer
	ca          *identity.CA
	certificate atomic.Pointer[tls.Certificate]
	port        *testPort
	store       *raftstore.Store
	fleet       *fleet.Fleet
	hub         *Hub
	peers       *http.Transport
	metrics     *prometheus.Registry
	log         *lockedBuffer
	meddle      atomic.Pointer[func(*http.Response)]      // with what other hubs answer
	compile     atomic.Pointer[func(ctx context.Context)] // called by each compile
	admin       string                                    // base URL
	end         sync.Once
	stops       []func() // what kill does, in order
}

// testElection leaves a busy machine time for heartbeats.
const testElection = 500 * time.Millisecond

// openHub opens the store and the port of a hub; its services follow once it has an identity.
func openHub(t testing.TB, join bool) *testHub {
	t.Helper()
	h := &testHub{t: t, key: bytes.Repeat([]byte{7}, identity.KeySize), log: &lockedBuffer{}, metrics: prometheus.NewRegistry()}
	var err error
	h.sealer, err = identity.NewSealer(h.key)
	must(t, err)
	h.port = openTestPort(t, h)
	h.store, err = raftstore.Open(raftstore.Config{
		Dir: t.TempDir(), ElectionTimeout: testElection, Logger: h.logger(), Join: join,
		Stream: raftStream{h.port.raft, h}, Address: h.port.address(),
		Bootstrap: func(string) (*gwv1.Bootstrap, error) {
			b, _, err := NewBootstrap(h.sealer, time.Now())
			return b, err
		},
	})
	must(t, err)
	h.id = h.store.NodeID()
	h.stops = append(h.stops, h.port.sever, func() { h.store.Close() })
	t.Cleanup(h.kill)
	return h
}

func (h *testHub) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// foundHub starts a cluster of one.
func foundHub(t testing.TB) *testHub {
	t.Helper()
	h := openHub(t, false)
	ca, err := OpenCA(h.sealer, h.store.State().Cluster())
	must(t, err)
	h.begin(ca)
	return h
}

// begin gives a hub its certificate and starts its services.
func (h *testHub) begin(ca *identity.CA) {
	h.t.Helper()
	h.ca = ca
	certificate, err := ca.IssueHub(h.id, time.Now(), time.Hour)
	must(h.t, err)
	h.certificate.Store(&certificate)
	h.peers = h.transport("h2")
	h.fleet = fleet.New(fleet.Config{})
	h.hub, err = NewHub(HubConfig{
		Store: h.store, Fleet: h.fleet, Sealer: h.sealer, Logger: h.logger(),
		Compile: func(ctx context.Context, _ string, _ iter.Seq[*gwv1.ResourceRecord]) error {
			if f := h.compile.Load(); f != nil {
				(*f)(ctx)
			}
			return nil
		},
		HubURLs: func() []string { return []string{"https://" + h.port.address()} },
		Address: h.port.address(), Version: "test", ClusterKey: h.key, PeerTransport: h, DialHub: h.dial,
		Membership: raftstore.MembershipConfig{Settle: time.Millisecond}, Metrics: h.metrics,
	})
	must(h.t, err)
	h.serve(h.hub.EdgeHandler(), h.port.web, false)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(h.t, err)
	h.serve(h.hub.AdminHandler(), l, true)
	h.admin = "http://" + l.Addr().String()
	h.duties()
}

func (h *testHub) duties() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.hub.Run(ctx)
	}()
	h.stops = append(h.stops, func() { cancel(); <-done })
}

func (h *testHub) serve(handler http.Handler, l net.Listener, plain bool) {
	s := &http.Server{Handler: handler, Protocols: protocols(plain), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(l)
	}()
	h.stops = append(h.stops, func() { s.Close(); <-done })
}

// kill cuts a hub off at once and then tidies up.
func (h *testHub) kill() {
	h.end.Do(func() {
		for _, stop := range h.stops {
			stop()
		}
		if h.peers != nil {
			h.peers.CloseIdleConnections()
		}
	})
}

// transport shows the hub's certificate, whichever that is then.
func (h *testHub) transport(alpn string) *http.Transport {
	t := &http.Transport{
		TLSClientConfig: identity.HubClientTLS(h.ca.Certificate, h.ca.ClusterID(), h.certificate.Load, alpn), Protocols: new(http.Protocols),
	}
	if h.port != nil {
		t.DialContext = h.port.dial
	}
	t.Protocols.SetHTTP2(true)
	return t
}

// RoundTrip implements http.RoundTripper for calls to other hubs.
func (h *testHub) RoundTrip(r *http.Request) (*http.Response, error) {
	a, err := h.peers.RoundTrip(r)
	if f := h.meddle.Load(); f != nil && err == nil {
		(*f)(a)
	}
	return a, err
}

func (h *testHub) dial(ctx context.Context, address string) (net.Conn, error) {
	c, err := h.port.dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(c, identity.HubClientTLS(h.ca.Certificate, h.ca.ClusterID(), h.certificate.Load, identity.RaftALPN))
	if err := secure.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return secure, nil
}

// raftStream is a port's part for Raft.
type raftStream struct {
	net.Listener
	h *testHub
}

func (s raftStream) DialHub(ctx context.Context, address string) (net.Conn, error) {
	return s.h.dial(ctx, address)
}

// testPort is one listener for Raft and for everything else, told apart by ALPN.
type testPort struct {
	h         *testHub
	listener  net.Listener
	web, raft *queue

	mu    sync.Mutex
	conns map[net.Conn]bool // guarded by mu; nil: severed
	wg    sync.WaitGroup
}

// queue is a listener of connections that another one has accepted.
type queue struct {
	net.Listener
	conns chan net.Conn
	done  chan struct{}
	close func()
}

func newQueue(l net.Listener) *queue {
	q := &queue{Listener: l, conns: make(chan net.Conn), done: make(chan struct{})}
	q.close = sync.OnceFunc(func() { close(q.done) })
	return q
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error { q.close(); return nil }

func openTestPort(t testing.TB, h *testHub) *testPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &testPort{h: h, listener: l, web: newQueue(l), raft: newQueue(l), conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	return p
}

func (p *testPort) address() string { return p.listener.Addr().String() }

func (p *testPort) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		if p.conns == nil {
			c.Close()
		} else {
			p.conns[c] = true
			p.wg.Go(func() { p.pass(c) })
		}
		p.mu.Unlock()
	}
}

// dial connects to another hub, unless the port is severed.
func (p *testPort) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		c.Close()
		return nil, net.ErrClosed
	}
	p.conns[c] = true
	return c, nil
}

// pass hands a connection to who its protocol is for.
func (p *testPort) pass(c net.Conn) {
	secure := tls.Server(c, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if p.h.certificate.Load() == nil { // stored after ca
			return nil, errors.New("no identity yet")
		}
		if slices.Contains(hello.SupportedProtos, identity.RaftALPN) {
			return identity.RaftServerTLS(p.h.ca.Certificate, p.h.ca.ClusterID(), p.h.certificate.Load), nil
		}
		return identity.HubTLS(p.h.ca.Certificate, p.h.ca.ClusterID(), p.h.certificate.Load), nil
	}})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		c.Close()
		return
	}
	to := p.web
	if secure.ConnectionState().NegotiatedProtocol == identity.RaftALPN {
		to = p.raft
	}
	select {
	case to.conns <- secure:
	case <-to.done:
		c.Close()
	}
}

// sever closes every connection at once, and makes no more, as the death of the process would.
func (p *testPort) sever() {
	p.listener.Close()
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.web.Close()
	p.raft.Close()
	p.wg.Wait()
}

// hubToken makes a join token for hubs.
func (h *testHub) hubToken(uses uint32) identity.JoinToken {
	h.t.Helper()
	a, err := h.hub.Access.CreateJoinToken(h.asAdmin(), &gwv1.CreateJoinTokenRequest{Role: "hub", MaxUses: uses})
	must(h.t, err)
	token, err := identity.ParseJoinToken(a.Credential)
	must(h.t, err)
	return token
}

func (h *testHub) asAdmin() context.Context {
	return WithPrincipal(h.t.Context(), Principal{User: "root", Role: RoleAdmin})
}

// joinRequest is what a hub with an ID joins with.
func joinRequest(t testing.TB, token identity.JoinToken, id string) *gwv1.JoinRequest {
	t.Helper()
	key, err := identity.NewKey()
	must(t, err)
	csr, err := identity.NewCSR(key)
	must(t, err)
	return &gwv1.JoinRequest{JoinTokenId: token.ID, JoinTokenSecret: token.Secret, HubId: id, Csr: csr, Version: "test", FeatureLevel: FeatureLevel}
}

// stranger returns a client of the TLS port that shows no certificate.
func (h *testHub) stranger() *http.Client {
	t := &http.Transport{TLSClientConfig: identity.EnrollTLS(identity.PinOf(h.ca.Certificate)), ForceAttemptHTTP2: true}
	h.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

func (h *testHub) url() string { return "https://" + h.port.address() }

// join starts a hub that joins by a call to another one.
func (h *testHub) join(token identity.JoinToken) *testHub {
	h.t.Helper()
	n := h.enrol(token)
	_, err := n.toHub(h).AddHub(h.t.Context(), &gwv1.AddHubRequest{Address: n.port.address(), Version: "test"})
	must(h.t, err)
	return n
}

// enrol starts a hub that has joined by a call to another one, and is not added yet.
func (h *testHub) enrol(token identity.JoinToken) *testHub {
	h.t.Helper()
	n := openHub(h.t, true)
	a, err := gwv1connect.NewHubServiceClient(h.stranger(), h.url()).Join(h.t.Context(), joinRequest(h.t, token, n.id))
	must(h.t, err)
	if !bytes.Equal(a.ClusterKey, h.key) || a.ClusterId != h.ca.ClusterID() || len(a.Hubs) == 0 {
		h.t.Fatalf("joined with %v", a)
	}
	ca, err := OpenCA(n.sealer, &gwv1.ClusterRecord{ClusterId: a.ClusterId, CaCertificate: a.CaCertificate, SealedCaKey: a.SealedCaKey})
	must(h.t, err)
	n.begin(ca)
	return n
}

// toHub returns a client of another hub's TLS port that shows this hub's certificate.
func (h *testHub) toHub(other *testHub) gwv1connect.HubServiceClient {
	return gwv1connect.NewHubServiceClient(&http.Client{Transport: h.peers}, other.url())
}

// newHubs starts a cluster, and returns its leader first.
func newHubs(t testing.TB, n int) []*testHub {
	t.Helper()
	first := foundHub(t)
	hubs := []*testHub{first}
	if n > 1 {
		token := first.hubToken(uint32(n - 1))
		for range n - 1 {
			hubs = append(hubs, first.join(token))
		}
	}
	eventually(t, "every hub has a vote and is known", func() bool {
		for _, h := range hubs {
			members, err := h.store.Members()
			if err != nil || len(members) != n || slices.ContainsFunc(members, func(m raftstore.Member) bool { return !m.Voter && n != 2 }) {
				return false
			}
			for _, other := range hubs {
				if r, ok := h.store.State().Hub(other.id); !ok || r.Address != other.port.address() {
					return false
				}
			}
			if id, _ := h.store.Leader(); id == "" {
				return false
			}
		}
		return true
	})
	return byRole(t, hubs)
}

// byRole returns the hubs with the leader first, once there is one.
func byRole(t testing.TB, hubs []*testHub) []*testHub {
	t.Helper()
	sorted := slices.Clone(hubs)
	eventually(t, "one hub leads", func() bool {
		i := slices.IndexFunc(sorted, func(h *testHub) bool { return h.store.Leading() })
		if i >= 0 {
			sorted[0], sorted[i] = sorted[i], sorted[0]
		}
		return i >= 0
	})
	return sorted
}

// eventually waits for something that other goroutines bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// handOver has a leader hand leadership over. One that has just begun to lead may not know yet who is caught up.
func (h *testHub) handOver(to *testHub) {
	h.t.Helper()
	eventually(h.t, "the leader finds its heir caught up", func() bool {
		err := h.store.TransferLeadership(h.t.Context(), to.id)
		if errors.Is(err, raftstore.ErrMembership) {
			return false
		}
		must(h.t, err)
		return true
	})
}

// user makes a user with a bearer token, at the leader.
func (h *testHub) user(name string, role Role) string {
	h.t.Helper()
	credential := identity.NewCredential(identity.BearerPrefix)
	hash := identity.HashCredential(credential)
	for _, c := range []*gwv1.Command{
		{Body: &gwv1.Command_PutUser{PutUser: &gwv1.PutUserRecord{User: &gwv1.UserRecord{Name: name, Role: role.String(), PasswordHash: passwordHash()}}}},
		{Body: &gwv1.Command_PutSession{PutSession: &gwv1.PutSessionRecord{Session: &gwv1.SessionRecord{
			TokenHash: hash[:], User: name, ExpiresAt: time.Now().Add(time.Hour).UnixNano()}}}},
	} {
		_, err := h.store.Propose(h.t.Context(), c)
		must(h.t, err)
	}
	return credential
}

// web returns a client of the admin address over HTTP/2.
func (h *testHub) web() *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	t := &http.Transport{Protocols: p}
	h.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

// post makes a call as curl does.
func (h *testHub) post(client *http.Client, base, procedure, token, body string, header ...string) (*http.Response, string) {
	h.t.Helper()
	a, b, err := h.tryPost(client, base, procedure, token, body, header...)
	must(h.t, err)
	return a, b
}

func (h *testHub) tryPost(client *http.Client, base, procedure, token, body string, header ...string) (*http.Response, string, error) {
	r, err := http.NewRequestWithContext(h.t.Context(), "POST", base+procedure, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, "", err
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	a, err := client.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	return a, string(b), err
}

// apply saves a resource at the leader.
func (h *testHub) apply(name string) {
	h.t.Helper()
	_, err := h.hub.Config.ApplyResources(h.asAdmin(), &gwv1.ApplyResourcesRequest{Resources: []*gwv1.Resource{api("", name, "/"+name)}})
	must(h.t, err)
}

// enroll returns the transport of a new edge, which shows its certificate.
func (h *testHub) enroll(id string) *http.Client {
	h.t.Helper()
	key, err := identity.NewKey()
	must(h.t, err)
	csr, err := identity.NewCSR(key)
	must(h.t, err)
	made, err := h.hub.Access.CreateJoinToken(h.asAdmin(), &gwv1.CreateJoinTokenRequest{})
	must(h.t, err)
	token, err := identity.ParseJoinToken(made.Credential)
	must(h.t, err)
	a, err := gwv1connect.NewEdgeServiceClient(h.stranger(), h.url()).Enroll(h.t.Context(), &gwv1.EnrollRequest{
		JoinTokenId: token.ID, JoinTokenSecret: token.Secret, EdgeId: id, Csr: csr})
	must(h.t, err)
	certificate := &tls.Certificate{Certificate: [][]byte{a.Certificate}, PrivateKey: key}
	t := &http.Transport{TLSClientConfig: identity.EdgeTLS(h.ca.Certificate, a.ClusterId, func() *tls.Certificate { return certificate }), ForceAttemptHTTP2: true}
	h.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

func (h *testHub) has(name string) bool {
	_, ok := h.store.State().Resource("API", resource.Default, name)
	return ok
}
