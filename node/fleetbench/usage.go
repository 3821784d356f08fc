package fleetbench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is what a process has used so far.
type usage struct {
	hub string
	cpu time.Duration
	rss float64 // bytes, now
}

// usage returns that of each hub that runs: from the kernel if they are this run's, else from the metrics of the one
// whose admin API is used.
func (b *bench) usage(ctx context.Context) ([]usage, error) {
	if b.hubs == nil {
		u, err := b.admin.usage(ctx)
		if err != nil {
			return nil, err
		}
		return []usage{u}, nil
	}
	var all []usage
	for _, k := range b.hubs.list {
		if !k.running() {
			continue
		}
		u, err := usageOf(k.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		u.hub = k.name
		all = append(all, u)
	}
	return all, nil
}

// usage reads a hub's /metrics.
func (a *admin) usage(ctx context.Context) (usage, error) {
	values, err := a.metrics(ctx)
	if err != nil {
		return usage{}, err
	}
	cpu, told := values["process_cpu_seconds_total"]
	rss, also := values["process_resident_memory_bytes"]
	if !told || !also {
		return usage{}, errors.New("the hub's metrics don't tell its CPU time and memory")
	}
	return usage{hub: a.base, cpu: time.Duration(cpu * float64(time.Second)), rss: rss}, nil
}

// metrics reads a hub's /metrics, by name and labels as they are written there.
func (a *admin) metrics(ctx context.Context) (map[string]float64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := a.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("read the hub's metrics: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read the hub's metrics: %s", answer.Status)
	}
	values := make(map[string]float64)
	lines := bufio.NewScanner(io.LimitReader(answer.Body, 16<<20))
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 {
			continue
		}
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			values[line[:at]] = v
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the hub's metrics: %w", err)
	}
	return values, nil
}

// spending begins to count CPU time. What it returns reports that of the hubs, and that of the edges, which would be other
// machines': on this one the two are in each other's way.
func (b *bench) spending(ctx context.Context) func(scenario, per string, n int) {
	before, hubsErr := b.usage(ctx)
	own, ownErr := usageOf(os.Getpid())
	return func(scenario, per string, n int) {
		after, err := b.usage(ctx)
		if hubsErr == nil && err == nil {
			b.report.value(scenario, "hubs' CPU "+per, unitMicros, float64(used(before, after).Microseconds())/float64(n))
		}
		now, err := usageOf(os.Getpid())
		if ownErr == nil && err == nil {
			b.report.value(scenario, "the simulated edges' CPU "+per, unitMicros, float64((now.cpu-own.cpu).Microseconds())/float64(n))
		}
	}
}

// used returns the CPU time of all hubs between two looks; hubs in only one of them don't count.
func used(before, after []usage) (cpu time.Duration) {
	for _, a := range after {
		for _, b := range before {
			if a.hub == b.hub && a.cpu >= b.cpu {
				cpu += a.cpu - b.cpu
			}
		}
	}
	return cpu
}

// grown returns by how many bytes the hub that grew most has grown: it is the one that edges are connected to.
func grown(before, after []usage) (bytes float64) {
	for _, a := range after {
		for _, b := range before {
			if a.hub == b.hub {
				bytes = max(bytes, a.rss-b.rss)
			}
		}
	}
	return bytes
}
