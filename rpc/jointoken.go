package rpc

import (
	"cmp"
	"context"
	"crypto/sha256"
	"time"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

const defaultJoinTTL = time.Hour

// CreateJoinToken makes what edges enrol with, and hubs join with.
func (s *AccessServer) CreateJoinToken(ctx context.Context, r *gwv1.CreateJoinTokenRequest) (*gwv1.CreateJoinTokenResponse, error) {
	ns := orDefault(r.Namespace)
	if r.Role == roleHub {
		ns = "" // it belongs to all of them, and so must who lets it in
	}
	if _, err := admit(ctx, r, RoleAdmin, ns); err != nil {
		return nil, err
	}
	switch {
	case r.Role == roleHub && (r.Namespace != "" || len(r.Labels) > 0 || r.Ephemeral):
		return nil, invalid("role", ReasonInvalid, "a hub has no namespace, no labels, and is not ephemeral")
	case ns == resource.Global:
		return nil, invalid("namespace", ReasonInvalid, "no edge lives in global; want the namespace that it shall serve")
	case r.Role != roleHub && !resource.ValidName(ns):
		return nil, invalid("namespace", ReasonInvalid, "want %s", resource.NameRule)
	case r.Unlimited && r.MaxUses > 0:
		return nil, invalid("max_uses", ReasonInvalid, "can't be given together with unlimited")
	}
	ca, err := s.clusterCA()
	if err != nil {
		return nil, err
	}
	token := identity.NewJoinToken(identity.PinOf(ca.Certificate))
	hash := sha256.Sum256(token.Secret)
	now, ttl := s.now(), defaultJoinTTL
	if r.Ttl != nil {
		ttl = r.Ttl.AsDuration()
	}
	record := &gwv1.JoinTokenRecord{
		Id: token.ID, Role: cmp.Or(r.Role, roleEdge), Namespace: ns, Labels: r.Labels, SecretHash: hash[:],
		CreatedAt: now.UnixNano(), ExpiresAt: now.Add(ttl).UnixNano(), Ephemeral: r.Ephemeral,
	}
	if !r.Unlimited {
		record.MaxUses = max(r.MaxUses, 1)
	}
	err = s.deliver(ctx, &gwv1.Command{Body: &gwv1.Command_PutJoinToken{PutJoinToken: &gwv1.PutJoinTokenRecord{JoinToken: record}}},
		func(st *state.State) bool { _, ok := st.JoinToken(token.ID); return ok })
	if err != nil {
		return nil, err
	}
	return &gwv1.CreateJoinTokenResponse{JoinToken: shownJoinToken(record), Credential: token.String(), HubUrls: s.hubURLs()}, nil
}

// ListJoinTokens returns the join tokens of the namespaces the caller may see, without their secrets.
func (s *AccessServer) ListJoinTokens(ctx context.Context, r *gwv1.ListJoinTokensRequest) (*gwv1.ListJoinTokensResponse, error) {
	p, st, err := s.list(ctx, r, "")
	if err != nil {
		return nil, err
	}
	answer := &gwv1.ListJoinTokensResponse{}
	for t := range st.JoinTokens() {
		if p.sees(t.Namespace) {
			answer.JoinTokens = append(answer.JoinTokens, shownJoinToken(t))
		}
	}
	return answer, nil
}

// DeleteJoinToken makes a join token admit nobody any more; edges that enrolled with it stay.
func (s *AccessServer) DeleteJoinToken(ctx context.Context, r *gwv1.DeleteJoinTokenRequest) (*gwv1.DeleteJoinTokenResponse, error) {
	p, err := admit(ctx, r, RoleAdmin)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	token, ok := st.JoinToken(r.Id)
	_, again := repeated(ctx, st)
	if !again && (!ok || !p.may(RoleAdmin, token.Namespace)) {
		return nil, notFound("join token", r.Id)
	}
	_, err = s.change(ctx, &gwv1.Command{Body: &gwv1.Command_DeleteJoinToken{DeleteJoinToken: &gwv1.DeleteJoinTokenRecord{Id: r.Id}}})
	if err != nil {
		return nil, err
	}
	return &gwv1.DeleteJoinTokenResponse{}, nil
}

func shownJoinToken(t *gwv1.JoinTokenRecord) *gwv1.JoinToken {
	return &gwv1.JoinToken{Id: t.Id, Role: t.Role, Namespace: t.Namespace, Labels: t.Labels,
		CreatedAt: stamp(t.CreatedAt), ExpiresAt: stamp(t.ExpiresAt), Uses: t.Uses, MaxUses: t.MaxUses, Ephemeral: t.Ephemeral}
}
