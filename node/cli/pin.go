package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"gw/rpc/identity"
)

const pinPrefix = "sha256:"

func formatPin(pin identity.Pin) string { return pinPrefix + hex.EncodeToString(pin[:]) }

// parsePin reads "sha256:" and 64 hex digits, which may have colons between them; the prefix may be missing.
func parsePin(text string) (pin identity.Pin, err error) {
	digits := strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(strings.TrimSpace(text)), pinPrefix), ":", "")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(pin) {
		return pin, fmt.Errorf("%q is not a fingerprint; expected sha256: and 64 hex digits", text)
	}
	return identity.Pin(b), nil
}

// errWrongPin is what a connection fails with if nothing in the server's chain has the pinned key.
var errWrongPin = errors.New("the hub's certificate is not the one pinned at login")

// pinnedTLS trusts the certificate whose public key is pinned, and what it has signed, instead of the system's roots.
func pinnedTLS(pin identity.Pin, host string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: host,
		// VerifyConnection takes the place of the check against the system's roots.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verifyPinned(cs.PeerCertificates, pin, host)
		},
	}
}

func verifyPinned(chain []*x509.Certificate, pin identity.Pin, host string) error {
	i := slices.IndexFunc(chain, func(cert *x509.Certificate) bool { return identity.PinOf(cert) == pin })
	if i < 0 {
		return errWrongPin
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	options.Roots.AddCert(chain[i])
	for _, cert := range chain[1:] {
		options.Intermediates.AddCert(cert)
	}
	if i > 0 && !isClusterHub(chain[0]) {
		options.DNSName = host // a CA may sign for others, too; a pinned leaf is the identity itself
	}
	if _, err := chain[0].Verify(options); err != nil {
		return fmt.Errorf("verify the hub's certificate: %w", err)
	}
	return nil
}

// isClusterHub tells a certificate that a cluster's own CA gave to a hub: it names the cluster, not an address, and that
// CA signs no other servers.
func isClusterHub(leaf *x509.Certificate) bool {
	return slices.ContainsFunc(leaf.DNSNames, func(name string) bool { return strings.HasSuffix(name, ".hub.gw") })
}

// server is what a hub presents itself with.
type server struct {
	chain []*x509.Certificate
	// trusted: the system's roots vouch for it.
	trusted bool
}

// probe asks an https hub for its certificates, trusting nothing.
func probe(ctx context.Context, hub *url.URL) (server, error) {
	address := hub.Host
	if hub.Port() == "" {
		address = net.JoinHostPort(hub.Hostname(), "443")
	}
	dialer := &tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: hub.Hostname(), InsecureSkipVerify: true}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return server{}, err
	}
	defer conn.Close()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	options := x509.VerifyOptions{DNSName: hub.Hostname(), Intermediates: x509.NewCertPool()}
	for _, cert := range chain[1:] {
		options.Intermediates.AddCert(cert)
	}
	_, err = chain[0].Verify(options)
	return server{chain: chain, trusted: err == nil}, nil
}

// pinnable returns the certificate to pin: the last of the chain if it vouches for the server, so that the pin outlives
// renewals, else the server's own.
func (s server) pinnable(host string) *x509.Certificate {
	last := s.chain[len(s.chain)-1]
	if len(s.chain) > 1 && last.IsCA && verifyPinned(s.chain, identity.PinOf(last), host) == nil {
		return last
	}
	return s.chain[0]
}
