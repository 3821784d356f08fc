// Package fleetbench measures what a fleet of simulated edges asks of the hubs, so that people can size theirs.
//
// Every edge is the real client side of the conversation, made by Config.NewEdge: its own certificate, enrolled with a
// join token, and its own connection. Only what an edge keeps of a release is shared by all, and nothing is compiled.
package fleetbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
)

// Scenarios, in the order in which they run. Enrol always does.
const (
	Enrol   = "enrol"
	Steady  = "steady"
	Push    = "push"
	Revoke  = "revoke"
	Restart = "restart"
)

// Scenarios returns the names of all scenarios.
func Scenarios() []string { return []string{Enrol, Steady, Push, Revoke, Restart} }

// Config says what to measure. NewEdge is required.
type Config struct {
	// NewEdge makes the conversation of one edge.
	NewEdge func(EdgeConfig) (Edge, error)
	// Existing is a cluster to measure. nil: hubs are started for this run, and end with it.
	Existing *Existing

	// Edges is how many there are. 0: 1,000.
	Edges int
	// AtOnce is how many of them enrol at a time. 0: 64.
	AtOnce int
	// Resources is how many resources the edges' namespace has, each of about 200 bytes. 0: 100.
	Resources int
	// Scenarios are those to run beside Enrol. None: all.
	Scenarios []string
	// SteadyFor is how long steady heartbeats are watched. 0: 30 s.
	SteadyFor time.Duration
	// Pushes, Revocations and Restarts are how often each is done. 0: 5, 10, 1.
	Pushes, Revocations, Restarts int
	// Patience is how long anything may take to reach all edges. 0: 2 minutes.
	Patience time.Duration

	// Hubs is how many hubs are started: 1 or 3. 0: 1.
	Hubs int
	// Program is the gw binary that is run as "PROGRAM hub …". Needed without Existing.
	Program string
	// HubFlags are given to every hub that is started.
	HubFlags []string

	// JSON prints one JSON object instead of tables.
	JSON bool
	// Progress, if not nil, hears what is going on, a line at a time.
	Progress func(line string)
}

// Existing is a cluster that this run doesn't own: it keeps to a namespace of its own there, and clears up.
type Existing struct {
	// Admin is the URL of a hub's admin API; its /metrics tells what the hub uses.
	Admin string
	// Client calls it and is authorized: an admin's.
	Client *http.Client
	// Hubs are URLs edges dial. None: what the cluster tells.
	Hubs []string
}

