// Package latency owns the digest in which edges report how long requests took: counts in fixed buckets whose bounds
// rise by half an octave, from 100 µs to two minutes. Digests of one process only rise, can be subtracted and added up,
// and give quantiles that are at most a fifth off.
package latency

import (
	"math"
	"math/bits"
	"time"
)

// Buckets is how many buckets a digest has. Bucket 0 holds what took less than 100 µs, the last one everything from
// Bound(Buckets-2) on.
const Buckets = 42

// first is the upper bound of bucket 0.
const first = 100 * time.Microsecond

// bounds are the upper bounds of all buckets but the last: 100 µs · 2^(i/2), to the nanosecond.
var bounds = func() (b [Buckets - 1]time.Duration) {
	for i := range b {
		b[i] = time.Duration(math.Round(float64(first) * math.Pow(2, float64(i)/2)))
	}
	return b
}()

// Bound returns the upper bound of a bucket, which the bucket does not hold. The last bucket has none; Bound gives the
// largest Duration for it and for whatever is beyond.
func Bound(bucket int) time.Duration {
	if bucket >= len(bounds) {
		return math.MaxInt64
	}
	return bounds[max(bucket, 0)]
}

// Bucket returns the bucket that holds d, for counting it. A negative d counts as none. It costs a few nanoseconds.
func Bucket(d time.Duration) int {
	if d < first {
		return 0
	}
	octave := bits.Len64(uint64(d/first)) - 1 // d is at least first · 2^octave
	i := min(2*octave+1, Buckets-1)
	for i < len(bounds) && d >= bounds[i] {
		i++
	}
	return i
}

// Quantile returns how long the share q (0 to 1) of what was counted took at most, interpolated within the bucket that
// it falls into; ok is false if nothing was counted. Counts beyond Buckets are taken for the last bucket's, and what
// falls there took at least Bound(Buckets-2), which is returned.
func Quantile(counts []uint64, q float64) (d time.Duration, ok bool) {
	var total float64
	for _, n := range counts {
		total += float64(n)
	}
	if total == 0 {
		return 0, false
	}
	rank, below := min(max(q, 0), 1)*total, 0.0
	for i, n := range counts {
		if n == 0 || below+float64(n) < rank {
			below += float64(n)
			continue
		}
		if i >= len(bounds) {
			break
		}
		low := time.Duration(0)
		if i > 0 {
			low = bounds[i-1]
		}
		return low + time.Duration((rank-below)/float64(n)*float64(bounds[i]-low)), true
	}
	return bounds[len(bounds)-1], true
}
