package ui

import (
	"errors"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
	"gw/ui/page"
)

// maxListed bounds the changes listed per namespace, and the failures per push.
const maxListed = 200

// scopeOf reads which namespaces a push is for: one, or all.
func scopeOf(get func(string) string) (*gwv1.Scope, error) {
	ns := get("ns")
	if get("scope") != "one" || ns == "" {
		return &gwv1.Scope{}, nil
	}
	if !resource.ValidName(ns) {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("that is no namespace"))
	}
	return &gwv1.Scope{Namespaces: []string{ns}}, nil
}

// pushForm shows what a push would change.
func (k *console) pushForm(w http.ResponseWriter, r *http.Request, v *visitor) error {
	return k.releaseForm(w, r, v, &gwv1.PreviewPushRequest{})
}

// rollbackForm shows what a rollback would change.
func (k *console) rollbackForm(w http.ResponseWriter, r *http.Request, v *visitor) error {
	to, err := rollbackTo(r.URL.Query().Get("to"))
	if err != nil {
		return err
	}
	return k.releaseForm(w, r, v, &gwv1.PreviewPushRequest{Rollback: true, RollbackTo: to})
}

// rollbackTo reads the push to roll back to; "" and 0 stand for what was released before.
func rollbackTo(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	to, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, connect.NewError(connect.CodeInvalidArgument, errors.New("that is no push"))
	}
	return to, nil
}

func (k *console) releaseForm(w http.ResponseWriter, r *http.Request, v *visitor, what *gwv1.PreviewPushRequest) (err error) {
	if what.Scope, err = scopeOf(r.URL.Query().Get); err != nil {
		return err
	}
	if len(what.Scope.Namespaces) == 0 && len(v.namespaces) > 0 {
		what.Scope.Namespaces = v.namespaces[:1] // who may push in some only is not offered all
	}
	p, err := k.preview(v, what)
	if err != nil {
		return err
	}
	p.Note = clip(r.URL.Query().Get("note"), 1024)
	dialog := r.URL.Query().Get("dialog") != ""
	switch {
	case partial(r) && (dialog || r.Header.Get("HX-Target") == "form#push-form"):
		return send(w, r, http.StatusOK, page.PushForm(p, dialog))
	case partial(r):
		return send(w, r, http.StatusOK, page.PushDialog(p))
	}
	return send(w, r, http.StatusOK, page.PushPage(p))
}

// preview asks what a push or a rollback would change now.
func (k *console) preview(v *visitor, what *gwv1.PreviewPushRequest) (page.Push, error) {
	if !v.mayPush() {
		return page.Push{}, connect.NewError(connect.CodePermissionDenied, errors.New("pushing is for operators and admins"))
	}
	names, err := call(k, v.ctx, k.Fleet.ListNamespaces, &gwv1.ListNamespacesRequest{})
	if err != nil {
		return page.Push{}, err
	}
	got, err := call(k, v.ctx, k.Releases.PreviewPush, what)
	if err != nil {
		return page.Push{}, err
	}
	p := page.Push{
		All: len(what.Scope.GetNamespaces()) == 0, Rollback: what.Rollback, To: what.RollbackTo,
		Base: got.GetBase(), Problems: got.GetProblems(), Limited: len(v.namespaces) > 0,
	}
	p.Shell = k.shell(v, p.Title(), "/edges")
	if !p.All {
		p.Namespace = what.Scope.GetNamespaces()[0]
	}
	for _, n := range names.GetNamespaces() {
		if n.GetName() != resource.Global {
			p.Namespaces = append(p.Namespaces, page.PushNamespace{Name: n.GetName(), Edges: n.GetEdges()})
		}
	}
	for _, f := range got.GetFreezes() {
		p.Freezes = append(p.Freezes, shownFreeze(f))
	}
	for _, n := range got.GetNamespaces() {
		p.Edges += n.GetEdges()
		p.Connected += n.GetConnectedEdges()
		p.Preview = append(p.Preview, namespacePreview(n))
	}
	return p, nil
}

