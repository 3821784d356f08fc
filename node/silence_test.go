package node

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gw/rpc/identity"
)

// proxy passes bytes on between two ends until it is told to be silent: then it takes them and passes nothing on, as a
// firewall does that has forgotten a connection.
type proxy struct {
	ends   [4]net.Conn
	silent chan struct{}
	done   sync.WaitGroup
}

func newProxy() (p *proxy, client, server net.Conn) {
	p = &proxy{silent: make(chan struct{})}
	client, near := net.Pipe()
	far, server := net.Pipe()
	p.ends = [4]net.Conn{client, near, far, server}
	p.done.Go(func() { p.pass(near, far) })
	p.done.Go(func() { p.pass(far, near) })
	return p, client, server
}

func (p *proxy) pass(from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		select {
		case <-p.silent:
		default:
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}

func (p *proxy) close() {
	for _, c := range p.ends {
		c.Close()
	}
	p.done.Wait()
}

func TestAHubNoticesAnEdgeThatWentSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, err := identity.NewCA("c1", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		web := newBranch(&net.TCPAddr{})
		opened, ended := make(chan struct{}), make(chan time.Time, 1)
		s := newServer("edges", web, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			http.NewResponseController(w).Flush()
			close(opened)
			<-r.Context().Done()
			ended <- time.Now()
		}), slog.New(slog.DiscardHandler))
		s.http.HTTP2 = edgesHTTP2()
		serving := make(chan error, 1)
		go func() { serving <- s.serve() }()
		p, near, far := newProxy()
		shaken := make(chan error, 1)
		go func() {
			conn := tls.Server(far, identity.HubTLS(ca.Certificate, "c1", hubCertificate(t, ca, "hub-1")))
			err := conn.HandshakeContext(t.Context())
			web.hand(t.Context(), conn)
			shaken <- err
		}()
		transport := &http.Transport{
			TLSClientConfig: identity.EnrollTLS(identity.PinOf(ca.Certificate)), ForceAttemptHTTP2: true,
			DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil },
		}
		answer, err := (&http.Client{Transport: transport}).Get("https://hub-1/")
		if err != nil {
			t.Fatal(errors.Join(err, <-shaken))
		}
		<-opened
		time.Sleep(time.Minute) // pings are answered
		select {
		case <-ended:
			t.Fatal("an edge that answers was given up")
		default:
		}
		close(p.silent)
		began := time.Now()
		if took := (<-ended).Sub(began); took > 10*time.Second {
			t.Errorf("the stream of an edge that went silent ended after %v, want within 10 s", took)
		}
		p.close()
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		transport.CloseIdleConnections()
		s.shutdown(time.Second)
		if err := <-serving; err != nil {
			t.Error(err)
		}
	})
}
