package rpc

import "gw/rpc/gwv1/gwv1connect"

// ClusterServer shows the hubs and changes which there are.
type ClusterServer struct {
	*core
	gwv1connect.UnimplementedClusterServiceHandler
}
