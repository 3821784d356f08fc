package uplink

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/types/known/durationpb"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

const tickEvery = 50 * time.Millisecond

// fakeHub is a hub on loopback with real TLS. What it serves is set by its methods; what it should do wrong, by its
// hooks, which are called with the lock held and must not block.
type fakeHub struct {
	gwv1connect.UnimplementedEdgeServiceHandler
	t     *testing.T
	ca    *identity.CA
	url   string
	token string // a join token

	beats   chan *gwv1.HeartbeatRequest // the newest ones; older are dropped
	watches chan watchCall              // every Watch call that was opened
	stop    chan struct{}

	tickEvery time.Duration

	mu          sync.Mutex
	changed     chan struct{} // closed and replaced at every change
	namespace   string
	certLife    time.Duration
	joinSecret  [32]byte
	releases    []Release // all ever pushed
	blobs       map[string]*gwv1.Blob
	cluster     string
	epoch       uint64
	access      uint64
	retry       uint64 // what an admin asked for
	changes     []*gwv1.AccessChange
	tokens      map[[32]byte]*gwv1.ValidateTokenResponse
	secrets     []*gwv1.SecretValue
	removed     int // how often the edge was removed
	quiet       bool
	goodbyes    []string
	enrolled    int
	fetches     int
	secretReads int
	ticks       int
	serials     []string // of certificates, per heartbeat

	takesOne   bool     // the join token is for one edge
	tookCSR    []byte   // of that one
	csrs       [][]byte // of every Enroll
	onEnroll   func() error
	onEnrolled func(*gwv1.EnrollResponse)
	onRenew    func() error
	onBeat     func(serial string) error
	onWatch    func() error
	onFetch    func() error
	mangle     func(*gwv1.FetchReleaseResponse) // changes what FetchRelease sends
	cutAfter   int                              // parts after which every FetchRelease breaks off; 0: none
	blobParts  int                              // parts with blobs that were sent
	wrongTick  func(*gwv1.Tick)
	onBatch    func(*gwv1.SendPluginControlBatchRequest) (*gwv1.SendPluginControlBatchResponse, error)
	hideAccess bool // ticks tell of access changes that are not sent

	handler http.Handler
	// elsewhere: this hub follows. It names leader, "" if it knows of none, and has calls that may be passed on served by
	// passTo.
	elsewhere bool
	revoked   bool // it refuses every call but Enroll, which ends that
	refused   int  // calls it refused for it
	leader    string
	passTo    *fakeHub
	content   int // calls of those who are content with what a hub that follows has
	hinted    int // calls that were answered by where the leader is
	passed    int // calls that were passed on
}

// follows makes a hub one that follows another, which it names by url.
func (h *fakeHub) follows(url string, passTo *fakeHub) {
	h.do(func() { h.elsewhere, h.leader, h.passTo = true, url, passTo })
}

// leads makes it the leader.
func (h *fakeHub) leads() { h.do(func() { h.elsewhere = false }) }

// route serves a call here, or as a hub does that follows.
func (h *fakeHub) route(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	if h.revoked && path.Base(r.URL.Path) == "Enroll" {
		h.revoked = false
	}
	if h.revoked {
		h.refused++
		h.mu.Unlock()
		connect.NewErrorWriter().Write(w, r, refusal(connect.CodePermissionDenied, revokedReason, "edge-1 was revoked by ann"))
		return
	}
	elsewhere, leader, next := h.elsewhere, h.leader, h.handler
	if elsewhere && h.passTo != nil && r.Header.Get("Gw-Proxy") == "allow" {
		elsewhere, next = false, h.passTo.handler
		h.passed++
	} else if elsewhere && r.Header.Get("Gw-Consistency") == "stale" {
		elsewhere = false
		h.content++
	} else if elsewhere {
		h.hinted++
	}
	h.mu.Unlock()
	if !elsewhere {
		next.ServeHTTP(w, r)
		return
	}
	connect.NewErrorWriter().Write(w, r, notLeaderAt(leader))
}

func notLeaderAt(leader string) error { return notLeaderFor(leader, 0) }

