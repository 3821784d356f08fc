package uplink

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/rpc/gwv1"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// scriptedHub answers about tokens by a function, and counts.
type scriptedHub struct {
	mu     sync.Mutex
	answer func(ctx context.Context, hash [32]byte) (*gwv1.ValidateTokenResponse, error)
	asked  atomic.Int64
	away   atomic.Bool // not followed
}

func (h *scriptedHub) validate(ctx context.Context, hash [32]byte) (*gwv1.ValidateTokenResponse, error) {
	h.asked.Add(1)
	h.mu.Lock()
	answer := h.answer
	h.mu.Unlock()
	return answer(ctx, hash)
}

func (h *scriptedHub) isFollowing() bool { return !h.away.Load() }

func (h *scriptedHub) does(answer func(ctx context.Context, hash [32]byte) (*gwv1.ValidateTokenResponse, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

// says makes every answer this one.
func (h *scriptedHub) says(answer *gwv1.ValidateTokenResponse) {
	h.away.Store(false)
	h.does(func(context.Context, [32]byte) (*gwv1.ValidateTokenResponse, error) { return answer, nil })
}

// isSilent makes every question go unanswered until its deadline.
func (h *scriptedHub) isSilent() {
	h.away.Store(true)
	h.does(func(ctx context.Context, _ [32]byte) (*gwv1.ValidateTokenResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
}

func valid(app string, version uint64) *gwv1.ValidateTokenResponse {
	return &gwv1.ValidateTokenResponse{Valid: true, App: app, AppId: app, AccessVersion: version}
}

func invalid(version uint64) *gwv1.ValidateTokenResponse {
	return &gwv1.ValidateTokenResponse{AccessVersion: version}
}

// bench is a token cache with its hub and disk.
type bench struct {
	t       *testing.T
	hub     *scriptedHub
	store   *memoryStore
	tokens  *Tokens[string]
	mu      sync.Mutex
	revoked []Revocation
}

func newBench(t *testing.T, grace time.Duration) *bench {
	b := &bench{t: t, hub: &scriptedHub{}, store: &memoryStore{}}
	b.hub.says(invalid(1))
	b.start(grace)
	return b
}

func (b *bench) start(grace time.Duration) {
	b.tokens = NewTokens(TokensConfig{
		Store: b.store, OfflineGrace: grace, Logger: quiet,
		OnRevoke: func(r Revocation) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.revoked = append(b.revoked, r)
		},
	}, func(a *gwv1.ValidateTokenResponse) string { return a.App })
	b.tokens.bind(b.hub)
}

// restart is a new process on the same disk.
func (b *bench) restart(grace time.Duration) {
	b.tokens.Close()
	b.start(grace)
}

func (b *bench) wasCut(hash [32]byte, app string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.revoked {
		if r.Covers(hash, app) {
			return true
		}
	}
	return false
}

// inBubble runs f with a cache on a fake clock.
func inBubble(t *testing.T, grace time.Duration, f func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, grace)
		defer func() { b.tokens.Close() }()
		f(t, b)
	})
}

var alice, bob = [32]byte{1}, [32]byte{2}

func (b *bench) wantGrant(hash [32]byte, want string) {
	b.t.Helper()
	if got, err := b.tokens.Authenticate(context.Background(), hash, ""); err != nil || got != want {
		b.t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func (b *bench) wantUnknown(hash [32]byte) {
	b.t.Helper()
	if got, err := b.tokens.Authenticate(context.Background(), hash, ""); !errors.Is(err, ErrUnknownToken) {
		b.t.Errorf("got %q, %v, want ErrUnknownToken", got, err)
	}
}

func (b *bench) wantUnavailable(hash [32]byte) {
	b.t.Helper()
	got, err := b.tokens.Authenticate(context.Background(), hash, "")
	var u *Unavailable
	if !errors.As(err, &u) || errors.Is(err, ErrUnknownToken) {
		b.t.Errorf("got %q, %v, want *Unavailable", got, err)
	} else if u.RetryAfter < time.Second {
		b.t.Errorf("retry after %s", u.RetryAfter)
	}
}

func (b *bench) wantAsked(want int64) {
	b.t.Helper()
	synctest.Wait()
	if got := b.hub.asked.Load(); got != want {
		b.t.Errorf("the hub was asked %d times, want %d", got, want)
	}
}

func change(version uint64, c any) *gwv1.AccessChanges {
	one := &gwv1.AccessChange{Version: version}
	switch c := c.(type) {
	case [32]byte:
		one.Change = &gwv1.AccessChange_RevokedToken{RevokedToken: c[:]}
	case *gwv1.AccessChange_ChangedApp:
		one.Change = c
	case *gwv1.AccessChange_DeletedApp:
		one.Change = c
	}
	return &gwv1.AccessChanges{Changes: []*gwv1.AccessChange{one}, AccessVersion: version}
}

func TestKnownTokenIsDecidedHere(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 1))
		for range 100 {
			b.wantGrant(alice, "app")
		}
		b.wantAsked(1)
	})
}

