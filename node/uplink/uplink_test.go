package uplink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

func TestEdgeEnrolsFetchesAndReports(t *testing.T) {
	h := newFakeHub(t)
	target := h.push(map[string]string{"a": "1", "b": "2", "c": "3"})
	e := newTestEdge(t, h)
	e.config.Health = func() Health { return Health{gwv1.Health_HEALTH_DEGRADED, "the disk is full"} }
	stop := e.start()
	r := e.awaitRelease(1)
	if len(r.Blobs) != 3 || string(r.Blobs[2].Spec) != "3" || r.Namespace != "default" {
		t.Errorf("got %v", r)
	}
	b := receive(t, "a heartbeat with the release", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.LoadedRelease == 1 })
	if !bytes.Equal(b.LoadedChecksum, target.Checksum) || b.LoadedEpoch != 1 || b.ApplyError != nil || b.Version != "test" ||
		b.Health != gwv1.Health_HEALTH_DEGRADED || b.HealthReason != "the disk is full" || b.AccessVersion != 1 || b.StartedAt == nil {
		t.Errorf("got %v", b)
	}
	s := e.uplink.Status()
	if !s.Following || s.Namespace != "default" || s.EdgeID != "edge-1" || s.Hub != h.url || s.LastHeard.IsZero() || s.CertificateNotAfter.IsZero() {
		t.Errorf("got status %+v", s)
	}
	stop()
	if len(h.goodbyes) != 1 || h.goodbyes[0] != b.SessionId {
		t.Errorf("got goodbyes %v, want one of session %s", h.goodbyes, b.SessionId)
	}
}

func TestOnlyWhatIsMissingIsSent(t *testing.T) {
	h := newFakeHub(t)
	h.push(map[string]string{"a": "1", "b": "1", "c": "1"})
	e := newTestEdge(t, h)
	e.start()
	e.awaitRelease(1)
	sent := atomic.Int64{}
	h.do(func() {
		h.mangle = func(p *gwv1.FetchReleaseResponse) {
			if header := p.GetHeader(); header != nil {
				sent.Store(int64(header.Blobs))
			}
		}
	})
	h.push(map[string]string{"a": "1", "b": "2"})
	r := e.awaitRelease(2)
	if sent.Load() != 1 || len(r.Blobs) != 2 || string(r.Blobs[0].Spec) != "1" || string(r.Blobs[1].Spec) != "2" {
		t.Errorf("%d blobs were sent, got %v", sent.Load(), r.Blobs)
	}
	h.push(map[string]string{"a": "1", "b": "1", "c": "1"}) // a rollback: a new number, old content
	e.awaitRelease(3)
}

func TestPushWhileAnEdgeEnrolsIsNeverLost(t *testing.T) {
	for round := range 60 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			h := newFakeHub(t)
			if round%2 == 0 {
				h.push(map[string]string{"a": "first"})
			}
			when := round / 2 % 4
			pushed := make(chan uint64, 1)
			var first sync.Once
			once := func() { first.Do(func() { pushed <- h.pushLocked(map[string]string{"a": "last"}).Number }) }
			h.mu.Lock()
			switch when {
			case 0: // inside Enroll
				h.onEnroll = func() error { once(); return nil }
			case 1: // with the first tick, after its target was read
				h.wrongTick = func(*gwv1.Tick) { once() }
			case 2: // with the first heartbeat
				h.onBeat = func(string) error { once(); return nil }
			case 3: // at no particular time
				go h.do(once)
			}
			h.mu.Unlock()
			e := newTestEdge(t, h)
			e.start()
			number := receive(t, "the push", pushed, anyOf[uint64])
			if r := e.awaitRelease(number); string(r.Blobs[0].Spec) != "last" {
				t.Errorf("got %v", r)
			}
		})
	}
}