// notLeaderFor is the answer to an edge of a fleet that is to spread over a time on its way to the leader.
func notLeaderFor(leader string, spread time.Duration) error {
	err := connect.NewError(connect.CodeUnavailable, errors.New("this hub does not lead"))
	if detail, detailErr := connect.NewErrorDetail(&gwv1.ErrorDetail{Reason: notLeader, LeaderUrl: leader, RetryJitter: durationpb.New(spread)}); detailErr == nil {
		err.AddDetail(detail)
	}
	return err
}

type watchCall struct {
	request *gwv1.WatchRequest
	serial  string
	done    <-chan struct{} // closed when the stream has ended
}

type edgeKey struct{}

// peer is the edge's certificate, as the connection has it.
type peer struct {
	identity.Edge
	serial string
	ends   time.Time
}

func newFakeHub(t *testing.T) *fakeHub {
	t.Helper()
	ca, err := identity.NewCA("cluster-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return newFakeHubOf(t, ca)
}

func newFakeHubOf(t *testing.T, ca *identity.CA) *fakeHub {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newFakeHubOn(t, ca, listener)
}

// newFakeHubOn starts a hub that is called at a listener.
func newFakeHubOn(t *testing.T, ca *identity.CA, listener net.Listener) *fakeHub {
	t.Helper()
	cert, err := ca.IssueHub("hub-1", time.Now(), 365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	join := identity.NewJoinToken(identity.PinOf(ca.Certificate))
	h := &fakeHub{
		t: t, ca: ca, token: join.String(), joinSecret: sha256.Sum256(join.Secret), namespace: "default", certLife: 24 * time.Hour,
		beats: make(chan *gwv1.HeartbeatRequest, 1000), watches: make(chan watchCall, 1000), stop: make(chan struct{}),
		changed: make(chan struct{}), blobs: make(map[string]*gwv1.Blob), cluster: "cluster-1", epoch: 1, access: 1,
		tokens: make(map[[32]byte]*gwv1.ValidateTokenResponse), tickEvery: tickEvery,
	}
	h.url = "https://" + listener.Addr().String()
	mux := http.NewServeMux()
	mux.Handle(gwv1connect.NewEdgeServiceHandler(h))
	h.handler = mux
	server := &http.Server{
		TLSConfig: identity.HubTLS(ca.Certificate, "cluster-1", func() *tls.Certificate { return &cert }),
		ErrorLog:  log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(r.TLS.PeerCertificates) > 0 {
				leaf := r.TLS.PeerCertificates[0]
				if edge, err := identity.EdgeOf(leaf); err == nil {
					r = r.WithContext(context.WithValue(r.Context(), edgeKey{}, peer{edge, leaf.SerialNumber.String(), leaf.NotAfter}))
				}
			}
			h.route(w, r)
		}),
	}
	var serving sync.WaitGroup
	serving.Go(func() { server.ServeTLS(listener, "", "") })
	t.Cleanup(func() {
		close(h.stop)
		server.Close()
		serving.Wait()
	})
	return h
}

// do changes the hub and lets its streams know.
func (h *fakeHub) do(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.changedLocked()
}

func (h *fakeHub) changedLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// push makes the next release, of NAME=SPEC pairs.
func (h *fakeHub) push(specs map[string]string) *gwv1.Target {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pushLocked(specs)
}

func (h *fakeHub) pushLocked(specs map[string]string) *gwv1.Target {
	r := makeRelease(h.namespace, h.epoch, uint64(len(h.releases)+1), specs)
	for _, b := range r.Blobs {
		h.blobs[string(b.Digest)] = b
	}
	h.releases = append(h.releases, r)
	h.changedLocked()
	return r.Target
}

func makeRelease(namespace string, epoch, number uint64, specs map[string]string) Release {
	r := Release{Namespace: namespace, Target: &gwv1.Target{Epoch: epoch, Number: number}}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		digest := resource.DigestOf("API", name, []byte(specs[name]))
		r.Entries = append(r.Entries, resource.Entry{Kind: "API", Name: name, Digest: digest})
		r.Blobs = append(r.Blobs, &gwv1.Blob{Digest: digest[:], Kind: "API", Name: name, Spec: []byte(specs[name])})
	}
	sum := resource.Checksum(slices.Values(r.Entries))
	r.Target.Checksum = sum[:]
	return r
}

