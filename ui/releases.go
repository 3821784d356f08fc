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
	for _, rel := range got.GetReleases() {
		p.Rows = append(p.Rows, page.Release{
			Number: rel.GetNumber(), Namespace: rel.GetNamespace(), Checksum: rel.GetChecksum(), Resources: rel.GetResources(),
			Size: rel.GetSizeBytes(), By: rel.GetCreatedBy(), Note: rel.GetNote(), At: when(rel.GetCreatedAt()), Target: rel.GetTarget(),
		})
	}
	return send(w, r, http.StatusOK, page.ReleasesPage(p))
}
