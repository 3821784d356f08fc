package raftstore

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// network connects hubs in memory. Bytes sent into a cut wait, as TCP sends them again, until the cut is healed or the
// connection reset.
type network struct {
	mu        sync.Mutex // guards everything below and in wires; never held across a wait
	rand      *rand.Rand
	listeners map[string]*listener
	cuts      map[[2]string]bool          // from, to
	refusals  map[[2]string]time.Duration // from, to: after how long
	wires     map[*wire]bool
	fastest   time.Duration
	slowest   time.Duration
	changed   chan struct{} // closed and replaced when cuts or listeners change
}

func newNetwork(r *rand.Rand) *network {
	return &network{
		rand: r, listeners: map[string]*listener{}, cuts: map[[2]string]bool{}, refusals: map[[2]string]time.Duration{}, wires: map[*wire]bool{},
		fastest: 100 * time.Microsecond, slowest: time.Millisecond, changed: make(chan struct{}),
	}
}

// cut stops what host from sends to host to. One way only.
func (n *network) cut(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[[2]string{from, to}] = true
	n.wake()
}

// refuse breaks the connections between two hosts and refuses new ones of from to to after a while, as a firewall may.
func (n *network) refuse(from, to string, after time.Duration) {
	n.reset(func(x, y string) bool { return x == from && y == to || x == to && y == from })
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refusals[[2]string{from, to}] = after
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
	clear(n.refusals)
	n.fastest, n.slowest = 100*time.Microsecond, time.Millisecond
	n.wake()
}

func (n *network) delay(fastest, slowest time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fastest, n.slowest = fastest, slowest
}

// wake tells everybody to look again. With mu held.
func (n *network) wake() {
	close(n.changed)
	n.changed = make(chan struct{})
	for w := range n.wires {
		w.in.wake()
		w.out.wake()
	}
}

// reset breaks every connection that which is true for.
func (n *network) reset(which func(a, b string) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for w := range n.wires {
		if which(w.in.to, w.in.from) || which(w.in.from, w.in.to) {
			w.in.broken, w.out.broken = true, true
			w.in.wake()
			w.out.wake()
			delete(n.wires, w)
		}
	}
}

// stream is one hub's access to the network.
type stream struct {
	*listener
	network *network
}

// listen opens an address.
func (n *network) listen(address string) *stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &listener{network: n, address: address, accepted: make(chan net.Conn, 64), closed: make(chan struct{})}
	n.listeners[address] = l
	return &stream{l, n}
}

