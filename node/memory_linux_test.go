package node

import (
	"bufio"
	"slices"
	"strings"
	"testing"
)

func TestOnlyUnchangedPagesOfTheProgramAreLetGo(t *testing.T) {
	const smaps = `00400000-00f18000 r-xp 00000000 fe:00 42   /usr/bin/gw
Rss:                9000 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00f18000-01e10000 r--p 00b18000 fe:00 42   /usr/bin/gw
Anonymous:             4 kB
01e10000-01f00000 rw-p 01a10000 fe:00 42   /usr/bin/gw
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 fe:00 43   /usr/lib/other.so
Anonymous:             0 kB
7f0000002000-7f0000003000 r--p 00000000 00:00 0
Anonymous:             0 kB
zz-01 r--p 00000000 fe:00 42   /usr/bin/gw
Anonymous:             0 kB
02000000-02001000 r--p 01c00000 fe:00 42   /usr/bin/gw
Anonymous:             0 kB
`
	got := cleanMappings(bufio.NewScanner(strings.NewReader(smaps)), "/usr/bin/gw")
	if want := []mapping{{0x400000, 0xf18000}, {0x2000000, 0x2001000}}; !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestTheProgramGoesOnWithoutItsPages(t *testing.T) {
	for range 3 {
		dropText()
		if got := strings.Repeat("ab", 3); got != "ababab" {
			t.Fatalf("got %q", got)
		}
	}
}
