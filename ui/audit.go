package ui

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"gw/rpc/gwv1"
	"gw/ui/page"
)

// Audit tells who changed what. Calls are made with a context from Config.Principal; errors are *connect.Error.
type Audit interface {
	ListAudit(context.Context, *gwv1.ListAuditRequest) (*gwv1.ListAuditResponse, error)
}

// audit shows a page of the audit, newest first.
func (k *console) audit(w http.ResponseWriter, r *http.Request, v *visitor) error {
	q := r.URL.Query()
	p := page.Audit{
		Object: clip(strings.TrimSpace(q.Get("object")), 256), Actor: clip(strings.TrimSpace(q.Get("actor")), 256),
		Action: clip(strings.TrimSpace(q.Get("action")), 64), Namespace: clip(q.Get("ns"), 63), Now: k.Now(),
	}
	before, err := strconv.ParseUint(q.Get("before"), 10, 64)
	p.Later = err == nil && before > 0
	names, err := call(k, v.ctx, k.Fleet.ListNamespaces, &gwv1.ListNamespacesRequest{})
	if err != nil {
		return err
	}
	for _, n := range names.GetNamespaces() {
		p.Namespaces = append(p.Namespaces, n.GetName())
	}
	got, err := call(k, v.ctx, k.Audit.ListAudit, &gwv1.ListAuditRequest{
		Object: p.Object, Actor: p.Actor, Action: p.Action, Namespace: p.Namespace, Before: before, PageSize: perPage,
	})
	if err != nil {
		return err
	}
	for _, e := range got.GetEntries() {
		p.Rows = append(p.Rows, page.AuditRow{
			At: when(e.GetAt()), Actor: e.GetActor(), Address: e.GetActorAddress(), Action: strings.ReplaceAll(e.GetAction(), "_", " "),
			Object: e.GetObject(), Namespace: e.GetNamespace(), URL: objectURL(e.GetAction(), e.GetObject()),
		})
	}
	p.Next, p.Oldest = got.GetNextBefore(), when(got.GetOldest())
	p.Shell = k.shell(v, "Audit", "/audit")
	return send(w, r, http.StatusOK, page.AuditPage(p))
}

// objectURL is the page of what an entry is about; empty if it has none.
func objectURL(action, object string) string {
	kind, name, _ := strings.Cut(object, "/")
	switch {
	case kind == "edge" && action != "remove_edge":
		return edgeAddress(name)
	case kind == "push" && name != "":
		return "/pushes/" + name
	}
	return ""
}
