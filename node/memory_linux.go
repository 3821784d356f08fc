package node

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dropText lets go of the pages of the program's file that are mapped. Starting up touches most of them, by registering
// every message, flag and template; those that are needed again come back from the system's cache. What can't be read of
// the mappings stays as it is.
func dropText() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	for _, m := range cleanMappings(bufio.NewScanner(f), program) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED) // a refusal changes nothing
	}
}

// mapping is a range of addresses.
type mapping struct{ from, to uintptr }

// cleanMappings returns the read-only mappings of a program's file of which no page was changed since, as relocation does:
// those can be read from the file again. lines are those of /proc/PID/smaps.
func cleanMappings(lines *bufio.Scanner, program string) (clean []mapping) {
	var last mapping
	var ours bool
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 5 && len(fields[1]) == 4 && strings.Contains(fields[0], "-") { // FROM-TO PERMS OFFSET DEVICE INODE [PATH]
			from, to, _ := strings.Cut(fields[0], "-")
			a, errA := strconv.ParseUint(from, 16, 64)
			b, errB := strconv.ParseUint(to, 16, 64)
			last = mapping{uintptr(a), uintptr(b)}
			ours = errA == nil && errB == nil && a < b && len(fields) == 6 && fields[5] == program && fields[1][0] == 'r' && fields[1][1] == '-'
			continue
		}
		if ours && len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0" {
			clean = append(clean, last)
		}
	}
	return clean
}
