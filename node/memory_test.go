package node

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestAHubGivesBackWhatItHoldsInVain(t *testing.T) {
	for name, c := range map[string]struct {
		is   heap
		want bool
	}{
		"a password was hashed":       {heap{live: 6 << 20, objects: 26 << 20}, true},
		"given back by nobody":        {heap{live: 6 << 20, objects: 6 << 20, free: 5 << 20}, true},
		"little":                      {heap{live: 6 << 20, objects: 8 << 20, free: 1 << 20}, false},
		"an eighth of much is enough": {heap{live: 400 << 20, objects: 451 << 20}, true},
		"less than an eighth of much": {heap{live: 400 << 20, objects: 449 << 20}, false},
		"between two measures":        {heap{live: 7 << 20, objects: 6 << 20}, false},
	} {
		if got := c.is.wasteful(); got != c.want {
			t.Errorf("%s: wasteful is %v, want %v", name, got, c.want)
		}
	}
}

func TestTheCollectorIsSetByWhatAHubDoes(t *testing.T) {
	var c collecting
	last := heap{}
	look := func(live, cycles uint64) int {
		now := heap{live: live, cycles: last.cycles + cycles}
		percent := c.percent(now, last)
		last = now
		return percent
	}
	for live, want := range map[uint64]int{largeHeap - 1: hubGC, largeHeap: hubRoomyGC} {
		if got := look(live, busyCycles-1); got != want {
			t.Errorf("GOGC %d of a collector of %d MiB that has little to do, want %d", got, live>>20, want)
		}
	}
	if got := look(1<<20, busyCycles); got != hubRoomyGC {
		t.Errorf("GOGC %d of a busy collector", got)
	}
	for range busyFor - 1 {
		if got := look(1<<20, 0); got != hubRoomyGC {
			t.Fatalf("GOGC %d soon after", got)
		}
	}
	if got := look(1<<20, 0); got != hubGC {
		t.Errorf("GOGC %d long after", got)
	}
}

var garbage []byte // that the compiler can't do without

func TestTheHeapIsRead(t *testing.T) {
	first := readHeap()
	for range 100 { // 3 GB of garbage: the collector must begin by itself
		garbage = make([]byte, 32<<20)
	}
	garbage = nil
	before := readHeap()
	debug.FreeOSMemory()
	after := readHeap()
	if before.cycles <= first.cycles || after.live == 0 || after.objects < after.live/2 {
		t.Errorf("after a collection the heap is %+v, before %+v", after, before)
	}
	if held := after.objects + after.free; held >= before.objects+before.free {
		t.Errorf("the heap holds %d bytes after they were given back, and held %d", held, before.objects+before.free)
	}
	runtime.KeepAlive(garbage)
}
