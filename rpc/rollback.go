package rpc

import (
	"context"
	"fmt"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// Rollback makes new releases with the content of older ones, for namespaces whose target differs from those.
func (s *ReleaseServer) Rollback(ctx context.Context, r *gwv1.RollbackRequest) (*gwv1.PushResponse, error) {
	if err := admitPush(ctx, r, r.Scope, r.BreakGlass, r.Note); err != nil {
		return nil, err
	}
	asked := requestOf(ctx, r)
	return s.release(ctx, asked, r.Base, r.BreakGlass, func(st *state.State) (*plan, error) { return makeRollback(st, r.Scope, r.To) }, func(p *plan) *gwv1.Command {
		body := &gwv1.RollbackReleases{Note: r.Note, To: r.To, ConfirmRemoval: r.ConfirmRemoval, BreakGlass: r.BreakGlass, Request: asked}
		for _, n := range p.namespaces {
			body.Namespaces = append(body.Namespaces, &gwv1.RollbackNamespace{Namespace: n.name, Source: n.source.Number,
				Checksum: n.checksum[:], Target: n.number()})
		}
		return &gwv1.Command{Body: &gwv1.Command_RollbackReleases{RollbackReleases: body}}
	})
}

// makeRollback plans to bring back what namespaces had after a push, or, if to is 0, before their newest release. A
// namespace that had none then is left alone, unless it was asked for by name.
func makeRollback(st *state.State, scope *gwv1.Scope, to uint64) (*plan, error) {
	if to > st.Cluster().PushNumber {
		return nil, notFound("push", fmt.Sprint(to))
	}
	names, err := namespacesIn(st, scope)
	if err != nil {
		return nil, err
	}
	p := &plan{state: st}
	for _, name := range names {
		n := planned{name: name, source: rollbackSource(st, name, to)}
		if n.source == nil {
			if everything(scope) {
				continue
			}
			return nil, nothingToBringBack(name, to)
		}
		n.target, _ = st.Target(name)
		n.again = n.target.Epoch != st.Cluster().Epoch
		n.checksum, n.size = n.source.Checksum, n.source.Size
		p.namespaces = append(p.namespaces, n)
	}
	if len(p.namespaces) == 0 {
		return nil, nothingToBringBack("", to)
	}
	return p, nil
}

// nothingToBringBack is the refusal when no kept release is old enough; namespace "" is every one in scope.
func nothingToBringBack(namespace string, to uint64) error {
	what := "release before its newest one"
	if to > 0 {
		what = fmt.Sprintf("release of push %d or of one before it", to)
	}
	whose := "no namespace has a"
	if namespace != "" {
		whose = fmt.Sprintf("namespace %q has no", namespace)
	}
	return &Error{Reason: ReasonNotFound, Message: fmt.Sprintf("%s %s that is still kept; see: gw releases", whose, what)}
}

// rollbackSource returns the release a namespace had after a push, or, if that is 0, before its newest one; nil if there
// was none or it is no longer kept.
func rollbackSource(st *state.State, namespace string, to uint64) *state.Release {
	newest := true
	for r := range st.Releases(namespace) {
		if to == 0 && !newest || to > 0 && r.Number <= to {
			return r
		}
		newest = false
	}
	return nil
}
