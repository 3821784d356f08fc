package rpc

import (
	"context"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// PutSecret saves a value under a name: sealed before it reaches the log, and never read back.
func (s *AccessServer) PutSecret(ctx context.Context, r *gwv1.PutSecretRequest) (*gwv1.PutSecretResponse, error) {
	ns := orDefault(r.Namespace)
	p, err := admit(ctx, r, RoleAdmin, ns)
	if err != nil {
		return nil, err
	}
	if !resource.ValidName(ns) {
		return nil, invalid("namespace", ReasonInvalid, "want %s", resource.NameRule)
	}
	record := &gwv1.SecretRecord{
		Namespace: ns, Name: r.Name, Sealed: sealSecret(s.sealer, []byte(r.Value), ns, r.Name),
		UpdatedAt: s.now().UnixNano(), UpdatedBy: p.User,
	}
	result, err := s.change(ctx, &gwv1.Command{Body: &gwv1.Command_PutSecret{PutSecret: &gwv1.PutSecretRecord{Secret: record}}})
	if err != nil {
		return nil, err
	}
	record.Version = result.SecretVersion
	return &gwv1.PutSecretResponse{Secret: shownSecret(record)}, nil
}

// ListSecrets returns names, never values.
func (s *AccessServer) ListSecrets(ctx context.Context, r *gwv1.ListSecretsRequest) (*gwv1.ListSecretsResponse, error) {
	p, st, err := s.list(ctx, r, r.Namespace)
	if err != nil {
		return nil, err
	}
	answer := &gwv1.ListSecretsResponse{}
	for x := range st.Secrets(r.Namespace) {
		if p.sees(x.Namespace) {
			answer.Secrets = append(answer.Secrets, shownSecret(x))
		}
	}
	return answer, nil
}

// DeleteSecret is refused while a resource or a release names the secret.
func (s *AccessServer) DeleteSecret(ctx context.Context, r *gwv1.DeleteSecretRequest) (*gwv1.DeleteSecretResponse, error) {
	ns := orDefault(r.Namespace)
	if _, err := admit(ctx, r, RoleAdmin, ns); err != nil {
		return nil, err
	}
	_, err := s.change(ctx, &gwv1.Command{Body: &gwv1.Command_DeleteSecret{DeleteSecret: &gwv1.DeleteSecretRecord{Namespace: ns, Name: r.Name}}})
	if err != nil {
		return nil, err
	}
	return &gwv1.DeleteSecretResponse{}, nil
}

func shownSecret(r *gwv1.SecretRecord) *gwv1.Secret {
	return &gwv1.Secret{Name: r.Name, Namespace: r.Namespace, Version: r.Version, UpdatedAt: stamp(r.UpdatedAt), UpdatedBy: r.UpdatedBy}
}
