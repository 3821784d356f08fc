package rpc

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"

	"gw/node/fleet"
	"gw/raftstore"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

// harness is a hub with a store on disk and both its listeners on loopback.
type harness struct {
	t       testing.TB
	hub     *Hub
	store   *raftstore.Store
	fleet   *fleet.Fleet
	sealer  *identity.Sealer
	ca      *identity.CA
	clock   *clock
	tickers *tickers
	log     *lockedBuffer
	admin   string // base URL
	edge    string // base URL
	// beforeCompile, if set, is called before each compile.
	beforeCompile func()
	// broken, if set, is the name of a resource that compile refuses.
	broken string
}

// clock is a time that tests move.
type clock struct{ nanos atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.nanos.Load()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

// tickers are those the hub has running, by interval.
type tickers struct {
	mu      sync.Mutex
	running map[time.Duration]map[chan time.Time]bool
}

func (t *tickers) start(d time.Duration) (<-chan time.Time, func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := make(chan time.Time)
	if t.running[d] == nil {
		t.running[d] = map[chan time.Time]bool{}
	}
	t.running[d][c] = true
	return c, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.running[d], c)
	}
}

// tick lets an interval pass for everyone who waits for it, and returns when all have taken notice.
func (h *harness) tick(d time.Duration) {
	h.t.Helper()
	h.tickers.mu.Lock()
	var all []chan time.Time
	for c := range h.tickers.running[d] {
		all = append(all, c)
	}
	h.tickers.mu.Unlock()
	for _, c := range all {
		select {
		case c <- h.clock.now():
		case <-time.After(10 * time.Second):
			h.t.Errorf("nobody took a tick of %v", d)
		}
	}
}

// lockedBuffer keeps the log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newHarness(t testing.TB) *harness {
	t.Helper()
	sealer, err := identity.NewSealer(bytes.Repeat([]byte{7}, identity.KeySize))
	must(t, err)
	h := &harness{t: t, sealer: sealer, clock: &clock{}, tickers: &tickers{running: map[time.Duration]map[chan time.Time]bool{}}, log: &lockedBuffer{}}
	h.clock.nanos.Store(time.Now().Truncate(time.Second).UnixNano())
	logger := slog.New(slog.NewTextHandler(h.log, nil))
	h.store, err = raftstore.Open(raftstore.Config{
		Dir: t.TempDir(), ElectionTimeout: 50 * time.Millisecond, Logger: logger, Now: h.clock.now,
		Bootstrap: func(string) (*gwv1.Bootstrap, error) {
			b, _, err := NewBootstrap(sealer, h.clock.now())
			return b, err
		},
	})
	must(t, err)
	t.Cleanup(func() { h.store.Close() })
	h.fleet = fleet.New(fleet.Config{Now: h.clock.now})
	h.hub, err = NewHub(HubConfig{
		Store: h.store, Fleet: h.fleet, Sealer: sealer, Compile: h.compile, HubURLs: func() []string { return []string{h.edge} },
		Now: h.clock.now, Ticker: h.tickers.start, Logger: logger,
	})
	must(t, err)
	h.ca, err = OpenCA(sealer, h.store.State().Cluster())
	must(t, err)
	h.run()
	h.serve()
	return h
}

// run keeps the hub's duties going until the test ends.
func (h *harness) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.hub.Run(ctx)
	}()
	h.t.Cleanup(func() { cancel(); <-done })
}

func (h *harness) serve() {
	h.admin = "http://" + h.listen(&http.Server{Handler: h.hub.AdminHandler(), Protocols: protocols(true)}, nil)
	certificate, err := h.ca.IssueHub("h1", time.Now(), time.Hour)
	must(h.t, err)
	config := identity.HubTLS(h.ca.Certificate, h.ca.ClusterID(), func() *tls.Certificate { return &certificate })
	config.Time = h.clock.now
	h.edge = "https://" + h.listen(&http.Server{Handler: h.hub.EdgeHandler(), Protocols: protocols(false)}, config)
}

func protocols(plain bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(plain)
	return p
}

func (h *harness) listen(s *http.Server, config *tls.Config) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(h.t, err)
	s.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if config != nil {
			s.TLSConfig = config
			s.ServeTLS(l, "", "")
			return
		}
		s.Serve(l)
	}()
	h.t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

