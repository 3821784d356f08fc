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

// snapshots measures one by itself, and writes with and without snapshots being taken all the time.
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

	before, err := spend(ctx, 16, 2*c.Turn, write)
	if err != nil {
		return err
	}
	during, taken, err := whileSnapshots(ctx, s, func(ctx context.Context) (turn, error) { return spend(ctx, 16, 2*c.Turn, write) })
	if err != nil {
		return err
	}
	a, b := quantile(before.latency, 0.99), quantile(during.latency, 0.99)
	fmt.Fprintf(t, "  p99 of writes by 16 writers\t%.1f ms; while %d snapshots were taken %.1f ms (%.2f×)\n",
		1e3*a.Seconds(), taken, 1e3*b.Seconds(), b.Seconds()/a.Seconds())
	return nil
}

// whileSnapshots runs work while one snapshot follows the other.
func whileSnapshots(ctx context.Context, s *raftstore.Store, work func(context.Context) (turn, error)) (t turn, taken int, err error) {
	again, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		for again.Err() == nil {
			if err := s.Snapshot(ctx); err != nil { // the last one is seen through
				done <- err
				return
			}
			taken++
		}
		done <- nil
	}()
	t, err = work(ctx)
	stop()
	return t, taken, errors.Join(err, <-done)
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
