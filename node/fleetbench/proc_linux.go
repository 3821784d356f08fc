package fleetbench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of CPU times in /proc: USER_HZ, which is 100 on every Linux that Go runs on.
const clockTick = time.Second / 100

// usageOf reads what a process has used from /proc.
func usageOf(pid int) (u usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// Fields are counted from behind the command's name, which may hold anything: the first there is the state.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 22 {
		return u, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	number := func(i int) int64 {
		n, parseErr := strconv.ParseInt(string(fields[i]), 10, 64)
		if parseErr != nil && err == nil {
			err = fmt.Errorf("/proc/%d/stat: %w", pid, parseErr)
		}
		return n
	}
	u.cpu = time.Duration(number(11)+number(12)) * clockTick // utime and stime
	u.rss = float64(number(21) * int64(os.Getpagesize()))
	return u, err
}

// totalMemory returns the machine's in bytes; 0 if it isn't known.
func totalMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// childAttributes make a hub end with this process, however that ends.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// yield has this process come after hubs for the processors, as far as they share them: in the field edges have their
// own, and what they do must not be taken for what hubs need. A hub that is started later has to be raised again, which
// only root may; one that can't be takes its turn with the edges.
func yield() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks { // later threads have what the one has that makes them
		if id, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, id, edgeNice) // a thread may have ended
		}
	}
}

// raise gives a child the priority that yield has taken from this process.
func raise(pid int) { _ = unix.Setpriority(unix.PRIO_PROCESS, pid, 0) }

// edgeNice is about a third of a hub's share: enough for ten thousand edges to read what they are told in time.
const edgeNice = 5

// wireBytes returns how many bytes this process's open TCP connections to some ports have carried, both ways, as the
// kernel counts them, and how many connections that are. ok is false where it can't be told.
func wireBytes(ports map[int]bool) (sum float64, connections int, ok bool) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, 0, false
	}
	for _, e := range entries {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || !strings.HasPrefix(link, "socket:") {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// The descriptor may be closed or another's by now; then it is left out, or counted as what it is.
		if peer, err := unix.Getpeername(fd); err != nil || !ports[portOf(peer)] {
			continue
		}
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil || info.State != tcpEstablished {
			continue
		}
		sum += float64(info.Bytes_received + info.Bytes_acked)
		connections++
	}
	return sum, connections, true
}

// tcpEstablished is the state of an open connection in TCP_INFO.
const tcpEstablished = 1

func portOf(a unix.Sockaddr) int {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return a.Port
	case *unix.SockaddrInet6:
		return a.Port
	}
	return 0
}