// wantRefused pushes a second release that h sends wrong, and checks that the edge says so, keeps what it has, and
// takes the release once it is sent right.
func wantRefused(t *testing.T, code, message string, mangle func(h *fakeHub, p *gwv1.FetchReleaseResponse)) {
	t.Helper()
	h := newFakeHub(t)
	h.push(map[string]string{"a": "1", "b": "1"})
	e := newTestEdge(t, h)
	e.start()
	e.awaitRelease(1)
	h.do(func() { h.mangle = func(p *gwv1.FetchReleaseResponse) { mangle(h, p) } })
	h.push(map[string]string{"a": "2", "b": "1"})
	b := receive(t, "a heartbeat with the fault", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.ApplyError != nil && b.LoadedRelease == 1 })
	if b.ApplyError.Code != code || !strings.Contains(b.ApplyError.Message, message) || b.ApplyError.Release == 1 {
		t.Errorf("got %v, want %s: …%s…", b, code, message)
	}
	if len(e.applied) > 0 {
		t.Errorf("applied %v", <-e.applied)
	}
	h.do(func() { h.mangle = nil })
	e.awaitRelease(2)
	receive(t, "a heartbeat without the fault", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.ApplyError == nil && b.LoadedRelease == 2 })
}

func TestCorruptedBytesAreRefused(t *testing.T) {
	wantRefused(t, CodeVerify, "API/a", func(h *fakeHub, p *gwv1.FetchReleaseResponse) {
		if p.GetBlobs() != nil {
			b := makeRelease("default", 1, 1, map[string]string{"a": "2"}).Blobs[0]
			spoiled := &gwv1.Blob{Digest: b.Digest, Kind: b.Kind, Name: b.Name, Spec: []byte("3")}
			p.Part = &gwv1.FetchReleaseResponse_Blobs{Blobs: packed(spoiled)}
		}
	})
}

func TestTornCompressionIsRefused(t *testing.T) {
	wantRefused(t, CodeVerify, "decompress", func(h *fakeHub, p *gwv1.FetchReleaseResponse) {
		if b := p.GetBlobs(); b != nil {
			b.Zstd = b.Zstd[:len(b.Zstd)-3]
		}
	})
}

func TestWrongRootIsRefused(t *testing.T) {
	wantRefused(t, CodeVerify, "checksum", func(h *fakeHub, p *gwv1.FetchReleaseResponse) {
		if header := p.GetHeader(); header != nil {
			wrong := resource.DigestOf("API", "a", nil)
			header.Target = &gwv1.Target{Epoch: 1, Number: header.Target.Number, Checksum: wrong[:]}
		}
	})
}

func TestOlderReleaseIsRefused(t *testing.T) {
	wantRefused(t, CodeVerify, "doesn't come after", func(h *fakeHub, p *gwv1.FetchReleaseResponse) {
		if header := p.GetHeader(); header != nil {
			header.Target = &gwv1.Target{Epoch: 0, Number: 99, Checksum: header.Target.Checksum}
		}
	})
}

func TestReleaseOfAnotherNamespaceIsRefused(t *testing.T) {
	wantRefused(t, CodeVerify, "namespace", func(h *fakeHub, p *gwv1.FetchReleaseResponse) {
		if header := p.GetHeader(); header != nil {
			header.Namespace = "other"
		}
	})
}

func TestReleaseThatIsCutOffIsFetchedAgain(t *testing.T) {
	wantRefused(t, CodeVerify, "out of order", func(h *fakeHub, p *gwv1.FetchReleaseResponse) {
		if p.GetManifest() != nil {
			p.Part = &gwv1.FetchReleaseResponse_Header{Header: &gwv1.ReleaseHeader{}}
		}
	})
}

// A transfer that is always cut off after a few parts comes to its end all the same, and nothing is sent twice.
func TestATransferThatIsCutOffIsResumed(t *testing.T) {
	h := newFakeHub(t)
	specs := map[string]string{}
	for i := range 20 {
		specs[fmt.Sprintf("r%02d", i)] = fmt.Sprint(i)
	}
	h.push(specs)
	h.do(func() { h.cutAfter = 4 }) // header, manifest, and two of the ten parts with blobs
	e := newTestEdge(t, h)
	e.start()
	r := e.awaitRelease(1)
	if len(r.Blobs) != 20 || string(r.Blobs[19].Spec) != "19" {
		t.Errorf("got %d blobs", len(r.Blobs))
	}
	if n := h.count(&h.blobParts); n != 10 {
		t.Errorf("%d parts with blobs were sent, want 10", n)
	}
}

