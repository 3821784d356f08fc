package ui

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

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
	scope, err := scopeOf(r.URL.Query().Get)
	if err != nil {
		return err
	}
	if len(scope.Namespaces) == 0 && len(v.namespaces) > 0 {
		scope.Namespaces = v.namespaces[:1] // who may push in some only is not offered all
	}
	p, err := k.preview(v, scope)
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

// preview asks what a push of a scope would change now.
func (k *console) preview(v *visitor, scope *gwv1.Scope) (page.Push, error) {
	if !v.mayPush() {
		return page.Push{}, connect.NewError(connect.CodePermissionDenied, errors.New("pushing is for operators and admins"))
	}
	names, err := call(k, v.ctx, k.Fleet.ListNamespaces, &gwv1.ListNamespacesRequest{})
	if err != nil {
		return page.Push{}, err
	}
	got, err := call(k, v.ctx, k.Releases.PreviewPush, &gwv1.PreviewPushRequest{Scope: scope})
	if err != nil {
		return page.Push{}, err
	}
	p := page.Push{
		Shell: k.shell(v, "Push configuration", "/edges"), All: len(scope.GetNamespaces()) == 0,
		Base: got.GetBase(), Problems: got.GetProblems(), Limited: len(v.namespaces) > 0,
	}
	if !p.All {
		p.Namespace = scope.GetNamespaces()[0]
	}
	for _, n := range names.GetNamespaces() {
		if n.GetName() != resource.Global {
			p.Namespaces = append(p.Namespaces, page.PushNamespace{Name: n.GetName(), Edges: n.GetEdges()})
		}
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
		Size: n.GetSizeBytes(), Cap: n.GetMaxSizeBytes(), Edges: n.GetEdges(), Connected: n.GetConnectedEdges(),
	}
	for _, c := range n.GetChanges() {
		// Unchanged ones are there only if the push releases them again: after a restore.
		if len(out.Changes) == maxListed {
			out.More++
			continue
		}
		out.Changes = append(out.Changes, page.ResourceChange{Kind: c.GetKind(), Name: c.GetName(), Change: page.Change(c.GetChange())})
	}
	return out
}

// push releases what was shown. If that is no longer what is saved, or asks for a confirmation, the form comes back as
// things are now.
func (k *console) push(w http.ResponseWriter, r *http.Request, v *visitor) error {
	if err := r.ParseForm(); err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	scope, err := scopeOf(r.PostFormValue)
	if err != nil {
		return err
	}
	again := func(refused string, confirm bool) error {
		p, err := k.preview(v, scope)
		if err != nil {
			return err
		}
		p.Note, p.Refused, p.Confirm = clip(r.PostFormValue("note"), 1024), refused, confirm
		return send(w, r, http.StatusConflict, page.PushPage(p))
	}
	if chosen := append(scope.GetNamespaces(), "")[0]; r.PostFormValue("base") == "" || r.PostFormValue("shown") != chosen {
		return again("What was shown was for another scope. This is what would change; push again if it is right.", false)
	}
	done, err := call(k, v.ctx, k.Releases.Push, &gwv1.PushRequest{
		Scope: scope, Note: clip(r.PostFormValue("note"), 1024), Base: clip(r.PostFormValue("base"), 4096),
		ConfirmRemoval: r.PostFormValue("confirm") == "yes",
	})
	switch {
	case says(err, "changed"):
		return again("What is saved has changed since it was shown. This is what would change now; push again if it is right.", false)
	case says(err, "confirm_removal"):
		return again("This push takes much away: "+message(err)+".", true)
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

// pushed shows how far a push has come.
func (k *console) pushed(w http.ResponseWriter, r *http.Request, v *visitor) error {
	number, err := pushNumber(r.PathValue("number"))
	if err != nil {
		return err
	}
	p, err := k.progress(v.ctx, number, k.Now())
	if err != nil {
		return err
	}
	p.Shell = k.shell(v, "Push "+page.Number(number), "/releases")
	p.Live = liveURL(r.URL.EscapedPath(), progressPicture(p))
	return send(w, r, http.StatusOK, page.ProgressPage(p))
}

func pushNumber(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 {
		return 0, errNoPage
	}
	return n, nil
}

// progress takes a view of a push.
func (k *console) progress(ctx context.Context, number uint64, now time.Time) (page.Progress, error) {
	got, err := call(k, ctx, k.PushProgress, number)
	if err != nil {
		return page.Progress{}, err
	}
	made, err := call(k, ctx, k.Releases.ListReleases, &gwv1.ListReleasesRequest{Limit: 1000})
	if err != nil {
		return page.Progress{}, err
	}
	p := page.Progress{
		Number: number, Edges: got.GetEdges(), Loaded: got.GetLoaded(), Failed: got.GetFailed(), Waiting: got.GetWaiting(),
		Offline: got.GetOffline(), Superseded: got.GetSuperseded(), Now: now,
	}
	for _, rel := range made.GetReleases() {
		if rel.GetNumber() == number {
			p.Namespaces = append(p.Namespaces, rel.GetNamespace())
			p.Note, p.By, p.At = rel.GetNote(), rel.GetCreatedBy(), when(rel.GetCreatedAt())
		}
	}
	slices.Sort(p.Namespaces)
	for _, f := range got.GetFailures()[:min(len(got.GetFailures()), maxListed)] {
		p.Failures = append(p.Failures, page.Pair{Key: f.GetEdge(), Value: f.GetMessage()})
	}
	return p, nil
}