func (h *fakeHub) targetLocked() *gwv1.Target {
	if len(h.releases) == 0 {
		return &gwv1.Target{Checksum: resource.EmptyChecksum[:]}
	}
	return h.releases[len(h.releases)-1].Target
}

func (h *fakeHub) count(n *int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return *n
}

func peerOf(ctx context.Context) (peer, error) {
	p, err := anyPeerOf(ctx)
	if err == nil && time.Now().After(p.ends) {
		err = refusal(connect.CodeUnauthenticated, certificateNeeded, "the certificate has ended: renew it")
	}
	return p, err
}

// anyPeerOf is peerOf for certificates that may have ended.
func anyPeerOf(ctx context.Context) (peer, error) {
	p, ok := ctx.Value(edgeKey{}).(peer)
	if !ok {
		return p, connect.NewError(connect.CodeUnauthenticated, errors.New("no client certificate"))
	}
	return p, nil
}

// refusal is a hub's error with its stable word.
func refusal(code connect.Code, reason, message string) error {
	err := connect.NewError(code, errors.New(message))
	if detail, detailErr := connect.NewErrorDetail(&gwv1.ErrorDetail{Reason: reason}); detailErr == nil {
		err.AddDetail(detail)
	}
	return err
}

func (h *fakeHub) Enroll(_ context.Context, r *gwv1.EnrollRequest) (*gwv1.EnrollResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.enrolled++
	if h.onEnroll != nil {
		if err := h.onEnroll(); err != nil {
			return nil, err
		}
	}
	if sha256.Sum256(r.JoinTokenSecret) != h.joinSecret {
		return nil, refusal(connect.CodePermissionDenied, "forbidden", "there is no such join token")
	}
	h.csrs = append(h.csrs, r.Csr)
	if h.takesOne {
		if h.tookCSR != nil && !bytes.Equal(h.tookCSR, r.Csr) {
			return nil, refusal(connect.CodeFailedPrecondition, "token_used_up", "the join token has been used 1 of 1 times")
		}
		h.tookCSR = r.Csr
	}
	cert, err := h.ca.SignEdge(r.Csr, identity.Edge{ClusterID: "cluster-1", Namespace: h.namespace, ID: r.EdgeId}, time.Now(), h.certLife)
	if err != nil {
		return nil, err
	}
	answer := &gwv1.EnrollResponse{
		Certificate: cert.Raw, CaCertificate: h.ca.Certificate.Raw, ClusterId: "cluster-1", Namespace: h.namespace, HubUrls: []string{h.url},
	}
	if h.onEnrolled != nil {
		h.onEnrolled(answer)
	}
	return answer, nil
}

func (h *fakeHub) RenewCertificate(ctx context.Context, r *gwv1.RenewCertificateRequest) (*gwv1.RenewCertificateResponse, error) {
	p, err := anyPeerOf(ctx)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	onRenew := h.onRenew
	h.mu.Unlock()
	if onRenew != nil {
		if err := onRenew(); err != nil {
			return nil, err
		}
	}
	cert, err := h.ca.SignEdge(r.Csr, p.Edge, time.Now(), h.certLife)
	if err != nil {
		return nil, err
	}
	return &gwv1.RenewCertificateResponse{Certificate: cert.Raw, CaCertificate: h.ca.Certificate.Raw}, nil
}

func (h *fakeHub) Heartbeat(ctx context.Context, r *gwv1.HeartbeatRequest) (*gwv1.HeartbeatResponse, error) {
	p, err := peerOf(ctx)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.onBeat != nil {
		if err := h.onBeat(p.serial); err != nil {
			return nil, err
		}
	}
	h.serials = append(h.serials, p.serial)
	for sent := false; !sent; {
		select {
		case h.beats <- r:
			sent = true
		default:
			<-h.beats
		}
	}
	return &gwv1.HeartbeatResponse{Interval: durationpb.New(time.Minute), HubUrls: []string{h.url}, Target: h.targetLocked(), Retry: h.retry}, nil
}

