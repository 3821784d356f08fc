package ui

import (
	"net/http"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
	"gw/ui/page"
)

func shownFreeze(f *gwv1.PushFreeze) page.Freeze {
	return page.Freeze{Namespace: f.GetNamespace(), Reason: f.GetReason(), By: f.GetBy(), At: when(f.GetAt())}
}

// freezeForm asks what to freeze, and why.
func (k *console) freezeForm(w http.ResponseWriter, r *http.Request, v *visitor) error {
	p := page.FreezeForm{Shell: k.shell(v, "Freeze pushes", "/releases"), Namespace: clip(r.URL.Query().Get("ns"), 63)}
	return k.showFreezeForm(w, r, v, p, http.StatusOK)
}

func (k *console) showFreezeForm(w http.ResponseWriter, r *http.Request, v *visitor, p page.FreezeForm, status int) error {
	names, err := call(k, v.ctx, k.Fleet.ListNamespaces, &gwv1.ListNamespacesRequest{})
	if err != nil {
		return err
	}
	for _, n := range names.GetNamespaces() {
		if n.GetName() != resource.Global {
			p.Namespaces = append(p.Namespaces, n.GetName())
		}
	}
	if partial(r) {
		return send(w, r, status, page.FreezeDialog(p))
	}
	return send(w, r, status, page.FreezePage(p))
}

// freeze keeps pushes from being made.
func (k *console) freeze(w http.ResponseWriter, r *http.Request, v *visitor) error {
	ns, reason := clip(r.PostFormValue("ns"), 63), clip(r.PostFormValue("reason"), 1024)
	_, err := call(k, v.ctx, k.Releases.Freeze, &gwv1.FreezeRequest{Scope: freezeScope(ns), Reason: reason})
	if err != nil && connect.CodeOf(err) == connect.CodeInvalidArgument {
		p := page.FreezeForm{Shell: k.shell(v, "Freeze pushes", "/releases"), Namespace: ns, Problem: "Say why pushes are frozen: it is shown to who is refused."}
		return k.showFreezeForm(w, r, v, p, http.StatusUnprocessableEntity)
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/releases", http.StatusSeeOther)
	return nil
}

// unfreeze ends a freeze.
func (k *console) unfreeze(w http.ResponseWriter, r *http.Request, v *visitor) error {
	_, err := call(k, v.ctx, k.Releases.Unfreeze, &gwv1.UnfreezeRequest{Scope: freezeScope(clip(r.PostFormValue("ns"), 63))})
	if err != nil && connect.CodeOf(err) != connect.CodeNotFound { // somebody else ended it: that is what was wanted
		return err
	}
	http.Redirect(w, r, "/releases", http.StatusSeeOther)
	return nil
}

// freezeScope is one namespace, or, for "", all.
func freezeScope(ns string) *gwv1.Scope {
	if ns == "" {
		return &gwv1.Scope{}
	}
	return &gwv1.Scope{Namespaces: []string{ns}}
}