func namespacePreview(n *gwv1.NamespacePreview) page.Preview {
	out := page.Preview{
		Namespace: n.GetNamespace(), Release: n.GetRelease(), From: n.GetReleasedChecksum(), To: n.GetExpectedChecksum(),
		Size: n.GetSizeBytes(), Cap: n.GetMaxSizeBytes(), Edges: n.GetEdges(), Connected: n.GetConnectedEdges(), Source: n.GetSource(),
		TooOldEdges: n.GetTooOldEdges(),
	}
	for _, x := range n.GetTooOld() {
		out.TooOld = append(out.TooOld, page.TooOld{Reason: x.GetReason(), Edges: x.GetEdgeIds(), More: int(x.GetEdges()) - len(x.GetEdgeIds())})
	}
	for _, c := range n.GetChanges() {
		// Unchanged ones are there only if the push releases them again: after a restore.
		if len(out.Changes) == maxListed {
			out.More++
			continue
		}
		out.Changes = append(out.Changes, resourceChange(c))
	}
	return out
}

// push releases what was shown.
func (k *console) push(w http.ResponseWriter, r *http.Request, v *visitor) error {
	return k.release(w, r, v, &gwv1.PreviewPushRequest{}, func(s sentForm) (*gwv1.PushResponse, error) {
		return call(k, v.ctx, k.Releases.Push, &gwv1.PushRequest{Scope: s.scope, Note: s.note, Base: s.base, ConfirmRemoval: s.confirm, BreakGlass: s.breakGlass})
	})
}

// rollback brings back what was shown.
func (k *console) rollback(w http.ResponseWriter, r *http.Request, v *visitor) error {
	to, err := rollbackTo(r.PostFormValue("to"))
	if err != nil {
		return err
	}
	return k.release(w, r, v, &gwv1.PreviewPushRequest{Rollback: true, RollbackTo: to}, func(s sentForm) (*gwv1.PushResponse, error) {
		return call(k, v.ctx, k.Releases.Rollback, &gwv1.RollbackRequest{Scope: s.scope, To: to, Note: s.note, Base: s.base, ConfirmRemoval: s.confirm, BreakGlass: s.breakGlass})
	})
}

// sentForm is what a push form holds when it is sent.
type sentForm struct {
	scope               *gwv1.Scope
	note, base          string
	confirm, breakGlass bool
}

// release does what was shown. If that is no longer what would be released, or asks for a confirmation, the form comes
// back as things are now.
func (k *console) release(w http.ResponseWriter, r *http.Request, v *visitor, what *gwv1.PreviewPushRequest, do func(sentForm) (*gwv1.PushResponse, error)) error {
	if err := r.ParseForm(); err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	scope, err := scopeOf(r.PostFormValue)
	if err != nil {
		return err
	}
	what.Scope = scope
	form := sentForm{scope: scope, note: clip(r.PostFormValue("note"), 1024), base: clip(r.PostFormValue("base"), 4096),
		confirm: r.PostFormValue("confirm") == "yes", breakGlass: r.PostFormValue("glass") == "yes"}
	again := func(refused string, confirm bool) error {
		p, err := k.preview(v, what)
		if err != nil {
			return err
		}
		p.Note, p.Refused, p.Confirm = form.note, refused, confirm
		return send(w, r, http.StatusConflict, page.PushPage(p))
	}
	if chosen := append(scope.GetNamespaces(), "")[0]; form.base == "" || r.PostFormValue("shown") != chosen {
		return again("What was shown was for another scope. This is what would change; push again if it is right.", false)
	}
	done, err := do(form)
	switch {
	case says(err, "changed"):
		return again("What is saved has changed since it was shown. This is what would change now; push again if it is right.", false)
	case says(err, "confirm_removal"):
		return again("This push takes much away: "+message(err)+".", true)
	case says(err, "frozen"):
		return again("Pushes were frozen meanwhile.", false)
	case err != nil && connect.CodeOf(err) == connect.CodeInvalidArgument:
		return again(sentence(message(err)), false)
	case err != nil:
		return err
	case done.GetNumber() == 0:
		p := page.NothingPushed{Shell: k.shell(v, "Nothing to push", "/edges")}
		for _, n := range done.GetNamespaces() {
			p.Namespaces = append(p.Namespaces, n.GetNamespace())
		}
		return send(w, r, http.StatusOK, page.NothingPushedPage(p))
	}
	http.Redirect(w, r, "/pushes/"+strconv.FormatUint(done.GetNumber(), 10), http.StatusSeeOther)
	return nil
}
