package uplink

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
)

// The regressions that users of other control planes had to report, by their number in the list they were collected in.
// DESIGN.md has the list.

// serves returns the release the edge serves.
func (e *testEdge) serves() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.loaded.Number
}

// stopAll ends edges together, so that a bubble ends.
func stopAll(stops []func()) {
	for _, stop := range stops {
		stop()
	}
}

// A push between an edge's enrolment and its first fetch is never lost, whichever moment it meets: within a tick and the
// next try the edge serves it.
func TestE6_01PushDuringEnrolmentIsNeverLost(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	rounds := 1000
	if testing.Short() { // under the race detector
		rounds = 40
	}
	for round := range rounds {
		moment := random.IntN(8)
		virtually(t, func(t *testing.T, n *virtualNet, h *fakeHub) {
			if random.IntN(2) == 0 {
				h.push(map[string]string{"a": "first"})
			}
			var number uint64
			var first sync.Once
			push := func() { first.Do(func() { number = h.pushLocked(map[string]string{"a": "last"}).Number }) }
			e := newVirtualEdge(t, n, h)
			switch moment {
			case 0: // within Enroll
				h.onEnroll = func() error { push(); return nil }
			case 1: // once the certificate is made
				h.onEnrolled = func(*gwv1.EnrollResponse) { push() }
			case 2: // with the first tick, after its target was read
				h.wrongTick = func(*gwv1.Tick) { push() }
			case 3: // with the first heartbeat
				h.onBeat = func(string) error { push(); return nil }
			case 4: // within FetchRelease, after the release was chosen
				h.mangle = func(*gwv1.FetchReleaseResponse) { push() }
			case 5: // while the release before is being loaded
				e.fault = func(Release) error { h.do(push); return nil }
			case 6: // while the identity is written to the disk
				e.store.onSaveIdentity = func() { h.do(push) }
			case 7: // at no particular time
				go h.do(push)
			}
			stop := e.start()
			defer stop()
			time.Sleep(time.Second)
			h.do(push) // those whose moment did not come, since nothing was there to fetch
			time.Sleep(h.tickEvery + time.Second)
			synctest.Wait()
			if got := e.serves(); got != number {
				t.Errorf("round %d, moment %d: the edge serves release %d, want %d; %+v", round, moment, got, number, e.uplink.Status())
			}
		})
		if t.Failed() {
			return
		}
	}
}

// A connection that dies without a word is found out within 10 s of the last tick, and replaced right then.
func TestE6_02StreamThatDiedSilentlyIsFoundWithinTheBound(t *testing.T) {
	virtually(t, func(t *testing.T, n *virtualNet, h *fakeHub) {
		h.push(map[string]string{"a": "1"})
		e := newVirtualEdge(t, n, h)
		defer e.start()()
		for range 10 {
			time.Sleep(time.Duration(rand.Int64N(int64(20*time.Second))) + h.tickEvery)
			synctest.Wait()
			last := e.uplink.Status().LastHeard
			if s := e.uplink.Status(); !s.Following {
				t.Fatalf("not following: %+v", s)
			}
			n.freeze()
			died := time.Now()
			// One that is back between two looks has been found out too.
			awaitVirtually(t, func() bool { s := e.uplink.Status(); return !s.Following || s.LastHeard.After(last) })
			if found := time.Since(last); found > 10*time.Second+200*time.Millisecond {
				t.Errorf("found out %v after the last word", found)
			}
			awaitVirtually(t, func() bool { return e.uplink.Status().Following })
			if back := time.Since(died); back > 13*time.Second {
				t.Errorf("back %v after it died, want within 10 s and one quick try", back)
			}
		}
		n.freeze()
		h.push(map[string]string{"a": "2"})
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if e.serves() != 2 {
			t.Errorf("a push meanwhile was not found: the edge serves release %d", e.serves())
		}
	})
}