// compile refuses what a path of "/refuse" marks.
func (h *harness) compile(_ context.Context, namespace string, resources iter.Seq[*gwv1.ResourceRecord]) error {
	if h.beforeCompile != nil {
		h.beforeCompile()
	}
	var wrong resource.Errors
	for r := range resources {
		spec, err := resource.Decode(r.Kind, r.Name, r.Spec)
		if err != nil {
			return err
		}
		if api, ok := spec.(*gwv1.APISpec); ok && (api.Paths[0] == "/refuse" || r.Name == h.broken) {
			wrong = append(wrong, &resource.Error{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, Field: "spec.paths[0]",
				Code: resource.CodeConflict, Message: "can't be served", Expected: "another path"})
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

// as returns a context of a principal with a role, for calls in-process.
func (h *harness) as(role Role, namespaces ...string) context.Context {
	return WithPrincipal(h.t.Context(), Principal{User: role.String(), Role: role, Namespaces: namespaces, Address: "10.0.0.9"})
}

func (h *harness) propose(c *gwv1.Command) *gwv1.Result {
	h.t.Helper()
	r, err := h.store.Propose(h.t.Context(), c)
	must(h.t, err)
	return r
}

// user makes a user and a session, and returns the bearer token.
func (h *harness) user(name string, role Role, namespaces ...string) string {
	h.t.Helper()
	h.propose(&gwv1.Command{Body: &gwv1.Command_PutUser{PutUser: &gwv1.PutUserRecord{User: &gwv1.UserRecord{
		Name: name, Role: role.String(), Namespaces: namespaces, PasswordHash: passwordHash()}}}})
	bearer := identity.NewCredential(identity.BearerPrefix)
	hash := identity.HashCredential(bearer)
	h.propose(&gwv1.Command{Body: &gwv1.Command_PutSession{PutSession: &gwv1.PutSessionRecord{Session: &gwv1.SessionRecord{
		TokenHash: hash[:], User: name, ExpiresAt: h.clock.now().Add(time.Hour).UnixNano()}}}})
	return bearer
}

const password = "correct horse"

var passwordHash = sync.OnceValue(func() string { return identity.HashPassword(password) })

// bearer adds a token to every call of a client.
func bearer(token string) connect.ClientOption {
	return connect.WithInterceptors(bearerInterceptor(token))
}

type bearerInterceptor string

func (b bearerInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		r.Header().Set("Authorization", "Bearer "+string(b))
		return next(ctx, r)
	}
}

func (b bearerInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		c := next(ctx, s)
		c.RequestHeader().Set("Authorization", "Bearer "+string(b))
		return c
	}
}

func (b bearerInterceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// h2c returns a client that speaks HTTP/2 without TLS, as gRPC does on loopback.
func (h *harness) h2c() *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: p}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// testEdge is an edge as the hub sees it.
type testEdge struct {
	identity.Edge
	gwv1connect.EdgeServiceClient
	session string
	shows   *tls.Certificate
	beats   uint64
	read    *atomic.Int64 // bytes that came over the wire, TLS included
}

// joinToken makes one for a namespace.
func (h *harness) joinToken(namespace string, change ...func(*gwv1.CreateJoinTokenRequest)) identity.JoinToken {
	h.t.Helper()
	r := &gwv1.CreateJoinTokenRequest{Namespace: namespace, Unlimited: true}
	for _, c := range change {
		c(r)
	}
	a, err := h.hub.Access.CreateJoinToken(h.as(RoleAdmin), r)
	must(h.t, err)
	token, err := identity.ParseJoinToken(a.Credential)
	must(h.t, err)
	return token
}

// enroller returns a client without a certificate that trusts the cluster by its pin.
func (h *harness) enroller() gwv1connect.EdgeServiceClient {
	return gwv1connect.NewEdgeServiceClient(h.https(identity.EnrollTLS(identity.PinOf(h.ca.Certificate)), nil), h.edge)
}

func (h *harness) https(config *tls.Config, read *atomic.Int64) *http.Client {
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil && read != nil {
				c = &countingConn{c, read}
			}
			return c, err
		}}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// enroll makes an edge of a namespace, with a certificate of its own.
func (h *harness) enroll(namespace, id string) *testEdge {
	h.t.Helper()
	return h.enrollWith(h.joinToken(namespace), id)
}

func (h *harness) enrollWith(token identity.JoinToken, id string) *testEdge {
	h.t.Helper()
	key, err := identity.NewKey()
	must(h.t, err)
	csr, err := identity.NewCSR(key)
	must(h.t, err)
	a, err := h.enroller().Enroll(h.t.Context(), &gwv1.EnrollRequest{
		JoinTokenId: token.ID, JoinTokenSecret: token.Secret, EdgeId: id, Csr: csr, Version: "1.0"})
	must(h.t, err)
	certificate := &tls.Certificate{Certificate: [][]byte{a.Certificate}, PrivateKey: key}
	read := new(atomic.Int64)
	client := h.https(identity.EdgeTLS(h.ca.Certificate, h.ca.ClusterID(), func() *tls.Certificate { return certificate }), read)
	return &testEdge{
		Edge:              identity.Edge{ClusterID: a.ClusterId, Namespace: a.Namespace, ID: id},
		EdgeServiceClient: gwv1connect.NewEdgeServiceClient(client, h.edge),
		session:           newID() + newID(), read: read, shows: certificate,
	}
}

// beat says what the edge runs.
func (e *testEdge) beat(t testing.TB, loaded *gwv1.Target, change ...func(*gwv1.HeartbeatRequest)) *gwv1.HeartbeatResponse {
	t.Helper()
	e.beats++
	r := &gwv1.HeartbeatRequest{SessionId: e.session, Sequence: e.beats, Version: "1.0", Build: "abc", Health: gwv1.Health_HEALTH_OK,
		LoadedEpoch: loaded.GetEpoch(), LoadedRelease: loaded.GetNumber(), LoadedChecksum: loaded.GetChecksum()}
	for _, c := range change {
		c(r)
	}
	a, err := e.Heartbeat(t.Context(), r)
	must(t, err)
	return a
}

