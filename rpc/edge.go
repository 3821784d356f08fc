package rpc

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"gw/node/fleet"
	"gw/raftstore"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

// EdgeServer is the hubs' side of the conversation with edges. Who the edge is and what it may see follows from its
// client certificate alone.
type EdgeServer struct {
	*core
	throttle  *throttle
	gates     *gates
	telling   lanes // of streams that a notice wakes
	calls     lanes // of calls that are no streams
	loading   *loading
	transfers transfers
}

// caller is the edge at the other end of a connection.
type caller struct {
	identity.Edge
	serial   string    // of its certificate, in hex
	lineage  uint64    // of its certificate
	notAfter time.Time // when that ends
	address  string    // host:port
}

type callerKey struct{}

// edgeOf returns the edge that calls, whose certificate must be of this cluster and be valid now.
func (s *EdgeServer) edgeOf(ctx context.Context) (caller, error) {
	c, err := s.anyEdgeOf(ctx)
	if err != nil {
		return c, err
	}
	return c, s.refuseEnded(c)
}

// refuseEnded is nil unless the caller's certificate has ended.
func (s *EdgeServer) refuseEnded(c caller) error {
	if !s.now().After(c.notAfter) {
		return nil
	}
	return &Error{Reason: ReasonCertificateNeeded, Message: fmt.Sprintf("the certificate of edge %s has ended: renew it", c.ID)}
}

// anyEdgeOf is edgeOf for certificates that may have ended.
func (s *EdgeServer) anyEdgeOf(ctx context.Context) (caller, error) {
	c, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		return c, &Error{Reason: ReasonCertificateNeeded, Message: "this call needs an edge's client certificate: enrol first"}
	}
	st := s.store.State()
	if c.ClusterID != st.Cluster().ClusterId {
		return c, &Error{Reason: ReasonForbidden, Message: "the certificate is of another cluster"}
	}
	return c, refuseRevoked(st, c)
}

// refuseRevoked is nil unless the state says that the caller's certificate was revoked.
func refuseRevoked(st *state.State, c caller) error {
	r := st.Revoked(c.ID, c.lineage)
	if r == nil {
		return nil
	}
	return &Error{Reason: ReasonRevoked, Message: fmt.Sprintf("edge %s was revoked by %s at %s: it may enrol again with a fresh join token (gw join-token create)",
		c.ID, r.By, time.Unix(0, r.At).UTC().Format(time.RFC3339))}
}

// enter returns the edge that calls, and the state with everything that was acknowledged, the edge's revocation too.
func (s *EdgeServer) enter(ctx context.Context) (caller, *state.State, error) {
	who, err := s.edgeOf(ctx)
	if err != nil {
		return who, nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return who, nil, err
	}
	return who, st, refuseRevoked(st, who)
}