// awaitVirtually looks every tenth of a second of a bubble, for a minute.
func awaitVirtually(t *testing.T, is func() bool) {
	t.Helper()
	for range 600 {
		if is() {
			return
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
	}
	t.Fatal("nothing of it within a minute")
}

// evenly returns the Kolmogorov-Smirnov distance of waits from the even distribution over [low, high).
func evenly(waits []time.Duration, low, high time.Duration) (distance float64) {
	slices.Sort(waits)
	n := float64(len(waits))
	for i, w := range waits {
		x := float64(w-low) / float64(high-low)
		distance = max(distance, math.Abs(x-float64(i)/n), math.Abs(x-float64(i+1)/n))
	}
	return distance
}

// Edges that have failed for long spread over all of the cap: what is drawn is even, by a test of the whole distribution
// and not only of its bounds. The way to the waits is the one that edges go.
func TestE6_03JitterAtTheCapStillSpreads(t *testing.T) {
	const draws = 20_000
	// A fair draw is farther off than this about once in 10^8 runs.
	limit := 3.1 / math.Sqrt(draws)
	u := &Uplink{pace: defaultPace, now: time.Now}
	u.hubs.add("https://a:1", "https://b:1")
	for name, tt := range map[string]struct {
		failed    int
		low, high time.Duration
		draw      func(failed int) time.Duration
	}{
		"reconnecting at first":   {0, 0, 2 * time.Second, nil},
		"reconnecting at the cap": {20, 0, time.Minute, nil},
		"reconnecting for a week": {20_000, 0, time.Minute, nil},
		"without a leader": {0, 0, 2 * time.Second, func(int) time.Duration {
			_, wait := u.turn(end{reached: true, err: notLeaderAt("")}, &tries{})
			return wait
		}},
		"fetching at the cap": {20, 0, 30 * time.Second, func(failed int) time.Duration { return defaultPace.retry.delay(failed, random()) }},
		"renewing at the cap": {20, 0, 5 * time.Minute, func(failed int) time.Duration { return defaultPace.renew.delay(failed, random()) }},
		"between heartbeats":  {0, 27 * time.Second, 33 * time.Second, func(int) time.Duration { return around(30*time.Second, random()) }},
	} {
		if tt.draw == nil {
			tt.draw = func(failed int) time.Duration {
				_, wait := u.turn(end{err: errors.New("connection refused")}, &tries{failed: failed})
				return wait
			}
		}
		waits := make([]time.Duration, draws)
		for i := range waits {
			waits[i] = tt.draw(tt.failed)
			if waits[i] < tt.low || waits[i] >= tt.high {
				t.Fatalf("%s: a wait of %v", name, waits[i])
			}
		}
		if d := evenly(waits, tt.low, tt.high); d > limit {
			t.Errorf("%s: the waits are %.4f off an even distribution, want at most %.4f", name, d, limit)
		}
	}
	// The measure itself: waits that pile up at the cap are found.
	piled := make([]time.Duration, draws)
	for i := range piled {
		piled[i] = min(time.Duration(random()*1.05*float64(time.Minute)), time.Minute-1)
	}
	if d := evenly(piled, 0, time.Minute); d <= limit {
		t.Errorf("waits of which a twentieth pile up at the cap pass for even: %.4f", d)
	}
}

// What is taken away while an edge is offline is gone when it comes back, whether its process lived on or not.
func TestE6_05UndeployWhileOfflineIsAppliedOnReturn(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		virtually(t, func(t *testing.T, n *virtualNet, h *fakeHub) {
			h.push(map[string]string{"a": "1", "b": "1"})
			e := newVirtualEdge(t, n, h)
			stop := e.start()
			time.Sleep(time.Second)
			if r := <-e.applied; contents(r) != "a=1 b=1" {
				t.Errorf("got %q", contents(r))
			}
			n.cut()
			if restarts {
				stop()
			}
			time.Sleep(time.Hour)
			h.push(map[string]string{"a": "1", "b": "2"})
			h.push(map[string]string{"a": "1"})
			time.Sleep(26 * time.Hour)
			n.mend()
			if restarts {
				stop = e.start()
			}
			time.Sleep(10 * time.Minute) // its certificate has ended, and is exchanged first
			synctest.Wait()
			if len(e.applied) == 0 {
				t.Fatalf("restarted %v: it loaded nothing; %+v", restarts, e.uplink.Status())
			}
			if r := <-e.applied; contents(r) != "a=1" || r.Target.Number != 3 || len(e.applied) > 0 {
				t.Errorf("restarted %v: back after a day it loaded release %d: %q, and %d more", restarts, r.Target.Number, contents(r), len(e.applied))
			}
			stop()
		})
	}
}