func TestKnownTokenCostsNoAllocation(t *testing.T) {
	b := newBench(t, 0)
	defer b.tokens.Close()
	b.hub.says(valid("app", 1))
	b.wantGrant(alice, "app")
	ctx := context.Background()
	if n := testing.AllocsPerRun(1000, func() { b.tokens.Authenticate(ctx, alice, "") }); n > 0 {
		t.Errorf("got %v allocations per request, want none", n)
	}
}

func TestManyRequestsAskOnce(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bench) {
		release := make(chan struct{})
		b.hub.does(func(context.Context, [32]byte) (*gwv1.ValidateTokenResponse, error) {
			<-release
			return valid("app", 1), nil
		})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { b.wantGrant(alice, "app") })
		}
		b.wantAsked(1)
		close(release)
		wg.Wait()
		b.wantAsked(1)
	})
}

func TestRequestThatIsGivenUpDoesNotWait(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bench) {
		b.hub.isSilent()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := b.tokens.Authenticate(ctx, alice, ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestUnknownIsRememberedForTenSeconds(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bench) {
		b.wantUnknown(alice)
		time.Sleep(NegativeTTL - time.Millisecond)
		b.wantUnknown(alice)
		b.wantAsked(1)
		b.hub.says(valid("app", 2)) // made meanwhile
		time.Sleep(2 * time.Millisecond)
		b.wantGrant(alice, "app")
		b.wantAsked(2)
	})
}

func TestOldAnswerIsRefreshedWithoutWaiting(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bench) {
		b.hub.says(valid("before", 1))
		b.wantGrant(alice, "before")
		time.Sleep(PositiveTTL*4/5 - time.Second)
		b.wantGrant(alice, "before")
		b.wantAsked(1)
		release := make(chan struct{})
		b.hub.does(func(context.Context, [32]byte) (*gwv1.ValidateTokenResponse, error) {
			<-release
			return valid("after", 2), nil
		})
		time.Sleep(2 * time.Second)
		b.wantGrant(alice, "before") // at once, though the hub takes its time
		b.wantAsked(2)
		close(release)
		synctest.Wait()
		b.wantGrant(alice, "after")
		b.wantAsked(2)
	})
}

func TestPastItsTTLTheHubDecides(t *testing.T) {
	inBubble(t, DefaultOfflineGrace, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 1))
		b.wantGrant(alice, "app")
		b.hub.says(invalid(2))
		time.Sleep(PositiveTTL)
		b.wantUnknown(alice)
		if !b.wasCut(alice, "app") {
			t.Error("streams of a token that turned out to be revoked were not cut")
		}
		if len(b.store.tokens) != 0 {
			t.Error("it is still on disk")
		}
	})
}

func TestGraceWithoutAHub(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 1))
		b.wantGrant(alice, "app")
		b.hub.isSilent()
		time.Sleep(PositiveTTL + time.Second)
		start := time.Now()
		b.wantGrant(alice, "app")
		if waited := time.Since(start); waited > probeTimeout {
			t.Errorf("the first request without a hub waited %s", waited)
		}
		if _, ok := b.tokens.Grace(); !ok || !b.tokens.Offline() {
			t.Error("the grace is not reported")
		}
		start = time.Now()
		for range 20 {
			b.wantGrant(alice, "app")
			time.Sleep(100 * time.Millisecond)
		}
		if waited := time.Since(start) - 2*time.Second; waited > 0 {
			t.Errorf("later requests waited %s", waited)
		}
		b.wantUnavailable(bob) // never "unknown"
		time.Sleep(24*time.Hour - 5*time.Second)
		b.wantGrant(alice, "app")
		time.Sleep(10 * time.Second)
		b.wantUnavailable(alice)
		b.hub.says(valid("app", 1))
		time.Sleep(2 * circuitTime)
		b.wantGrant(alice, "app")
		if _, ok := b.tokens.Grace(); ok || b.tokens.Offline() {
			t.Error("the grace is still reported, though a hub answered")
		}
	})
}

