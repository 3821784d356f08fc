package edgestore

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// sendSecond sends n payloads at one time, from several goroutines, and returns how many were taken; others must have been
// refused because the spool is full.
func sendSecond(t *testing.T, s *Spool, second, n int) (accepted int) {
	t.Helper()
	var wg sync.WaitGroup
	var taken atomic.Int64
	for range 20 {
		wg.Go(func() {
			for range n / 20 {
				_, err := s.Send(t.Context(), 7, fmt.Append(nil, second), "", nil)
				if err == nil {
					taken.Add(1)
				} else if !errors.Is(err, ErrQueueFull) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return int(taken.Load())
}

// arrive settles all that is pending and returns how many payloads there were of each second. They come in order.
func arrive(t *testing.T, s *Spool) map[int]int {
	t.Helper()
	of, last := map[int]int{}, 0
	for batch := mustNext(t, s); len(batch) > 0; batch = mustNext(t, s) {
		for _, p := range batch {
			second, err := strconv.Atoi(string(p.Payload))
			if err != nil || second < last {
				t.Fatalf("got %s after %d, %v", p.Payload, last, err)
			}
			last = second
			of[second]++
		}
		mustSettle(t, s, batch, handled)
	}
	return of
}

// An hour without a hub at 20 payloads a second: all of them arrive.
func TestAnHourWithoutAHubLosesNothing(t *testing.T) {
	clock := &movedClock{at: time.Unix(1_700_000_000, 0)}
	s := mustSpool(t, t.TempDir(), unsynced, func(c *SpoolConfig) { c.Now = clock.now })
	for second := range 3600 {
		if n := sendSecond(t, s, second, 20); n != 20 {
			t.Fatalf("%d of 20 were taken after %d s", n, second)
		}
		clock.advance(time.Second)
		if second%600 == 0 {
			if n, err := s.Expire(); n != 0 || err != nil {
				t.Fatalf("expired %d, %v", n, err)
			}
		}
	}
	of := arrive(t, s)
	for second := range 3600 {
		if of[second] != 20 {
			t.Fatalf("%d payloads of second %d arrived", of[second], second)
		}
	}
}

// 400 a second: the spool is full after 100,000, nothing that was accepted is lost, and only what is older than a day is
// dropped, and counted.
func TestAFullSpoolRefusesAndLosesNothing(t *testing.T) {
	clock := &movedClock{at: time.Unix(1_700_000_000, 0)}
	s := mustSpool(t, t.TempDir(), unsynced, func(c *SpoolConfig) { c.Now = clock.now })
	s.Share([]uint32{7})
	accepted, refused := 0, 0
	for second := range 260 { // 104,000
		n := sendSecond(t, s, second, 400)
		accepted, refused = accepted+n, refused+400-n
		if want := second < 250; (n == 400) != want {
			t.Errorf("%d were taken in second %d", n, second)
		}
		clock.advance(time.Second)
	}
	if accepted != MaxPending || refused != 4000 {
		t.Errorf("%d accepted, %d refused", accepted, refused)
	}
	// Those of the first hundred seconds grow older than a day; the rest arrives.
	clock.advance(PayloadLife - 160*time.Second)
	n, err := s.Expire()
	if err != nil || n != 40_000 {
		t.Errorf("expired %d, %v; want 40000", n, err)
	}
	of := arrive(t, s)
	for second := range 250 {
		if want := map[bool]int{true: 400}[second >= 100]; of[second] != want {
			t.Errorf("%d payloads of second %d arrived, want %d", of[second], second, want)
		}
	}
	if q := queueOf(t, s, 7); q.Expired != uint64(n) || q.Refused != uint64(refused) || q.Settled != uint64(accepted-n) || q.Pending != 0 {
		t.Errorf("queue %v", q)
	}
}