// Enroll exchanges a join token for a client certificate. A repeated call, with the same token and request for a
// certificate, doesn't use the token up again.
func (s *EdgeServer) Enroll(ctx context.Context, r *gwv1.EnrollRequest) (*gwv1.EnrollResponse, error) {
	address := addressOf(ctx)
	// Only failures count: a whole fleet may enrol at once from one address.
	attempt := r.JoinTokenId + "\x00" + address
	if wait := s.throttle.wait(attempt); wait > 0 {
		return nil, &Error{Reason: ReasonTooManyTries, Message: fmt.Sprintf("too many tries to enrol; try again in %s", wait.Round(time.Second))}
	}
	// The token is part of the key: another one is no repetition, whatever it is for.
	asked := sha256.Sum256(append([]byte(r.JoinTokenId+"\x00"), r.Csr...))
	ctx = WithIdempotencyKey(WithPrincipal(ctx, Principal{User: "edge/" + r.EdgeId, Address: address}), "enroll/"+hex.EncodeToString(asked[:]))
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	now := s.now()
	_, again := repeated(ctx, st)
	was, registered := st.Edge(r.EdgeId) // it may have been removed since
	token, err := admitted(st, r.JoinTokenId, r.JoinTokenSecret, roleEdge, again && registered, now)
	if err != nil {
		s.throttle.take(attempt)
		return nil, err
	}
	// The state refuses this too, but not to a repetition: that one has been applied.
	if r, ok := st.Revocation(r.EdgeId); ok && token.Made < r.Before {
		return nil, &Error{Reason: ReasonRevoked, Message: state.OldJoinToken(r)}
	}
	// Only who has a token counts.
	if e := s.gates.certificates.admit(); e != nil {
		return nil, e
	}
	ca, err := s.clusterCA()
	if err != nil {
		return nil, err
	}
	who := identity.Edge{ClusterID: ca.ClusterID(), Namespace: token.Namespace, ID: r.EdgeId}
	lineage := st.Stamp()
	certificate, err := ca.SignEdgeIn(r.Csr, who, lineage, now, CertificateTTL)
	if err != nil {
		return nil, invalid("csr", ReasonInvalid, "%v", err)
	}
	edge := &gwv1.EdgeRecord{
		Id: r.EdgeId, Namespace: token.Namespace, Labels: token.Labels, Version: r.Version, FirstSeen: now.UnixNano(),
		CertificateSerial: certificate.SerialNumber.Text(16), CertificateNotAfter: certificate.NotAfter.UnixNano(),
		Ephemeral: token.Ephemeral, Lineage: lineage,
	}
	if registered && was.Namespace == token.Namespace && st.Revoked(was.Id, was.Lineage) == nil {
		edge.FirstSeen = was.FirstSeen
		edge.LoadedEpoch, edge.LoadedRelease, edge.LoadedChecksum = was.LoadedEpoch, was.LoadedRelease, was.LoadedChecksum
	}
	if err := s.enroll(ctx, token.Id, edge); err != nil {
		return nil, err
	}
	return &gwv1.EnrollResponse{
		Certificate: certificate.Raw, CaCertificate: ca.Certificate.Raw, ClusterId: ca.ClusterID(),
		Namespace: token.Namespace, HubUrls: s.hubURLs(),
	}, nil
}

// enroll registers an edge. A repetition uses the token up no more; the certificate that its answer holds is registered
// in place of the first.
func (s *EdgeServer) enroll(ctx context.Context, token string, edge *gwv1.EdgeRecord) error {
	_, err := s.change(ctx, &gwv1.Command{Body: &gwv1.Command_EnrollEdge{EnrollEdge: &gwv1.EnrollEdge{JoinTokenId: token, Edge: edge}}})
	if err != nil {
		return err
	}
	st := s.store.State()
	is, ok := st.Edge(edge.Id)
	switch {
	case ok && is.CertificateSerial == edge.CertificateSerial:
		return nil
	case ok && is.Namespace != edge.Namespace:
		return &Error{Reason: ReasonAlreadyExists, Message: fmt.Sprintf("edge ID %q is registered in another namespace; remove that edge first", edge.Id)}
	case ok:
		edge.Labels, edge.Ephemeral = is.Labels, is.Ephemeral
	}
	_, err = s.propose(ctx, &gwv1.Command{Body: &gwv1.Command_UpdateEdges{UpdateEdges: &gwv1.UpdateEdges{Edges: []*gwv1.EdgeRecord{edge}}}})
	if err != nil {
		return fmt.Errorf("record the certificate of edge %s: %w", edge.Id, err)
	}
	return nil
}

// Roles of join tokens.
const (
	roleEdge = "edge"
	roleHub  = "hub"
)

