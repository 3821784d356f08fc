package rpc

import (
	"context"
	"fmt"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// DiffReleases compares two releases of a namespace, or one with what is saved.
func (s *ReleaseServer) DiffReleases(ctx context.Context, r *gwv1.DiffReleasesRequest) (*gwv1.DiffReleasesResponse, error) {
	if _, err := admit(ctx, r, RoleViewer, r.Namespace); err != nil {
		return nil, err
	}
	if r.Namespace == resource.Global {
		return nil, invalid("namespace", ReasonInvalid, "\"global\" has no releases of its own: name a namespace that edges live in")
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	p, err := makePlan(st, &gwv1.Scope{Namespaces: []string{r.Namespace}})
	if err != nil {
		return nil, err
	}
	saved := p.namespaces[0]
	from := saved.target
	if r.From > 0 {
		var ok bool
		if from, ok = st.Release(r.Namespace, r.From); !ok {
			return nil, notFound("release", fmt.Sprintf("%s/%d", r.Namespace, r.From))
		}
	}
	answer := &gwv1.DiffReleasesResponse{FromChecksum: resource.EmptyChecksum.String(), ToChecksum: saved.checksum.String()}
	if from != nil {
		answer.From, answer.FromChecksum = from.Number, from.Checksum.String()
	}
	to := p.entries(saved)
	if r.To > 0 {
		release, ok := st.Release(r.Namespace, r.To)
		if !ok {
			return nil, notFound("release", fmt.Sprintf("%s/%d", r.Namespace, r.To))
		}
		to, answer.ToChecksum = release.Entries(), release.Checksum.String()
	}
	budget := maxPreview
	answer.Changes = compared(entriesIn(from), to, &budget)
	return answer, nil
}
