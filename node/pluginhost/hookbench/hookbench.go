// Package hookbench owns the measurement of a plugin's hook, beside a bare exchange with another process.
package hookbench

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"text/tabwriter"
	"time"

	"gw/edgeplugin/pluginv1"
	"gw/node/pluginhost"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Config says how much to measure. The zero value measures for some seconds.
type Config struct {
	// Calls is how often the hook is called for each size of a body. 0: 5,000.
	Calls int
	// Bodies are the sizes of the bodies shown, in bytes, each at most 1 MiB. Nil: none, 1 KiB and 100 KiB.
	Bodies []int
}

// Run measures how long one call of a hook takes, there and back, one at a time, and prints a table to w. The plugin is
// this program, whose main must call ServeIfStarted. It sets RoleVariable for this process, and ends early with ctx's error.
func Run(ctx context.Context, c Config, w io.Writer) error {
	c.Calls = cmp.Or(c.Calls, 5000)
	if c.Bodies == nil {
		c.Bodies = []int{0, 1 << 10, 100 << 10}
	}
	if err := run(ctx, c, w); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

func run(ctx context.Context, c Config, w io.Writer) (err error) {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	reference, err := startReference(ctx, program)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reference.stop()) }()
	host, set, err := startPlugin(ctx, program)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()

	fmt.Fprintf(w, "One call of a hook, against the same bytes through pipes to a process and 4 bytes back; %d calls each, in turns\n\n", c.Calls)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "body\thook p50\thook p99\tpipes p50\tpipes p99\tratio of p50")
	for _, size := range c.Bodies {
		body := make([]byte, size)
		hook := func() error {
			_, err := set.Request(ctx, 0, pluginv1.Hook_HOOK_PRE_AUTH, request(body))
			return err
		}
		took, base, err := alternate(ctx, c.Calls, hook, func() error { return reference.exchange(body) })
		if err != nil {
			return err
		}
		p50, base50 := quantile(took, 0.5), quantile(base, 0.5)
		fmt.Fprintf(t, "%d B\t%.0f µs\t%.0f µs\t%.0f µs\t%.0f µs\t%.1f\n",
			size, micros(p50), micros(quantile(took, 0.99)), micros(base50), micros(quantile(base, 0.99)), float64(p50)/float64(base50))
	}
	fmt.Fprintln(t)
	return t.Flush()
}

func request(body []byte) *pluginv1.Request {
	return &pluginv1.Request{
		Method: "POST", Path: "/v1/chat/completions", Target: "LLM/openai", Body: body,
		Headers: []*pluginv1.Header{{Name: "Content-Type", Values: []string{"application/json"}}},
	}
}

// startPlugin has a host run this program as its one plugin.
func startPlugin(ctx context.Context, program string) (*pluginhost.Host, *pluginhost.Set, error) {
	if err := os.Setenv(RoleVariable, PluginRole); err != nil {
		return nil, nil, err
	}
	host := pluginhost.New(pluginhost.Config{Side: pluginv1.Side_SIDE_EDGE, Logger: slog.New(slog.DiscardHandler)})
	set, err := host.Prepare(ctx, []pluginhost.Plugin{pluginhost.PluginOf("bench", resource.Digest{1}, &gwv1.PluginSpec{
		Id: 1, Hooks: []gwv1.Hook{gwv1.Hook_HOOK_PRE_AUTH}, Command: "file://" + program, Env: []string{RoleVariable},
	})})
	if err != nil {
		return nil, nil, errors.Join(err, host.Close())
	}
	host.Adopt(set)
	return host, set, nil
}

// alternate calls a and b n times each, a few at a time, after some calls that only warm up, and returns how long each
// took, sorted.
func alternate(ctx context.Context, n int, a, b func() error) (tookA, tookB []time.Duration, err error) {
	const few = 50
	for warm := true; len(tookA) < n; warm = false {
		for _, x := range []struct {
			call func() error
			took *[]time.Duration
		}{{a, &tookA}, {b, &tookB}} {
			for range few {
				began := time.Now()
				if err := errors.Join(x.call(), ctx.Err()); err != nil {
					return nil, nil, err
				}
				if !warm {
					*x.took = append(*x.took, time.Since(began))
				}
			}
		}
	}
	slices.Sort(tookA)
	slices.Sort(tookB)
	return tookA, tookB, nil
}

// reference is the process that only echoes.
type reference struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
	buf []byte
}

func startReference(ctx context.Context, program string) (*reference, error) {
	r := &reference{cmd: exec.CommandContext(ctx, program)}
	r.cmd.Env = append(os.Environ(), RoleVariable+"="+echoRole)
	var err error
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if r.out, err = r.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the reference: %w", err)
	}
	return r, nil
}

func (r *reference) exchange(body []byte) error {
	r.buf = append(binary.BigEndian.AppendUint32(r.buf[:0], uint32(len(body))), body...)
	if _, err := r.in.Write(r.buf); err != nil {
		return err
	}
	_, err := io.ReadFull(r.out, r.buf[:4])
	return err
}

func (r *reference) stop() error {
	r.in.Close() // it ends by that
	return r.cmd.Wait()
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
