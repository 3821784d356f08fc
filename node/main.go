// Package node turns a configuration into one running hub, edge or development process, and stops it in reverse order.
package node

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"gw/node/cli"
	"gw/node/pluginhost/hookbench"
)

// grammar is the whole command line.
type grammar struct {
	Dev   DevConfig  `cmd:"" group:"run" help:"Run a hub, an edge and a sample upstream in one process, to try gw with."`
	Hub   HubConfig  `cmd:"" group:"run" help:"Run a hub: the control plane."`
	Edge  EdgeConfig `cmd:"" group:"run" help:"Run an edge: the gateway."`
	Bench bench      `cmd:"" group:"run" help:"Measure what this machine can do."`

	cli.Commands
}

// Main runs the command that args name until it ends or the process is told to stop, and returns the exit code: 0, 1
// for failed, 2 for wrong usage, 3 for waited in vain.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return run(args, stdin, stdout, stderr, time.Now)
}

// run is Main with a clock.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer, now func() time.Time) int {
	if hookbench.ServeIfStarted() {
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the process at once
	}()
	g := grammar{Hub: HubConfig{Now: now}, Edge: EdgeConfig{Now: now}, Dev: DevConfig{Now: now}}
	return cli.Main(ctx, &g, args, &cli.Context{
		Stdin: stdin, Stdout: stdout, Stderr: stderr, Now: now, Version: Version(),
		Recover: recoverHub, VerifyBackup: verifyBackup,
	})
}