func (c Config) withDefaults() Config {
	set := func(n *int, def int) {
		if *n <= 0 {
			*n = def
		}
	}
	set(&c.Edges, 1000)
	set(&c.AtOnce, 64)
	set(&c.Resources, 100)
	set(&c.Pushes, 5)
	set(&c.Revocations, 10)
	set(&c.Restarts, 1)
	set(&c.Hubs, 1)
	if c.SteadyFor <= 0 {
		c.SteadyFor = 30 * time.Second
	}
	if c.Patience <= 0 {
		c.Patience = 2 * time.Minute
	}
	if len(c.Scenarios) == 0 {
		c.Scenarios = Scenarios()
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	return c
}

func (c Config) check() error {
	for _, s := range c.Scenarios {
		if !slices.Contains(Scenarios(), s) {
			return fmt.Errorf("%q is no scenario: there are %v", s, Scenarios())
		}
	}
	switch {
	case c.NewEdge == nil:
		return errors.New("no way to make an edge is given")
	case c.Edges > 100_000 || c.Resources > 100_000:
		return fmt.Errorf("%d edges, %d resources: at most 100,000 of each", c.Edges, c.Resources)
	case c.Existing == nil && c.Hubs != 1 && c.Hubs != 3:
		return fmt.Errorf("%d hubs: 1 or 3", c.Hubs)
	case c.Existing == nil && c.Program == "":
		return errors.New("no program to start hubs with is given")
	}
	return nil
}

// Run measures and prints to w. What was measured before a failure is printed too.
func Run(ctx context.Context, c Config, w io.Writer) error {
	report, err := Measure(ctx, c)
	if report == nil {
		return err
	}
	if c.JSON {
		return errors.Join(err, report.writeJSON(w))
	}
	return errors.Join(err, report.write(w))
}

// Measure is Run without the printing. The report is nil only if nothing could be begun.
func Measure(ctx context.Context, c Config) (report *Report, err error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	defer collectLittle()()
	b := &bench{Config: c, report: &Report{
		Edges: c.Edges, Resources: c.Resources, OwnHubs: c.Existing == nil, Hubs: c.Hubs, Scenarios: c.Scenarios, Machine: machine(),
	}}
	if err := b.open(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	err = b.run(ctx)
	return b.report, errors.Join(err, b.close())
}

// collectLittle has the collector run only when it is called, or half of the machine's memory or an operator's GOMEMLIMIT
// is reached, until the function it returns is called. The edges' memory is no matter here; and while it looks through that of ten thousand, which takes many
// seconds when hubs are busy too, they read nothing of what hubs tell them, as no edge in the field would.
func collectLittle() (undo func()) {
	percent, limit := 300, int64(math.MaxInt64)
	if memory := totalMemory(); memory > 0 {
		percent, limit = -1, min(memory/2, debug.SetMemoryLimit(-1))
	}
	percent, limit = debug.SetGCPercent(percent), debug.SetMemoryLimit(limit)
	return func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}
}

// bench is one run.
type bench struct {
	Config
	report    *Report
	hubs      *hubs // nil: they exist
	admin     *admin
	namespace string
	hubURLs   []string // that edges dial
	ports     map[int]bool
	fleet     *fleet
	idle      []usage // of the hubs, before there were edges

	joinToken, joinTokenID string
}

// run runs the scenarios asked for.
func (b *bench) run(ctx context.Context) error {
	// A cluster of others can't have its leader killed.
	steps := []struct {
		name string
		run  func(context.Context) error
	}{{Enrol, b.enrol}, {Steady, b.steady}, {Push, b.push}, {Revoke, b.revoke}, {Restart, b.restart}}
	for _, s := range steps {
		if s.name != Enrol && !slices.Contains(b.Scenarios, s.name) {
			continue
		}
		if s.name == Restart && b.hubs == nil {
			b.report.note("restart: left out, since these hubs are not this run's to kill")
			continue
		}
		b.Progress(s.name)
		runtime.GC() // there is time now
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := b.fleet.fault(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// open gets hubs and a configuration for the edges.
func (b *bench) open(ctx context.Context) (err error) {
	if b.Existing != nil {
		b.admin = newAdmin(b.Existing.Client, b.Existing.Admin)
	} else if b.hubs, err = startHubs(ctx, b.Program, b.Hubs, b.HubFlags); err != nil {
		return err
	} else {
		b.admin = b.hubs.admin
		yield()
	}
	if err := b.setUp(ctx); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	if b.Existing != nil && len(b.Existing.Hubs) > 0 {
		b.hubURLs = b.Existing.Hubs
	}
	b.ports = make(map[int]bool)
	for _, raw := range b.hubURLs {
		if u, err := url.Parse(raw); err == nil {
			port, _ := strconv.Atoi(u.Port()) // without one, its bytes are not counted
			b.ports[port] = true
		}
	}
	b.idle, err = b.usage(ctx)
	if err != nil {
		b.report.note("the hubs' CPU and memory are not known: " + err.Error())
	}
	return nil
}

// close ends the edges, and then the hubs or what was saved at them.
func (b *bench) close() error {
	var errs []error
	if b.fleet != nil {
		errs = append(errs, b.fleet.stop())
	}
	if b.hubs != nil {
		return errors.Join(append(errs, b.hubs.stop())...)
	}
	if b.namespace != "" {
		ctx, cancel := context.WithTimeout(context.Background(), b.Patience)
		defer cancel()
		errs = append(errs, b.clearUp(ctx))
	}
	return errors.Join(errs...)
}
