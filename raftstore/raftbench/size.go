package raftbench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"gw/raftstore"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// size measures what a large state costs one hub: memory, snapshots, a restart, and whether writes notice a snapshot.
func size(ctx context.Context, c Config, w io.Writer) (err error) {
	if c.Tokens < 0 || c.Resources < 0 {
		return nil
	}
	empty := heap()
	large, err := populated(c.Tokens, c.Resources)
	if err != nil {
		return err
	}
	s, err := openHub(c, "large", false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if _, err := s.RestoreAs(ctx, large, raftstore.Restoration{Adopt: true}); err != nil {
		return err
	}
	large = nil
	held := heap() - min(heap(), empty)
	fmt.Fprintf(w, "A hub with %d tokens and %d resources of 1 KB\n\n", c.Tokens, c.Resources)
	t := table(w)
	fmt.Fprintf(t, "  heap held by its state\t%d MiB\n", held>>20)
	fmt.Fprintf(t, "  resident memory of this process\t%s\n", resident())
	if err := snapshots(ctx, c, s, t); err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	began := time.Now()
	if s, err = openHub(c, "large", false); err != nil {
		return err
	}
	fmt.Fprintf(t, "  restart, until it leads\t%v\n", time.Since(began).Round(time.Millisecond))
	if err := t.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintln(w)
	return err
}

// snapshots measures one by itself, and what writes notice of one.
func snapshots(ctx context.Context, c Config, s *raftstore.Store, t io.Writer) error {
	spec := bytes.Repeat([]byte("x"), 900)
	write := func(ctx context.Context, n int64) error {
		_, err := s.Propose(ctx, save(fmt.Sprintf("w%d", n%1000), spec))
		return err
	}
	if err := write(ctx, 0); err != nil {
		return err
	}
	began := time.Now()
	if err := s.Snapshot(ctx); err != nil {
		return err
	}
	took := time.Since(began)
	var size counter
	if err := s.Backup(&size, s.State()); err != nil {
		return err
	}
	fmt.Fprintf(t, "  snapshot, read back\t%v, %.1f MiB\n", took.Round(time.Millisecond), float64(size)/(1<<20))

	before, during, err := aroundSnapshots(took, func(long time.Duration) (turn, error) { return spend(ctx, 16, long, write) },
		func() error { return s.Snapshot(ctx) })
	if err != nil {
		return err
	}
	fmt.Fprintf(t, "  p99 of writes by 16 writers\t%.1f ms over the %v before a snapshot, %.1f ms over as long from when it begins (%.2f×; medians of %d)\n",
		1e3*before.Seconds(), took.Round(time.Millisecond), 1e3*during.Seconds(), during.Seconds()/before.Seconds(), snapshotRounds)
	return nil
}

// snapshotRounds is how many snapshots are taken under writes, one at a time.
const snapshotRounds = 5

// aroundSnapshots has work done for as long as a snapshot takes by itself, and again from when one begins, and returns the
// medians of the p99 of both.
func aroundSnapshots(took time.Duration, work func(time.Duration) (turn, error), snapshot func() error) (before, during time.Duration, err error) {
	var quiet, busy []time.Duration
	for range snapshotRounds {
		t, err := work(took)
		if err != nil {
			return 0, 0, err
		}
		quiet = append(quiet, quantile(t.latency, 0.99))
		done := make(chan error, 1)
		go func() { done <- snapshot() }()
		t, err = work(took)
		if err := errors.Join(err, <-done); err != nil {
			return 0, 0, err
		}
		busy = append(busy, quantile(t.latency, 0.99))
	}
	return median(quiet), median(busy), nil
}

// populated is a state with so many tokens and resources.
func populated(tokens, resources int) (*state.State, error) {
	s, index := state.New(), uint64(0)
	apply := func(c *gwv1.Command) error {
		index++
		c.FeatureLevel, c.ProposedAt = 1, time.Now().UnixNano()
		next, r, _ := s.Apply(index, c)
		if r.GetRefusal() != nil {
			return fmt.Errorf("fill a hub: %s", r.Refusal.Message)
		}
		s = next
		return nil
	}
	if err := apply(&gwv1.Command{Body: &gwv1.Command_Bootstrap{Bootstrap: &gwv1.Bootstrap{ClusterId: "large"}}}); err != nil {
		return nil, err
	}
	for i := range resources {
		if err := apply(save(fmt.Sprintf("orders-%06d", i), fmt.Appendf(nil, "%01000d", i))); err != nil {
			return nil, err
		}
	}
	for i := range tokens {
		app := fmt.Sprintf("app-%d", i/100)
		if i%100 == 0 {
			if err := apply(&gwv1.Command{Body: &gwv1.Command_PutApp{PutApp: &gwv1.PutAppRecord{
				Create: true, App: &gwv1.AppRecord{Id: app, Namespace: resource.Default, Name: app},
			}}}); err != nil {
				return nil, err
			}
		}
		hash := sha256.Sum256(fmt.Append(nil, i))
		if err := apply(&gwv1.Command{Body: &gwv1.Command_PutToken{PutToken: &gwv1.PutTokenRecord{Token: &gwv1.TokenRecord{
			Id: fmt.Sprintf("token-%d", i), AppId: app, Hash: hash[:], Hint: "gw_abc", CreatedAt: 1,
		}}}}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// counter counts the bytes written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// resident is what the kernel says this process holds.
func resident() string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.Join(strings.Fields(kib), " ")
		}
	}
	return "unknown"
}