// admitted returns the join token that a request proves to have, if it is for the role. Whether it exists at all is not
// told to who can't. again: the request has been granted before, and its answer was lost.
func admitted(st *state.State, id string, secret []byte, role string, again bool, now time.Time) (*gwv1.JoinTokenRecord, error) {
	token, ok := st.JoinToken(id)
	hash := sha256.Sum256(secret)
	stored := make([]byte, len(hash))
	if ok {
		stored = token.SecretHash
	}
	switch {
	case subtle.ConstantTimeCompare(hash[:], stored) != 1 || !ok:
		return nil, &Error{Reason: ReasonForbidden, Message: "there is no such join token: it was mistyped or deleted"}
	case token.Role != role:
		return nil, &Error{Reason: ReasonForbidden, Message: fmt.Sprintf("the join token is for a process of role %s; make another one with `gw join-token create --role %s`", token.Role, role)}
	case again:
		return token, nil
	case token.ExpiresAt <= now.UnixNano():
		return nil, &Error{Reason: ReasonForbidden, Message: fmt.Sprintf("the join token ended at %s; make a new one with `gw join-token`",
			time.Unix(0, token.ExpiresAt).UTC().Format(time.RFC3339))}
	case token.MaxUses > 0 && token.Uses >= token.MaxUses:
		return nil, &Error{Reason: ReasonTokenUsedUp, Message: fmt.Sprintf("the join token has been used %d of %d times; make a new one with `gw join-token`",
			token.Uses, token.MaxUses)}
	}
	return token, nil
}

// RenewCertificate exchanges the certificate of the call for a fresh one.
func (s *EdgeServer) RenewCertificate(ctx context.Context, r *gwv1.RenewCertificateRequest) (*gwv1.RenewCertificateResponse, error) {
	who, err := s.anyEdgeOf(ctx)
	if err != nil {
		return nil, err
	}
	now := s.now()
	if now.Sub(who.notAfter) > identity.RenewWithin {
		return nil, &Error{Reason: ReasonCertificateNeeded, Message: fmt.Sprintf("the certificate of edge %s ended more than 90 days ago: enrol again", who.ID)}
	}
	if !s.store.Leading() {
		return nil, raftstore.ErrNotLeader
	}
	if e := s.gates.certificates.admit(); e != nil {
		return nil, e
	}
	ca, err := s.clusterCA()
	if err != nil {
		return nil, err
	}
	certificate, err := ca.SignEdgeIn(r.Csr, who.Edge, who.lineage, now, CertificateTTL)
	if err != nil {
		return nil, invalid("csr", ReasonInvalid, "%v", err)
	}
	return &gwv1.RenewCertificateResponse{Certificate: certificate.Raw, CaCertificate: ca.Certificate.Raw}, nil
}

// Heartbeat takes in what the edge runs and how it is.
func (s *EdgeServer) Heartbeat(ctx context.Context, r *gwv1.HeartbeatRequest) (*gwv1.HeartbeatResponse, error) {
	began := arrivedAt(ctx, s.now())
	who, st, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	s.loading.reported(who.ID)
	clipError(r.ApplyError)
	target, _ := st.Target(who.Namespace)
	before, known := s.fleet.Running(who.ID)
	s.metrics.heard(before, known, r, target, s.now())
	interval := s.fleet.Beat(who.Edge, who.address, r, fleet.Certificate{
		Serial: who.serial, NotAfter: who.notAfter, Lineage: who.lineage,
	})
	s.fleet.Took(s.now().Sub(began))
	answer := &gwv1.HeartbeatResponse{
		Interval: durationpb.New(interval), HubUrls: s.hubURLs(), Target: shownTarget(target), Retry: retryOf(st, who.ID),
	}
	if answer.Target.GetNumber() > 0 && !s.runs(who.ID, answer.Target) && !s.loading.take(who.ID) {
		answer.Target = nil // its stream tells it in its turn
	}
	return answer, nil
}

// clipError bounds what the leader remembers of an error that an edge reports.
func clipError(e *gwv1.ApplyError) {
	if e == nil {
		return
	}
	for _, field := range []*string{&e.Kind, &e.Name, &e.Field, &e.Code} {
		*field = clip(*field, 256)
	}
	e.Message = clip(e.Message, 4096)
}

