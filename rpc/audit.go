package rpc

import (
	"context"
	"strings"

	"gw/rpc/gwv1"
)

// AuditServer tells who changed what.
type AuditServer struct{ *core }

// ListAudit returns a page of the entries that match, newest first.
func (s *AuditServer) ListAudit(ctx context.Context, r *gwv1.ListAuditRequest) (*gwv1.ListAuditResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	if r.Namespace != "" {
		if _, err := allow(ctx, RoleViewer, r.Namespace); err != nil {
			return nil, err
		}
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	limit := int(r.PageSize)
	if limit == 0 {
		limit = defaultPage
	}
	answer := &gwv1.ListAuditResponse{}
	var last *gwv1.AuditRecord
	for e := range st.Audit() {
		last = e
		if !matchesAudit(e, r) || !seesAudit(p, e) {
			continue
		}
		if len(answer.Entries) == limit {
			if answer.NextBefore == 0 {
				answer.NextBefore = answer.Entries[limit-1].Index
			}
			continue // to the oldest one, which is told too
		}
		answer.Entries = append(answer.Entries, &gwv1.AuditEntry{
			Index: e.Index, At: stamp(e.At), Actor: e.Actor, ActorAddress: e.ActorAddress, Action: e.Action, Object: e.Object, Namespace: e.Namespace,
		})
	}
	answer.Oldest = stamp(last.GetAt())
	return answer, nil
}

func matchesAudit(e *gwv1.AuditRecord, r *gwv1.ListAuditRequest) bool {
	switch {
	case r.Before != 0 && e.Index >= r.Before,
		r.Actor != "" && e.Actor != r.Actor,
		r.Action != "" && e.Action != r.Action,
		r.Namespace != "" && e.Namespace != r.Namespace,
		!strings.Contains(e.Object, r.Object),
		r.Since != nil && e.At < r.Since.AsTime().UnixNano(),
		r.Until != nil && e.At >= r.Until.AsTime().UnixNano():
		return false
	}
	return true
}

// seesAudit reports whether an entry is shown to a principal. What is about the whole cluster is for those who are not
// limited to a part of it.
func seesAudit(p Principal, e *gwv1.AuditRecord) bool {
	if e.Namespace == "" {
		return len(p.Namespaces) == 0
	}
	return p.sees(e.Namespace)
}
