package raftstore

import (
	"context"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// Stream carries Raft between hubs. Whoever it accepts, and whoever answers at an address it dials, must be a hub of
// this cluster: Raft itself believes everybody.
type Stream interface {
	net.Listener
	// DialHub connects to the hub at an address, host:port, until ctx ends.
	DialHub(ctx context.Context, address string) (net.Conn, error)
}

// streamLayer is a Stream in the form Raft wants.
type streamLayer struct {
	Stream
	address string // "": the listener's own
	hangups chan<- struct{}
}

var _ raft.StreamLayer = streamLayer{}

// Accept implements net.Listener.
func (l streamLayer) Accept() (net.Conn, error) {
	c, err := l.Stream.Accept()
	if err != nil {
		return nil, err
	}
	return inbound{c, l.hangups}, nil
}

// Dial implements raft.StreamLayer.
func (l streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return l.DialHub(ctx, string(address))
}

// Addr implements net.Listener: it is where others reach this hub, which is not always where it listens.
func (l streamLayer) Addr() net.Addr {
	if l.address == "" {
		return l.Stream.Addr()
	}
	return advertised(l.address)
}

// advertised is a host:port as a net.Addr.
type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }
