package uplink

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
)

// overtaken has a token past its TTL asked about at a hub that is followed but doesn't answer, lets f happen meanwhile,
// and returns what the request gets.
func (b *bench) overtaken(f func()) (string, error) {
	b.hub.says(valid("app", 1))
	b.wantGrant(alice, "app")
	b.hub.isSilent()
	b.hub.away.Store(false)
	time.Sleep(PositiveTTL)
	type result struct {
		grant string
		err   error
	}
	done := make(chan result, 1)
	go func() {
		grant, err := b.tokens.Authenticate(context.Background(), alice, "")
		done <- result{grant, err}
	}()
	synctest.Wait()
	f()
	r := <-done
	return r.grant, r.err
}

func TestTokenRevokedWhileItsQuestionIsOutIsNotServedOnGrace(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		got, err := b.overtaken(func() { b.tokens.apply(change(2, alice)) })
		if !errors.Is(err, ErrUnknownToken) {
			t.Errorf("got %q, %v, want ErrUnknownToken", got, err)
		}
	})
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		got, err := b.overtaken(func() {
			b.tokens.apply(change(2, &gwv1.AccessChange_DeletedApp{DeletedApp: "app"}))
		})
		if !errors.Is(err, ErrUnknownToken) {
			t.Errorf("got %q, %v after its app was deleted, want ErrUnknownToken", got, err)
		}
	})
}

func TestTokenMarkedWhileItsQuestionIsOutIsNotServedOnGrace(t *testing.T) {
	marks := map[string]*gwv1.AccessChanges{
		"its app changed": change(2, &gwv1.AccessChange_ChangedApp{ChangedApp: "app"}),
		"a reset":         {Reset_: true, AccessVersion: 2},
	}
	for name, mark := range marks {
		t.Run(name+", the hub stays silent", func(t *testing.T) {
			inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
				got, err := b.overtaken(func() { b.tokens.apply(mark) })
				var u *Unavailable
				if !errors.As(err, &u) {
					t.Errorf("got %q, %v, want *Unavailable", got, err)
				}
				b.hub.away.Store(true) // now nobody knows better
				b.wantGrant(alice, "app")
			})
		})
		t.Run(name+", the hub answers again", func(t *testing.T) {
			inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
				got, err := b.overtaken(func() {
					b.tokens.apply(mark)
					b.hub.says(&gwv1.ValidateTokenResponse{Valid: true, AppId: "app", App: "renamed", AccessVersion: 2})
				})
				if err != nil || got != "renamed" {
					t.Errorf("got %q, %v, want the answer of after the change", got, err)
				}
			})
		})
	}
}

func TestSilenceOfOneQuestionServesWhatIsUnchangedOnGrace(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		if got, err := b.overtaken(func() {}); err != nil || got != "app" {
			t.Errorf("got %q, %v, want the grant on grace", got, err)
		}
	})
}

func TestTooManyQuestionsAreNotAnAbsentHub(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 1))
		b.wantGrant(alice, "app")
		time.Sleep(PositiveTTL)
		release := make(chan struct{})
		b.hub.does(func(context.Context, [32]byte) (*gwv1.ValidateTokenResponse, error) {
			<-release
			return invalid(2), nil
		})
		b.tokens.flights.Store(maxFlights)
		b.wantUnavailable(alice)
		if _, ok := b.tokens.Grace(); ok {
			t.Error("a grace is reported, though the hub answers")
		}
		b.tokens.flights.Store(0)
		var wg sync.WaitGroup
		wg.Go(func() { b.wantUnknown(alice) })
		synctest.Wait()
		close(release)
		wg.Wait()
	})
}

func TestRefusalByAHubIsNotAnAbsentHub(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bench) {
		b.hub.says(valid("app", 1))
		b.wantGrant(alice, "app")
		time.Sleep(PositiveTTL)
		asked := 0
		b.hub.does(func(context.Context, [32]byte) (*gwv1.ValidateTokenResponse, error) {
			asked++
			return nil, connect.NewError(connect.CodePermissionDenied, errors.New("this edge was removed"))
		})
		for range 1000 {
			b.wantUnavailable(alice)
		}
		if asked != 1 {
			t.Errorf("the hub was asked %d times", asked)
		}
		if _, ok := b.tokens.Grace(); ok || b.tokens.Offline() {
			t.Error("the hub is reported absent, though it decided")
		}
		time.Sleep(refusalTime)
		b.hub.does(func(context.Context, [32]byte) (*gwv1.ValidateTokenResponse, error) {
			return nil, connect.NewError(connect.CodeUnavailable, errors.New("an election is under way"))
		})
		b.wantGrant(alice, "app")
	})
}

func TestEveryTickEndsTheBeliefThatNoHubAnswers(t *testing.T) {
	h := newFakeHub(t)
	e := newTestEdge(t, h)
	tokens := NewTokens(TokensConfig{OfflineGrace: time.Hour, Logger: quiet}, func(a *gwv1.ValidateTokenResponse) string { return a.App })
	defer tokens.Close()
	e.config.Tokens = tokens
	e.start()
	receive(t, "a heartbeat", h.beats, anyOf[*gwv1.HeartbeatRequest])
	for range circuitFailures {
		tokens.contact.failed(time.Now().UnixNano(), true)
	}
	deadline := time.Now().Add(patience)
	for tokens.Offline() || tokens.contact.down() {
		if time.Now().After(deadline) {
			t.Fatal("ticks of the stream were not taken for a hub that is there")
		}
		h.awaitTicks(1)
	}
}
