package cli

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/rpc/gwv1"
)

// Audit is "gw audit".
type Audit struct {
	Actor     string `placeholder:"NAME" help:"Only by this user, edge/ID or hub/ID."`
	Action    string `placeholder:"ACTION" help:"Only this action: apply, push, revoke_token, …"`
	Object    string `placeholder:"TEXT" help:"Only with this in the object: edge/, API/orders, …"`
	Namespace string `short:"n" help:"Only of this namespace."`
	Since     string `placeholder:"WHEN" help:"Only since a moment (2026-01-02T15:04:05Z), or for a time (24h)."`
	Until     string `placeholder:"WHEN" help:"Only before a moment, or a time ago."`
	Limit     int    `default:"100" help:"How many entries at most; 0: all that are kept."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Audit) Examples() string {
	return `
gw audit
gw audit --since 24h --action push
gw audit --object edge/ --actor ann -o json`
}

// Run lists audit entries, newest first.
func (a *Audit) Run(ctx context.Context, c *Context) error {
	req := &gwv1.ListAuditRequest{Actor: a.Actor, Action: a.Action, Object: a.Object, Namespace: a.Namespace}
	var err error
	if req.Since, err = c.moment("--since", a.Since); err != nil {
		return err
	}
	if req.Until, err = c.moment("--until", a.Until); err != nil {
		return err
	}
	if a.Limit < 0 {
		return usageError("--limit %d: want 0 or more", a.Limit)
	}
	h, err := a.open(c)
	if err != nil {
		return err
	}
	entries, oldest, err := h.listAudit(ctx, req, a.Limit)
	if err != nil {
		return err
	}
	t := &table{headings: []string{"WHEN", "ACTOR", "FROM", "ACTION", "OBJECT", "NAMESPACE"}}
	none := "No entry matches."
	if oldest != nil {
		none += " The oldest one kept is of " + stamp(oldest) + "; a hub's --audit-log file may have older ones."
	}
	return list(&a.Output, c, entries, none, t, func(e *gwv1.AuditEntry) {
		t.add(stamp(e.GetAt()), e.GetActor(), e.GetActorAddress(), e.GetAction(), e.GetObject(), e.GetNamespace())
	})
}

// listAudit returns entries of as many pages as limit needs; 0 is all.
func (h *hub) listAudit(ctx context.Context, req *gwv1.ListAuditRequest, limit int) (all []*gwv1.AuditEntry, oldest *timestamppb.Timestamp, err error) {
	for {
		req.PageSize = 1000
		if limit > 0 {
			req.PageSize = uint32(min(1000, limit-len(all)))
		}
		res, err := h.audit.ListAudit(ctx, req)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, res.GetEntries()...)
		if req.Before = res.GetNextBefore(); req.Before == 0 || limit > 0 && len(all) >= limit {
			return all, res.GetOldest(), nil
		}
	}
}

// moment reads a time, or how long ago it was; "" is none.
func (c *Context) moment(flag, text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return timestamppb.New(c.now().Add(-d)), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, usageError("%s %q is neither a moment like 2026-01-02T15:04:05Z or 2026-01-02 nor a time like 24h", flag, text)
}