type listener struct {
	network  *network
	address  string
	accepted chan net.Conn
	closed   chan struct{}
	ended    bool
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close also ends the connections of the address, as the end of its process would.
func (l *listener) Close() error {
	n := l.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.ended {
		return nil
	}
	l.ended = true
	close(l.closed)
	if n.listeners[l.address] != l { // another took its place
		return nil
	}
	delete(n.listeners, l.address)
	for w := range n.wires {
		if w.in.to == host(l.address) {
			w.close()
		}
	}
	n.wake()
	return nil
}

// host is the part of an address that cuts are about: a hub's name, wherever it has moved.
func host(address string) string {
	name, _, _ := strings.Cut(address, ".")
	return name
}

func (l *listener) Addr() net.Addr { return address(l.address) }

type address string

func (address) Network() string  { return "virtual" }
func (a address) String() string { return string(a) }

// Dial implements raft.StreamLayer.
func (s *stream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.DialHub(ctx, string(to))
}

// DialHub connects to another hub; it waits while a cut is in the way.
func (s *stream) DialHub(ctx context.Context, to string) (net.Conn, error) {
	n := s.network
	for {
		select {
		case <-s.closed:
			return nil, net.ErrClosed
		default:
		}
		c, changed, err := n.connect(s.address, to)
		if err != nil || c != nil {
			return c, err
		}
		select {
		case <-changed:
		case <-s.closed:
			return nil, net.ErrClosed
		case <-ctx.Done():
			return nil, fmt.Errorf("dial %s: %w", to, os.ErrDeadlineExceeded)
		}
	}
}

func (n *network) connect(from, to string) (net.Conn, <-chan struct{}, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.listeners[to]
	from, to = host(from), host(to)
	if after, refused := n.refusals[[2]string{from, to}]; refused {
		n.mu.Unlock()
		time.Sleep(after)
		n.mu.Lock()
		return nil, nil, fmt.Errorf("dial %s: %w", to, syscall.ECONNREFUSED)
	}
	if n.cuts[[2]string{from, to}] || n.cuts[[2]string{to, from}] {
		return nil, n.changed, nil
	}
	if l == nil {
		return nil, nil, fmt.Errorf("dial %s: %w", to, syscall.ECONNREFUSED)
	}
	there, back := newHalf(n, from, to), newHalf(n, to, from)
	near, far := &wire{n: n, in: back, out: there}, &wire{n: n, in: there, out: back}
	select {
	case l.accepted <- far:
		n.wires[near], n.wires[far] = true, true
		return near, nil, nil
	default:
		return nil, nil, fmt.Errorf("dial %s: %w", to, syscall.ECONNREFUSED)
	}
}

// half is one direction of a connection.
type half struct {
	network  *network
	from, to string
	queue    []packet
	size     int
	last     time.Time // when the newest packet arrives
	ended    bool      // the writer has closed
	gone     bool      // the reader has closed
	broken   bool
	moved    chan struct{} // closed and replaced on every change
}

type packet struct {
	data []byte
	at   time.Time // when it arrives
}

const window = 256 << 10

func newHalf(n *network, from, to string) *half {
	return &half{network: n, from: from, to: to, moved: make(chan struct{})}
}

func (h *half) wake() {
	close(h.moved)
	h.moved = make(chan struct{})
}

// take reads what has arrived. With the network's mu held; n is 0 if there is nothing yet, and then until says when to
// look again; zero: when something moves.
func (h *half) take(b []byte) (n int, until time.Time, err error) {
	switch {
	case h.broken:
		return 0, until, syscall.ECONNRESET
	case h.gone:
		return 0, until, net.ErrClosed
	case h.network.cuts[[2]string{h.from, h.to}]:
		return 0, until, nil
	case len(h.queue) == 0 && h.ended:
		return 0, until, io.EOF
	case len(h.queue) == 0:
		return 0, until, nil
	case h.queue[0].at.After(time.Now()):
		return 0, h.queue[0].at, nil
	}
	n = copy(b, h.queue[0].data)
	h.size -= n
	if h.queue[0].data = h.queue[0].data[n:]; len(h.queue[0].data) == 0 {
		h.queue = h.queue[1:]
	}
	h.wake()
	return n, until, nil
}

// give sends b, whole or not at all. With the network's mu held.
func (h *half) give(b []byte) (taken bool, err error) {
	switch {
	case h.broken:
		return false, syscall.ECONNRESET
	case h.ended:
		return false, net.ErrClosed
	case h.gone:
		return false, syscall.EPIPE
	case h.size > window:
		return false, nil
	}
	at := time.Now().Add(h.network.fastest + time.Duration(h.network.rand.Int64N(int64(h.network.slowest-h.network.fastest))))
	if at.Before(h.last) {
		at = h.last
	}
	h.last = at
	h.queue = append(h.queue, packet{append([]byte(nil), b...), at})
	h.size += len(b)
	h.wake()
	return true, nil
}

// wire is one end of a connection.
type wire struct {
	n             *network
	in, out       *half
	readDeadline  time.Time
	writeDeadline time.Time
}

var _ net.Conn = (*wire)(nil)

func (w *wire) Read(b []byte) (int, error) {
	for {
		w.n.mu.Lock()
		n, until, err := w.in.take(b)
		moved, deadline := w.in.moved, w.readDeadline
		w.n.mu.Unlock()
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		if err := await(moved, until, deadline); err != nil {
			return 0, err
		}
	}
}

func (w *wire) Write(b []byte) (int, error) {
	for {
		w.n.mu.Lock()
		taken, err := w.out.give(b)
		moved, deadline := w.out.moved, w.writeDeadline
		w.n.mu.Unlock()
		switch {
		case err != nil:
			return 0, err
		case taken:
			return len(b), nil
		}
		if err := await(moved, time.Time{}, deadline); err != nil {
			return 0, err
		}
	}
}

// await returns when something moved or until has come; zero: never.
func await(moved <-chan struct{}, until, deadline time.Time) error {
	first := until
	if first.IsZero() || !deadline.IsZero() && deadline.Before(first) {
		first = deadline
	}
	var timer <-chan time.Time
	if !first.IsZero() {
		t := time.NewTimer(time.Until(first))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-moved:
	case <-timer:
		if !deadline.IsZero() && !time.Now().Before(deadline) {
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}

func (w *wire) Close() error {
	w.n.mu.Lock()
	defer w.n.mu.Unlock()
	w.close()
	return nil
}

func (w *wire) close() {
	w.out.ended, w.in.gone = true, true
	w.in.wake()
	w.out.wake()
	delete(w.n.wires, w)
}

func (w *wire) LocalAddr() net.Addr  { return address(w.in.to) }
func (w *wire) RemoteAddr() net.Addr { return address(w.in.from) }

func (w *wire) SetDeadline(t time.Time) error {
	w.SetReadDeadline(t)
	return w.SetWriteDeadline(t)
}

func (w *wire) SetReadDeadline(t time.Time) error {
	w.n.mu.Lock()
	defer w.n.mu.Unlock()
	w.readDeadline = t
	w.in.wake()
	return nil
}

func (w *wire) SetWriteDeadline(t time.Time) error {
	w.n.mu.Lock()
	defer w.n.mu.Unlock()
	w.writeDeadline = t
	w.out.wake()
	return nil
}
