package uplink

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gw/rpc/identity"
)

// virtualNet connects edges to hubs in memory, so that days of a conversation, with its TLS and HTTP/2, pass in a moment on
// a fake clock.
type virtualNet struct {
	mu    sync.Mutex
	hubs  map[string]*virtualListener // by address
	links []*virtualLink
	down  bool // nobody connects
}

type virtualListener struct {
	net      *virtualNet
	address  virtualAddress
	accepted chan net.Conn
	closed   chan struct{}
	close    func()
}

type virtualAddress string

func (virtualAddress) Network() string  { return "virtual" }
func (a virtualAddress) String() string { return string(a) }

func (l *virtualListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *virtualListener) Close() error   { l.close(); return nil }
func (l *virtualListener) Addr() net.Addr { return l.address }

// virtualLink is one end of a connection. A frozen one brings nothing any more, and nobody is told. What is written waits on
// the way until it is read, as in a kernel's buffer.
type virtualLink struct {
	net.Conn
	frozen *atomic.Bool // shared by both ends
	way    chan []byte
	closed chan struct{}
	close  func()
}

func newVirtualLink(c net.Conn, frozen *atomic.Bool) *virtualLink {
	l := &virtualLink{Conn: c, frozen: frozen, way: make(chan []byte, 256), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	go l.carry()
	return l
}

// carry brings what was written to the other end, also what was before the end was closed.
func (l *virtualLink) carry() {
	defer l.Conn.Close()
	for {
		select {
		case p := <-l.way:
			if _, err := l.Conn.Write(p); err != nil {
				return
			}
			continue
		default:
		}
		select {
		case p := <-l.way:
			if _, err := l.Conn.Write(p); err != nil {
				return
			}
		case <-l.closed:
			return
		}
	}
}

func (l *virtualLink) Write(p []byte) (int, error) {
	if l.frozen.Load() {
		return len(p), nil
	}
	select {
	case l.way <- bytes.Clone(p):
		return len(p), nil
	case <-l.closed:
		return 0, net.ErrClosed
	}
}

// Close lets what is on the way arrive, if it is read within a second.
func (l *virtualLink) Close() error {
	l.Conn.SetWriteDeadline(time.Now().Add(time.Second))
	l.close()
	return nil
}

func (n *virtualNet) listen(address string) *virtualListener {
	l := &virtualListener{net: n, address: virtualAddress(address), accepted: make(chan net.Conn), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hubs[address] = l
	return l
}

func (n *virtualNet) connect(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	l, down := n.hubs[address], n.down
	n.mu.Unlock()
	if l == nil || down {
		return nil, errors.New("connection refused")
	}
	edge, hub := net.Pipe()
	frozen := new(atomic.Bool)
	links := []*virtualLink{newVirtualLink(edge, frozen), newVirtualLink(hub, frozen)}
	select {
	case l.accepted <- links[1]:
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links = append(n.links, links...)
	return links[0], nil
}

// freeze makes every connection there is one that brings nothing any more.
func (n *virtualNet) freeze() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		l.frozen.Store(true)
	}
	n.links = nil
}

// cut ends every connection, and none is made until it is mended.
func (n *virtualNet) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = true
	for _, l := range n.links {
		l.Close()
	}
	n.links = nil
}

func (n *virtualNet) mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = false
}

// virtually runs f with a hub that ticks every 5 s, in a bubble with a fake clock. Edges made by newVirtualEdge keep the
// pace of real ones.
func virtually(t *testing.T, f func(t *testing.T, n *virtualNet, h *fakeHub)) {
	if _, err := decoder(); err != nil { // shared by all bubbles, so it is made in none
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ca, err := identity.NewCA("cluster-1", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		n := &virtualNet{hubs: make(map[string]*virtualListener)}
		h := newFakeHubOn(t, ca, n.listen("hub-1:50051"))
		h.tickEvery = 5 * time.Second
		f(t, n, h)
	})
}

// newVirtualEdge is an edge of a hub that it reaches over n.
func newVirtualEdge(t *testing.T, n *virtualNet, h *fakeHub) *testEdge {
	e := newTestEdge(t, h)
	e.pace = defaultPace
	e.pace.connect = n.connect
	return e
}
