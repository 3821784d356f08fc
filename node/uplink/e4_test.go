package uplink

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
)

// A heartbeat that should have told that a release serves is lost, again and again: the next one that is heard tells it.
func TestE4_LostAckIsHealedByTheNextHeartbeat(t *testing.T) {
	virtually(t, func(t *testing.T, n *virtualNet, h *fakeHub) {
		h.push(map[string]string{"a": "1"})
		e := newVirtualEdge(t, n, h)
		defer e.start()()
		time.Sleep(time.Second)
		lost := 0
		h.do(func() {
			h.onBeat = func(string) error {
				if lost++; lost <= 5 {
					return connect.NewError(connect.CodeUnavailable, errors.New("lost"))
				}
				return nil
			}
		})
		for len(h.beats) > 0 {
			<-h.beats
		}
		h.push(map[string]string{"a": "2"})
		time.Sleep(time.Second)
		synctest.Wait()
		if e.serves() != 2 || len(h.beats) > 0 {
			t.Fatalf("it serves release %d, and %d heartbeats were heard", e.serves(), len(h.beats))
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if len(h.beats) == 0 {
			t.Fatalf("no heartbeat was heard after %d that were lost", lost)
		}
		if b := <-h.beats; b.LoadedRelease != 2 || h.count(&h.fetches) != 2 {
			t.Errorf("the first that was heard says release %d; %d fetches", b.LoadedRelease, h.count(&h.fetches))
		}
	})
}

// Clocks that are minutes off order nothing: releases go by epoch and number, revocations by access version.
func TestE4_ClockSkewOrdersNothing(t *testing.T) {
	for _, skew := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		virtually(t, func(t *testing.T, n *virtualNet, h *fakeHub) {
			h.tickEvery = 9 * time.Second
			hash := sha256.Sum256([]byte("gw_token"))
			h.tokens[hash] = &gwv1.ValidateTokenResponse{AppId: "app", App: "app"}
			h.push(map[string]string{"a": "1"})
			e := newVirtualEdge(t, n, h)
			e.config.Now = func() time.Time { return time.Now().Add(skew) }
			tokens := NewTokens(TokensConfig{Store: e.store, OfflineGrace: time.Hour, Logger: quiet, Now: e.config.Now}, func(a *gwv1.ValidateTokenResponse) string { return a.App })
			defer tokens.Close()
			e.config.Tokens = tokens
			stop := e.start()
			pushes := uint64(36)
			if testing.Short() { // under the race detector
				pushes = 3
			}
			for number := uint64(2); number < 2+pushes; number++ { // its certificate is exchanged meanwhile
				time.Sleep(30 * time.Minute)
				h.push(map[string]string{"a": fmt.Sprint(number)})
				time.Sleep(time.Second)
				synctest.Wait()
				if e.serves() != number {
					t.Fatalf("%v off: release %d serves, want %d; %+v", skew, e.serves(), number, e.uplink.Status())
				}
				if got, err := tokens.Authenticate(t.Context(), hash, ""); got != "app" || err != nil {
					t.Fatalf("%v off: a known token got %q, %v", skew, got, err)
				}
			}
			h.do(func() {
				delete(h.tokens, hash)
				h.access++
				h.changes = append(h.changes, &gwv1.AccessChange{Version: h.access, Change: &gwv1.AccessChange_RevokedToken{RevokedToken: hash[:]}})
			})
			synctest.Wait()
			if _, err := tokens.Authenticate(t.Context(), hash, ""); !errors.Is(err, ErrUnknownToken) {
				t.Errorf("%v off: a revoked token got %v", skew, err)
			}
			stop()
		})
	}
}
