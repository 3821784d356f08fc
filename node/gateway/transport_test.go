package gateway

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections live in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// mortal is a connection that, once dead, swallows what is written to it and says nothing.
type mortal struct {
	net.Conn
	dead atomic.Bool
}

func (m *mortal) Write(b []byte) (int, error) {
	if m.dead.Load() {
		return len(b), nil
	}
	return m.Conn.Write(b)
}

func TestADeadHTTP2ConnectionIsReplaced(t *testing.T) {
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS() // for its certificate
	certified.Close()
	roots := x509.NewCertPool()
	roots.AddCert(certified.Certificate())
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		s := &http.Server{TLSConfig: certified.TLS.Clone(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.Proto)
		})}
		s.TLSConfig.NextProtos = []string{"h2"}
		served := make(chan struct{})
		go func() { defer close(served); s.ServeTLS(l, "", "") }()
		transport := newTransport(poolKey{"https", "example.com", time.Second}, roots)
		transport.Proxy = nil
		var dialled []*mortal
		transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			l.conns <- far
			dialled = append(dialled, &mortal{Conn: near})
			return dialled[len(dialled)-1], nil
		}
		get := func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "GET", "https://example.com", nil)
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "HTTP/2.0" {
				t.Errorf("got %q, %v", b, err)
			}
		}
		get()
		time.Sleep(pingAfter + pingWithin + time.Second)
		get()
		if len(dialled) != 1 {
			t.Fatalf("a connection that lives was replaced: %d", len(dialled))
		}
		dialled[0].dead.Store(true)
		time.Sleep(pingAfter + pingWithin + time.Second)
		get()
		if len(dialled) != 2 {
			t.Errorf("%d connections", len(dialled))
		}
		transport.CloseIdleConnections()
		s.Close()
		<-served
	})
}
