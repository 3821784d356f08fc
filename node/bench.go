package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"gw/node/cli"
	"gw/node/fleetbench"
	"gw/node/gateway/gatewaybench"
	"gw/node/uplink"
	"gw/raftstore/raftbench"
	"gw/rpc/gwv1"
)

// bench is "gw bench": each claim of speed beside its reference, in one run.
type bench struct {
	Proxy   benchProxy   `cmd:"" help:"CPU per governed request, as a ratio to a tuned bare reverse proxy."`
	Raft    benchRaft    `cmd:"" help:"Committed writes as a ratio to bare hashicorp/raft, failover, and what a large state costs."`
	Fleet   benchFleet   `cmd:"" help:"What a fleet of simulated edges asks of the hubs, and how fast pushes and revocations reach it."`
	Plugins benchPlugins `cmd:"" help:"What plugins cost: a hook, requests that are shown to them, payloads onto the disk and to the hub."`
}

type benchProxy struct {
	Rounds      int `default:"7" help:"Turns of each proxy; their medians are compared."`
	Requests    int `default:"20000" help:"Requests a proxy serves in one turn."`
	Connections int `default:"16" help:"Callers at a time, each on a connection it keeps."`
	Body        int `default:"1024" help:"Bytes of a request's and of an answer's body."`
}

type benchRaft struct {
	Dir       string        `placeholder:"DIR" help:"Where the hubs' directories are made, on the disk to be measured. Default: the system's for temporary files."`
	Rounds    int           `default:"5" help:"Turns of each contender; their medians are compared."`
	Turn      time.Duration `default:"2s" help:"How long a turn lasts."`
	Kills     int           `default:"20" help:"How often the leader is stopped without a word; --kills=-1 for never."`
	Tokens    int           `default:"100000" help:"Tokens in the large state; --tokens=-1 leaves it out."`
	Resources int           `default:"10000" help:"Resources in the large state."`
}

// Examples are shown by "gw bench raft --help".
func (*benchRaft) Examples() string {
	return `
gw bench raft
gw bench raft --kills=-1 --tokens=-1 --rounds 3`
}

// Run measures and prints tables.
func (c *benchRaft) Run(ctx context.Context, std *cli.Context) error {
	return raftbench.Run(ctx, raftbench.Config{
		Dir: c.Dir, Rounds: c.Rounds, Turn: c.Turn, Kills: c.Kills, Tokens: c.Tokens, Resources: c.Resources,
	}, std.Stdout)
}

// Examples are shown by "gw bench proxy --help".
func (*benchProxy) Examples() string {
	return `
gw bench proxy
gw bench proxy --rounds 3 --requests 5000`
}

// Run measures and prints a table.
func (c *benchProxy) Run(ctx context.Context, std *cli.Context) error {
	return gatewaybench.Run(ctx, gatewaybench.Config{
		Rounds: c.Rounds, Requests: c.Requests, Connections: c.Connections, Body: c.Body,
	}, std.Stdout)
}

type benchFleet struct {
	cli.Connection
	Existing bool     `help:"Measure the cluster that --hub or the login names, in a namespace of its own there, instead of hubs started for this run."`
	EdgeHub  []string `placeholder:"URL" help:"With --existing: where edges reach its hubs, https://HOST:PORT. Default: where it says."`

	Edges       int           `default:"1000" help:"Simulated edges, each with a certificate and a connection of its own."`
	AtOnce      int           `default:"64" help:"Edges that enrol at a time."`
	Resources   int           `default:"100" help:"Resources in the edges' release."`
	Scenario    []string      `enum:"enrol,steady,push,revoke,restart" default:"enrol,steady,push,revoke,restart" help:"What to measure: enrol, steady (idle: CPU per heartbeat, memory per edge), push, revoke, restart (kill -9 of the leader, and the storm of reconnects after it)."`
	Steady      time.Duration `default:"30s" help:"How long steady heartbeats are watched."`
	Pushes      int           `default:"5" help:"Pushes of one changed resource each."`
	Revocations int           `default:"10" help:"Tokens revoked."`
	Restarts    int           `default:"1" help:"Leaders killed."`
	Patience    time.Duration `default:"2m" help:"How long anything may take to reach all edges."`
	Timeout     time.Duration `default:"30m" help:"How long all of it may take."`

	Hubs              int           `default:"1" help:"Hubs started for this run, 1 or 3."`
	ElectionTimeout   time.Duration `default:"1s" help:"Of those hubs, as of gw hub."`
	HeartbeatInterval time.Duration `default:"30s" help:"Of those hubs, as of gw hub."`
	AdmitStreams      float64       `default:"500" placeholder:"N" help:"Of those hubs, as of gw hub. Edges that share a machine with them need less."`
	Output            string        `short:"o" enum:"table,json" default:"table" placeholder:"FORMAT" help:"table for people, json for programs."`
}

