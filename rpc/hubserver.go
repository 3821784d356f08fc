package rpc

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// HubCertificateTTL is how long the certificate lives that a hub joins with; it issues its own from then on.
const HubCertificateTTL = 7 * 24 * time.Hour

// dialBackTimeout is how long a hub that joins may take to be reached.
const dialBackTimeout = 5 * time.Second

// FeatureLevel is the highest level of commands this binary knows; a hub says it when it joins.
const FeatureLevel = state.FeatureLevel

// HubServer is what hubs say to one another.
type HubServer struct {
	*core
	throttle *throttle
}

// Join exchanges a join token of role hub for a certificate and the cluster key. A repeated call, with the same request
// for a certificate, doesn't use the token up again.
func (s *HubServer) Join(ctx context.Context, r *gwv1.JoinRequest) (*gwv1.JoinResponse, error) {
	address := addressOf(ctx)
	attempt := r.JoinTokenId + "\x00" + address
	if wait := s.throttle.wait(attempt); wait > 0 {
		return nil, &Error{Reason: ReasonTooManyTries, Message: fmt.Sprintf("too many tries to join; try again in %s", wait.Round(time.Second))}
	}
	csr := sha256.Sum256(r.Csr)
	ctx = WithIdempotencyKey(WithPrincipal(ctx, Principal{User: "hub/" + r.HubId, Address: address}), "join/"+hex.EncodeToString(csr[:]))
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	now := s.now()
	_, again := repeated(ctx, st)
	token, err := admitted(st, r.JoinTokenId, r.JoinTokenSecret, roleHub, again, now)
	if err == nil {
		err = s.checkJoiner(st, r)
	}
	if err != nil {
		s.throttle.take(attempt)
		return nil, err
	}
	ca, err := s.clusterCA()
	if err != nil {
		return nil, err
	}
	certificate, err := ca.SignHub(r.Csr, r.HubId, now, HubCertificateTTL)
	if err != nil {
		return nil, invalid("csr", ReasonInvalid, "%v", err)
	}
	_, err = s.change(ctx, &gwv1.Command{Body: &gwv1.Command_EnrollHub{EnrollHub: &gwv1.EnrollHub{
		JoinTokenId: token.Id,
		Hub:         &gwv1.HubRecord{Id: r.HubId, Version: r.Version, FeatureLevel: r.FeatureLevel, JoinedAt: now.UnixNano()},
	}}})
	if err != nil {
		return nil, err
	}
	return &gwv1.JoinResponse{
		Certificate: certificate.Raw, CaCertificate: ca.Certificate.Raw, ClusterId: ca.ClusterID(),
		ClusterKey: s.clusterKey, SealedCaKey: st.Cluster().SealedCaKey, Hubs: s.hubAddresses(),
	}, nil
}

// checkJoiner refuses a hub that can't be a member.
func (s *HubServer) checkJoiner(st *state.State, r *gwv1.JoinRequest) error {
	if h, ok := st.Hub(r.HubId); ok && h.Removed {
		return errRemoved(r.HubId)
	}
	if level := st.Cluster().FeatureLevel; r.FeatureLevel < level {
		return &Error{Reason: ReasonTooOld, Message: fmt.Sprintf(
			"version %s knows feature level %d and the cluster is at %d: install a newer one", r.Version, r.FeatureLevel, level)}
	}
	if s.clusterKey == nil {
		return &Error{Reason: ReasonPrecondition, Message: "this hub was started alone and can't take others in"}
	}
	return nil
}

