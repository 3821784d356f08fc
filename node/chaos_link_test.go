package node

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// link is what one edge has to go through to reach the hubs: an HTTP proxy that the edge's environment names, which can
// do to each connection what networks do. Hubs reach one another without it.
type link struct {
	listener net.Listener
	served   sync.WaitGroup

	mu      sync.Mutex // guards the rest
	changed *sync.Cond // cuts, tunnels that end, and the end
	cuts    map[string]cut
	tunnels map[*tunnel]bool
	entered int // connections so far
	allowed int // of these may pass; 0: all
	closed  bool
}

// cut is what happens between an edge and a hub.
type cut string

const (
	cutRefused cut = "refused"        // connections are reset, new ones at once
	cutStalled cut = "stalled"        // nothing passes, and nobody is told
	cutToHub   cut = "cut to the hub" // what the edge sends does not arrive
	cutToEdge  cut = "cut to the edge"
	everyHub       = "all" // in place of an address
)

var cuts = []cut{cutRefused, cutStalled, cutToHub, cutToEdge}

// tunnel is one connection of the edge to a hub.
type tunnel struct {
	address   string // the hub's
	edge, hub net.Conn
	closed    bool // guarded by the link's mu
}

// newLink opens a link with nothing cut. It ends with the test.
func newLink(t *testing.T) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: listener, cuts: map[string]cut{}, tunnels: map[*tunnel]bool{}}
	l.changed = sync.NewCond(&l.mu)
	l.served.Go(l.accept)
	t.Cleanup(l.close)
	return l
}

func (l *link) close() {
	l.listener.Close()
	l.mu.Lock()
	l.closed = true
	for t := range l.tunnels {
		l.resetLocked(t)
	}
	l.changed.Broadcast()
	l.mu.Unlock()
	l.served.Wait()
}

// environment makes an edge take the link. Go passes over a proxy on the way to "localhost" and to loopback addresses,
// so the hubs of such a cluster are named LOCALHOST.
func (l *link) environment() []string {
	return []string{"HTTPS_PROXY=http://" + l.listener.Addr().String(), "NO_PROXY=", "no_proxy="}
}

func (l *link) accept() {
	for {
		c, err := l.listener.Accept()
		if err != nil {
			return // closed
		}
		l.served.Go(func() { l.serve(c) })
	}
}

// serve reads where a connection wants to go, and goes there.
func (l *link) serve(c net.Conn) {
	in := bufio.NewReader(c)
	r, err := http.ReadRequest(in)
	if err != nil || r.Method != http.MethodConnect {
		c.Close()
		return
	}
	t := &tunnel{address: r.Host, edge: c}
	if !l.enter(t) {
		return
	}
	defer l.end(t)
	hub, err := net.Dial("tcp", t.address)
	l.mu.Lock()
	if t.hub = hub; err == nil && t.closed {
		hub.Close()
	}
	l.mu.Unlock()
	if err != nil {
		fmt.Fprint(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	if _, err := fmt.Fprint(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	l.served.Go(func() { l.carry(t, hub, c, cutToEdge) })
	l.carry(t, in, hub, cutToHub)
}

// enter notes a new connection. It is kept waiting while nothing passes, and ended if connections are refused.
func (l *link) enter(t *tunnel) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.cutLocked(t.address) == cutRefused {
		l.resetLocked(t)
		return false
	}
	l.tunnels[t] = true
	l.entered++
	for number := l.entered; !t.closed && (l.cutLocked(t.address) == cutStalled || l.allowed > 0 && number > l.allowed); {
		l.changed.Wait()
	}
	return !t.closed
}

// carry copies one direction, which a cut holds up.
func (l *link) carry(t *tunnel, from io.Reader, to net.Conn, direction cut) {
	defer l.end(t)
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if !l.pass(t, direction) || err != nil {
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// pass waits until something may go in a direction, and reports whether it still can.
func (l *link) pass(t *tunnel, direction cut) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !t.closed {
		if c := l.cutLocked(t.address); c != cutStalled && c != direction {
			break
		}
		l.changed.Wait()
	}
	return !t.closed
}

func (l *link) end(t *tunnel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.closed = true
	t.edge.Close()
	if t.hub != nil {
		t.hub.Close()
	}
	delete(l.tunnels, t)
	l.changed.Broadcast()
}

// resetLocked ends a connection so that the edge sees a reset.
func (l *link) resetLocked(t *tunnel) {
	t.closed = true
	t.edge.(*net.TCPConn).SetLinger(0) // an error means that it is gone
	t.edge.Close()
	if t.hub != nil {
		t.hub.Close()
	}
	delete(l.tunnels, t)
}

func (l *link) cutLocked(address string) cut {
	if c, ok := l.cuts[everyHub]; ok {
		return c
	}
	return l.cuts[address]
}

// cut begins to do something to what passes between the edge and a hub's address, or everyHub.
func (l *link) cut(address string, how cut) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cuts[address] = how
	if how == cutRefused {
		for t := range l.tunnels {
			if address == everyHub || address == t.address {
				l.resetLocked(t)
			}
		}
	}
	l.changed.Broadcast()
}

// allow lets only the first connections pass, and stalls those that follow, until mend is called.
func (l *link) allow(connections int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allowed = connections
}

// mend ends all cuts; what was held up goes on.
func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.cuts)
	l.allowed = 0
	l.changed.Broadcast()
}

// A link cuts what it is told to, and nothing else, and mends.
func TestALinkCutsWhatItIsToldTo(t *testing.T) {
	l := newLink(t)
	cutOff, other := dialThrough(t, l, echo(t)), dialThrough(t, l, echo(t))
	for _, how := range cuts[1:] {
		l.cut(cutOff.address, how)
		got := make(chan string, 1)
		go func() { got <- cutOff.ask(string(how)) }()
		for range 100 {
			if line := other.ask("beside"); line != "beside" {
				t.Fatalf("%s elsewhere: %q arrived", how, line)
			}
		}
		select {
		case line := <-got:
			t.Errorf("%s: %q passed", how, line)
		default:
		}
		l.mend()
		if line := <-got; line != string(how) {
			t.Errorf("%s, mended: %q arrived", how, line)
		}
	}
	l.cut(cutOff.address, cutRefused)
	if line := cutOff.ask("more"); line != "" {
		t.Errorf("refused, %q arrived", line)
	}
	if line := other.ask("beside"); line != "beside" {
		t.Errorf("refused elsewhere: %q arrived", line)
	}
	if line := dialThrough(t, l, cutOff.address).ask("new"); line != "" {
		t.Errorf("refused, %q arrived on a new connection", line)
	}
	l.mend()
	if line := dialThrough(t, l, cutOff.address).ask("new"); line != "new" {
		t.Errorf("mended, %q arrived on a new connection", line)
	}
}

// echo is the address of a server that sends back what it is sent.
func echo(t *testing.T) (address string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }() // ends with the link
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return "LOCALHOST:" + port
}

// through is a connection by way of a link.
type through struct {
	address string
	conn    net.Conn
	in      *bufio.Reader
}

func dialThrough(t *testing.T, l *link, address string) *through {
	t.Helper()
	c, err := net.Dial("tcp", l.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", address, address)
	x := &through{address, c, bufio.NewReader(c)}
	http.ReadResponse(x.in, &http.Request{Method: http.MethodConnect}) // without one, nothing will be answered
	return x
}

// ask sends a line and returns the one that comes back; "" is none.
func (x *through) ask(line string) string {
	fmt.Fprintln(x.conn, line)
	back, _ := x.in.ReadString('\n')
	return strings.TrimSuffix(back, "\n")
}