// A release that came whole and can't be loaded yet does not come again when that is tried again.
func TestReleaseThatCameWholeIsNotSentAgain(t *testing.T) {
	h := newFakeHub(t)
	specs := map[string]string{}
	for i := range 20 {
		specs[fmt.Sprintf("r%02d", i)] = fmt.Sprint(i)
	}
	h.push(specs)
	e := newTestEdge(t, h)
	tries := 0
	e.setFault(func(Release) error {
		if tries++; tries < 5 {
			return errors.New("a plugin doesn't start")
		}
		return nil
	})
	e.start()
	e.awaitRelease(1)
	if sent, fetches := h.count(&h.blobParts), h.count(&h.fetches); sent != 10 || fetches != 5 {
		t.Errorf("%d parts were sent in %d fetches, want 10 in 5", sent, fetches)
	}
}

// What came of a release is of use for the next one, as far as that has the same resources.
func TestWhatCameBeforeACutServesTheNextRelease(t *testing.T) {
	h := newFakeHub(t)
	h.push(map[string]string{"a": "1", "b": "1", "c": "1", "d": "1", "e": "1", "f": "1"})
	h.do(func() { h.cutAfter = 3 })
	e := newTestEdge(t, h)
	e.start()
	receive(t, "a heartbeat that tells of the cut", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.ApplyError.GetCode() == CodeFetch })
	h.push(map[string]string{"a": "1", "b": "2", "c": "1"})
	h.do(func() { h.cutAfter = 0 })
	r := e.awaitRelease(2)
	if got, want := contents(r), "a=1 b=2 c=1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTargetThatIsNotNewerIsNotFetched(t *testing.T) {
	h := newFakeHub(t)
	h.push(map[string]string{"a": "1"})
	e := newTestEdge(t, h)
	e.loaded = Loaded{Epoch: 2, Number: 1, Checksum: resource.EmptyChecksum}
	e.start()
	receive(t, "a heartbeat", h.beats, anyOf[*gwv1.HeartbeatRequest])
	h.push(map[string]string{"a": "2"}) // (1, 2) comes before (2, 1)
	h.awaitTicks(10)
	if n := h.count(&h.fetches); n != 0 {
		t.Errorf("fetched %d times", n)
	}
	h.do(func() { h.epoch = 2 })
	h.push(map[string]string{"a": "3"})
	e.awaitRelease(3)
}

func TestRejectedReleaseIsFetchedOnce(t *testing.T) {
	for _, code := range []string{CodeCompile, CodeTooOld, CodeProbe} {
		t.Run(code, func(t *testing.T) {
			h := newFakeHub(t)
			h.push(map[string]string{"a": "bad"})
			e := newTestEdge(t, h)
			e.setFault(func(Release) error {
				return fmt.Errorf("compile: %w", &ApplyFailure{Code: code, Kind: "API", Name: "a", Field: "spec.paths", Message: "two of them"})
			})
			e.start()
			b := receive(t, "a heartbeat with the fault", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.ApplyError != nil })
			if got := b.ApplyError; got.Code != code || got.Kind != "API" || got.Name != "a" || got.Field != "spec.paths" || got.Release != 1 || got.At == nil {
				t.Errorf("got %v", got)
			}
			h.awaitTicks(20)
			h.do(func() { h.removed++ }) // neither does a new stream fetch it again
			h.awaitTicks(20)
			if n := h.count(&h.fetches); n != 1 {
				t.Errorf("fetched %d times, want once", n)
			}
			e.setFault(nil)
			h.push(map[string]string{"a": "good"})
			e.awaitRelease(2)
			receive(t, "a heartbeat without the fault", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.ApplyError == nil && b.LoadedRelease == 2 })
		})
	}
}

func TestARejectedReleaseIsTriedOnceMorePerRetry(t *testing.T) {
	h := newFakeHub(t)
	h.push(map[string]string{"a": "bad"})
	e := newTestEdge(t, h)
	var tries atomic.Int64
	tried := make(chan struct{}, 10)
	e.setFault(func(Release) error {
		tries.Add(1)
		tried <- struct{}{}
		return &ApplyFailure{Code: CodeCompile, Message: "no"}
	})
	e.start()
	<-tried
	for want := int64(2); want <= 3; want++ {
		h.do(func() { h.retry += 1 << 40 })
		<-tried
		h.awaitTicks(10)
		h.do(func() { h.removed++ }) // a new stream tells the value again
		h.awaitTicks(10)
		if got := tries.Load(); got != want {
			t.Fatalf("tried %d times, want %d", got, want)
		}
	}
	h.do(func() { h.elsewhere = true }) // asked for while the edge is away
	h.do(func() { h.retry++ })
	e.setFault(nil)
	h.leads()
	e.awaitRelease(1)
}

