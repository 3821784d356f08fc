package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// RenewWithin is how long after its end an edge's certificate still gets through a hub's handshake, to be renewed.
const RenewWithin = 90 * 24 * time.Hour

// HubTLS returns the server side of a hub's port: TLS 1.3, HTTP/2 and 1.1, client certificates asked for and not
// required, since an edge that enrols has none yet. One that is given must be of the cluster's CA and clusterID. A hub's
// must be valid now; an edge's may have ended up to RenewWithin ago, and whoever serves it has to look at its NotAfter.
// The connection's VerifiedChains stay empty. certificate is called at every handshake.
func HubTLS(ca *x509.Certificate, clusterID string, certificate func() *tls.Certificate) *tls.Config {
	c := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate(), nil },
		ClientAuth:     tls.RequestClientCert,
		ClientCAs:      poolOf(ca),
	}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return nil
		}
		now := time.Now()
		if c.Time != nil {
			now = c.Time()
		}
		return verifyClient(cs.PeerCertificates[0], ca, clusterID, now)
	}
	return c
}

// verifyClient checks the certificate of an edge or of a hub of a cluster.
func verifyClient(leaf, ca *x509.Certificate, clusterID string, now time.Time) error {
	cluster, _, err := HubOf(leaf)
	at := now
	if err != nil {
		edge, err := EdgeOf(leaf)
		if err != nil {
			return fmt.Errorf("the client is neither a hub nor an edge: %w", err)
		}
		cluster = edge.ClusterID
		if late := now.Sub(leaf.NotAfter); late > RenewWithin {
			return fmt.Errorf("the certificate of edge %s ended at %s, too long ago to be renewed", edge.ID, leaf.NotAfter.Format(time.RFC3339))
		} else if late > 0 {
			at = leaf.NotAfter
		}
	}
	if cluster != clusterID {
		return errors.New("the client's certificate is of another cluster")
	}
	return verifyIssued(leaf, ca, at)
}

// Issued checks that the CA issued a client's certificate, whenever that was or is valid. It is for connections whose
// handshake has looked at the time.
func Issued(leaf, ca *x509.Certificate) error { return verifyIssued(leaf, ca, leaf.NotAfter) }

func verifyIssued(leaf, ca *x509.Certificate, at time.Time) error {
	_, err := leaf.Verify(x509.VerifyOptions{Roots: poolOf(ca), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return fmt.Errorf("verify the client's certificate: %w", err)
	}
	return nil
}

const (
	// RaftALPN is the protocol hubs negotiate for the replicated log.
	RaftALPN = "gw-raft/1"
	// HubALPN is what a hub offers beside h2 when it calls another. It is never chosen: it tells a hub that is overrun by
	// edges whom to let in first, before anybody has proven anything.
	HubALPN = "gw-hub/1"
)

// RaftServerTLS returns the server side for RaftALPN: like HubTLS, but a hub's client certificate is required.
func RaftServerTLS(ca *x509.Certificate, clusterID string, certificate func() *tls.Certificate) *tls.Config {
	c := HubTLS(ca, clusterID, certificate)
	c.NextProtos = []string{RaftALPN}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.VerifyConnection = func(cs tls.ConnectionState) error { return verifyHub(cs, clusterID) }
	return c
}

// HubClientTLS returns the client side of a hub that calls another one with the given protocol, RaftALPN or "h2", beside
// which HubALPN is offered.
func HubClientTLS(ca *x509.Certificate, clusterID string, certificate func() *tls.Certificate, alpn string) *tls.Config {
	c := EdgeTLS(ca, clusterID, certificate)
	c.NextProtos = []string{alpn, HubALPN}
	c.ClientSessionCache = nil // hubs are few, and prove who they are each time
	c.VerifyConnection = func(cs tls.ConnectionState) error { return verifyHub(cs, clusterID) }
	return c
}

func verifyHub(cs tls.ConnectionState, clusterID string) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the other side shows no certificate")
	}
	cluster, _, err := HubOf(cs.PeerCertificates[0])
	if err == nil && cluster != clusterID {
		err = errors.New("the other side is a hub of another cluster")
	}
	return err
}

// EdgeTLS returns the edge's side: it trusts only hubs of its cluster, whatever address it reached them at, and shows
// the certificate that certificate returns, which is called at every handshake that does not resume a session. Sessions are
// resumed at any hub (CA.TicketKeys); another certificate needs another config.
func EdgeTLS(ca *x509.Certificate, clusterID string, certificate func() *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2"},
		RootCAs:            poolOf(ca),
		ServerName:         hubName(clusterID),
		ClientSessionCache: new(lastSession),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return certificate(), nil
		},
	}
}

// EnrollTLS returns the side of an edge that has no certificate and knows the cluster only by its CA's pin. The server
// must present a hub's certificate whose chain ends in the pinned CA.
func EnrollTLS(pin Pin) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// The pin takes the place of a root store and of the name: VerifyConnection below checks the whole chain
		// against the one CA it allows.
		InsecureSkipVerify: true,
		VerifyConnection:   func(cs tls.ConnectionState) error { return verifyPinned(cs.PeerCertificates, pin) },
	}
}

// ErrWrongCluster is what a handshake fails with when the server's CA is not the pinned one.
var ErrWrongCluster = errors.New("the hub belongs to another cluster than the join token, or someone is in between")

func verifyPinned(chain []*x509.Certificate, pin Pin) error {
	if len(chain) == 0 {
		return ErrWrongCluster
	}
	for _, ca := range chain[1:] {
		if !ca.IsCA || PinOf(ca) != pin {
			continue
		}
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: poolOf(ca), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		if err != nil {
			return fmt.Errorf("verify the hub's certificate: %w", err)
		}
		return nil
	}
	return ErrWrongCluster
}

func poolOf(ca *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return pool
}
