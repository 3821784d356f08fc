package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"gw/edgeplugin"
	"gw/edgeplugin/pluginv1"
)

// instance is one running process of a plugin.
type instance struct {
	conn     *goplugin.Client
	runner   *groupRunner
	client   pluginv1.PluginClient
	manifest *pluginv1.ManifestResponse
	server   *hostServer

	missed   atomic.Int32  // calls in a row that missed their deadline
	hung     chan struct{} // closed when they are too many
	hangOnce sync.Once
}

func (i *instance) exited() <-chan struct{} { return i.runner.exited }
func (i *instance) pid() int                { return i.runner.cmd.Process.Pid }
func (i *instance) hang()                   { i.hangOnce.Do(func() { close(i.hung) }) }

// kill ends the process and everything in its group, if there is one, and releases what gw holds for it.
func (i *instance) kill() {
	i.runner.killGroup()
	i.conn.Kill()
}

// shutdown lets the process finish within d, then kills it.
func (i *instance) shutdown(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	_, _ = i.client.Shutdown(ctx, &pluginv1.ShutdownRequest{}) // it ends either way
	i.kill()
}

// launch starts the process and initializes the plugin. The error is resource.Errors or a *StartError.
func (p *process) launch() (inst *instance, err error) {
	p.output.forget()
	if err := checkFile(p.plugin.Path, p.plugin.SHA256); err != nil {
		return nil, &StartError{p.plugin.Name, err}
	}
	sockets, err := p.host.socketDir()
	if err != nil {
		return nil, &StartError{p.plugin.Name, err}
	}
	inst = &instance{hung: make(chan struct{})}
	if inst.runner, err = newGroupRunner(&p.plugin); err != nil {
		return nil, &StartError{p.plugin.Name, err}
	}
	inst.conn = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{ProtocolVersion: edgeplugin.ProtocolVersion, MagicCookieKey: edgeplugin.MagicCookieKey, MagicCookieValue: edgeplugin.MagicCookieValue},
		VersionedPlugins: map[int]goplugin.PluginSet{edgeplugin.ProtocolVersion: {edgeplugin.PluginName: &grpcPlugin{}}},
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, _ string) (runner.Runner, error) {
			inst.runner.cmd.Env = append(inst.runner.cmd.Env, spec.Env...)
			return inst.runner, nil
		},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: sockets},
		StartTimeout:     2 * p.host.pace.Start, // the context below ends before
		Logger:           hclog.NewNullLogger(),
		Stderr:           p.output.stream("stderr"),
		SyncStdout:       p.output.stream("stdout"),
		SyncStderr:       p.output.stream("stderr"),
		GRPCDialOptions:  []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))},
	})
	ctx, cancel := context.WithTimeout(p.ctx, p.host.pace.Start)
	defer cancel()
	stop := context.AfterFunc(ctx, inst.runner.killGroup) // unblocks what go-plugin waits for without a context
	defer stop()
	if err := p.initialize(ctx, inst); err != nil {
		inst.kill()
		if isInvalid(err) {
			return nil, err
		}
		return nil, &StartError{p.plugin.Name, err}
	}
	return inst, nil
}

// initialize connects to the process, asks what it is, checks the resource against that, and initializes it.
func (p *process) initialize(ctx context.Context, inst *instance) error {
	protocol, err := inst.conn.Client()
	if err != nil {
		return startFailure(ctx, err, inst)
	}
	raw, err := protocol.Dispense(edgeplugin.PluginName)
	if err != nil {
		return err
	}
	d := raw.(*dispensed)
	inst.client = pluginv1.NewPluginClient(d.conn)
	if inst.manifest, err = inst.client.Manifest(ctx, &pluginv1.ManifestRequest{}); err != nil {
		return said("tell what it is", err)
	}
	if errs := p.plugin.checkHooks(inst.manifest); len(errs) > 0 {
		return errs
	}
	schema, err := inst.client.ConfigSchema(ctx, &pluginv1.ConfigSchemaRequest{})
	if err != nil {
		return said("describe its config", err)
	}
	if err := checkConfig(&p.plugin, schema.JsonSchema); err != nil {
		return err
	}
	inst.server = newHostServer(p)
	id := d.broker.NextId()
	go d.broker.AcceptAndServe(id, func(o []grpc.ServerOption) *grpc.Server { // ends with the client
		s := grpc.NewServer(append(o, grpc.MaxRecvMsgSize(maxHostMessage), grpc.MaxConcurrentStreams(maxHostCalls))...)
		pluginv1.RegisterHostServer(s, inst.server)
		return s
	})
	_, err = inst.client.Initialize(ctx, &pluginv1.InitializeRequest{Config: p.plugin.Config, PluginId: p.plugin.ID, PluginName: p.plugin.Name,
		HostBrokerId: id, Side: p.host.c.Side})
	if err != nil {
		return said("initialize", err)
	}
	return nil
}

// startFailure says why a process did not get as far as speaking.
func startFailure(ctx context.Context, err error, inst *instance) error {
	if ctx.Err() != nil {
		return errors.New("it did not say in time that it is a plugin of gw")
	}
	if !inst.runner.started.Load() {
		return err
	}
	t := time.NewTimer(500 * time.Millisecond) // a process that ends closes its output a little earlier
	defer t.Stop()
	select {
	case <-inst.runner.exited:
		if !inst.runner.cut() {
			return fmt.Errorf("its process ended before it answered: %s", inst.runner.outcome())
		}
	case <-t.C:
	}
	return err
}

func said(what string, err error) error {
	return fmt.Errorf("the plugin could not %s: %s", what, clip(status.Convert(err).Message(), 1024))
}

// dispensed is a connection to a plugin's process.
type dispensed struct {
	conn   *grpc.ClientConn
	broker *goplugin.GRPCBroker
}

// grpcPlugin gets the connection out of go-plugin.
type grpcPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
}

// GRPCServer is the plugin's side.
func (*grpcPlugin) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error {
	return errors.New("gw serves no plugin")
}

// GRPCClient returns a *dispensed.
func (*grpcPlugin) GRPCClient(_ context.Context, broker *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return &dispensed{conn, broker}, nil
}
