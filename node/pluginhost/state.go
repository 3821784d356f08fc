package pluginhost

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"gw/edgeplugin/pluginv1"
	"gw/rpc/latency"
)

// State is how one plugin is.
type State struct {
	ID    uint32
	Name  string
	Phase Phase
	// Since is when the phase began.
	Since time.Time
	// PID is the process's; 0: none runs.
	PID int
	// Version is what the plugin said of itself; Hooks are what it is called at; Accepts: it takes payloads.
	Version string
	Hooks   []pluginv1.Hook
	Accepts bool
	// Restarts counts them since gw or the plugin was changed; LastError is why the last one was needed.
	Restarts  uint64
	LastError string
	// Problem is what the plugin itself says is wrong with it; "": nothing.
	Problem string
	// Calls counts those that were made, Failures those that failed or could not be made at all, and P50 and P99 are how
	// long calls took; 0: none was made.
	Calls, Failures uint64
	P50, P99        time.Duration
}

// Reason says why the plugin is in no better state, "" if it is well.
func (s State) Reason() string {
	if s.Phase == Running {
		return s.Problem
	}
	return s.LastError
}

// Sentence says in words what is wrong with a plugin, "" if nothing is.
func (s State) Sentence() string {
	switch {
	case s.Phase == Running && s.Problem != "":
		return fmt.Sprintf("plugin %s says: %s", s.Name, s.Problem)
	case s.Phase == Running || s.Phase == Starting && s.LastError == "":
		return ""
	case s.LastError == "":
		return fmt.Sprintf("plugin %s is %s", s.Name, s.Phase)
	}
	return fmt.Sprintf("plugin %s is %s (restart %d): %s", s.Name, s.Phase, s.Restarts, s.LastError)
}

// States returns how the plugins of the current set are, by ID.
func (h *Host) States() []State {
	s := h.set()
	if s == nil {
		return nil
	}
	states := make([]State, len(s.procs))
	for i, p := range s.procs {
		states[i] = p.state()
	}
	slices.SortFunc(states, func(a, b State) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Name, b.Name)) })
	return states
}

func (p *process) state() State {
	var counts [latency.Buckets]uint64
	for i := range counts {
		counts[i] = p.took[i].Load()
	}
	p50, _ := latency.Quantile(counts[:], 0.5)
	p99, _ := latency.Quantile(counts[:], 0.99)
	p.mu.Lock()
	defer p.mu.Unlock()
	s := State{
		ID: p.plugin.ID, Name: p.plugin.Name, Phase: p.phase, Since: p.since, Hooks: p.plugin.Hooks, Restarts: p.restarts, LastError: p.lastError,
		Problem: p.problem, Calls: p.calls.Load(), Failures: p.failures.Load(), P50: p50, P99: p99,
	}
	if p.manifest != nil {
		s.Version, s.Accepts = p.manifest.Version, p.manifest.AcceptsEdgePayloads
	}
	if inst := p.instance.Load(); inst != nil {
		s.PID = inst.pid()
	}
	return s
}
