package uplink

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"gw/rpc/identity"
)

// deaf is a connection of which nothing comes any more once quiet is closed, and to which all can be written.
type deaf struct {
	net.Conn
	quiet  chan struct{}
	closed chan struct{}
}

func (d *deaf) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	select {
	case <-d.quiet:
		<-d.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (d *deaf) Close() error {
	close(d.closed)
	return d.Conn.Close()
}

// one accepts one connection.
type one struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l one) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l one) Close() error   { close(l.done); return nil }
func (l one) Addr() net.Addr { return &net.TCPAddr{} }

func TestAnEdgeNoticesAHubThatWentSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, err := identity.NewCA("c1", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := ca.IssueHub("hub-1", time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		l := one{make(chan net.Conn, 1), make(chan struct{})}
		server := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols),
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.NewResponseController(w).Flush()
				<-r.Context().Done()
			})}
		server.Protocols.SetHTTP2(true)
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		near, far := net.Pipe()
		conn := &deaf{near, make(chan struct{}), make(chan struct{})}
		go func() {
			shaken := tls.Server(far, identity.HubTLS(ca.Certificate, "c1", func() *tls.Certificate { return &certificate }))
			if shaken.HandshakeContext(context.Background()) == nil {
				l.conns <- shaken
			}
		}()
		transport := newTransport(identity.EnrollTLS(identity.PinOf(ca.Certificate)), defaultPace)
		transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
		answer, err := (&http.Client{Transport: transport}).Get("https://hub-1/")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := answer.Body.Read(make([]byte, 1))
			ended <- err
		}()
		time.Sleep(time.Minute)
		select {
		case err := <-ended:
			t.Fatalf("a hub that answers pings was given up: %v", err)
		default:
		}
		close(conn.quiet)
		began := time.Now()
		err = <-ended
		if took := time.Since(began); err == nil || took > defaultPace.tickTimeout*3/2 {
			t.Errorf("after %v a read from a hub that went silent ended with %v, want an error within %v", took, err, defaultPace.tickTimeout*3/2)
		}
		answer.Body.Close()
		transport.CloseIdleConnections()
		server.Close()
		far.Close()
		<-served
	})
}