// A release that was rejected is fetched once, whatever ticks, heartbeats and new streams say; a fault that may pass is
// tried again at a pace that bothers nobody.
func TestE6_07RejectedReleaseMakesNoTightLoop(t *testing.T) {
	virtually(t, func(t *testing.T, n *virtualNet, h *fakeHub) {
		h.push(map[string]string{"a": "bad"})
		e := newVirtualEdge(t, n, h)
		e.setFault(func(Release) error { return &ApplyFailure{Code: CodeCompile, Kind: "API", Name: "a", Message: "no"} })
		defer e.start()()
		for minute := range 60 {
			time.Sleep(time.Minute)
			if minute%10 == 5 {
				n.cut()
				n.mend()
			}
			if got := h.count(&h.fetches); got != 1 {
				t.Fatalf("fetched %d times after %d minutes, want once", got, minute+1)
			}
		}
		e.setFault(func(Release) error { return errors.New("a plugin doesn't start") })
		h.push(map[string]string{"a": "hard"})
		time.Sleep(time.Minute)
		before := h.count(&h.fetches)
		time.Sleep(30 * time.Minute)
		if perMinute := float64(h.count(&h.fetches)-before) / 30; perMinute < 1 || perMinute > 8 {
			t.Errorf("a fault that may pass is tried again %.1f times a minute", perMinute)
		}
	})
}