func (h *fakeHub) Watch(ctx context.Context, r *gwv1.WatchRequest, stream *connect.ServerStream[gwv1.WatchResponse]) error {
	p, err := peerOf(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	if h.onWatch != nil {
		err = h.onWatch()
	}
	h.mu.Unlock()
	if err != nil {
		return err
	}
	done := make(chan struct{})
	defer close(done)
	h.watches <- watchCall{r, p.serial, done}
	sent := r.AccessVersion
	cluster, epoch := r.ClusterId, r.Epoch
	removed := h.count(&h.removed)
	ticker := time.NewTicker(h.tickEvery)
	defer ticker.Stop()
	for {
		h.mu.Lock()
		changed := h.changed
		var events []*gwv1.WatchResponse
		if cluster != h.cluster || epoch != h.epoch {
			cluster, epoch, sent = h.cluster, h.epoch, h.access
			events = append(events, accessEvent(&gwv1.AccessChanges{Reset_: true, AccessVersion: h.access}))
		}
		if sent < h.access && !h.hideAccess {
			a := &gwv1.AccessChanges{AccessVersion: h.access}
			for _, c := range h.changes {
				if c.Version > sent {
					a.Changes = append(a.Changes, c)
				}
			}
			sent = h.access
			events = append(events, accessEvent(a))
		}
		tick := &gwv1.Tick{ClusterId: h.cluster, Epoch: h.epoch, AccessVersion: h.access, Target: h.targetLocked(), Retry: h.retry}
		if h.wrongTick != nil {
			h.wrongTick(tick)
		}
		if !h.quiet {
			h.ticks++
			events = append(events, &gwv1.WatchResponse{Event: &gwv1.WatchResponse_Tick{Tick: tick}})
		}
		gone, elsewhere, leader := h.removed > removed, h.elsewhere, h.leader
		h.mu.Unlock()
		if elsewhere {
			return notLeaderAt(leader)
		}
		if gone {
			return stream.Send(&gwv1.WatchResponse{Event: &gwv1.WatchResponse_Removed{Removed: &gwv1.Removed{}}})
		}
		for _, e := range events {
			if err := stream.Send(e); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-h.stop:
			return nil
		}
	}
}

func accessEvent(a *gwv1.AccessChanges) *gwv1.WatchResponse {
	return &gwv1.WatchResponse{Event: &gwv1.WatchResponse_Access{Access: a}}
}

func (h *fakeHub) FetchRelease(ctx context.Context, r *gwv1.FetchReleaseRequest, stream *connect.ServerStream[gwv1.FetchReleaseResponse]) error {
	if _, err := peerOf(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	h.fetches++
	if h.onFetch != nil {
		if err := h.onFetch(); err != nil {
			h.mu.Unlock()
			return err
		}
	}
	var base *Release
	for i := range h.releases {
		if len(r.BaseChecksum) > 0 && bytes.Equal(h.releases[i].Target.Checksum, r.BaseChecksum) {
			base = &h.releases[i]
		}
	}
	if len(h.releases) == 0 {
		h.mu.Unlock()
		return refusal(connect.CodeNotFound, "not_found", "no release")
	}
	parts := partsOf(h.releases[len(h.releases)-1], base, r.Held...)
	cut := h.cutAfter
	if h.mangle != nil {
		for _, p := range parts {
			h.mangle(p)
		}
	}
	h.mu.Unlock()
	for i, p := range parts {
		if cut > 0 && i == cut {
			return refusal(connect.CodeUnavailable, "", "cut off")
		}
		if err := stream.Send(p); err != nil {
			return err
		}
		if p.GetBlobs() != nil {
			h.do(func() { h.blobParts++ })
		}
	}
	return nil
}

// partsOf is a release as FetchRelease sends it, two blobs to a part, to an edge that has kept blobs with some digests.
func partsOf(r Release, base *Release, held ...byte) []*gwv1.FetchReleaseResponse {
	header := &gwv1.ReleaseHeader{Target: r.Target, Namespace: r.Namespace, Resources: uint32(len(r.Entries))}
	old := map[string]resource.Digest{}
	if base != nil {
		header.BaseChecksum = base.Target.Checksum
		for _, e := range base.Entries {
			old[e.Name] = e.Digest
		}
	}
	manifest := &gwv1.ManifestPart{}
	var blobs []*gwv1.Blob
	for i, e := range r.Entries {
		if d, ok := old[e.Name]; !ok || d != e.Digest {
			manifest.Upserts = append(manifest.Upserts, &gwv1.ManifestEntry{Kind: e.Kind, Name: e.Name, Digest: e.Digest[:]})
			if containsDigest(held, e.Digest) {
				delete(old, e.Name)
				continue
			}
			blobs = append(blobs, r.Blobs[i])
			header.BlobBytes += uint64(len(r.Blobs[i].Spec))
		}
		delete(old, e.Name)
	}
	for name := range old {
		manifest.Removals = append(manifest.Removals, &gwv1.ManifestEntry{Kind: "API", Name: name})
	}
	header.Blobs = uint32(len(blobs))
	parts := []*gwv1.FetchReleaseResponse{
		{Part: &gwv1.FetchReleaseResponse_Header{Header: header}},
		{Part: &gwv1.FetchReleaseResponse_Manifest{Manifest: manifest}},
	}
	for two := range slices.Chunk(blobs, 2) {
		parts = append(parts, &gwv1.FetchReleaseResponse{Part: &gwv1.FetchReleaseResponse_Blobs{Blobs: packed(two...)}})
	}
	return append(parts, &gwv1.FetchReleaseResponse{Part: &gwv1.FetchReleaseResponse_End{End: &gwv1.ReleaseEnd{}}})
}

func containsDigest(held []byte, digest resource.Digest) bool {
	for d := range slices.Chunk(held, len(digest)) {
		if bytes.Equal(d, digest[:]) {
			return true
		}
	}
	return false
}

func packed(blobs ...*gwv1.Blob) *gwv1.BlobPart {
	var plain bytes.Buffer
	for _, b := range blobs {
		protodelim.MarshalTo(&plain, b)
	}
	encoder, _ := zstd.NewWriter(nil)
	return &gwv1.BlobPart{Zstd: encoder.EncodeAll(plain.Bytes(), nil), Size: uint32(plain.Len())}
}

func (h *fakeHub) FetchSecrets(ctx context.Context, _ *gwv1.FetchSecretsRequest) (*gwv1.FetchSecretsResponse, error) {
	if _, err := peerOf(ctx); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secretReads++
	return &gwv1.FetchSecretsResponse{Secrets: slices.Clone(h.secrets), AccessVersion: h.access}, nil
}

func (h *fakeHub) ValidateToken(ctx context.Context, r *gwv1.ValidateTokenRequest) (*gwv1.ValidateTokenResponse, error) {
	if _, err := peerOf(ctx); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if t, ok := h.tokens[[32]byte(r.TokenHash)]; ok {
		t.AccessVersion = h.access
		return &gwv1.ValidateTokenResponse{Valid: true, AppId: t.AppId, App: t.App, AccessVersion: h.access}, nil
	}
	return &gwv1.ValidateTokenResponse{AccessVersion: h.access}, nil
}

func (h *fakeHub) SendPluginControlBatch(ctx context.Context, r *gwv1.SendPluginControlBatchRequest) (*gwv1.SendPluginControlBatchResponse, error) {
	if _, err := peerOf(ctx); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.onBatch(r)
}

func (h *fakeHub) Goodbye(ctx context.Context, r *gwv1.GoodbyeRequest) (*gwv1.GoodbyeResponse, error) {
	if _, err := peerOf(ctx); err != nil {
		return nil, err
	}
	h.do(func() { h.goodbyes = append(h.goodbyes, r.SessionId) })
	return &gwv1.GoodbyeResponse{}, nil
}

// testPace is the conversation at a pace for tests: everything that only waits is short, everything that would give up
// is long, so that a slow machine makes no test fail.
var testPace = pace{
	tickTimeout: 5 * time.Second,
	dial:        5 * time.Second,
	leader:      5 * time.Second,
	call:        10 * time.Second,
	fetch:       10 * time.Second,
	drain:       5 * time.Second,
	goodbye:     2 * time.Second,
	heartbeat:   time.Minute,
	nap:         5 * time.Millisecond,
	reconnect:   backoff{quickTries: 3, quick: 10 * time.Millisecond, base: 10 * time.Millisecond, cap: 40 * time.Millisecond},
	retry:       backoff{base: 5 * time.Millisecond, cap: 40 * time.Millisecond},
	renew:       backoff{base: 5 * time.Millisecond, cap: 40 * time.Millisecond},
	revoked:     backoff{base: 20 * time.Millisecond, cap: 100 * time.Millisecond},
}

// testEdge is an edge around an Uplink: a table that holds what was applied, and a disk.
type testEdge struct {
	t       *testing.T
	store   *memoryStore
	config  Config
	uplink  *Uplink
	pace    pace
	applied chan Release // every release swapped in

	mu     sync.Mutex
	loaded Loaded
	fault  func(Release) error // instead of loading
	needs  []string            // secrets that releases need
}

func newTestEdge(t *testing.T, h *fakeHub) *testEdge {
	e := &testEdge{t: t, store: &memoryStore{}, pace: testPace, applied: make(chan Release, 1000)}
	e.loaded.Checksum = resource.EmptyChecksum
	e.config = Config{
		EdgeID: "edge-1", Hubs: []string{h.url}, JoinToken: h.token, Store: e.store, Apply: e.apply, Version: "test", Logger: quiet,
		Loaded: func() Loaded {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.loaded
		},
		SecretsOf: func(Release) ([]string, error) {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.needs, nil
		},
	}
	return e
}

func (e *testEdge) apply(_ context.Context, r Release) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fault != nil {
		if err := e.fault(r); err != nil {
			return err
		}
	}
	e.store.saveRelease(r)
	e.loaded = Loaded{Epoch: r.Target.Epoch, Number: r.Target.Number, Checksum: resource.Checksum(slices.Values(r.Entries)), Secrets: e.needs}
	e.applied <- r
	return nil
}

func (e *testEdge) setFault(f func(Release) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault = f
}

// build makes the Uplink, at the pace of tests.
func (e *testEdge) build() {
	e.t.Helper()
	u, err := New(e.config)
	if err != nil {
		e.t.Fatal(err)
	}
	u.pace = e.pace
	if id := u.ident.Load(); id != nil {
		id.transport = newTransport(id.transport.TLSClientConfig, e.pace)
	}
	e.uplink = u
}

// start runs a new Uplink until the returned function is called or the test ends.
func (e *testEdge) start() (stop func()) {
	e.t.Helper()
	e.build()
	return e.run()
}

func (e *testEdge) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.uplink.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			e.t.Errorf("Run: %v", err)
		}
	})
	e.t.Cleanup(stop)
	return stop
}

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// receive returns the first value of c that is right.
func receive[T any](t *testing.T, what string, c <-chan T, right func(T) bool) T {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case v := <-c:
			if right(v) {
				return v
			}
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (e *testEdge) awaitRelease(number uint64) Release {
	e.t.Helper()
	return receive(e.t, "the release", e.applied, func(r Release) bool { return r.Target.Number == number })
}

func anyOf[T any](T) bool { return true }

// awaitTicks waits until the hub has ticked n more times, so that an edge that would act on ticks has had the chance.
func (h *fakeHub) awaitTicks(n int) {
	h.t.Helper()
	deadline := time.After(patience)
	for start := h.count(&h.ticks); h.count(&h.ticks) < start+n; {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(tickEvery):
		case <-deadline:
			h.t.Fatal("the hub stopped ticking")
		}
	}
}