func TestStrictWithoutAHub(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 1))
		b.wantGrant(alice, "app")
		b.hub.isSilent()
		time.Sleep(PositiveTTL - time.Millisecond)
		b.wantGrant(alice, "app")
		time.Sleep(time.Millisecond)
		b.wantUnavailable(alice)
	})
}

func TestExpiryHoldsWithoutAHub(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		answer := valid("app", 1)
		answer.ExpiresAt = timestamppb.New(time.Now().Add(time.Hour))
		b.hub.says(answer)
		b.wantGrant(alice, "app")
		b.hub.isSilent()
		time.Sleep(time.Hour - time.Second)
		b.wantGrant(alice, "app")
		time.Sleep(time.Second)
		b.wantUnknown(alice)
	})
}

func TestHubThatIsAwayIsNotWaitedForByEveryRequest(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bench) {
		b.hub.isSilent()
		start := time.Now()
		b.wantUnavailable(alice)
		if waited := time.Since(start); waited != probeTimeout {
			t.Errorf("the first waited %s, want %s", waited, probeTimeout)
		}
		start = time.Now()
		for i := range byte(100) {
			b.wantUnavailable([32]byte{i, 9})
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("the next 100 waited %s", waited)
		}
		b.wantAsked(1)
		time.Sleep(circuitTime)
		var wg sync.WaitGroup
		for i := range byte(100) {
			wg.Go(func() { b.wantUnavailable([32]byte{i, 9}) })
		}
		wg.Wait()
		b.wantAsked(2) // one looks whether the hub is back
		b.hub.says(valid("app", 1))
		b.tokens.reached() // a stream ticks again
		b.wantGrant(alice, "app")
	})
}

func TestOneSlowAnswerDoesNotMeanThatNoHubIsThere(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bench) {
		b.hub.isSilent()
		b.hub.away.Store(false) // its stream ticks
		b.wantUnavailable(alice)
		b.hub.says(valid("app", 1))
		b.wantGrant(bob, "app")
	})
}

func TestRestartKeepsTokens(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 1))
		b.wantGrant(alice, "app")
		b.wantGrant(bob, "app")
		b.tokens.apply(change(2, bob))
		b.hub.isSilent()
		time.Sleep(PositiveTTL + 30*time.Minute)
		b.restart(time.Hour)
		b.wantGrant(alice, "app")
		b.wantUnknown(bob) // revoked before the restart
		time.Sleep(30 * time.Minute)
		b.wantUnavailable(alice) // the grace counts from the answer, not from the restart
		b.restart(0)
		b.wantUnavailable(alice)
	})
}

func TestRevokedTokenIsRefusedAtOnce(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 1))
		b.wantGrant(alice, "app")
		b.wantGrant(bob, "app")
		b.tokens.apply(change(2, alice))
		b.wantUnknown(alice)
		b.wantGrant(bob, "app")
		b.wantAsked(2)
		if !b.wasCut(alice, "") || b.wasCut(bob, "app") {
			t.Error("the wrong streams were cut")
		}
		b.hub.isSilent()
		time.Sleep(time.Hour)
		b.wantUnknown(alice) // no hub is needed to know
	})
}

// whileAsking starts a request, changes something before the hub answers with answer, and then lets it.
func (b *bench) whileAsking(answer *gwv1.ValidateTokenResponse, then *gwv1.ValidateTokenResponse, f func()) (string, error) {
	release := make(chan struct{})
	first := true
	b.hub.does(func(context.Context, [32]byte) (*gwv1.ValidateTokenResponse, error) {
		if !first {
			return then, nil
		}
		first = false
		<-release
		return answer, nil
	})
	type result struct {
		grant string
		err   error
	}
	done := make(chan result)
	go func() {
		grant, err := b.tokens.Authenticate(context.Background(), alice, "")
		done <- result{grant, err}
	}()
	synctest.Wait()
	f()
	close(release)
	r := <-done
	return r.grant, r.err
}

func TestAnswerOlderThanARevocationIsDiscarded(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		got, err := b.whileAsking(valid("app", 6), valid("app", 6), func() { b.tokens.apply(change(7, alice)) })
		if !errors.Is(err, ErrUnknownToken) {
			t.Errorf("got %q, %v, want ErrUnknownToken", got, err)
		}
		b.wantUnknown(alice)
	})
}

