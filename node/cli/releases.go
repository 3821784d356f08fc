package cli

import (
	"context"

	"gw/rpc/gwv1"
)

// Releases is "gw releases".
type Releases struct {
	Namespace string `short:"n" help:"Namespace; default: all."`
	Limit     uint32 `default:"20" help:"How many to list, at most 1000."`
	Stale
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Releases) Examples() string {
	return `
gw releases
gw releases -n staging --limit 5
gw releases -o json`
}

// Run lists releases, newest first.
func (r *Releases) Run(ctx context.Context, c *Context) error {
	h, err := r.openStale(c, &r.Connection)
	if err != nil {
		return err
	}
	res, err := h.releases.ListReleases(ctx, &gwv1.ListReleasesRequest{Namespace: r.Namespace, Limit: r.Limit})
	if err != nil {
		return err
	}
	t := &table{headings: []string{"NAMESPACE", "RELEASE", "TARGET", "CHECKSUM", "RESOURCES", "SIZE", "PUSHED", "BY", "NOTE"}}
	return list(&r.Output, c, res.GetReleases(), "Nothing was pushed yet. Push what is saved with: gw push", t, func(r *gwv1.Release) {
		target := cell{}
		if r.GetTarget() {
			target = cell{"target", green}
		}
		t.add(r.GetNamespace(), itoa(r.GetNumber()), target, short(r.GetChecksum()), itoa(r.GetResources()), byteSize(r.GetSizeBytes()), c.ago(r.GetCreatedAt()), r.GetCreatedBy(), r.GetNote())
	})
}

// short returns the first characters of a checksum.
func short(checksum string) string { return checksum[:min(8, len(checksum))] }
