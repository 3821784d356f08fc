package uplink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"gw/rpc/gwv1"
)

// throttledBench is a cache that asks about at most perMinute unknown tokens of a client, with a hub that knows none but
// those that begin with 200.
func throttledBench(t *testing.T, perMinute int, f func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0)
		b.tokens.Close()
		b.tokens = NewTokens(TokensConfig{UnknownPerMinute: perMinute, Logger: quiet}, func(a *gwv1.ValidateTokenResponse) string { return a.App })
		b.tokens.bind(b.hub)
		defer func() { b.tokens.Close() }()
		b.hub.does(func(_ context.Context, hash [32]byte) (*gwv1.ValidateTokenResponse, error) {
			if hash[0] == 200 {
				return valid("app", 1), nil
			}
			return invalid(1), nil
		})
		f(t, b)
	})
}

// madeUp returns a token that was never shown before.
func madeUp(n int) (hash [32]byte) {
	binary.BigEndian.PutUint64(hash[8:], uint64(n+1))
	return hash
}

// flood shows n made-up tokens and returns how many were looked into and how many throttled.
func (b *bench) flood(from, n int, client string) (unknown, throttled int) {
	for i := range n {
		_, err := b.tokens.Authenticate(b.t.Context(), madeUp(from+i), client)
		var t *Throttled
		switch {
		case errors.Is(err, ErrUnknownToken):
			unknown++
		case errors.As(err, &t) && t.RetryAfter > 0:
			throttled++
		default:
			b.t.Fatalf("token %d: %v", from+i, err)
		}
	}
	return unknown, throttled
}

func TestMadeUpTokensOfOneClientDoNotFloodTheHub(t *testing.T) {
	throttledBench(t, 60, func(t *testing.T, b *bench) {
		known := [32]byte{200, 1}
		if got, err := b.tokens.Authenticate(t.Context(), known, "192.0.2.1:1000"); err != nil || got != "app" {
			t.Fatalf("got %q, %v", got, err)
		}
		if unknown, throttled := b.flood(0, 1000, "192.0.2.1:1000"); unknown != 60 || throttled != 940 {
			t.Errorf("%d were looked into and %d throttled, want 60 and 940", unknown, throttled)
		}
		if asked := b.hub.asked.Load(); asked != 61 {
			t.Errorf("the hub was asked %d times, want 61", asked)
		}
		// A known token of the same client is served; a valid one that is not known yet has to wait, and is never called unknown.
		if got, err := b.tokens.Authenticate(t.Context(), known, "192.0.2.1:2000"); err != nil || got != "app" {
			t.Errorf("a known token: %q, %v", got, err)
		}
		var throttled *Throttled
		if _, err := b.tokens.Authenticate(t.Context(), [32]byte{200, 2}, "192.0.2.1:2000"); !errors.As(err, &throttled) {
			t.Fatalf("a token that is not known yet: %v, want it to be throttled", err)
		}
		time.Sleep(throttled.RetryAfter)
		if got, err := b.tokens.Authenticate(t.Context(), [32]byte{200, 2}, "192.0.2.1:2000"); err != nil || got != "app" {
			t.Errorf("after %v: %q, %v", throttled.RetryAfter, got, err)
		}
		// Others are not concerned.
		if unknown, _ := b.flood(5000, 10, "192.0.2.2:1000"); unknown != 10 {
			t.Errorf("of another client %d were looked into, want all 10", unknown)
		}
	})
}

func TestValidTokensAreNotCharged(t *testing.T) {
	throttledBench(t, 5, func(t *testing.T, b *bench) {
		for i := range 1000 {
			hash := [32]byte{200}
			binary.BigEndian.PutUint64(hash[8:], uint64(i))
			if _, err := b.tokens.Authenticate(t.Context(), hash, "192.0.2.1:1"); err != nil {
				t.Fatalf("token %d: %v", i, err)
			}
		}
	})
}

func TestAnUnknownTokenManyShowAtOnceIsChargedOnce(t *testing.T) {
	throttledBench(t, 5, func(t *testing.T, b *bench) {
		release := make(chan struct{})
		b.hub.does(func(context.Context, [32]byte) (*gwv1.ValidateTokenResponse, error) {
			<-release
			return invalid(1), nil
		})
		done := make(chan error)
		for range 100 {
			go func() { _, err := b.tokens.Authenticate(t.Context(), bob, "192.0.2.1:1"); done <- err }()
		}
		synctest.Wait()
		close(release)
		for range 100 {
			if err := <-done; !errors.Is(err, ErrUnknownToken) {
				t.Errorf("got %v", err)
			}
		}
		if wait := b.tokens.budget.wait("192.0.2.1:1", time.Now().UnixNano()); wait != 0 {
			t.Errorf("the client has to wait %v", wait)
		}
	})
}

func TestAllClientsTogetherAreBounded(t *testing.T) {
	throttledBench(t, 60, func(t *testing.T, b *bench) {
		unknown := 0
		for i := range 1000 {
			n, _ := b.flood(i, 1, fmt.Sprintf("192.0.%d.%d:1", i/250, i%250))
			unknown += n
		}
		if unknown != 2*unknownPerSecond {
			t.Errorf("%d were looked into at once, want %d", unknown, 2*unknownPerSecond)
		}
		time.Sleep(time.Second)
		if n, _ := b.flood(2000, 50, "198.51.100.1:1"); n != 50 {
			t.Errorf("a second later %d of 50 were looked into", n)
		}
	})
}

func TestClientsAreCountedByNetwork(t *testing.T) {
	for _, x := range []struct{ client, want string }{
		{"192.0.2.1:80", "192.0.2.1/32"}, {"[::ffff:192.0.2.1]:80", "192.0.2.1/32"},
		{"[2001:db8::1]:80", "2001:db8::/64"}, {"[2001:db8::2]:90", "2001:db8::/64"}, {"[fe80::1%eth0]:80", "fe80::/64"},
	} {
		if got := network(x.client); got != netip.MustParsePrefix(x.want) {
			t.Errorf("%s is %v, want %s", x.client, got, x.want)
		}
	}
	if network("@") != (netip.Prefix{}) {
		t.Error("what is no address is not one client")
	}
}

func TestTheBudgetRemembersABoundedNumberOfClients(t *testing.T) {
	b, now := newBudget(60, 0), int64(0)
	address := func(i int) string { return fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255) }
	for i := range 3 * maxClients {
		now += int64(time.Second) / unknownPerSecond
		b.charge(address(i), now)
	}
	if len(b.clients) > maxClients {
		t.Errorf("%d clients are remembered, want at most %d", len(b.clients), maxClients)
	}
	now += int64(3 * time.Minute)
	b.wait(address(0), now)
	if len(b.clients) != 0 {
		t.Errorf("%d clients with a whole allowance are remembered", len(b.clients))
	}
}
