// Package raftbench owns the measurements of the replicated store: each beside its reference, on this machine's disk.
package raftbench

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// Config says how much to measure. The zero value is the whole of it.
type Config struct {
	// Dir is where the hubs' directories are made; they are removed afterwards. Empty: the system's directory for
	// temporary files, which may be memory.
	Dir string
	// Writers are how many write at once, one turn for each number. Nil: 1, 16 and 64.
	Writers []int
	// Rounds is how many turns each contender gets; medians are shown. 0: 5.
	Rounds int
	// Turn is how long a turn lasts. 0: two seconds.
	Turn time.Duration
	// Kills is how often the leader is stopped without a word. 0: 20; negative: never.
	Kills int
	// Tokens and Resources are how much a hub holds when its size is measured. 0: 100,000 and 10,000; negative: the
	// measurement is left out.
	Tokens, Resources int
	// ElectionTimeout of the hubs. 0: one second, as in production.
	ElectionTimeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.Writers == nil {
		c.Writers = []int{1, 16, 64}
	}
	if c.Rounds == 0 {
		c.Rounds = 5
	}
	if c.Turn == 0 {
		c.Turn = 2 * time.Second
	}
	if c.Kills == 0 {
		c.Kills = 20
	}
	if c.Tokens == 0 {
		c.Tokens = 100_000
	}
	if c.Resources == 0 {
		c.Resources = 10_000
	}
	if c.ElectionTimeout == 0 {
		c.ElectionTimeout = time.Second
	}
	return c
}

// Run measures committed writes on three hubs against bare hashicorp/raft with raft-boltdb, how long writes pause when
// the leader dies, and what a large state costs; and prints tables to w. It takes some minutes, and ends early with ctx's
// error.
func Run(ctx context.Context, c Config, w io.Writer) error {
	c = c.withDefaults()
	dir, err := os.MkdirTemp(c.Dir, "raftbench-*")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	c.Dir = dir
	for _, part := range []func(context.Context, Config, io.Writer) error{writes, kills, size} {
		if err := part(ctx, c, w); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
	}
	return nil
}

// quiet logs nothing: what is measured logs the same in production, but not to a terminal.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func table(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// quantile returns the value below which a share q of the sorted list lies.
func quantile[T any](sorted []T, q float64) (v T) {
	if len(sorted) == 0 {
		return v
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func median[T cmp.Ordered](list []T) T {
	sorted := slices.Sorted(slices.Values(list))
	return quantile(sorted, 0.5)
}
