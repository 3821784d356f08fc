package rpc

import (
	"context"
	"slices"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// frozen is what keeps a plan from being carried out.
func (p *plan) frozen() (held resource.Errors) {
	for _, n := range p.namespaces {
		if n.unchanged() {
			continue
		}
		f, ok := p.state.Frozen(n.name)
		if !ok {
			continue
		}
		held = append(held, &resource.Error{Namespace: n.name, Code: ReasonFrozen, Message: state.FrozenMessage(n.name, f),
			Expected: "gw unfreeze first, or an admin with --break-glass"})
	}
	return held
}

// freezes are those that keep a plan from being carried out, each once.
func (p *plan) freezes() (met []*gwv1.PushFreeze) {
	var seen []string
	for _, n := range p.namespaces {
		if f, ok := p.state.Frozen(n.name); ok && !n.unchanged() && !slices.Contains(seen, f.Namespace) {
			seen = append(seen, f.Namespace)
			met = append(met, shownFreeze(f))
		}
	}
	return met
}

func shownFreeze(f *gwv1.FreezeRecord) *gwv1.PushFreeze {
	return &gwv1.PushFreeze{Namespace: f.Namespace, Reason: f.Reason, By: f.By, At: stamp(f.At)}
}

// Freeze keeps pushes and rollbacks of namespaces from being made.
func (s *ReleaseServer) Freeze(ctx context.Context, r *gwv1.FreezeRequest) (*gwv1.FreezeResponse, error) {
	if _, err := admit(ctx, r, RoleOperator, scopeNeeds(r.Scope)...); err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	body := &gwv1.FreezePushes{Reason: r.Reason}
	if !everything(r.Scope) {
		if body.Namespaces, err = namespacesIn(st, r.Scope); err != nil {
			return nil, err
		}
	}
	if _, err := s.change(ctx, &gwv1.Command{Body: &gwv1.Command_FreezePushes{FreezePushes: body}}); err != nil {
		return nil, err
	}
	return &gwv1.FreezeResponse{}, nil
}

// Unfreeze takes freezes back. That of every namespace is one of its own: it does not end those of single ones.
func (s *ReleaseServer) Unfreeze(ctx context.Context, r *gwv1.UnfreezeRequest) (*gwv1.UnfreezeResponse, error) {
	if _, err := admit(ctx, r, RoleOperator, scopeNeeds(r.Scope)...); err != nil {
		return nil, err
	}
	body := &gwv1.UnfreezePushes{}
	if !everything(r.Scope) {
		body.Namespaces = r.Scope.Namespaces
	}
	if _, err := s.change(ctx, &gwv1.Command{Body: &gwv1.Command_UnfreezePushes{UnfreezePushes: body}}); err != nil {
		return nil, err
	}
	return &gwv1.UnfreezeResponse{}, nil
}

// ListFreezes returns what keeps pushes from being made, that of every namespace first.
func (s *ReleaseServer) ListFreezes(ctx context.Context, r *gwv1.ListFreezesRequest) (*gwv1.ListFreezesResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	answer := &gwv1.ListFreezesResponse{}
	for f := range st.Freezes() {
		if f.Namespace == "" || p.sees(f.Namespace) {
			answer.Freezes = append(answer.Freezes, shownFreeze(f))
		}
	}
	return answer, nil
}