// watching is an open stream of an edge.
type watching struct {
	t      testing.TB
	stream *connect.ServerStreamForClient[gwv1.WatchResponse]
	cancel context.CancelFunc
}

func (e *testEdge) watch(t testing.TB, r *gwv1.WatchRequest) *watching {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	r.SessionId = e.session
	stream, err := e.Watch(ctx, r)
	must(t, err)
	w := &watching{t, stream, cancel}
	t.Cleanup(w.close)
	return w
}

func (w *watching) close() { w.cancel(); w.stream.Close() }

func (w *watching) next() *gwv1.WatchResponse {
	w.t.Helper()
	if !w.stream.Receive() {
		w.t.Fatalf("the stream ended: %v", w.stream.Err())
	}
	return w.stream.Msg()
}

// api is a resource that forwards a path.
func api(namespace, name, path string) *gwv1.Resource {
	return object("API", namespace, name, map[string]any{
		"paths": []any{path}, "upstreams": []any{map[string]any{"url": "http://127.0.0.1:9"}}})
}

// llm is a resource that names a secret.
func llm(namespace, name, secret string) *gwv1.Resource {
	return object("LLM", namespace, name, map[string]any{
		"base_url": "https://api.example.com", "credential": map[string]any{"secret": secret}})
}

func object(kind, namespace, name string, spec map[string]any) *gwv1.Resource {
	s, err := structpb.NewStruct(spec)
	if err != nil {
		panic(err)
	}
	return &gwv1.Resource{Kind: kind, Metadata: &gwv1.ResourceMetadata{Name: name, Namespace: namespace}, Spec: s}
}

func (h *harness) apply(resources ...*gwv1.Resource) *gwv1.ApplyResourcesResponse {
	h.t.Helper()
	a, err := h.hub.Config.ApplyResources(h.as(RoleAdmin), &gwv1.ApplyResourcesRequest{Resources: resources})
	must(h.t, err)
	return a
}

func (h *harness) push(namespaces ...string) *gwv1.PushResponse {
	h.t.Helper()
	a, err := h.hub.Releases.Push(h.as(RoleAdmin), &gwv1.PushRequest{Scope: &gwv1.Scope{Namespaces: namespaces}, ConfirmRemoval: true})
	must(h.t, err)
	return a
}

func (h *harness) target(namespace string) *gwv1.Target {
	r, _ := h.store.State().Target(namespace)
	return shownTarget(r)
}

// release returns one kept release.
func (h *harness) release(namespace string, number uint64) *state.Release {
	h.t.Helper()
	r, ok := h.store.State().Release(namespace, number)
	if !ok {
		h.t.Fatalf("there is no release %d of %s", number, namespace)
	}
	return r
}

// app makes an app and returns a credential of it.
func (h *harness) app(namespace, name string) (app *gwv1.App, token *gwv1.CreateTokenResponse) {
	h.t.Helper()
	a, err := h.hub.Access.CreateApp(h.as(RoleAdmin), &gwv1.CreateAppRequest{App: &gwv1.App{Namespace: namespace, Name: name, Targets: []string{"*"}}})
	must(h.t, err)
	c, err := h.hub.Access.CreateToken(h.as(RoleAdmin), &gwv1.CreateTokenRequest{Namespace: namespace, App: name})
	must(h.t, err)
	return a.App, c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks that an error is what callers are to see: a code, a reason, and some of its message.
func (h *harness) refused(err error, code connect.Code, reason, message string) *gwv1.ErrorDetail {
	h.t.Helper()
	if err == nil {
		h.t.Fatalf("was not refused; want %v %q", code, reason)
	}
	var wire *connect.Error
	if !isWire(err, &wire) {
		wire = errorOf(h.t.Context(), slog.New(slog.DiscardHandler), err)
	}
	detail := detailOf(h.t, wire)
	if wire.Code() != code || detail.GetReason() != reason || !strings.Contains(wire.Message(), message) {
		h.t.Fatalf("got %v %q %q, want %v %q %q", wire.Code(), detail.GetReason(), wire.Message(), code, reason, message)
	}
	return detail
}

func detailOf(t testing.TB, e *connect.Error) *gwv1.ErrorDetail {
	t.Helper()
	if len(e.Details()) != 1 {
		t.Fatalf("%v has %d details, want 1", e, len(e.Details()))
	}
	m, err := e.Details()[0].Value()
	must(t, err)
	d, ok := m.(*gwv1.ErrorDetail)
	if !ok {
		t.Fatalf("the detail is a %T", m)
	}
	return d
}

func outcomes(a []*gwv1.ResourceOutcome) string {
	var s []string
	for _, o := range a {
		s = append(s, fmt.Sprintf("%s/%s/%s %s", o.Namespace, o.Kind, o.Name, strings.ToLower(strings.TrimPrefix(o.Change.String(), "CHANGE_"))))
	}
	return strings.Join(s, ", ")
}
