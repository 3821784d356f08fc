package rpc

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// NewBootstrap makes what a new cluster begins with: its ID and its CA, whose key is sealed with the cluster's key and
// bound to "ca-key" and the cluster ID.
func NewBootstrap(sealer *identity.Sealer, now time.Time) (*gwv1.Bootstrap, *identity.CA, error) {
	var id [16]byte
	rand.Read(id[:]) // never fails
	clusterID := hex.EncodeToString(id[:])
	ca, err := identity.NewCA(clusterID, now)
	if err != nil {
		return nil, nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	key, err := ca.MarshalKey()
	if err != nil {
		return nil, nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	return &gwv1.Bootstrap{
		ClusterId:     clusterID,
		CaCertificate: ca.Certificate.Raw,
		SealedCaKey:   sealer.Seal(key, caKey, clusterID),
	}, ca, nil
}

// OpenCA returns the cluster's CA, as NewBootstrap sealed it.
func OpenCA(sealer *identity.Sealer, c *gwv1.ClusterRecord) (*identity.CA, error) {
	key, err := sealer.Open(c.SealedCaKey, caKey, c.ClusterId)
	if err != nil {
		return nil, fmt.Errorf("open the key of the cluster's CA: %w", err)
	}
	ca, err := identity.LoadCA(c.CaCertificate, key)
	if err != nil {
		return nil, fmt.Errorf("load the cluster's CA: %w", err)
	}
	return ca, nil
}

// What sealed values are bound to, before their names.
const (
	caKey  = "ca-key"
	secret = "secret"
)

func sealSecret(s *identity.Sealer, value []byte, namespace, name string) []byte {
	return s.Seal(value, secret, namespace, name)
}

func openSecret(s *identity.Sealer, r *gwv1.SecretRecord) ([]byte, error) {
	value, err := s.Open(r.Sealed, secret, r.Namespace, r.Name)
	if err != nil {
		return nil, fmt.Errorf("open secret %s/%s: %w", r.Namespace, r.Name, err)
	}
	return value, nil
}

// caCache keeps the CA once it has been opened.
type caCache struct {
	mu sync.Mutex
	ca *identity.CA // guarded by mu
}

func (k *core) clusterCA() (*identity.CA, error) {
	k.ca.mu.Lock()
	defer k.ca.mu.Unlock()
	cluster := k.store.State().Cluster()
	if k.ca.ca != nil && k.ca.ca.ClusterID() == cluster.ClusterId {
		return k.ca.ca, nil
	}
	ca, err := OpenCA(k.sealer, cluster)
	if err != nil {
		return nil, err
	}
	k.ca.ca = ca
	return ca, nil
}