func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

// retryOf returns at what value an edge's rejections count.
func retryOf(st *state.State, edgeID string) uint64 {
	e, _ := st.Edge(edgeID)
	return e.GetRetry()
}

// shownTarget is a release in short; nil is no release.
func shownTarget(r *state.Release) *gwv1.Target {
	if r == nil {
		return &gwv1.Target{Checksum: resource.EmptyChecksum[:]}
	}
	return &gwv1.Target{Epoch: r.Epoch, Number: r.Number, Checksum: r.Checksum[:]}
}

// Goodbye ends a session on purpose.
func (s *EdgeServer) Goodbye(ctx context.Context, r *gwv1.GoodbyeRequest) (*gwv1.GoodbyeResponse, error) {
	who, err := s.edgeOf(ctx)
	if err != nil {
		return nil, err
	}
	s.fleet.Goodbye(who.ID, r.SessionId)
	return &gwv1.GoodbyeResponse{}, nil
}

// ValidateToken answers for a token the edge has not seen. That of an app the edge's namespace has no part in is
// answered like one that doesn't exist.
func (s *EdgeServer) ValidateToken(ctx context.Context, r *gwv1.ValidateTokenRequest) (*gwv1.ValidateTokenResponse, error) {
	who, st, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	unknown := &gwv1.ValidateTokenResponse{AccessVersion: st.Cluster().AccessVersion}
	token, ok := st.TokenByHash(r.TokenHash)
	if !ok || token.Revoked || token.ExpiresAt != 0 && token.ExpiresAt <= s.now().UnixNano() {
		return unknown, nil
	}
	app, ok := st.AppByID(token.AppId)
	if !ok || !serves(who.Namespace, app.Namespace) {
		return unknown, nil
	}
	return &gwv1.ValidateTokenResponse{
		Valid: true, TokenId: token.Id, AppId: app.Id, App: app.Name, Targets: app.Targets, Policies: app.Policies,
		ExpiresAt: stamp(token.ExpiresAt), AccessVersion: st.Cluster().AccessVersion,
	}, nil
}

// serves reports whether edges of a namespace have to do with what is in another one.
func serves(edges, namespace string) bool { return namespace == edges || namespace == resource.Global }

// FetchSecrets returns the secrets that the target release of the edge's namespace names, and those of the release that
// the edge still serves, which may name others: for each name that of the namespace, or else that of global.
func (s *EdgeServer) FetchSecrets(ctx context.Context, r *gwv1.FetchSecretsRequest) (*gwv1.FetchSecretsResponse, error) {
	who, st, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	answer := &gwv1.FetchSecretsResponse{AccessVersion: st.Cluster().AccessVersion}
	for _, name := range secretNames(st, who.Namespace, r) {
		record, ok := findSecret(st, who.Namespace, name)
		if !ok {
			continue // the push saw it; nothing deletes a secret that a release names
		}
		value, err := openSecret(s.sealer, record)
		if err != nil {
			return nil, err
		}
		answer.Secrets = append(answer.Secrets, &gwv1.SecretValue{Name: name, Version: record.Version, Value: value})
	}
	return answer, nil
}

// secretNames are the names of the secrets that an edge of a namespace needs, sorted. Of what the edge serves only the
// number is its word: the names are those of the release that was kept under it.
func secretNames(st *state.State, namespace string, r *gwv1.FetchSecretsRequest) []string {
	var names []string
	if target, ok := st.Target(namespace); ok {
		names = target.Secrets()
	}
	if loaded, ok := st.Release(namespace, r.LoadedRelease); ok && loaded.Epoch == r.LoadedEpoch {
		names = slices.Concat(names, loaded.Secrets())
		slices.Sort(names)
		names = slices.Compact(names)
	}
	return names
}
