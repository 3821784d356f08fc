package node

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gw/rpc/identity"
)

// testPort opens a port of hub-1 of a new cluster, with an HTTP server on its web side.
func testPort(t *testing.T, member func(string) bool) (*port, *identity.CA) {
	t.Helper()
	ca, err := identity.NewCA("c1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p, err := openPort("127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	p.identify(ca, hubCertificate(t, ca, "hub-1"), member)
	s := newServer("edges", p.web, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto)
	}), slog.New(slog.DiscardHandler))
	s.http.HTTP2 = edgesHTTP2()
	done := make(chan error, 1)
	go func() { done <- s.serve() }()
	t.Cleanup(func() {
		s.shutdown(time.Second)
		p.close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p, ca
}

func hubCertificate(t *testing.T, ca *identity.CA, id string) func() *tls.Certificate {
	t.Helper()
	cert, err := ca.IssueHub(id, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return func() *tls.Certificate { return &cert }
}

// edgeTLS is the side of an edge with a certificate of ca.
func edgeTLS(t *testing.T, ca *identity.CA, edge identity.Edge) *tls.Config {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.SignEdge(csr, edge, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certificate := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	return identity.EdgeTLS(ca.Certificate, edge.ClusterID, func() *tls.Certificate { return certificate })
}

func TestPortGivesConnectionsToTheirProtocol(t *testing.T) {
	p, ca := testPort(t, func(string) bool { return true })
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: identity.EnrollTLS(identity.PinOf(ca.Certificate)), ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	answer, err := client.Get("https://" + p.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || string(body) != "HTTP/2.0" {
		t.Errorf("the web side answers %q, %v, want HTTP/2.0", body, err)
	}

	accepted := make(chan error, 1)
	go func() {
		c, err := p.raft.Accept()
		if err == nil {
			_, err = c.Write([]byte("raft"))
			err = errors.Join(err, c.Close())
		}
		accepted <- err
	}()
	c, id, err := p.dial(t.Context(), p.listener.Addr().String()) // a hub can dial itself
	if err != nil || id != "hub-1" {
		t.Fatalf("dialled %q, %v", id, err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != "raft" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := <-accepted; err != nil {
		t.Error(err)
	}
}

func TestPortLetsOnlyMembersSpeakRaft(t *testing.T) {
	p, ca := testPort(t, func(id string) bool { return id != "gone" })
	try := func(config *tls.Config) error {
		c, err := tls.Dial("tcp", p.listener.Addr().String(), config)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Read(make([]byte, 1)) // a refusal shows when reading
		return err
	}
	stranger := identity.EnrollTLS(identity.PinOf(ca.Certificate))
	stranger.NextProtos = []string{identity.RaftALPN}
	if err := try(stranger); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without a certificate: %v", err)
	}
	removed := identity.HubClientTLS(ca.Certificate, "c1", hubCertificate(t, ca, "gone"), identity.RaftALPN)
	if err := try(removed); !errors.Is(err, io.EOF) {
		t.Errorf("a removed hub: %v, want the connection closed", err)
	}
}

func TestASessionIsResumedAtAnotherHub(t *testing.T) {
	a, ca := testPort(t, func(string) bool { return true })
	b, err := openPort("127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	b.identify(ca, hubCertificate(t, ca, "hub-2"), func(string) bool { return true })
	edge := identity.Edge{ClusterID: "c1", Namespace: "default", ID: "e1"}
	config := edgeTLS(t, ca, edge)
	shake := func(p *port) (resumed bool) {
		t.Helper()
		served := make(chan tls.ConnectionState, 1)
		if p == b {
			go func() {
				if c, err := b.web.Accept(); err == nil {
					served <- c.(*tls.Conn).ConnectionState()
					c.Write([]byte{0})
					c.Close()
				}
			}()
		}
		c, err := tls.Dial("tcp", p.listener.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err != nil { // the ticket comes before what is read
			t.Fatal(err)
		}
		if p == b {
			s := <-served
			if who, err := identity.EdgeOf(s.PeerCertificates[0]); err != nil || who != edge || s.DidResume != c.ConnectionState().DidResume {
				t.Errorf("the hub sees %v, %v, resumed %v", who, err, s.DidResume)
			}
		}
		return c.ConnectionState().DidResume
	}
	if shake(a) {
		t.Error("the first session is resumed")
	}
	if !shake(b) {
		t.Error("another hub of the cluster does not resume it")
	}
	b.identity.Load().web.SetSessionTicketKeys([][32]byte{{1}}) // as a hub of long after
	if shake(b) {
		t.Error("a session is resumed under keys that no hub has any more")
	}
}

// An edge keeps its session when a hub turns it away in the middle of the handshake.
func TestASessionOutlivesAHandshakeThatFails(t *testing.T) {
	p, ca := testPort(t, func(string) bool { return true })
	config := edgeTLS(t, ca, identity.Edge{ClusterID: "c1", Namespace: "default", ID: "e1"})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
	get := func() (resumed bool, err error) {
		answer, err := client.Get("https://" + p.listener.Addr().String())
		if err != nil {
			return false, err
		}
		defer answer.Body.Close()
		_, err = io.ReadAll(answer.Body) // the ticket comes before what is read
		return answer.TLS.DidResume, err
	}
	if _, err := get(); err != nil {
		t.Fatal(err)
	}
	occupy(p.edges)
	if _, err := get(); err == nil {
		t.Fatal("an edge was let in though there are as many as may be")
	}
	vacate(p.edges)
	if resumed, err := get(); err != nil || !resumed {
		t.Errorf("resumed %v, %v", resumed, err)
	}
}

func occupy(places chan struct{}) {
	for range cap(places) {
		places <- struct{}{}
	}
}

func vacate(places chan struct{}) {
	for range cap(places) {
		<-places
	}
}

// Edges that come while there are too many are turned away at once; hubs are not, and whoever comes later is let in.
func TestTooManyHandshakesAreTurnedAway(t *testing.T) {
	p, ca := testPort(t, func(string) bool { return true })
	edge := edgeTLS(t, ca, identity.Edge{ClusterID: "c1", Namespace: "default", ID: "e1"})
	shake := func(config *tls.Config) error {
		c, err := tls.Dial("tcp", p.listener.Addr().String(), config)
		if err == nil {
			c.Close()
		}
		return err
	}
	occupy(p.edges)
	// By this an edge tells that the hub is well (uplink's turnedAway).
	var alert *net.OpError
	if err := shake(edge); !errors.As(err, &alert) || alert.Op != "remote error" || alert.Err.Error() != "tls: internal error" {
		t.Errorf("an edge is turned away with: %v", err)
	}
	if err := shake(identity.HubClientTLS(ca.Certificate, "c1", hubCertificate(t, ca, "hub-2"), "h2")); err != nil {
		t.Errorf("a hub: %v", err)
	}
	if err := shake(identity.HubClientTLS(ca.Certificate, "c1", hubCertificate(t, ca, "hub-2"), identity.RaftALPN)); err != nil {
		t.Errorf("a hub, for Raft: %v", err)
	}
	vacate(p.edges)
	occupy(p.computing)
	if err := shake(edge); err == nil {
		t.Error("an edge waited for its turn until there was one")
	}
	vacate(p.computing)
	if err := shake(edge); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if got := testutil.ToFloat64(p.turnedAway); got != 2 {
		t.Errorf("%v were turned away, want 2", got)
	}
}

func TestPortWithoutIdentityClosesConnections(t *testing.T) {
	p, err := openPort("127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	c, err := net.Dial("tcp", p.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("something came back")
	}
}

// Until it has read the server's settings, a client may use a table of 4 KB for headers (RFC 9113, 6.5.2): its second request
// refers to what it said in its first. On a hub that is overrun the settings come late.
func TestHubsTakeRequestsThatWereSentBeforeTheirSettings(t *testing.T) {
	p, ca := testPort(t, func(string) bool { return true })
	config := edgeTLS(t, ca, identity.Edge{ClusterID: "c1", Namespace: "default", ID: "e1"})
	conn, err := tls.Dial("tcp", p.listener.Addr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	var sent bytes.Buffer
	sent.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&sent, conn)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for stream := uint32(1); stream <= 5; stream += 2 {
		block.Reset()
		for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {":authority", "hub"}, {"x-said", "before"}} {
			if err := encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
				t.Fatal(err)
			}
		}
		if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Write(sent.Bytes()); err != nil {
		t.Fatal(err)
	}
	for answered := 0; answered < 3; {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("after %d answers: %v", answered, err)
		}
		switch f := frame.(type) {
		case *http2.GoAwayFrame:
			t.Fatalf("after %d answers: %v", answered, f.ErrCode)
		case *http2.HeadersFrame:
			answered++
		}
	}
}
