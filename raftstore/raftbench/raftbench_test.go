package raftbench

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	err := Run(t.Context(), Config{
		Dir: t.TempDir(), Writers: []int{1, 4}, Rounds: 1, Turn: 100 * time.Millisecond, Kills: 2, Tokens: 200, Resources: 50,
		ElectionTimeout: 300 * time.Millisecond,
	}, &out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"writers", "ratio", "median", "worst", "snapshot, read back", "p99", "restart"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := Run(ctx, Config{Dir: t.TempDir(), ElectionTimeout: 300 * time.Millisecond}, &strings.Builder{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestQuantile(t *testing.T) {
	list := []float64{1, 2, 3, 4}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 4, 1: 4} {
		if got := quantile(list, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := quantile[int](nil, 0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

// BenchmarkRun measures everything once and prints it.
func BenchmarkRun(b *testing.B) {
	for b.Loop() {
		if err := Run(b.Context(), Config{}, os.Stdout); err != nil { // a benchmark's own log would be cut
			b.Fatal(err)
		}
	}
}
