package node

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestAHubGivesBackWhatItHoldsInVain(t *testing.T) {
	last := heap{cycles: 10}
	for name, c := range map[string]struct {
		is   heap
		want bool
	}{
		"a password was hashed":       {heap{live: 6 << 20, objects: 26 << 20, cycles: 11}, true},
		"given back by nobody":        {heap{live: 6 << 20, objects: 6 << 20, free: 5 << 20, cycles: 11}, true},
		"little":                      {heap{live: 6 << 20, objects: 8 << 20, free: 1 << 20, cycles: 11}, false},
		"an eighth of much is enough": {heap{live: 400 << 20, objects: 451 << 20, cycles: 10}, true},
		"less than an eighth of much": {heap{live: 400 << 20, objects: 449 << 20, cycles: 10}, false},
		"busy":                        {heap{live: 6 << 20, objects: 26 << 20, cycles: 13}, false},
		"between two measures":        {heap{live: 7 << 20, objects: 6 << 20, cycles: 10}, false},
	} {
		if got := c.is.wasteful(last); got != c.want {
			t.Errorf("%s: wasteful is %v, want %v", name, got, c.want)
		}
	}
}

func TestALargeHeapIsGivenMoreRoom(t *testing.T) {
	if small, large := gcPercent(largeHeap-1), gcPercent(largeHeap); small != hubGC || large != hubLargeGC {
		t.Errorf("GOGC %d below, %d from the bound on", small, large)
	}
}

var garbage []byte // that the compiler can't do without

func TestTheHeapIsRead(t *testing.T) {
	garbage = make([]byte, 32<<20)
	garbage = nil
	before := readHeap()
	debug.FreeOSMemory()
	after := readHeap()
	if after.cycles <= before.cycles || after.live == 0 || after.objects < after.live/2 {
		t.Errorf("after a collection the heap is %+v, before %+v", after, before)
	}
	if held := after.objects + after.free; held >= before.objects+before.free {
		t.Errorf("the heap holds %d bytes after they were given back, and held %d", held, before.objects+before.free)
	}
	runtime.KeepAlive(garbage)
}
