package node

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"gw/rpc/gwv1"
)

// vitals is what heartbeats say of what the edge does.
func (e *edge) vitals() *gwv1.Vitals {
	g := e.gateway.Vitals()
	v := &gwv1.Vitals{
		UptimeMs:      uint64(time.Since(e.began).Milliseconds()),
		RequestsTotal: g.Requests, ErrorsTotal: g.Errors, RefusedTotal: g.Refused,
		ActiveConnections: uint32(max(0, e.connections.Load())), ActiveRequests: uint32(max(0, g.ActiveRequests)), ActiveStreams: uint32(g.ActiveStreams),
		CpuSecondsTotal: cpuSeconds(), Cpus: uint32(runtime.GOMAXPROCS(0)), RssBytes: residentBytes(), Goroutines: uint32(runtime.NumGoroutine()),
	}
	used := 0
	for i, n := range g.Latency {
		if n > 0 {
			used = i + 1
		}
	}
	v.Latency = g.Latency[:used]
	if free, total, err := diskSpace(e.config.DataDir); err == nil {
		v.DiskFreeBytes, v.DiskTotalBytes = free, total
	}
	payloads, size, _ := e.spool.Totals()
	v.PayloadsPending, v.PayloadBytesPending, v.SpoolLost = uint64(payloads), uint64(size), e.spool.Loss().Payloads
	return v
}

// countConnections keeps the count of a server's open connections.
func countConnections(s *server, n *atomic.Int64) {
	if s == nil {
		return
	}
	s.http.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			n.Add(1)
		case http.StateHijacked, http.StateClosed:
			n.Add(-1)
		}
	}
}

// cpuSeconds is the process's CPU time, user and system.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// residentBytes is the process's resident memory; 0 where the system doesn't tell.
func residentBytes() uint64 {
	statm, err := os.ReadFile("/proc/self/statm") // pages: size, resident, …
	if err != nil {
		return 0
	}
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// diskSpace is what is free to this process, and all there is, where a directory is.
func diskSpace(dir string) (free, total uint64, err error) {
	var f syscall.Statfs_t
	if err := syscall.Statfs(dir, &f); err != nil {
		return 0, 0, fmt.Errorf("measure the disk of %s: %w", dir, err)
	}
	return f.Bavail * uint64(f.Bsize), f.Blocks * uint64(f.Bsize), nil
}

// lowDisk is how much room an edge wants where its data is.
const lowDisk = 256 << 20

// ailments are what is wrong that the edge goes on serving with.
func (e *edge) ailments() (reasons []string) {
	if free, _, err := e.space(e.config.DataDir); err == nil && free < lowDisk {
		reasons = append(reasons, fmt.Sprintf("%d MiB are free where its data is: make room, or it can't keep what it is told", free>>20))
	}
	for _, f := range e.gateway.FailingUpstreams() {
		reasons = append(reasons, fmt.Sprintf("%s: its upstream failed in %d of %d requests in %s", f.Target, f.Failed, f.Requests, f.Over.Round(time.Second)))
	}
	return append(reasons, e.spoolAilments()...)
}
