package ui

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/ui/page"
)

// revocation is the question whether to revoke an edge, as things are now.
func (k *console) revocation(r *http.Request, v *visitor) (page.Revocation, error) {
	id, err := edgeID(r)
	if err != nil {
		return page.Revocation{}, err
	}
	if !v.mayRemove() {
		return page.Revocation{}, connect.NewError(connect.CodePermissionDenied, errors.New("revoking edges is for admins"))
	}
	got, err := call(k, v.ctx, k.Fleet.GetEdge, &gwv1.GetEdgeRequest{Id: id})
	if err != nil {
		return page.Revocation{}, err
	}
	return page.Revocation{Shell: k.shell(v, "Revoke edge", "/edges"), ID: id, Namespace: got.GetEdge().GetNamespace()}, nil
}

func (k *console) revokeForm(w http.ResponseWriter, r *http.Request, v *visitor) error {
	p, err := k.revocation(r, v)
	if err != nil {
		return err
	}
	if partial(r) {
		return send(w, r, http.StatusOK, page.RevokeDialog(p))
	}
	return send(w, r, http.StatusOK, page.RevokePage(p))
}

// revoke revokes an edge. It wants the ID typed, also by those who come without the form.
func (k *console) revoke(w http.ResponseWriter, r *http.Request, v *visitor) error {
	if err := r.ParseForm(); err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	p, err := k.revocation(r, v)
	if err != nil {
		return err
	}
	if strings.TrimSpace(r.PostFormValue("confirm")) != p.ID {
		p.Problem = "What was typed is not the edge's ID. Nothing was revoked."
		return send(w, r, http.StatusUnprocessableEntity, page.RevokePage(p))
	}
	if _, err := call(k, v.ctx, k.Fleet.RevokeEdge, &gwv1.RevokeEdgeRequest{Id: p.ID}); err != nil {
		return err
	}
	http.Redirect(w, r, edgeAddress(p.ID), http.StatusSeeOther)
	return nil
}

func edgeAddress(id string) string { return "/edges/" + url.PathEscape(id) }

// retry makes an edge try its target again.
func (k *console) retry(w http.ResponseWriter, r *http.Request, v *visitor) error {
	id, err := edgeID(r)
	if err != nil {
		return err
	}
	if _, err := call(k, v.ctx, k.Fleet.RetryEdge, &gwv1.RetryEdgeRequest{Id: id}); err != nil {
		return err
	}
	http.Redirect(w, r, edgeAddress(id), http.StatusSeeOther)
	return nil
}
