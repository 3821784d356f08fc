package node

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gw/rpc/gwv1"
)

// cutter passes connections on to a hub, and cuts each once it has brought so many bytes to the edge.
type cutter struct {
	listener net.Listener
	hub      string
	limit    atomic.Int64 // 0: none is cut
	brought  atomic.Int64 // bytes, over all connections
	cuts     atomic.Int64
	passing  sync.WaitGroup
}

// startCutter starts one in front of a hub that is about to start. It ends with the test, after what uses it.
func startCutter(t *testing.T) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: l, hub: freePort(t)}
	c.passing.Go(func() {
		for {
			edge, err := l.Accept()
			if err != nil {
				return
			}
			c.passing.Go(func() { c.pass(edge) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.passing.Wait()
	})
	return c
}

func (c *cutter) pass(edge net.Conn) {
	defer edge.Close()
	hub, err := net.Dial("tcp", c.hub)
	if err != nil {
		return
	}
	defer hub.Close()
	c.passing.Go(func() {
		io.Copy(hub, edge)
		hub.Close()
	})
	var passed int64
	for buffer := make([]byte, 16<<10); ; {
		n, err := hub.Read(buffer)
		if limit := c.limit.Load(); limit > 0 && passed+int64(n) > limit {
			c.cuts.Add(1)
			return
		}
		passed += int64(n)
		c.brought.Add(int64(n))
		if _, writeErr := edge.Write(buffer[:n]); err != nil || writeErr != nil {
			return
		}
	}
}

// noise is an API that no compression makes smaller: 48 KiB of header values.
func noise(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind: API\nmetadata: {name: %s}\nspec:\n  paths: [/%s]\n  auth: keyless\n  upstreams: [{url: \"http://127.0.0.1:1\"}]\n  request_headers:\n    set:\n", name, name)
	for i := range 8 {
		value := make([]byte, 8000)
		for j := range value {
			value[j] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[rand.IntN(64)]
		}
		fmt.Fprintf(&b, "      X-Noise-%d: %q\n", i, value)
	}
	return b.String() + "---\n"
}

// A release that is larger than what any connection lasts for still arrives: each one brings some more of it.
func TestTransferOverConnectionsThatBreakGoesOn(t *testing.T) {
	c := startCutter(t)
	w := startTogether(t, func(h *HubConfig) { h.Listen, h.Advertise = c.hub, c.listener.Addr().String() })
	for batch := range 8 {
		var text strings.Builder
		for i := range 10 {
			text.WriteString(noise(fmt.Sprintf("n%d-%d", batch, i)))
		}
		w.apply(t, strings.TrimSuffix(text.String(), "---\n"))
	}
	c.limit.Store(1_700_000) // enough for a part or two, not for the release
	c.brought.Store(0)
	if _, err := w.hub.services.Releases.Push(w.ctx, &gwv1.PushRequest{}); err != nil {
		t.Fatal(err)
	}
	w.awaitEdge(t, "in sync over connections that break", inSync)
	release, _ := w.hub.store.State().Target("default")
	t.Logf("a release of %d bytes came in %d bytes over connections of which %d were cut", release.Size, c.brought.Load(), c.cuts.Load())
	if c.cuts.Load() < 2 {
		t.Errorf("%d connections were cut: nothing was proven", c.cuts.Load())
	}
	if w.edge.gateway.Table().Len() != 80 {
		t.Errorf("%d resources are served, want 80", w.edge.gateway.Table().Len())
	}
}
