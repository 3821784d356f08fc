package rpc

import "gw/rpc/gwv1/gwv1connect"

// HubServer is what hubs say to one another.
type HubServer struct {
	*core
	throttle *throttle
	gwv1connect.UnimplementedHubServiceHandler
}
