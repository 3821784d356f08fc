// Package identity says who is on the other end: the cluster's certificate authority, the certificates of hubs and
// edges, join tokens, bearer credentials, passwords and the sealing of secrets.
package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// caLife is how long a cluster's CA lives. It can't be replaced while edges pin it, so it outlives the machines.
const caLife = 30 * 365 * 24 * time.Hour

// clockSkew is how far before "now" certificates begin to be valid, for machines whose clocks are behind.
const clockSkew = 5 * time.Minute

// CA is the certificate authority of one cluster. It is safe for concurrent use.
type CA struct {
	// Certificate is self-signed; its subject carries the cluster ID. Not to be changed.
	Certificate *x509.Certificate
	clusterID   string
	key         *ecdsa.PrivateKey
}

// NewCA makes a CA with a fresh P-256 key, valid from five minutes before now for 30 years.
func NewCA(clusterID string, now time.Time) (*CA, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "gw cluster", OrganizationalUnit: []string{clusterID}},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &CA{Certificate: cert, clusterID: clusterID, key: key}, nil
}

// LoadCA returns the CA with this certificate (DER) and key (PKCS #8).
func LoadCA(certificate, key []byte) (*CA, error) {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, fmt.Errorf("read the CA's certificate: %w", err)
	}
	if len(cert.Subject.OrganizationalUnit) != 1 || !cert.IsCA {
		return nil, errors.New("read the CA's certificate: it is not that of a gw cluster")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("read the CA's key: it is not PKCS #8")
	}
	ec, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("read the CA's key: it does not belong to the certificate")
	}
	return &CA{Certificate: cert, clusterID: cert.Subject.OrganizationalUnit[0], key: ec}, nil
}

// ClusterID returns the cluster the CA is of.
func (ca *CA) ClusterID() string { return ca.clusterID }

// MarshalKey returns the private key as PKCS #8, to be sealed before it is stored.
func (ca *CA) MarshalKey() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(ca.key) }

// SignEdge issues a client certificate for the key of a certificate request (PKCS #10, DER, P-256). Of the request only
// the key is used: the name in the certificate is e.
func (ca *CA) SignEdge(csr []byte, e Edge, now time.Time, ttl time.Duration) (*x509.Certificate, error) {
	return ca.SignEdgeIn(csr, e, 0, now, ttl)
}

// SignEdgeIn issues what SignEdge does, with a lineage: the stamp of the enrolment that the certificate goes back to. A
// certificate that takes the place of another has the lineage of that one, so that a revocation, which names a stamp, ends
// those that are being renewed while it is made.
func (ca *CA) SignEdgeIn(csr []byte, e Edge, lineage uint64, now time.Time, ttl time.Duration) (*x509.Certificate, error) {
	key, err := keyOf(csr)
	if err != nil {
		return nil, err
	}
	who := e.uri()
	if lineage > 0 {
		who.RawQuery = url.Values{lineageKey: {strconv.FormatUint(lineage, 10)}}.Encode()
	}
	return sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: e.ID},
		URIs:        []*url.URL{who},
		NotBefore:   now.Add(-clockSkew),
		NotAfter:    now.Add(ttl),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca.Certificate, key, ca.key)
}

// keyOf returns the key a certificate request is for, once it is proven.
func keyOf(csr []byte) (*ecdsa.PublicKey, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("read the certificate request: %w", err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check the certificate request: %w", err)
	}
	key, ok := req.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("check the certificate request: its key is not P-256")
	}
	return key, nil
}

// IssueHub makes a key and a certificate for a hub, good as a server's and as a client's. The chain ends in the CA's
// own certificate, which enrolling edges compare with their pin.
func (ca *CA) IssueHub(hubID string, now time.Time, ttl time.Duration) (tls.Certificate, error) {
	key, err := NewKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := ca.signHub(key.Public(), hubID, now, ttl)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Certificate.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// SignHub issues what IssueHub does for the key of a certificate request (PKCS #10, DER, P-256) of a hub that joins.
func (ca *CA) SignHub(csr []byte, hubID string, now time.Time, ttl time.Duration) (*x509.Certificate, error) {
	key, err := keyOf(csr)
	if err != nil {
		return nil, err
	}
	return ca.signHub(key, hubID, now, ttl)
}

func (ca *CA) signHub(key any, hubID string, now time.Time, ttl time.Duration) (*x509.Certificate, error) {
	return sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: hubID},
		DNSNames:    []string{hubName(ca.clusterID)},
		URIs:        []*url.URL{{Scheme: scheme, Host: ca.clusterID, Path: "/hub/" + hubID}},
		NotBefore:   now.Add(-clockSkew),
		NotAfter:    now.Add(ttl),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca.Certificate, key, ca.key)
}

func sign(template, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	serial[0] &= 0x7f // serial numbers are positive
	template.SerialNumber = new(big.Int).SetBytes(serial)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %q: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

// NewKey makes a P-256 key.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

// NewCSR returns a certificate request for a key, DER. It carries no name: the hub decides that.
func NewCSR(key *ecdsa.PrivateKey) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return csr, nil
}

// scheme is that of the URIs that name hubs and edges in certificates: gw://CLUSTER/edge/NAMESPACE/ID.
const scheme = "gw"

// hubName is the server name every hub of a cluster answers to. Addresses change; this does not.
func hubName(clusterID string) string { return clusterID + ".hub.gw" }

// Edge is an edge's identity, as its certificate states it.
type Edge struct{ ClusterID, Namespace, ID string }

func (e Edge) uri() *url.URL {
	return &url.URL{Scheme: scheme, Host: e.ClusterID, Path: "/edge/" + e.Namespace + "/" + e.ID}
}

// EdgeOf returns the edge that a certificate names. The certificate must have been verified.
func EdgeOf(cert *x509.Certificate) (Edge, error) {
	for _, u := range cert.URIs {
		parts := strings.Split(u.Path, "/")
		if u.Scheme == scheme && len(parts) == 4 && parts[1] == "edge" && parts[2] != "" && parts[3] != "" {
			return Edge{ClusterID: u.Host, Namespace: parts[2], ID: parts[3]}, nil
		}
	}
	return Edge{}, fmt.Errorf("the certificate of %q is not an edge's", cert.Subject.CommonName)
}

// lineageKey is where an edge's URI says its lineage: gw://CLUSTER/edge/NAMESPACE/ID?lineage=NUMBER.
const lineageKey = "lineage"

// LineageOf returns the lineage that an edge's certificate states; 0 if it states none.
func LineageOf(cert *x509.Certificate) uint64 {
	for _, u := range cert.URIs {
		if u.Scheme != scheme {
			continue
		}
		if n, err := strconv.ParseUint(u.Query().Get(lineageKey), 10, 64); err == nil {
			return n
		}
	}
	return 0
}

// HubOf returns the cluster and the hub that a certificate names. The certificate must have been verified.
func HubOf(cert *x509.Certificate) (clusterID, hubID string, err error) {
	for _, u := range cert.URIs {
		parts := strings.Split(u.Path, "/")
		if u.Scheme == scheme && len(parts) == 3 && parts[1] == "hub" && parts[2] != "" {
			return u.Host, parts[2], nil
		}
	}
	return "", "", fmt.Errorf("the certificate of %q is not a hub's", cert.Subject.CommonName)
}

// Pin is the SHA-256 of a CA's public key info; an edge trusts a cluster by it before it has seen the CA.
type Pin [sha256.Size]byte

// PinOf returns the pin of a certificate.
func PinOf(cert *x509.Certificate) Pin { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }
