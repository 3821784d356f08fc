package latency

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBucketsHoldWhatTheirBoundsSay(t *testing.T) {
	for i := range Buckets - 1 {
		if got := Bucket(Bound(i) - 1); got != i {
			t.Errorf("just under the bound of bucket %d: bucket %d", i, got)
		}
		if got := Bucket(Bound(i)); got != i+1 {
			t.Errorf("at the bound of bucket %d: bucket %d, want the next", i, got)
		}
	}
	for d, want := range map[time.Duration]int{-1: 0, 0: 0, 99_999: 0, 100_000: 1, math.MaxInt64: Buckets - 1} {
		if got := Bucket(d); got != want {
			t.Errorf("%v: bucket %d, want %d", d, got, want)
		}
	}
	if Bound(0) != 100*time.Microsecond || Bound(2) != 200*time.Microsecond || Bound(40).Round(time.Second) != 105*time.Second {
		t.Errorf("bounds are %v, %v, %v", Bound(0), Bound(2), Bound(40))
	}
}

func TestQuantilesAreAtMostAFifthOff(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var took []time.Duration
	counts := make([]uint64, Buckets)
	for range 100_000 {
		d := time.Duration(float64(5*time.Millisecond) * math.Exp(random.NormFloat64()))
		took = append(took, d)
		counts[Bucket(d)]++
	}
	slices.Sort(took)
	for _, q := range []float64{0.5, 0.95, 0.99} {
		want := took[int(q*float64(len(took)))]
		got, ok := Quantile(counts, q)
		if off := math.Abs(float64(got)/float64(want) - 1); !ok || off > 0.2 {
			t.Errorf("quantile %v: got %v, want %v: off by %.0f %%", q, got, want, off*100)
		}
	}
}

func TestQuantilesOfLittle(t *testing.T) {
	if _, ok := Quantile(nil, 0.5); ok {
		t.Error("nothing was counted and has a quantile")
	}
	if _, ok := Quantile(make([]uint64, Buckets), 0.5); ok {
		t.Error("zeros have a quantile")
	}
	beyond := make([]uint64, 64)
	beyond[63] = 1
	if got, ok := Quantile(beyond, 0.5); !ok || got != Bound(Buckets-2) {
		t.Errorf("beyond the last bucket: got %v, want %v", got, Bound(Buckets-2))
	}
	one := []uint64{0, 0, 7}
	for _, q := range []float64{0, 0.5, 1, 2, -1} {
		if got, ok := Quantile(one, q); !ok || got < Bound(1) || got > Bound(2) {
			t.Errorf("quantile %v of one bucket: got %v, want within it", q, got)
		}
	}
}
