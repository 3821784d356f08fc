package edgeplugin

import (
	"context"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"gw/edgeplugin/pluginv1"
)

// What gw and plugins agree on before they speak: a plugin started by hand says that it is one, and a process that is
// none is not taken for one.
const (
	ProtocolVersion  = 1
	MagicCookieKey   = "GW_PLUGIN"
	MagicCookieValue = "f7a4c1f0f1b14ed9a5ad5c0b7d1f63c2"
	// PluginName is what the one service of a plugin's process is called.
	PluginName = "plugin"
)

// maxMessage is the largest message gw sends: a body of 4 MiB or a payload, with what surrounds it.
const maxMessage = 8 << 20

// Serve serves p until gw ends the process. It is the whole of a plugin's main.
func Serve(p Plugin) {
	go endWithParent(os.Getppid())
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{ProtocolVersion: ProtocolVersion, MagicCookieKey: MagicCookieKey, MagicCookieValue: MagicCookieValue},
		VersionedPlugins: map[int]goplugin.PluginSet{ProtocolVersion: {PluginName: &grpcPlugin{plugin: p}}},
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, grpc.MaxRecvMsgSize(maxMessage))...)
		},
		// What keeps the plugin from serving at all is said in gw's log.
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr}),
	})
}

// endWithParent ends the process when gw is gone without having been able to: nobody would ever end it otherwise.
func endWithParent(parent int) {
	for range time.Tick(time.Second) {
		if os.Getppid() != parent {
			os.Exit(1)
		}
	}
}

// grpcPlugin brings a plugin into go-plugin's server.
type grpcPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
	plugin Plugin
}

// GRPCServer registers the plugin.
func (g *grpcPlugin) GRPCServer(broker *goplugin.GRPCBroker, s *grpc.Server) error {
	pluginv1.RegisterPluginServer(s, newServer(g.plugin, true, func(id uint32) (grpc.ClientConnInterface, error) {
		return broker.DialWithOptions(id, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	}))
	return nil
}

// GRPCClient is gw's side, which gw has itself.
func (g *grpcPlugin) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, grpc.ErrServerStopped
}

// NewServer returns p as the service gw calls, for programs that stand in for gw, such as tests. dial connects to the Host
// service under the number that gw gave at Initialize.
func NewServer(p Plugin, dial func(brokerID uint32) (grpc.ClientConnInterface, error)) pluginv1.PluginServer {
	return newServer(p, false, dial)
}
