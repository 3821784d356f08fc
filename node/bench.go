package node

import (
	"context"

	"gw/node/cli"
	"gw/node/gateway/gatewaybench"
)

// bench is "gw bench": each claim of speed beside its reference, in one run.
type bench struct {
	Proxy benchProxy `cmd:"" help:"CPU per governed request, as a ratio to a tuned bare reverse proxy."`
}

type benchProxy struct {
	Rounds      int `default:"7" help:"Turns of each proxy; their medians are compared."`
	Requests    int `default:"20000" help:"Requests a proxy serves in one turn."`
	Connections int `default:"16" help:"Callers at a time, each on a connection it keeps."`
	Body        int `default:"1024" help:"Bytes of a request's and of an answer's body."`
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