// Examples are shown by "gw bench fleet --help".
func (*benchFleet) Examples() string {
	return `
gw bench fleet
gw bench fleet --edges 10000 --hubs 3 --election-timeout 3s --admit-streams 100 --patience 8m -o json
gw bench fleet --edges 1000 --hubs 3 --scenario restart --restarts 3
gw bench fleet --edges 100 --resources 10000 --scenario push
gw bench fleet --edges 200 --scenario push,revoke --pushes 20
gw bench fleet --existing --hub https://hub-1.example:7070 --edges 500`
}

// Run measures and prints a table.
func (c *benchFleet) Run(ctx context.Context, std *cli.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	config := fleetbench.Config{
		NewEdge: newBenchEdge,
		Edges:   c.Edges, AtOnce: c.AtOnce, Resources: c.Resources, Scenarios: c.Scenario, SteadyFor: c.Steady,
		Pushes: c.Pushes, Revocations: c.Revocations, Restarts: c.Restarts, Patience: c.Patience,
		JSON:     c.Output == "json",
		Progress: func(line string) { fmt.Fprintln(std.Stderr, line) },
	}
	if c.Existing {
		admin, client, err := c.HTTPClient(std)
		if err != nil {
			return err
		}
		config.Existing = &fleetbench.Existing{Admin: admin, Client: client, Hubs: c.EdgeHub}
		return fleetbench.Run(ctx, config, std.Stdout)
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	config.Hubs, config.Program = c.Hubs, program
	config.HubFlags = []string{"--election-timeout", c.ElectionTimeout.String(), "--heartbeat-interval", c.HeartbeatInterval.String(),
		"--admit-streams", strconv.FormatFloat(c.AdmitStreams, 'f', -1, 64)}
	return fleetbench.Run(ctx, config, std.Stdout)
}

// benchEdge is the edge's side of the conversation as every edge has it, without a gateway.
type benchEdge struct {
	uplink *uplink.Uplink
	tokens *uplink.Tokens[struct{}]
}

func newBenchEdge(c fleetbench.EdgeConfig) (fleetbench.Edge, error) {
	quiet := slog.New(slog.DiscardHandler)
	tokens := uplink.NewTokens(uplink.TokensConfig{
		Logger: quiet,
		OnRevoke: func(r uplink.Revocation) {
			for hash := range r.Tokens {
				c.Revoked(hash)
			}
		},
	}, func(*gwv1.ValidateTokenResponse) struct{} { return struct{}{} })
	u, err := uplink.New(uplink.Config{
		EdgeID: c.ID, Hubs: c.Hubs, JoinToken: c.JoinToken, Store: c.Store, Tokens: tokens, Logger: quiet,
		Version: Version(), Build: Build(),
		Metadata: map[string]string{"simulated": "true"},
		Apply: func(_ context.Context, r uplink.Release) error {
			c.Apply(r.Target, r.Namespace, r.Blobs)
			return nil
		},
		Loaded: func() (l uplink.Loaded) {
			l.Epoch, l.Number, l.Checksum = c.Loaded()
			return l
		},
		Health: func() uplink.Health {
			c.Beat() // every heartbeat asks once
			return uplink.Health{State: gwv1.Health_HEALTH_OK}
		},
	})
	if err != nil {
		tokens.Close()
		return nil, err
	}
	return &benchEdge{u, tokens}, nil
}

// Run implements fleetbench.Edge.
func (e *benchEdge) Run(ctx context.Context) error {
	defer e.tokens.Close()
	return e.uplink.Run(ctx)
}

// Following implements fleetbench.Edge.
func (e *benchEdge) Following() (ok bool, why string) {
	s := e.uplink.Status()
	return s.Following, s.LastError
}