// AddHub makes the calling hub a member without a vote, once it has been seen to answer where it says it does. For a
// member it records a new address and version.
func (s *HubServer) AddHub(ctx context.Context, r *gwv1.AddHubRequest) (*gwv1.AddHubResponse, error) {
	id, ok := hubFrom(ctx)
	if !ok {
		return nil, &Error{Reason: ReasonCertificateNeeded, Message: "this call needs a hub's certificate: join first"}
	}
	if _, _, err := net.SplitHostPort(r.Address); err != nil {
		return nil, invalid("address", ReasonInvalid, "want HOST:PORT")
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	record, ok := st.Hub(id)
	switch {
	case !ok:
		return nil, &Error{Reason: ReasonForbidden, Message: "hub " + id + " has not joined: it needs a join token of role hub"}
	case record.Removed:
		return nil, errRemoved(id)
	}
	if err := s.dialBack(ctx, id, r.Address); err != nil {
		return nil, err
	}
	if err := s.store.AddLearner(ctx, id, r.Address); err != nil {
		return nil, fmt.Errorf("add hub %s: %w", id, err)
	}
	if record.Address != r.Address || record.Version != r.Version {
		ctx = WithPrincipal(ctx, Principal{User: "hub/" + id, Address: addressOf(ctx)})
		if err := s.putHub(ctx, &gwv1.HubRecord{Id: id, Address: r.Address, Version: r.Version,
			FeatureLevel: record.FeatureLevel, JoinedAt: record.JoinedAt}); err != nil {
			return nil, err
		}
	}
	return &gwv1.AddHubResponse{Hubs: s.hubAddresses()}, nil
}

func (k *core) putHub(ctx context.Context, h *gwv1.HubRecord) error {
	_, err := k.propose(ctx, &gwv1.Command{Body: &gwv1.Command_PutHub{PutHub: &gwv1.PutHubRecord{Hub: h}}})
	if err != nil {
		return fmt.Errorf("record hub %s: %w", h.Id, err)
	}
	return nil
}

// dialBack makes sure that the hub with this ID answers at an address.
func (s *HubServer) dialBack(ctx context.Context, id, address string) error {
	if s.dialHub == nil {
		return &Error{Reason: ReasonPrecondition, Message: "this hub was started alone and can't take others in"}
	}
	ctx, cancel := context.WithTimeout(ctx, dialBackTimeout)
	defer cancel()
	conn, err := s.dialHub(ctx, address)
	if err != nil {
		return &Error{Reason: ReasonUnreachable, Message: fmt.Sprintf(
			"the leader does not reach this hub at %s: %v; check its --address and the firewalls between", address, err)}
	}
	defer conn.Close()
	there, err := hubAt(conn)
	if err != nil {
		return &Error{Reason: ReasonUnreachable, Message: fmt.Sprintf("at %s answers something else than a hub: %v", address, err)}
	}
	if subtle.ConstantTimeCompare([]byte(there), []byte(id)) != 1 {
		return &Error{Reason: ReasonUnreachable, Message: fmt.Sprintf("at %s answers hub %s instead of %s", address, there, id)}
	}
	return nil
}

// hubAt returns the hub at the other end of a connection that DialHub made.
func hubAt(conn net.Conn) (id string, err error) {
	secure, ok := conn.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return "", errors.New("the connection is not over TLS")
	}
	chain := secure.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return "", errors.New("it shows no certificate")
	}
	_, id, err = identity.HubOf(chain[0])
	return id, err
}

// Describe says how this hub is, to any hub of the cluster that was not removed.
func (s *HubServer) Describe(ctx context.Context, _ *gwv1.DescribeRequest) (*gwv1.DescribeResponse, error) {
	if err := needHub(ctx); err != nil {
		return nil, err
	}
	return s.describe(), nil
}

// Verdict takes in which digest most hubs have at a beacon. If this hub's is another, it stops serving.
func (s *HubServer) Verdict(ctx context.Context, r *gwv1.VerdictRequest) (*gwv1.VerdictResponse, error) {
	if err := needHub(ctx); err != nil {
		return nil, err
	}
	if id, _ := hubFrom(ctx); s.standingOf(id) != member {
		return nil, &Error{Reason: ReasonForbidden, Message: "hub " + id + " is no member of the cluster"}
	}
	index, digest := s.store.Beacon()
	if index == r.BeaconIndex && subtle.ConstantTimeCompare(digest[:], r.Digest) != 1 {
		s.diverged(ctx, index, digest[:], r.Digest)
	}
	return &gwv1.VerdictResponse{}, nil
}

func needHub(ctx context.Context) error {
	if _, ok := hubFrom(ctx); !ok {
		return &Error{Reason: ReasonCertificateNeeded, Message: "this call needs a hub's certificate"}
	}
	return nil
}

func leaderContact(d time.Duration) *durationpb.Duration {
	if d < 0 {
		return nil
	}
	return durationpb.New(d)
}