func TestFaultOfTheDiskIsTriedAgain(t *testing.T) {
	h := newFakeHub(t)
	h.push(map[string]string{"a": "1"})
	e := newTestEdge(t, h)
	var tries atomic.Int64
	e.setFault(func(Release) error {
		if tries.Add(1) <= 3 {
			return errors.New("no space left")
		}
		return nil
	})
	e.start()
	b := receive(t, "a heartbeat with the fault", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.ApplyError != nil })
	if b.ApplyError.Code != CodeStorage {
		t.Errorf("got %v", b.ApplyError)
	}
	e.awaitRelease(1)
}

func TestSilentStreamIsGivenUp(t *testing.T) {
	h := newFakeHub(t)
	e := newTestEdge(t, h)
	e.build()
	e.uplink.pace.tickTimeout = 300 * time.Millisecond
	h.do(func() { h.quiet = true })
	e.run()
	first := receive(t, "the first stream", h.watches, anyOf[watchCall])
	receive(t, "a second stream", h.watches, anyOf[watchCall])
	receive(t, "the end of the first", first.done, anyOf[struct{}])
	if s := e.uplink.Status(); s.Following || s.LastError == "" {
		t.Errorf("got status %+v", s)
	}
	h.do(func() { h.quiet = false })
	h.push(map[string]string{"a": "1"})
	e.awaitRelease(1)
}

func TestRemovedEdgeRegistersAgain(t *testing.T) {
	h := newFakeHub(t)
	e := newTestEdge(t, h)
	e.start()
	receive(t, "a stream", h.watches, anyOf[watchCall])
	b := receive(t, "a heartbeat", h.beats, anyOf[*gwv1.HeartbeatRequest])
	h.do(func() { h.removed++ })
	receive(t, "a new stream", h.watches, anyOf[watchCall])
	again := receive(t, "a heartbeat at once", h.beats, func(n *gwv1.HeartbeatRequest) bool { return n.Sequence > b.Sequence })
	if again.SessionId != b.SessionId {
		t.Error("another session: the process is the same")
	}
}

func TestNextHubIsTried(t *testing.T) {
	h := newFakeHub(t)
	h.push(map[string]string{"a": "1"})
	e := newTestEdge(t, h)
	e.config.Hubs = []string{"https://127.0.0.1:1", h.url}
	stop := e.start()
	e.awaitRelease(1)
	stop()
	// The next process knows the hubs without being told.
	e.config.Hubs, e.config.JoinToken, e.config.EdgeID = nil, "", ""
	h.push(map[string]string{"a": "2"})
	e.start()
	e.awaitRelease(2)
	if n := h.count(&h.enrolled); n != 1 {
		t.Errorf("enrolled %d times, want once", n)
	}
}

func TestRefusedEnrolmentSaysWhy(t *testing.T) {
	h := newFakeHub(t)
	h.onEnroll = func() error {
		return refusal(connect.CodeFailedPrecondition, "token_used_up", "the join token has been used 1 of 1 times")
	}
	e := newTestEdge(t, h)
	e.build()
	err := e.uplink.Run(t.Context())
	var refused *EnrolmentError
	if !errors.As(err, &refused) || refused.Reason != "token_used_up" || !strings.Contains(err.Error(), "used 1 of 1 times") {
		t.Errorf("got %v", err)
	}
	if strings.Contains(err.Error(), e.config.JoinToken) {
		t.Error("the error holds the join token")
	}
	if n := h.count(&h.enrolled); n != 1 {
		t.Errorf("tried %d times, want once", n)
	}
}

func TestEnrolmentOutlastsAHubThatCannotYet(t *testing.T) {
	h := newFakeHub(t)
	var tries atomic.Int64
	h.onEnroll = func() error {
		if tries.Add(1) <= 4 {
			return refusal(connect.CodeUnavailable, "not_leader", "an election is under way")
		}
		return nil
	}
	h.push(map[string]string{"a": "1"})
	e := newTestEdge(t, h)
	e.start()
	e.awaitRelease(1)
}