func TestAnswerOlderThanTheDeletionOfItsAppIsDiscarded(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		got, err := b.whileAsking(valid("app", 6), invalid(7), func() {
			b.tokens.apply(change(7, &gwv1.AccessChange_DeletedApp{DeletedApp: "app"}))
		})
		if !errors.Is(err, ErrUnknownToken) {
			t.Errorf("got %q, %v, want ErrUnknownToken", got, err)
		}
	})
}

func TestAnswerOlderThanAChangeOfItsAppIsAskedForAgain(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		got, err := b.whileAsking(valid("app", 6), &gwv1.ValidateTokenResponse{Valid: true, AppId: "app", App: "renamed", AccessVersion: 7}, func() {
			b.tokens.apply(change(7, &gwv1.AccessChange_ChangedApp{ChangedApp: "app"}))
		})
		if err != nil || got != "renamed" {
			t.Errorf("got %q, %v, want the answer of after the change", got, err)
		}
		b.wantAsked(2)
	})
}

func TestAnswerFromBeforeAResetIsAskedForAgain(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		got, err := b.whileAsking(valid("old", 600), valid("new", 3), func() {
			b.tokens.apply(&gwv1.AccessChanges{Reset_: true, AccessVersion: 3})
		})
		if err != nil || got != "new" {
			t.Errorf("got %q, %v, want the answer of after the reset", got, err)
		}
	})
}

func TestChangedAppIsAskedAboutAgain(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 1))
		b.wantGrant(alice, "app")
		b.tokens.apply(change(5, &gwv1.AccessChange_ChangedApp{ChangedApp: "app"}))
		b.hub.isSilent()
		b.wantGrant(alice, "app") // no hub: as it was
		b.hub.says(&gwv1.ValidateTokenResponse{Valid: true, AppId: "app", App: "renamed", AccessVersion: 5})
		b.tokens.reached()
		b.wantGrant(alice, "renamed")
	})
}

func TestChangeAlreadyInTheAnswerIsNotAskedAboutAgain(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 5))
		b.wantGrant(alice, "app")
		b.tokens.apply(change(5, &gwv1.AccessChange_ChangedApp{ChangedApp: "app"}))
		b.wantGrant(alice, "app")
		b.wantAsked(1)
	})
}

func TestDeletedAppEndsItsTokens(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 1))
		b.wantGrant(alice, "app")
		b.hub.says(valid("other", 1))
		b.wantGrant(bob, "other")
		b.tokens.apply(change(5, &gwv1.AccessChange_DeletedApp{DeletedApp: "app"}))
		b.hub.isSilent()
		b.wantUnknown(alice)
		b.wantGrant(bob, "other")
		if !b.wasCut(alice, "app") || b.wasCut(bob, "other") {
			t.Error("the wrong streams were cut")
		}
		b.restart(24 * time.Hour)
		b.wantUnknown(alice)
	})
}

// The file the tokens were in is lost, or brings back what it held before: what is saved again is what is known now.
func TestTokensAreSavedAgainAsTheyAreKnown(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		dave, carol := [32]byte{65}, [32]byte{66}
		b.hub.says(valid("app", 1))
		for _, hash := range [][32]byte{alice, carol, dave} {
			b.wantGrant(hash, "app")
		}
		b.hub.says(valid("other", 1))
		b.wantGrant(bob, "other")
		b.hub.says(invalid(2))
		time.Sleep(PositiveTTL)
		b.wantUnknown(dave) // it is gone without a notice
		b.tokens.apply(change(5, alice))
		b.tokens.apply(change(6, &gwv1.AccessChange_ChangedApp{ChangedApp: "other"}))
		before := b.store.tokens
		b.store.tokens = nil
		b.tokens.SaveAll()
		if !maps.EqualFunc(b.store.tokens, before, func(a, b *gwv1.StoredToken) bool { return proto.Equal(a, b) }) {
			t.Errorf("saved again: %v, want %v", b.store.tokens, before)
		}
		b.hub.isSilent()
		b.restart(24 * time.Hour)
		b.wantUnknown(alice)
		b.wantUnavailable(dave)
		b.wantGrant(carol, "app")
		b.wantGrant(bob, "other")
		b.hub.says(invalid(6))
		b.tokens.reached()
		b.wantUnknown(bob) // it is to be validated again, which nobody could yet
	})
}

