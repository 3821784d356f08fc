package node

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// lookEvery is how often a hub looks how its collector fares, and trimEvery after how many looks whether it holds much
	// memory that it does not use.
	lookEvery = 5 * time.Second
	trimEvery = 2
	// startingTakes is how long, about.
	startingTakes = 2 * time.Second
	// minWaste is what is not worth a collection.
	minWaste = 4 << 20
	// hubGC is GOGC of a hub: connections are many and live long, and hold most of its memory, so that a collector that
	// lets the heap double would double what each of them costs.
	hubGC = 50
	// largeHeap is from where on hubRoomyGC is GOGC instead. To look through a large heap takes the collector a second or
	// two, in which whoever allocates has to help it: with little room to grow, so does a heartbeat among hubs, and a push
	// to ten thousand edges would cost the leader its lead. What that room fills with is given back while there is time.
	largeHeap  = 192 << 20
	hubRoomyGC = 100
	// A look at which the collector has finished busyCycles times since the last means that it is busy, for busyFor looks. So it
	// is while a fleet comes back and every handshake leaves some hundred KiB behind: it took half of a leader's time. It
	// gets more room for as long, but not much: what lives on is strewn over it.
	busyCycles = 2
	busyFor    = 3
)

// heap is what the collector tells of the heap.
type heap struct {
	live    uint64 // bytes that the last collection found in use
	objects uint64 // bytes of objects, dead ones too
	free    uint64 // bytes that hold no object and were not given back
	cycles  uint64 // collections so far, but for those that were asked for
}

// wasteful reports whether h holds enough that is not in use to give it back.
func (h heap) wasteful() bool {
	return h.objects+h.free > h.live+max(minWaste, h.live/8)
}

func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/cycles/automatic:gc-cycles"},
	}
	metrics.Read(samples)
	return heap{samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Uint64()}
}

// collecting is how a hub's collector is set.
type collecting struct{ busy int } // looks for which it still counts as busy

// percent returns GOGC, with the heap now and at the last look.
func (c *collecting) percent(h, last heap) int {
	if h.cycles-last.cycles >= busyCycles {
		c.busy = busyFor
	} else if c.busy > 0 {
		c.busy--
	}
	if h.live >= largeHeap || c.busy > 0 {
		return hubRoomyGC
	}
	return hubGC
}

// keepLean sets the collector by what a hub does, and gives memory back to the system after something has taken much of
// it for a moment, such as a password's hashing or a fleet that came back, until ctx ends. Left alone the collector keeps
// it for minutes.
func keepLean(ctx context.Context) {
	var c collecting
	percent := 0 // of ours; an operator's stands
	look := time.NewTimer(startingTakes)
	defer look.Stop()
	last := readHeap()
	for looks := 0; ; looks++ {
		now := readHeap()
		if p := c.percent(now, last); p != percent && os.Getenv("GOGC") == "" {
			debug.SetGCPercent(p)
			percent = p
		}
		last = now
		started := looks == 1 // there is what starting has left behind
		if started || looks > 0 && looks%trimEvery == 0 && c.busy == 0 && now.wasteful() {
			debug.FreeOSMemory()
			dropText()
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			look.Reset(lookEvery)
		}
	}
}
