package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"gw/raftstore/state"
	"gw/rpc"
	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
)

// hubCertificateTTL is how long a hub's own certificate lives; it is renewed when two thirds of it have passed.
const hubCertificateTTL = 7 * 24 * time.Hour

func (h *hub) keyPath() string    { return filepath.Join(h.config.DataDir, "cluster.key") }
func (h *hub) storedPath() string { return filepath.Join(h.config.DataDir, "hub.pb") }

// readIdentity returns what a former start stored, nil if there is nothing.
func (h *hub) readIdentity() (*gwv1.StoredHub, error) {
	b, err := os.ReadFile(h.storedPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the hub's identity: %w", err)
	}
	stored := new(gwv1.StoredHub)
	if err := proto.Unmarshal(b, stored); err != nil {
		return nil, fmt.Errorf("read the hub's identity: %s is damaged; start with an empty data directory and --join", h.storedPath())
	}
	return stored, nil
}

// saveIdentity stores what lets the hub be known to the others before it knows any state.
func (h *hub) saveIdentity(c *gwv1.ClusterRecord) error {
	b, err := proto.Marshal(&gwv1.StoredHub{ClusterId: c.ClusterId, CaCertificate: c.CaCertificate, SealedCaKey: c.SealedCaKey})
	if err != nil {
		return err
	}
	return writeSecretFile(h.storedPath(), b)
}

// useCA opens the CA of a cluster.
func (h *hub) useCA(c *gwv1.ClusterRecord) (err error) {
	if h.ca, err = rpc.OpenCA(h.sealer, c); err != nil {
		return fmt.Errorf("%w: is %s the key this data was made with?", err, h.keyPath())
	}
	return nil
}

// useKey seals and opens with the cluster's key.
func (h *hub) useKey(key []byte) (err error) {
	h.key = key
	h.sealer, err = identity.NewSealer(key)
	return err
}

// showIdentity issues the hub's certificate, once its ID is known, and lets the port and calls to other hubs use it.
func (h *hub) showIdentity(nodeID string) error {
	if err := h.renewCertificate(nodeID); err != nil {
		return err
	}
	// Until the store is open nobody can say who was removed; Raft refuses those itself.
	h.port.identify(h.ca, h.certificate.Load, func(string) bool { return true })
	transport := &http.Transport{
		TLSClientConfig:     identity.HubClientTLS(h.ca.Certificate, h.ca.ClusterID(), h.certificate.Load, "h2"),
		TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout:     time.Minute,
		Protocols:           new(http.Protocols),
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second, MaxEncoderHeaderTableSize: 1},
	}
	transport.Protocols.SetHTTP2(true)
	h.peers = transport
	return nil
}

func (h *hub) renewCertificate(nodeID string) error {
	cert, err := h.ca.IssueHub(nodeID, h.config.Now(), hubCertificateTTL)
	if err != nil {
		return err
	}
	h.certificate.Store(&cert)
	return nil
}

// keepCertificate renews the hub's certificate when two thirds of its life have passed.
func (h *hub) keepCertificate(ctx context.Context) error {
	ticker := time.NewTicker(hubCertificateTTL * 2 / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := h.renewCertificate(h.store.NodeID()); err != nil {
				h.log.Error("the hub's certificate was not renewed", "error", err)
			}
		}
	}
}

// mayBeMember reports whether a hub with a certificate of the cluster may speak Raft: a removed one may not. A hub that
// is not known yet may be one that joins, or this hub may be the one that has yet to learn.
func (h *hub) mayBeMember(hubID string) bool {
	record, known := h.store.State().Hub(hubID)
	return !known || !record.Removed
}

// enrol exchanges the join token for the cluster's identity and key.
func (h *hub) enrol(ctx context.Context, nodeID string) error {
	token, err := identity.ParseJoinToken(h.config.Token)
	if err != nil {
		return usage("--token: %v", err)
	}
	key, err := identity.NewKey()
	if err != nil {
		return err
	}
	csr, err := identity.NewCSR(key)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: identity.EnrollTLS(token.Pin), ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	answer, err := h.askToJoin(ctx, gwv1connect.NewHubServiceClient(client, h.config.Join), &gwv1.JoinRequest{
		JoinTokenId: token.ID, JoinTokenSecret: token.Secret, HubId: nodeID, Csr: csr, Version: Version(), FeatureLevel: state.FeatureLevel,
	})
	if err != nil {
		return fmt.Errorf("join the cluster at %s: %w", h.config.Join, err)
	}
	if err := h.useKey(answer.ClusterKey); err != nil {
		return fmt.Errorf("join the cluster at %s: %w", h.config.Join, err)
	}
	cluster := &gwv1.ClusterRecord{ClusterId: answer.ClusterId, CaCertificate: answer.CaCertificate, SealedCaKey: answer.SealedCaKey}
	if err := h.useCA(cluster); err != nil {
		return err
	}
	if identity.PinOf(h.ca.Certificate) != token.Pin {
		return identity.ErrWrongCluster
	}
	// The key first: hub.pb says that the hub has joined, and is of no use without it.
	if err := writeSecretFile(h.keyPath(), answer.ClusterKey); err != nil {
		return err
	}
	h.knownHubs = answer.Hubs
	return h.saveIdentity(cluster)
}

// askToJoin repeats one request for up to 30 s while the cluster has no answer. The request is the same each time, and
// the hubs know it by its CSR: an answer that was lost does not use the token up.
func (h *hub) askToJoin(ctx context.Context, client gwv1connect.HubServiceClient, r *gwv1.JoinRequest) (*gwv1.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		answer, err := client.Join(ctx, r)
		if connect.CodeOf(err) != connect.CodeUnavailable || errors.Is(err, identity.ErrWrongCluster) {
			return answer, err
		}
		h.log.Warn("the cluster does not answer yet", "hub", h.config.Join, "error", err)
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(joinRetry):
		}
	}
}

// writeSecretFile writes a file for its owner only, whole or not at all, also after a power cut.
func writeSecretFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
