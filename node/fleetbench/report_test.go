package fleetbench

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gw/rpc/gwv1"
)

func TestQuantiles(t *testing.T) {
	for _, c := range []struct {
		n    int
		q    float64
		want int
	}{{1, .5, 0}, {1, 1, 0}, {2, .5, 0}, {4, .5, 1}, {5, .5, 2}, {100, .99, 98}, {101, .99, 99}, {1000, .99, 989}, {10, 1, 9}, {3, 0, 0}} {
		if got := quantile(c.n, c.q); got != c.want {
			t.Errorf("quantile(%d, %v) is %d, want %d", c.n, c.q, got, c.want)
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	for want, row := range map[string]Row{
		"": {}, "900 B": {Unit: unitBytes, Value: new(900.0)}, "10 KiB": {Unit: unitBytes, Value: new(10240.0)},
		"1.5 ms": {Unit: unitMillis, Value: new(1.5)}, "12 s": {Unit: unitMillis, Value: new(12000.0)},
		"250 µs": {Unit: unitMicros, Value: new(250.2)}, "7 %": {Unit: unitPercent, Value: new(7.0)}, "42": {Value: new(42.0)},
	} {
		if got := show(row.Value, row.Unit); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestATallyCountsTheFirstOfEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{}
		y := newTally(2)
		time.Sleep(time.Hour)
		y.begin()
		time.Sleep(time.Second)
		y.mark(1)
		time.Sleep(time.Second)
		y.mark(1)
		err := y.wait(t.Context(), f, time.Minute, "come")
		if err == nil || !strings.Contains(err.Error(), "1 of 2 edges have not come within 1m0s") {
			t.Errorf("got %v", err)
		}
		y.mark(0)
		if err := y.wait(t.Context(), f, time.Minute, "come"); err != nil {
			t.Fatal(err)
		}
		if got := y.samples(); got[0] != 62*time.Second || got[1] != time.Second {
			t.Errorf("got %v", got)
		}
	})
}

func TestATallyEndsWithARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		if err := newTally(1).wait(t.Context(), &fleet{failure: refused}, time.Hour, "come"); !errors.Is(err, refused) {
			t.Errorf("got %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := newTally(1).wait(ctx, &fleet{}, time.Hour, "come"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestEdgesShareAReleaseAsLongAsOneHasIt(t *testing.T) {
	l := library{held: make(map[string]*held)}
	first := l.take(&gwv1.Target{Epoch: 1, Number: 2, Checksum: []byte{3}}, "a", nil)
	if l.take(&gwv1.Target{Epoch: 1, Number: 2, Checksum: []byte{3}}, "a", nil) != first {
		t.Error("the same release is kept twice")
	}
	if l.take(&gwv1.Target{Epoch: 1, Number: 2, Checksum: []byte{3}}, "b", nil) == first {
		t.Error("another namespace's release is taken for the same")
	}
	l.drop(nil)
	l.drop(first)
	if len(l.held) != 2 {
		t.Error("a release was dropped that an edge has")
	}
	l.drop(first)
	if len(l.held) != 1 {
		t.Error("a release is kept that no edge has")
	}
}

func TestWhatCantBeRunIsSaidBeforeAnythingStarts(t *testing.T) {
	make := func(EdgeConfig) (Edge, error) { return nil, nil }
	for want, c := range map[string]Config{
		"no scenario":     {NewEdge: make, Program: "gw", Scenarios: []string{"storm"}},
		"no way to make":  {Program: "gw"},
		"1 or 3":          {NewEdge: make, Program: "gw", Hubs: 2},
		"no program":      {NewEdge: make},
		"at most 100,000": {NewEdge: make, Program: "gw", Edges: 200_000},
		"start hub-1: ":   {NewEdge: make, Program: "/nonexistent/gw"},
	} {
		if err := Run(t.Context(), c, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
