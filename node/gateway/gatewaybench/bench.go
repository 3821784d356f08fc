// Package gatewaybench measures what a governed request costs on this machine, beside a bare reverse proxy.
package gatewaybench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"text/tabwriter"
	"time"

	"gw/rpc/identity"
)

// Config says how much to measure. The zero value measures for about half a minute.
type Config struct {
	// Rounds is how often each proxy takes its turn; the medians of the rounds are compared. 0: 7.
	Rounds int
	// Requests is how many requests a proxy serves in one turn. 0: 20,000.
	Requests int
	// Connections is how many callers send them, each one at a time over a connection it keeps. 0: 16.
	Connections int
	// Body is the size of requests' and answers' bodies in bytes. 0: 1,024.
	Body int
}

func (c Config) withDefaults() Config {
	set := func(n *int, def int) {
		if *n <= 0 {
			*n = def
		}
	}
	set(&c.Rounds, 7)
	set(&c.Requests, 20_000)
	set(&c.Connections, 16)
	set(&c.Body, 1024)
	return c
}

// roleVariable tells a process that Run started what it is.
const roleVariable = "GW_BENCH_ROLE"

// The proxies that take turns. The first is what the others are compared with.
var proxies = []struct{ role, what string }{
	{"bare", "tuned bare httputil.ReverseProxy"},
	{"gateway", "gw: token, metering, access log"},
}

// Row is what one proxy needed.
type Row struct {
	What string
	// CPU is the median, and Min and Max the extremes of the rounds, of the process's CPU time per request.
	CPU, Min, Max time.Duration
	// Ratio is the median's ratio to that of the first row.
	Ratio float64
}

// Run measures and prints the table to w. It starts this program again, with the same arguments, for every proxy and the
// upstream, so that each has a process of its own; in those, Run is what serves, and returns when its parent is done.
func Run(ctx context.Context, c Config, w io.Writer) error {
	if role := os.Getenv(roleVariable); role != "" {
		return serve(role, os.Stdin, os.Stdout)
	}
	rows, err := Measure(ctx, c)
	if err != nil {
		return err
	}
	c = c.withDefaults()
	fmt.Fprintf(w, "CPU time of the proxy's process per request: POST of %d bytes of JSON, %d connections, %d rounds of %d requests, interleaved\n\n",
		c.Body, c.Connections, c.Rounds, c.Requests)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "proxy\tmedian\tmin\tmax\tratio\t")
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%.1f µs\t%.1f µs\t%.1f µs\t%.2f\t\n", r.What, micros(r.CPU), micros(r.Min), micros(r.Max), r.Ratio)
	}
	return table.Flush()
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// Measure is Run without the printing.
func Measure(ctx context.Context, c Config) (rows []Row, err error) {
	c = c.withDefaults()
	token := identity.NewCredential(identity.AppTokenPrefix)
	upstream, err := startChild(ctx, "upstream", "", "", c.Body)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, upstream.stop()) }()
	var children []*child
	for _, p := range proxies {
		child, err := startChild(ctx, p.role, upstream.address, token, c.Body)
		if err != nil {
			return nil, err
		}
		defer child.stop()
		children = append(children, child)
	}
	samples := make([][]time.Duration, len(proxies))
	for round := -1; round < c.Rounds; round++ {
		for i, child := range children {
			cpu, err := turn(ctx, child, token, c)
			if err != nil {
				return nil, fmt.Errorf("load %s: %w", proxies[i].role, err)
			}
			if round >= 0 { // the first round only warms up
				samples[i] = append(samples[i], cpu)
			}
		}
	}
	for i, p := range proxies {
		slices.Sort(samples[i])
		r := Row{What: p.what, CPU: samples[i][len(samples[i])/2], Min: samples[i][0], Max: samples[i][len(samples[i])-1], Ratio: 1}
		if i > 0 {
			r.Ratio = float64(r.CPU) / float64(rows[0].CPU)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// turn sends one round of requests to a proxy and returns its CPU time per request.
func turn(ctx context.Context, child *child, token string, c Config) (time.Duration, error) {
	before, err := child.cpu()
	if err != nil {
		return 0, err
	}
	if err := load(ctx, child.address, token, c); err != nil {
		return 0, err
	}
	after, err := child.cpu()
	if err != nil {
		return 0, err
	}
	return (after - before) / time.Duration(c.Requests), nil
}

// child is a process that serves, spoken to over its standard streams: it says its address, then, per line it is sent,
// the CPU time it has used; it ends when its input does.
type child struct {
	address string
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
}

// hello is what a child is told first.
type hello struct {
	Upstream, Token string
	Body            int
}

func startChild(ctx context.Context, role, upstream, token string, body int) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, program, os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	c := &child{cmd: cmd, in: in, out: bufio.NewReader(out)}
	if err := json.NewEncoder(in).Encode(hello{upstream, token, body}); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", role, err), c.stop())
	}
	if err := c.read(&c.address); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", role, err), c.stop())
	}
	return c, nil
}

func (c *child) read(v any) error {
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, v)
}

func (c *child) cpu() (d time.Duration, err error) {
	if _, err = io.WriteString(c.in, "\n"); err == nil {
		err = c.read(&d)
	}
	return d, err
}

// stop ends the child and waits for it.
func (c *child) stop() error {
	c.in.Close()
	return c.cmd.Wait()
}
