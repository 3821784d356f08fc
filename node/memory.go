package node

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// trimEvery is how often a hub looks whether it holds much memory that it does not use.
	trimEvery = 10 * time.Second
	// minWaste is what is not worth a collection.
	minWaste = 4 << 20
	// busyCycles is how many collections between two looks mean that memory is in use all the time.
	busyCycles = 3
	// hubGC is GOGC of a hub: connections are many and live long, and hold most of its memory, so that a collector that
	// lets the heap double would double what each of them costs.
	hubGC = 50
	// largeHeap is from where on hubLargeGC is GOGC instead. To look through a large heap takes the collector a second or
	// two, in which whoever allocates has to help it: with little room to grow, so does a heartbeat among hubs, and a push
	// to ten thousand edges would cost the leader its lead.
	largeHeap  = 192 << 20
	hubLargeGC = 100
)

// heap is what the collector tells of the heap.
type heap struct {
	live    uint64 // bytes that the last collection found in use
	objects uint64 // bytes of objects, dead ones too
	free    uint64 // bytes that hold no object and were not given back
	cycles  uint64 // collections so far
}

// wasteful reports whether h holds enough that is not in use to give it back, and is quiet: last is the look before.
func (h heap) wasteful(last heap) bool {
	if h.cycles-last.cycles >= busyCycles || h.objects+h.free < h.live {
		return false
	}
	return h.objects+h.free-h.live > max(minWaste, h.live/8)
}

func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/cycles/total:gc-cycles"},
	}
	metrics.Read(samples)
	return heap{samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Uint64()}
}

// gcPercent returns GOGC for a hub of which so many bytes are in use.
func gcPercent(live uint64) int {
	if live >= largeHeap {
		return hubLargeGC
	}
	return hubGC
}

// keepLean gives memory back to the system after something has taken much of it for a moment, such as a password's
// hashing or a fleet that came back, until ctx ends. Left alone the collector keeps it for minutes.
func keepLean(ctx context.Context) {
	percent := 0 // of ours; an operator's stands
	look := time.NewTicker(trimEvery)
	defer look.Stop()
	soon := time.After(2 * time.Second) // what starting has left behind
	for last := readHeap(); ; last = readHeap() {
		if now := gcPercent(last.live); now != percent && os.Getenv("GOGC") == "" {
			debug.SetGCPercent(now)
			percent = now
		}
		started := false
		select {
		case <-ctx.Done():
			return
		case <-soon:
			started = true
		case <-look.C:
		}
		if started || readHeap().wasteful(last) {
			debug.FreeOSMemory()
			dropText()
		}
	}
}
