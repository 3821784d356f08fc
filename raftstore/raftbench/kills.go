package raftbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// kills measures how long nobody takes a write after the leader has ended without a word.
func kills(ctx context.Context, c Config, w io.Writer) (err error) {
	if c.Kills < 0 {
		return nil
	}
	k, err := openCluster(ctx, c, "mortal")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	var took []time.Duration
	for n := range c.Kills {
		d, err := k.kill(ctx, n)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	_, err = fmt.Fprintf(w, "Leader killed → write accepted, %d times with an election timeout of %v\n\n  median %v  worst %v\n\n",
		len(took), c.ElectionTimeout, ms(quantile(took, 0.5)), ms(took[len(took)-1]))
	return err
}

// kill ends the leader, measures, and starts it again.
func (k *cluster) kill(ctx context.Context, n int) (took time.Duration, err error) {
	leader, err := k.leader(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	leader.Halt("killed by the benchmark")
	err = k.until(ctx, func() bool {
		for _, s := range k.hubs {
			// Whatever the error: the next attempt finds somebody who takes it.
			if _, err := s.Propose(ctx, save(fmt.Sprintf("k%d", n), []byte("x"))); err == nil {
				return true
			}
		}
		return false
	})
	if took = time.Since(began); err != nil {
		return took, err
	}
	i := slices.Index(k.hubs, leader)
	if err := leader.Close(); err != nil {
		return took, err
	}
	// A hub that halts remembers it, one that is killed does not.
	if err := os.Remove(filepath.Join(k.config.Dir, k.names[i], "halted")); err != nil {
		return took, err
	}
	if k.hubs[i], err = openHub(k.config, k.names[i], true); err != nil {
		k.hubs = slices.Delete(k.hubs, i, i+1)
		return took, err
	}
	k.keep(ctx, k.hubs[i])
	if err := k.add(ctx, k.hubs[i]); err != nil { // at its new address
		return took, err
	}
	now, err := k.leader(ctx)
	if err != nil {
		return took, err
	}
	return took, k.until(ctx, func() bool { return k.hubs[i].State().Index() >= now.State().Index() })
}
