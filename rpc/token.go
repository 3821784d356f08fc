package rpc

import (
	"context"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// CreateToken makes a credential of an app. Only its hash and a hint are kept.
func (s *AccessServer) CreateToken(ctx context.Context, r *gwv1.CreateTokenRequest) (*gwv1.CreateTokenResponse, error) {
	ns := orDefault(r.Namespace)
	if _, err := admit(ctx, r, RoleOperator, ns); err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	app, ok := st.App(ns, r.App)
	if !ok {
		return nil, notFound("app", ns+"/"+r.App)
	}
	credential := identity.NewCredential(identity.AppTokenPrefix)
	hash := identity.HashCredential(credential)
	now := s.now()
	token := &gwv1.TokenRecord{
		Id: newID(), AppId: app.Id, Hash: hash[:], Hint: identity.Hint(credential), Note: r.Note, CreatedAt: now.UnixNano(),
	}
	if r.Ttl != nil {
		token.ExpiresAt = now.Add(r.Ttl.AsDuration()).UnixNano()
	}
	err = s.deliver(ctx, &gwv1.Command{Body: &gwv1.Command_PutToken{PutToken: &gwv1.PutTokenRecord{Token: token}}},
		func(st *state.State) bool { _, ok := st.TokenByHash(hash[:]); return ok })
	if err != nil {
		return nil, err
	}
	return &gwv1.CreateTokenResponse{Token: shownToken(app, token), Credential: credential}, nil
}

// ListTokens returns the tokens of an app, or of every app the caller may see; revoked ones too.
func (s *AccessServer) ListTokens(ctx context.Context, r *gwv1.ListTokensRequest) (*gwv1.ListTokensResponse, error) {
	namespace := r.Namespace
	if r.App != "" {
		namespace = orDefault(namespace)
	}
	p, st, err := s.list(ctx, r, namespace)
	if err != nil {
		return nil, err
	}
	answer := &gwv1.ListTokensResponse{}
	found := r.App == ""
	for app := range st.Apps(namespace) {
		if !p.sees(app.Namespace) || r.App != "" && app.Name != r.App {
			continue
		}
		found = true
		for t := range st.Tokens(app.Id) {
			answer.Tokens = append(answer.Tokens, shownToken(app, t))
		}
	}
	if !found {
		return nil, notFound("app", namespace+"/"+r.App)
	}
	return answer, nil
}

// RevokeToken ends a token, given by its ID or as the credential itself.
func (s *AccessServer) RevokeToken(ctx context.Context, r *gwv1.RevokeTokenRequest) (*gwv1.RevokeTokenResponse, error) {
	if _, err := admit(ctx, r, RoleOperator); err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	token, app, ok := findToken(st, r.Token)
	if !ok {
		// The message must not repeat what may be a credential.
		return nil, &Error{Reason: ReasonNotFound, Message: "there is no such token"}
	}
	if _, err := allow(ctx, RoleOperator, app.GetNamespace()); err != nil {
		return nil, err
	}
	result, err := s.change(ctx, &gwv1.Command{Body: &gwv1.Command_RevokeToken{RevokeToken: &gwv1.RevokeTokenRecord{Id: token.Id}}})
	if err != nil {
		return nil, err
	}
	return &gwv1.RevokeTokenResponse{AccessVersion: result.AccessVersion}, nil
}

func findToken(st *state.State, idOrCredential string) (*gwv1.TokenRecord, *gwv1.AppRecord, bool) {
	token, ok := st.Token(idOrCredential)
	if identity.CheckCredential(identity.AppTokenPrefix, idOrCredential) {
		hash := identity.HashCredential(idOrCredential)
		token, ok = st.TokenByHash(hash[:])
	}
	if !ok {
		return nil, nil, false
	}
	app, ok := st.AppByID(token.AppId)
	return token, app, ok
}

func shownToken(app *gwv1.AppRecord, t *gwv1.TokenRecord) *gwv1.Token {
	return &gwv1.Token{Id: t.Id, App: app.Name, Namespace: app.Namespace, AppId: app.Id, Note: t.Note,
		CreatedAt: stamp(t.CreatedAt), ExpiresAt: stamp(t.ExpiresAt), Revoked: t.Revoked, Hint: t.Hint}
}
