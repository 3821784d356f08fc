package raftbench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// turn is what one contender did in one turn.
type turn struct {
	rate    float64 // writes a second
	latency []time.Duration
}

// spend has a number of writers write for a while. write is given a number that no other call is given.
func spend(ctx context.Context, writers int, d time.Duration, write func(ctx context.Context, n int64) error) (turn, error) {
	var count atomic.Int64
	var mu sync.Mutex
	var all []time.Duration
	var errs []error
	began := time.Now()
	end := began.Add(d)
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			var own []time.Duration
			var err error
			for at := time.Now(); err == nil && at.Before(end) && ctx.Err() == nil; at = time.Now() {
				err = write(ctx, count.Add(1))
				own = append(own, time.Since(at))
			}
			mu.Lock()
			defer mu.Unlock()
			all, errs = append(all, own...), append(errs, err)
		})
	}
	group.Wait()
	slices.Sort(all)
	errs = append(errs, ctx.Err())
	return turn{float64(len(all)) / time.Since(began).Seconds(), all}, errors.Join(errs...)
}

// writes measures committed writes of a kilobyte on three hubs, in turns with bare Raft.
func writes(ctx context.Context, c Config, w io.Writer) (err error) {
	ours, err := openCluster(ctx, c, "hub")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.close()) }()
	theirs, err := openBare(c, "bare")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, theirs.close()) }()
	hub, err := ours.leader(ctx)
	if err != nil {
		return err
	}
	reference, err := theirs.leader(ctx)
	if err != nil {
		return err
	}
	spec, entry := bytes.Repeat([]byte("x"), 900), bytes.Repeat([]byte("x"), 1024)
	gw := func(ctx context.Context, n int64) error {
		_, err := hub.Propose(ctx, save(fmt.Sprintf("r%d", n%1000), spec))
		return err
	}
	bare := func(_ context.Context, _ int64) error { return reference.Apply(entry, time.Minute).Error() }

	fmt.Fprintf(w, "Committed writes of 1 KB on three hubs, against hashicorp/raft with raft-boltdb; median of %d turns of %v each\n\n", c.Rounds, c.Turn)
	t := table(w)
	fmt.Fprintln(t, "writers\tgw /s\tbare /s\tratio\tgw p99\tbare p99")
	for _, writers := range c.Writers {
		var rates, bares, ratios []float64
		var slow, bareSlow []float64
		for range c.Rounds {
			a, err := spend(ctx, writers, c.Turn, gw)
			if err != nil {
				return err
			}
			b, err := spend(ctx, writers, c.Turn, bare)
			if err != nil {
				return err
			}
			rates, bares, ratios = append(rates, a.rate), append(bares, b.rate), append(ratios, a.rate/b.rate)
			slow = append(slow, quantile(a.latency, 0.99).Seconds())
			bareSlow = append(bareSlow, quantile(b.latency, 0.99).Seconds())
		}
		fmt.Fprintf(t, "%d\t%.0f\t%.0f\t%.2f\t%.1f ms\t%.1f ms\n",
			writers, median(rates), median(bares), median(ratios), 1e3*median(slow), 1e3*median(bareSlow))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintln(w)
	return err
}
