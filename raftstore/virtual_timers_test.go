package raftstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// flapping is what became of a cluster all of whose disks are slow.
type flapping struct {
	elections, written, failed int
	slowest                    time.Duration // of the writes that were acknowledged
}

// onSlowDisks lets one client write to three hubs, each of whose log writes takes this long, for a minute.
func onSlowDisks(t *testing.T, election, latency time.Duration) (f flapping) {
	bubble(t, func(t *testing.T) {
		v := newVirtual(t, virtualOptions{seed: 1, election: election})
		defer v.close()
		v.mustLead(t).mustWrite(t, "before")
		time.Sleep(5 * time.Second)
		term := v.newestTerm()
		for _, h := range v.all() {
			h.now().disk.misbehave(diskFaults{fastest: latency, slowest: latency + time.Millisecond})
		}
		for began := time.Now(); time.Since(began) < time.Minute; {
			l := v.leader()
			if l == nil {
				time.Sleep(50 * time.Millisecond)
				continue
			}
			asked := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			_, err := l.store.Propose(ctx, save("default", fmt.Sprint("w", f.written+f.failed), "x"))
			cancel()
			switch {
			case err == nil:
				f.written++
				f.slowest = max(f.slowest, time.Since(asked))
			case errors.Is(err, ErrNotLeader):
				time.Sleep(50 * time.Millisecond)
			default:
				f.failed++
			}
		}
		f.elections = int(v.newestTerm() - term)
	})
	return f
}

func (v *virtual) newestTerm() (term uint64) {
	for _, h := range v.all() {
		if l := h.now(); l != nil {
			term = max(term, l.store.Term())
		}
	}
	return term
}

// Heartbeats queue behind the log's writes, so how slow a disk may be follows from the timers. This measures it: -v prints
// the table of DESIGN.md.
func TestTimersBearSlowLogWrites(t *testing.T) {
	latencies := []time.Duration{20, 200, 450, 700, 1200}
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "log write")
	timeouts := []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second}
	for _, e := range timeouts {
		fmt.Fprintf(w, "\telection timeout %v", e)
	}
	fmt.Fprintln(w)
	for _, ms := range latencies {
		latency := ms * time.Millisecond
		fmt.Fprint(w, latency)
		for _, e := range timeouts {
			f := onSlowDisks(t, e, latency)
			fmt.Fprintf(w, "\t%d terms, %d writes, slowest %v, %d failed", f.elections, f.written, f.slowest.Round(10*time.Millisecond), f.failed)
			if calm := latency <= 200*time.Millisecond && e >= time.Second || latency <= 450*time.Millisecond && e >= 2*time.Second; calm && (f.elections > 0 || f.failed > 0) {
				t.Errorf("timeout %v, log writes of %v: %d elections and %d failed writes, want none", e, latency, f.elections, f.failed)
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	t.Logf("one writer, three hubs, for a minute\n%s", out.String())
}