// Days pass, certificates are exchanged, and nobody notices: every question about a token is answered, every heartbeat and
// every stream stands. Then the hub is away when a certificate ends: what is known is served, and when the hub is back the
// ended certificate is exchanged before anything else.
func TestE6_11CertificateRotatesWithZeroDroppedRequests(t *testing.T) {
	virtually(t, func(t *testing.T, n *virtualNet, h *fakeHub) {
		h.push(map[string]string{"a": "1"})
		e := newVirtualEdge(t, n, h)
		tokens := NewTokens(TokensConfig{Store: e.store, OfflineGrace: 24 * time.Hour, Logger: quiet}, func(a *gwv1.ValidateTokenResponse) string { return a.App })
		defer tokens.Close()
		e.config.Tokens = tokens
		known := sha256.Sum256([]byte("known"))
		h.tokens[known] = &gwv1.ValidateTokenResponse{AppId: "app", App: "app"}
		h.tickEvery = 8 * time.Second
		hours, step, certificates := 50*time.Hour, 31*time.Second, 3
		if testing.Short() { // under the race detector
			h.tickEvery = 9900 * time.Millisecond // just in time
			hours, step, certificates = 17*time.Hour, 10*time.Minute, 2
		}
		defer e.start()()
		time.Sleep(time.Second)
		serials := func() (all []string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, s := range h.serials {
				if !slices.Contains(all, s) {
					all = append(all, s)
				}
			}
			return all
		}
		asked := 0
		for began := time.Now(); time.Since(began) < hours; time.Sleep(step) {
			asked++
			stranger := sha256.Sum256(fmt.Append(nil, asked))
			if _, err := tokens.Authenticate(t.Context(), stranger, ""); !errors.Is(err, ErrUnknownToken) {
				t.Fatalf("after %v a question about a token was answered by %v", time.Since(began), err)
			}
			if got, err := tokens.Authenticate(t.Context(), known, ""); got != "app" || err != nil {
				t.Fatalf("after %v a known token got %q, %v", time.Since(began), got, err)
			}
			if s := e.uplink.Status(); !s.Following || s.LastError != "" {
				t.Fatalf("after %v: %+v", time.Since(began), s)
			}
		}
		if got := len(serials()); got < certificates {
			t.Errorf("%d certificates were used in %v, want %d", got, hours, certificates)
		}
		t.Logf("%d questions, %d certificates, none dropped", asked, len(serials()))

		end := e.uplink.Status().CertificateNotAfter
		time.Sleep(time.Until(end) - 30*time.Minute) // it was renewed before, so the end has moved on
		end = e.uplink.Status().CertificateNotAfter
		if _, err := tokens.Authenticate(t.Context(), known, ""); err != nil {
			t.Fatal(err)
		}
		n.cut()
		for time.Now().Before(end.Add(6 * time.Hour)) {
			if got, err := tokens.Authenticate(t.Context(), known, ""); got != "app" || err != nil {
				t.Fatalf("%v before the certificate ends, without a hub, a known token got %q, %v", time.Until(end), got, err)
			}
			time.Sleep(10 * time.Minute)
		}
		if e.uplink.Status().Following || e.serves() != 1 {
			t.Errorf("without a hub: %+v", e.uplink.Status())
		}
		h.push(map[string]string{"a": "2"})
		n.mend()
		// Known tokens go on being good until the hub gives answers again, and it does soon.
		back := time.Now()
		for time.Since(back) < 6*time.Minute {
			if got, err := tokens.Authenticate(t.Context(), known, ""); got != "app" || err != nil {
				t.Fatalf("%v after the hub is back a known token got %q, %v", time.Since(back), got, err)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if s := e.uplink.Status(); !s.Following || !s.CertificateNotAfter.After(time.Now()) || e.serves() != 2 {
			t.Errorf("6 minutes after the hub is back: %+v, release %d", s, e.serves())
		}
		if got := h.count(&h.enrolled); got != 1 {
			t.Errorf("the edge enrolled %d times", got)
		}
	})
}

// A token that is revoked is refused by every edge that is connected as soon as word is there; by one that is cut off, once
// its last answer and the grace are over; and by one that comes back before, at once.
func TestE6_12RevokedTokenIsRefusedWithinTheStatedBound(t *testing.T) {
	edges := 20
	if testing.Short() { // under the race detector
		edges = 4
	}
	virtually(t, func(t *testing.T, n *virtualNet, h *fakeHub) {
		hash := sha256.Sum256([]byte("gw_token"))
		h.tokens[hash] = &gwv1.ValidateTokenResponse{AppId: "app", App: "app"}
		var all []*Tokens[string]
		var stops []func()
		away := &virtualNet{hubs: n.hubs} // the last edge's own wire
		for i := range edges {
			wire := n
			if i == edges-1 {
				wire = away
			}
			e := newVirtualEdge(t, wire, h)
			e.config.EdgeID = fmt.Sprint("edge-", i)
			tokens := NewTokens(TokensConfig{Store: e.store, OfflineGrace: time.Hour, Logger: quiet}, func(a *gwv1.ValidateTokenResponse) string { return a.App })
			e.config.Tokens = tokens
			all, stops = append(all, tokens), append(stops, func() { tokens.Close() }, e.start())
		}
		defer stopAll(stops)
		time.Sleep(time.Second)
		for i, tokens := range all {
			if _, err := tokens.Authenticate(t.Context(), hash, ""); err != nil {
				t.Fatalf("edge %d: %v", i, err)
			}
		}
		away.cut()
		revoked := time.Now()
		h.do(func() {
			delete(h.tokens, hash)
			h.access++
			h.changes = append(h.changes, &gwv1.AccessChange{Version: h.access, Change: &gwv1.AccessChange_RevokedToken{RevokedToken: hash[:]}})
		})
		synctest.Wait()
		for i, tokens := range all[:edges-1] {
			if _, err := tokens.Authenticate(t.Context(), hash, ""); !errors.Is(err, ErrUnknownToken) || time.Since(revoked) > time.Second {
				t.Errorf("edge %d, %v after the revocation: %v", i, time.Since(revoked), err)
			}
		}
		bound := revoked.Add(PositiveTTL + time.Hour)
		for ; time.Now().Before(bound.Add(-time.Minute)); time.Sleep(time.Minute) {
			if _, err := all[edges-1].Authenticate(t.Context(), hash, ""); err != nil {
				t.Fatalf("cut off for %v, it serves on its grace no more: %v", time.Since(revoked), err)
			}
		}
		time.Sleep(time.Until(bound))
		var unavailable *Unavailable
		if _, err := all[edges-1].Authenticate(t.Context(), hash, ""); !errors.As(err, &unavailable) {
			t.Errorf("cut off for its TTL and the grace: %v, want that nobody can be asked", err)
		}
		away.mend()
		time.Sleep(2 * time.Minute)
		if _, err := all[edges-1].Authenticate(t.Context(), hash, ""); !errors.Is(err, ErrUnknownToken) {
			t.Errorf("back at the hub: %v", err)
		}
	})
}

// An edge that failed to load B and serves A on says both, in every heartbeat, and is neither sent B again nor thought to
// run it; also when the hub is told of A anew, and over a change of the hub's mind about nothing.
func TestE6_14FailureOfBThenLoadedADoesNotResendB(t *testing.T) {
	virtually(t, func(t *testing.T, n *virtualNet, h *fakeHub) {
		h.push(map[string]string{"a": "A"})
		e := newVirtualEdge(t, n, h)
		e.setFault(func(r Release) error {
			if strings.Contains(contents(r), "B") {
				return &ApplyFailure{Code: CodeProbe, Message: "B does not answer its own probe"}
			}
			return nil
		})
		defer e.start()()
		time.Sleep(time.Second)
		h.push(map[string]string{"a": "B"})
		time.Sleep(time.Second)
		for len(h.beats) > 0 {
			<-h.beats
		}
		for range 30 {
			time.Sleep(2 * time.Minute)
			h.do(func() { h.removed++ }) // the edge registers again, with A loaded
		}
		synctest.Wait()
		if got := h.count(&h.fetches); got != 2 {
			t.Errorf("%d releases were sent, want A and B once each", got)
		}
		if len(h.beats) < 30 {
			t.Errorf("%d heartbeats", len(h.beats))
		}
		for len(h.beats) > 0 {
			if b := <-h.beats; b.LoadedRelease != 1 || b.ApplyError.GetRelease() != 2 || b.ApplyError.GetCode() != CodeProbe {
				t.Fatalf("a heartbeat says that %d is loaded, and of what failed: %v", b.LoadedRelease, b.ApplyError)
			}
		}
		h.push(map[string]string{"a": "C"})
		time.Sleep(10 * time.Second) // it is on its way back to the hub
		synctest.Wait()
		if e.serves() != 3 || h.count(&h.fetches) != 3 {
			t.Errorf("then it serves release %d after %d fetches", e.serves(), h.count(&h.fetches))
		}
	})
}

// A certificate that was revoked and then ends is not replaced by the join token that was used before, and neither is one
// that no hub could be asked to renew.
func TestJoinTokenReplacesNoCertificateThatAHubMayRenewOrHasRevoked(t *testing.T) {
	virtually(t, func(t *testing.T, n *virtualNet, h *fakeHub) {
		h.tickEvery = 9 * time.Second
		h.push(map[string]string{"a": "1"})
		e := newVirtualEdge(t, n, h)
		defer e.start()()
		time.Sleep(time.Second)
		n.cut()
		time.Sleep(26 * time.Hour) // it ends meanwhile
		n.mend()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if s := e.uplink.Status(); h.count(&h.enrolled) != 1 || !s.Following {
			t.Errorf("the hub was away: the edge enrolled %d times; %+v", h.count(&h.enrolled), s)
		}
		h.do(func() {
			h.onRenew = func() error { return refusal(connect.CodePermissionDenied, revokedReason, "edge-1 was revoked by ann") }
		})
		time.Sleep(27 * time.Hour)
		synctest.Wait()
		if got := h.count(&h.enrolled); got != 1 || e.serves() != 1 {
			t.Errorf("it was revoked: the edge enrolled %d times, and serves release %d", got, e.serves())
		}
	})
}
