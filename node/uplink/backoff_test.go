package uplink

import (
	"math/rand/v2"
	"testing"
	"time"
)

// spread draws many waits and returns which share of them falls into each tenth of [low, high); outside counts apart.
func spread(low, high time.Duration, draw func(r float64) time.Duration) (tenths [10]float64, outside int) {
	const draws = 50_000
	random := rand.New(rand.NewPCG(1, 2))
	for range draws {
		d := draw(random.Float64())
		if d < low || d >= high {
			outside++
			continue
		}
		tenths[int(10*(d-low)/(high-low))] += 1.0 / draws
	}
	return tenths, outside
}

func wantEven(t *testing.T, name string, tenths [10]float64, outside int) {
	t.Helper()
	if outside > 0 {
		t.Errorf("%s: %d waits out of bounds", name, outside)
	}
	for i, share := range tenths {
		if share < 0.09 || share > 0.11 {
			t.Errorf("%s: %.1f %% of the waits fall into tenth %d", name, 100*share, i)
		}
	}
}

func TestReconnectsAreSpreadEvenly(t *testing.T) {
	b := defaultPace.reconnect
	for failed, high := range map[int]time.Duration{
		1: 2 * time.Second, 2: 2 * time.Second, 3: 2 * time.Second, // quick tries
		4: 2 * time.Second, 5: 4 * time.Second, 6: 8 * time.Second, 8: 32 * time.Second,
		9: time.Minute, 10: time.Minute, 40: time.Minute, 1000: time.Minute, // at the cap, still over all of it
	} {
		tenths, outside := spread(0, high, func(r float64) time.Duration { return b.delay(failed, r) })
		wantEven(t, "try after "+high.String(), tenths, outside)
	}
}

func TestHeartbeatsAreSpreadByATenth(t *testing.T) {
	tenths, outside := spread(27*time.Second, 33*time.Second, func(r float64) time.Duration { return around(30*time.Second, r) })
	wantEven(t, "heartbeat", tenths, outside)
}

func TestTheWaitDoublesOnceAllHubsHaveFailed(t *testing.T) {
	b := defaultPace.reconnect
	longest := func(failed, hubs int) time.Duration {
		return b.delay(b.round(failed, hubs), 1).Round(time.Second)
	}
	for hubs, want := range map[int][]time.Duration{
		0: {2, 2, 2, 2, 4, 8, 16, 32, 60, 60},
		1: {2, 2, 2, 2, 4, 8, 16, 32, 60, 60},
		3: {2, 2, 2, 2, 2, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 60, 60},
	} {
		for i, seconds := range want {
			if got := longest(i+1, hubs); got != seconds*time.Second {
				t.Errorf("%d hubs, %d tries failed: the wait is up to %v, want %v", hubs, i+1, got, seconds*time.Second)
			}
		}
	}
}
