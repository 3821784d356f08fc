package ui

import (
	"net/http"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
	"gw/ui/page"
)

// releases shows what was pushed, newest first.
func (k *console) releases(w http.ResponseWriter, r *http.Request, v *visitor) error {
	ns := clip(r.URL.Query().Get("ns"), 63)
	names, err := call(k, v.ctx, k.Fleet.ListNamespaces, &gwv1.ListNamespacesRequest{})
	if err != nil {
		return err
	}
	got, err := call(k, v.ctx, k.Releases.ListReleases, &gwv1.ListReleasesRequest{Namespace: ns})
	if err != nil {
		return err
	}
	p := page.Releases{Shell: k.shell(v, "Releases", "/releases"), Namespace: ns, Now: k.Now()}
	for _, n := range names.GetNamespaces() {
		if n.GetName() != resource.Global {
			p.Namespaces = append(p.Namespaces, n.GetName())
		}
	}
	frozen, err := call(k, v.ctx, k.Releases.ListFreezes, &gwv1.ListFreezesRequest{})
	if err != nil {
		return err
	}
	for _, f := range frozen.GetFreezes() {
		p.Freezes = append(p.Freezes, shownFreeze(f))
	}
	pushes, err := call(k, v.ctx, k.Releases.ListPushes, &gwv1.ListPushesRequest{Namespace: ns, Limit: 100})
	if err != nil {
		return err
	}
	for _, x := range pushes.GetPushes() {
		row := page.PushRow{Number: x.GetNumber(), Kind: page.PushKind(x.GetRollback(), x.GetRollbackTo()), BreakGlass: x.GetBreakGlass(), By: x.GetCreatedBy(), Note: x.GetNote(),
			At: when(x.GetCreatedAt()), Edges: x.GetProgress().GetEdges(), Loaded: x.GetProgress().GetLoaded(), Failed: x.GetProgress().GetFailed()}
		for _, n := range x.GetNamespaces() {
			if n.GetReleased() {
				row.Namespaces = append(row.Namespaces, n.GetNamespace())
			}
		}
		p.Pushes = append(p.Pushes, row)
	}
	for _, rel := range got.GetReleases() {
		p.Rows = append(p.Rows, page.Release{
			Number: rel.GetNumber(), Namespace: rel.GetNamespace(), Checksum: rel.GetChecksum(), Resources: rel.GetResources(),
			Size: rel.GetSizeBytes(), By: rel.GetCreatedBy(), Note: rel.GetNote(), At: when(rel.GetCreatedAt()), Target: rel.GetTarget(),
		})
	}
	return send(w, r, http.StatusOK, page.ReleasesPage(p))
}