func TestHubOfAnotherClusterIsNotTrusted(t *testing.T) {
	h := newFakeHub(t)
	other, err := identity.NewCA("cluster-2", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	e := newTestEdge(t, h)
	e.config.JoinToken = identity.NewJoinToken(identity.PinOf(other.Certificate)).String()
	e.build()
	if err := e.uplink.Run(t.Context()); !errors.Is(err, identity.ErrWrongCluster) {
		t.Errorf("got %v, want ErrWrongCluster", err)
	}
	if n := h.count(&h.enrolled); n != 0 {
		t.Error("the join token was shown to it")
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	h := newFakeHub(t)
	for name, spoil := range map[string]func(*Config){
		"no join token":   func(c *Config) { c.JoinToken = "" },
		"torn token":      func(c *Config) { c.JoinToken = c.JoinToken[:40] },
		"no hub":          func(c *Config) { c.Hubs = nil },
		"hub in clear":    func(c *Config) { c.Hubs = []string{"http://127.0.0.1:1"} },
		"hub is no URL":   func(c *Config) { c.Hubs = []string{"https://%zz"} },
		"no edge ID":      func(c *Config) { c.EdgeID = "" },
		"edge ID no name": func(c *Config) { c.EdgeID = "Not A Name" },
		"no store":        func(c *Config) { c.Store = nil },
	} {
		e := newTestEdge(t, h)
		spoil(&e.config)
		if _, err := New(e.config); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCertificateIsRenewedUnderARunningStream(t *testing.T) {
	h := newFakeHub(t)
	h.push(map[string]string{"a": "1"})
	e := newTestEdge(t, h)
	var ahead atomic.Int64 // of the clock, nanoseconds
	e.config.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	e.start()
	e.awaitRelease(1)
	first := receive(t, "a stream", h.watches, anyOf[watchCall])
	before := e.store.identity.Certificate

	// The first new certificate does not work: the edge keeps the old one.
	refused := make(chan string, 100)
	h.do(func() {
		h.onBeat = func(serial string) error {
			if serial == first.serial {
				return nil
			}
			refused <- serial
			return refusal(connect.CodeUnauthenticated, "certificate_needed", "not this one")
		}
	})
	ahead.Store(int64(17 * time.Hour)) // past two thirds of 24 h
	receive(t, "a try", refused, anyOf[string])
	receive(t, "another try", refused, anyOf[string])
	if id, _ := e.store.Identity(); !bytes.Equal(id.Certificate, before) {
		t.Error("a certificate that doesn't work was committed to")
	}
	select {
	case <-first.done:
		t.Error("the stream was dropped for a certificate that doesn't work")
	default:
	}

	h.do(func() {
		h.onBeat = func(serial string) error {
			if serial != first.serial {
				ahead.Store(0)
			}
			return nil
		}
	})
	second := receive(t, "a stream under the new certificate", h.watches, anyOf[watchCall])
	if second.serial == first.serial {
		t.Error("the new stream shows the old certificate")
	}
	receive(t, "the end of the old stream", first.done, anyOf[struct{}])
	if id, _ := e.store.Identity(); bytes.Equal(id.Certificate, before) {
		t.Error("the new certificate was not saved")
	}
	h.push(map[string]string{"a": "2"})
	e.awaitRelease(2)
	select {
	case <-second.done:
		t.Error("the new stream was dropped")
	default:
	}
}

func TestDiskThatRefusesStopsNothing(t *testing.T) {
	h := newFakeHub(t)
	h.push(map[string]string{"a": "1"})
	e := newTestEdge(t, h)
	e.store.fault = errors.New("no space left")
	e.start()
	e.awaitRelease(1)
	h.push(map[string]string{"a": "2"})
	e.awaitRelease(2)
}

func TestSecretsComeBeforeTheReleaseThatNeedsThem(t *testing.T) {
	h := newFakeHub(t)
	e := newTestEdge(t, h)
	e.needs = []string{"key"}
	seen := make(chan string, 10)
	e.fault = func(Release) error {
		v, _ := e.uplink.Secret("key")
		seen <- v
		return nil
	}
	h.push(map[string]string{"a": "1"})
	e.start()
	b := receive(t, "a heartbeat with the fault", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.ApplyError != nil })
	if b.ApplyError.Code != CodeFetch || !strings.Contains(b.ApplyError.Message, "key") {
		t.Errorf("got %v", b.ApplyError)
	}
	h.do(func() { h.secrets = []*gwv1.SecretValue{{Name: "key", Version: 1, Value: []byte("one")}} })
	e.awaitRelease(1)
	if got := <-seen; got != "one" {
		t.Errorf("the release was applied with secret %q", got)
	}

	// A new value takes effect without a release.
	h.do(func() {
		h.access++
		h.secrets = []*gwv1.SecretValue{{Name: "key", Version: 2, Value: []byte("two")}}
		h.changes = append(h.changes, &gwv1.AccessChange{Version: h.access, Change: &gwv1.AccessChange_ChangedSecret{ChangedSecret: "key"}})
	})
	deadline := time.Now().Add(patience)
	for v := ""; v != "two"; v, _ = e.uplink.Secret("key") {
		if time.Now().After(deadline) {
			t.Fatal("the new value didn't come")
		}
		h.awaitTicks(1)
	}
}

func TestRevocationReachesTheTokenCache(t *testing.T) {
	h := newFakeHub(t)
	hash := identity.HashCredential("gw_something")
	h.tokens[hash] = &gwv1.ValidateTokenResponse{AppId: "app", App: "app"}
	e := newTestEdge(t, h)
	revoked := make(chan Revocation, 10)
	tokens := NewTokens(TokensConfig{
		Store: e.store, OfflineGrace: time.Hour, Logger: quiet, OnRevoke: func(r Revocation) { revoked <- r },
	}, func(a *gwv1.ValidateTokenResponse) string { return a.App })
	defer tokens.Close()
	e.config.Tokens = tokens
	stop := e.start()
	receive(t, "a heartbeat", h.beats, anyOf[*gwv1.HeartbeatRequest])
	if got, err := tokens.Authenticate(t.Context(), hash, ""); err != nil || got != "app" {
		t.Fatalf("got %q, %v", got, err)
	}
	h.do(func() {
		delete(h.tokens, hash)
		h.access = 40
		h.changes = append(h.changes, &gwv1.AccessChange{Version: 40, Change: &gwv1.AccessChange_RevokedToken{RevokedToken: hash[:]}})
	})
	r := receive(t, "the revocation", revoked, anyOf[Revocation])
	if !r.Covers(hash, "") {
		t.Errorf("got %v", r)
	}
	if _, err := tokens.Authenticate(t.Context(), hash, ""); !errors.Is(err, ErrUnknownToken) {
		t.Errorf("got %v, want ErrUnknownToken", err)
	}
	deadline := time.Now().Add(patience)
	for e.uplink.Status().AccessVersion != 40 {
		if time.Now().After(deadline) {
			t.Fatal("the version was not raised")
		}
		h.awaitTicks(1)
	}
	stop()

	// A later process asks for what came after it.
	e.start()
	w := receive(t, "the next stream", h.watches, func(w watchCall) bool { return w.request.AccessVersion > 1 })
	if w.request.AccessVersion != 40 || w.request.ClusterId != "cluster-1" || w.request.Epoch != 1 {
		t.Errorf("got %v", w.request)
	}
}

func TestLostAccessChangeIsReplayed(t *testing.T) {
	h := newFakeHub(t)
	e := newTestEdge(t, h)
	e.start()
	receive(t, "a stream", h.watches, anyOf[watchCall])
	receive(t, "a heartbeat", h.beats, anyOf[*gwv1.HeartbeatRequest])
	h.do(func() { h.hideAccess, h.access = true, 7 })
	w := receive(t, "a stream that asks again", h.watches, anyOf[watchCall])
	if w.request.AccessVersion != 1 {
		t.Errorf("asked for what came after %d, want 1", w.request.AccessVersion)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	h := newFakeHub(t)
	e := newTestEdge(t, h)
	e.config.Hubs = []string{"https://127.0.0.1:1"} // nobody there: it is still enrolling
	e.build()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.uplink.Run(ctx) }()
	cancel()
	if err := receive(t, "the end", done, anyOf[error]); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestAnswersThatDoNotFitTheCertificateAreRefused(t *testing.T) {
	stranger, err := identity.NewCA("cluster-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*gwv1.EnrollResponse){
		"another namespace": func(a *gwv1.EnrollResponse) { a.Namespace = "other" },
		"another cluster":   func(a *gwv1.EnrollResponse) { a.ClusterId = "other" },
		"another CA":        func(a *gwv1.EnrollResponse) { a.CaCertificate = stranger.Certificate.Raw },
		"no certificate":    func(a *gwv1.EnrollResponse) { a.Certificate = nil },
		"noise":             func(a *gwv1.EnrollResponse) { a.CaCertificate = []byte("noise") },
	} {
		h := newFakeHub(t)
		h.onEnrolled = spoil
		e := newTestEdge(t, h)
		e.build()
		var refused *EnrolmentError
		if err := e.uplink.Run(t.Context()); !errors.As(err, &refused) {
			t.Errorf("%s: got %v, want an EnrolmentError", name, err)
		}
		if _, err := e.store.Identity(); err == nil {
			t.Errorf("%s: it was saved", name)
		}
	}
}

// expired is an edge whose certificate has ended and can't be renewed.
func expired(t *testing.T) (*fakeHub, *testEdge) {
	h := newFakeHub(t)
	h.push(map[string]string{"a": "1"})
	e := newTestEdge(t, h)
	var ahead atomic.Int64
	e.config.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	e.start()
	e.awaitRelease(1)
	receive(t, "a stream", h.watches, anyOf[watchCall])
	h.do(func() {
		h.onRenew = func() error { return refusal(connect.CodeUnauthenticated, "certificate_needed", "enrol again") }
		h.onEnrolled = func(*gwv1.EnrollResponse) { ahead.Store(0) }
	})
	ahead.Store(int64(25 * time.Hour))
	return h, e
}

func TestEndedCertificateIsReplacedByTheJoinToken(t *testing.T) {
	h, e := expired(t)
	receive(t, "a stream under the new certificate", h.watches, anyOf[watchCall])
	h.push(map[string]string{"a": "2"})
	e.awaitRelease(2)
	if n := h.count(&h.enrolled); n != 2 {
		t.Errorf("enrolled %d times, want twice", n)
	}
}

func TestEdgeStaysInItsNamespace(t *testing.T) {
	h, e := expired(t)
	tried := make(chan struct{}, 100)
	h.do(func() {
		h.namespace = "other" // the join token's, by now
		h.onEnrolled = func(*gwv1.EnrollResponse) { tried <- struct{}{} }
	})
	receive(t, "a try", tried, anyOf[struct{}])
	receive(t, "another try", tried, anyOf[struct{}])
	if s := e.uplink.Status(); s.Namespace != "default" {
		t.Errorf("the edge moved to namespace %q", s.Namespace)
	}
	if id, _ := e.store.Identity(); id.Namespace != "default" {
		t.Errorf("the edge was saved as one of namespace %q", id.Namespace)
	}
	h.push(map[string]string{"a": "other's"})
	h.awaitTicks(5)
	if len(e.applied) > 0 {
		t.Errorf("applied %v of another namespace", <-e.applied)
	}
}

// FuzzCredentials takes arbitrary identities: none may panic, and none without a matching key and CA is accepted.
func FuzzCredentials(f *testing.F) {
	ca, err := identity.NewCA("cluster-1", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	key, csr, err := newRequest()
	if err != nil {
		f.Fatal(err)
	}
	who := identity.Edge{ClusterID: "cluster-1", Namespace: "default", ID: "edge-1"}
	cert, err := ca.SignEdge(csr, who, time.Now(), time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cert.Raw, key, ca.Certificate.Raw, "default")
	f.Add([]byte{}, key, ca.Certificate.Raw, "default")
	f.Add(cert.Raw, []byte("x"), ca.Certificate.Raw, "default")
	f.Add(cert.Raw, key, cert.Raw, "other")
	f.Fuzz(func(t *testing.T, certificate, private, authority []byte, namespace string) {
		c, err := newCredentials(&gwv1.StoredIdentity{
			EdgeId: "edge-1", ClusterId: "cluster-1", Namespace: namespace,
			Certificate: certificate, PrivateKey: private, CaCertificate: authority,
		}, testPace)
		if err == nil && (c.edge.Namespace != namespace || !bytes.Equal(c.leaf.Raw, certificate)) {
			t.Fatalf("accepted an identity as %v", c.edge)
		}
	})
}
