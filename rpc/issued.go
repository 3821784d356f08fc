package rpc

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"

	"gw/rpc/identity"
)

// maxIssued bounds how many certificates are remembered; beyond that they are checked once more.
const maxIssued = 32_000

// issued remembers which clients' certificates the CA has been seen to have issued: one connection makes many calls.
type issued struct {
	mu   sync.Mutex // guards what follows
	ca   *x509.Certificate
	seen map[[sha256.Size]byte]struct{} // hashes of certificates
}

// by reports whether a CA issued a client's certificate.
func (i *issued) by(ca, leaf *x509.Certificate) bool {
	key := sha256.Sum256(leaf.Raw)
	i.mu.Lock()
	_, known := i.seen[key]
	known = known && i.ca.Equal(ca)
	i.mu.Unlock()
	if known {
		return true
	}
	if identity.Issued(leaf, ca) != nil {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.seen == nil || len(i.seen) >= maxIssued || !i.ca.Equal(ca) {
		i.ca, i.seen = ca, make(map[[sha256.Size]byte]struct{})
	}
	i.seen[key] = struct{}{}
	return true
}