func TestResetValidatesAgainAndDropsNothing(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 100))
		b.wantGrant(alice, "app")
		b.wantGrant(bob, "app")
		b.tokens.apply(&gwv1.AccessChanges{Reset_: true, AccessVersion: 3})
		b.hub.isSilent()
		b.wantGrant(alice, "app") // kept, for as long as nobody can be asked
		b.restart(24 * time.Hour)
		b.wantGrant(alice, "app")
		b.hub.says(invalid(3)) // another epoch counts from lower
		b.tokens.reached()
		b.wantUnknown(alice)
		b.hub.says(valid("app", 3))
		b.wantGrant(bob, "app")
	})
}

func TestStrangersPushOutNobody(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 1))
		b.wantGrant(alice, "app")
		b.hub.says(invalid(1))
		for i := range 3 * maxUnknown {
			b.wantUnknown([32]byte{1, byte(i), byte(i >> 8), 1}) // in alice's shard
		}
		if n := len(b.tokens.shards[1].unknown); n > maxUnknown {
			t.Errorf("%d strangers are remembered in a shard, want at most %d", n, maxUnknown)
		}
		b.wantGrant(alice, "app")
		b.wantAsked(1 + 3*maxUnknown)
	})
}

func TestCapacityDropsTheLeastRecentlyUsed(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bench) {
		b.tokens.limit = 3
		b.hub.says(valid("app", 1))
		for i := range byte(3) {
			b.wantGrant([32]byte{64, i}, "app") // all in one shard
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		b.wantGrant([32]byte{64, 0}, "app") // the oldest is used again
		b.wantGrant([32]byte{64, 9}, "app")
		b.wantAsked(4)
		b.wantGrant([32]byte{64, 0}, "app")
		b.wantAsked(4)
		if n := b.tokens.Len(); n != 3 || len(b.store.tokens) != 3 {
			t.Errorf("%d tokens cached, %d on disk, want 3", n, len(b.store.tokens))
		}
		b.wantGrant([32]byte{64, 1}, "app")
		b.wantAsked(5)
	})
}

func TestForgottenRevocationsStillDiscardOldAnswers(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, b *bench) {
		got, err := b.whileAsking(valid("app", 6), invalid(5000), func() {
			b.tokens.apply(change(7, alice))
			for i := range 2 * maxGone { // until alice's is forgotten, whichever goes first
				b.tokens.apply(change(uint64(8+i), [32]byte{1, 1, byte(i), byte(i >> 8)}))
			}
			s := &b.tokens.shards[1]
			if len(s.gone) > maxGone {
				t.Errorf("%d revocations are remembered in a shard, want at most %d", len(s.gone), maxGone)
			}
			delete(s.gone, alice)
		})
		if !errors.Is(err, ErrUnknownToken) {
			t.Errorf("got %q, %v, want ErrUnknownToken", got, err)
		}
	})
}

func TestTokensUnderChange(t *testing.T) {
	b := newBench(t, 0)
	defer b.tokens.Close()
	var version atomic.Uint64
	version.Store(1)
	b.hub.does(func(context.Context, [32]byte) (*gwv1.ValidateTokenResponse, error) {
		return valid("app", version.Load()), nil
	})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				_, err := b.tokens.Authenticate(context.Background(), [32]byte{byte(i), byte(w)}, "")
				var u *Unavailable
				if err != nil && !errors.Is(err, ErrUnknownToken) && !errors.As(err, &u) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	for i := range 300 {
		v := version.Add(1)
		b.tokens.apply(change(v, [32]byte{byte(i), 0xff}))
		b.tokens.apply(change(v, &gwv1.AccessChange_ChangedApp{ChangedApp: "app"}))
		if i%100 == 0 {
			b.tokens.apply(&gwv1.AccessChanges{Reset_: true, AccessVersion: v})
		}
	}
	close(stop)
	wg.Wait()
}

func BenchmarkAuthenticateKnown(b *testing.B) {
	hub := &scriptedHub{}
	hub.says(valid("app", 1))
	tokens := NewTokens(TokensConfig{Logger: quiet}, func(a *gwv1.ValidateTokenResponse) string { return a.App })
	defer tokens.Close()
	tokens.bind(hub)
	ctx := context.Background()
	for i := range byte(200) {
		tokens.Authenticate(ctx, [32]byte{i}, "")
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := byte(0); pb.Next(); i++ {
			if _, err := tokens.Authenticate(ctx, [32]byte{i % 200}, ""); err != nil {
				b.Fatal(err)
			}
		}
	})
}
