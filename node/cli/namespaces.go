package cli

import (
	"context"
	"strings"

	"gw/rpc/gwv1"
)

// Namespaces is "gw namespaces".
type Namespaces struct {
	Stale
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Namespaces) Examples() string { return "gw namespaces\ngw namespaces -o yaml" }

// Run lists namespaces.
func (n *Namespaces) Run(ctx context.Context, c *Context) error {
	h, err := n.openStale(c, &n.Connection)
	if err != nil {
		return err
	}
	res, err := h.fleet.ListNamespaces(ctx, &gwv1.ListNamespacesRequest{})
	if err != nil {
		return err
	}
	t := &table{headings: []string{"NAMESPACE", "EDGES", "RESOURCES", "RELEASE", "RELEASED", "SAVED", "STATE"}}
	return list(&n.Output, c, res.GetNamespaces(), "There are no namespaces.", t, func(n *gwv1.Namespace) {
		state := cell{"released", green}
		if n.GetReleasedChecksum() != n.GetExpectedChecksum() {
			state = cell{"unpushed changes", yellow}
		}
		t.add(n.GetName(), itoa(n.GetEdges()), itoa(n.GetResources()), itoa(n.GetRelease()), short(n.GetReleasedChecksum()), short(n.GetExpectedChecksum()), state)
	})
}

// orAll returns namespaces as a list, "all" for none.
func orAll(namespaces []string) string {
	if len(namespaces) == 0 {
		return "all"
	}
	return strings.Join(namespaces, ", ")
}
