package rpc

import (
	"cmp"
	"fmt"
	"slices"

	"gw/rpc/gwv1"
)

const (
	// maxTooOld is how many elements a preview names that some edges don't know, maxTooOldEdges how many of those edges.
	maxTooOld      = 20
	maxTooOldEdges = 5
)

// tooOld finds what a plan would release to a namespace and some of its edges would refuse, because they come from
// before it: a warning, since those keep what they run. It returns how many edges that are, and what it is. Edges that
// have not said what they know, and those that are revoked, don't count.
func (k *core) tooOld(p *plan, n planned, fleet view) (edges uint32, found []*gwv1.TooOld) {
	reporting := edgesBySchema(fleet, n.name)
	if n.unchanged() || len(reporting) == 0 {
		return 0, nil
	}
	highest := uint32(0)
	for _, u := range k.newerUses(p, n, reporting[0].schema()) {
		older, _ := slices.BinarySearchFunc(reporting, u.level, func(e *seen, level uint32) int { return cmp.Compare(e.schema(), level) })
		if older == 0 {
			continue
		}
		highest = max(highest, u.level)
		u.Edges, u.EdgeIds = uint32(older), idsOf(reporting[:older])
		u.Reason = tooOldReason(u.TooOld)
		found = append(found, u.TooOld)
	}
	for _, e := range reporting {
		if e.schema() < highest {
			edges++
		}
	}
	slices.SortStableFunc(found, func(a, b *gwv1.TooOld) int { return cmp.Compare(b.Edges, a.Edges) })
	return edges, found[:min(len(found), maxTooOld)]
}

// edgesBySchema are the edges of a namespace that said what they know, those that know the least first, then by ID.
func edgesBySchema(fleet view, namespace string) (edges []*seen) {
	for i := range fleet.edges {
		if e := &fleet.edges[i]; e.namespace() == namespace && e.schema() > 0 && e.revoked == nil {
			edges = append(edges, e)
		}
	}
	slices.SortStableFunc(edges, func(a, b *seen) int { return cmp.Compare(a.schema(), b.schema()) })
	return edges
}

// newerUse is an element that came with a later level, and its first use.
type newerUse struct {
	*gwv1.TooOld
	level uint32
}

// newerUses are the elements that a plan would release to a namespace and an edge of the level doesn't know, in the order
// of the resources that use them. Those that this binary can't read either are left to check.
func (k *core) newerUses(p *plan, n planned, level uint32) (uses []newerUse) {
	at := map[string]int{} // element → its place in uses
	for e := range p.entries(n) {
		newer, err := k.newer(level, e.Kind, e.Name, e.Spec)
		if err != nil {
			continue
		}
		counted := map[string]bool{}
		for _, x := range newer {
			i, known := at[x.Element]
			if !known {
				i = len(uses)
				at[x.Element] = i
				uses = append(uses, newerUse{&gwv1.TooOld{Kind: e.Kind, Name: e.Name, Field: x.Field, Element: x.Element}, x.Level})
			}
			if !counted[x.Element] {
				counted[x.Element] = true
				uses[i].Resources++
			}
		}
	}
	return uses
}

// idsOf returns the IDs of the first few edges, sorted.
func idsOf(edges []*seen) []string {
	ids := make([]string, len(edges))
	for i, e := range edges {
		ids[i] = e.id
	}
	slices.Sort(ids)
	return ids[:min(len(ids), maxTooOldEdges)]
}

func tooOldReason(x *gwv1.TooOld) string {
	who := fmt.Sprintf("%d edges are", x.Edges)
	if x.Edges == 1 {
		who = "1 edge is"
	}
	what := fmt.Sprintf("%s/%s %s", x.Kind, x.Name, x.Field)
	if x.Field == "kind" {
		what = fmt.Sprintf("kind %s (%s/%s)", x.Kind, x.Kind, x.Name)
	}
	switch x.Resources {
	case 1:
	case 2:
		what += " and another resource that uses it"
	default:
		what += fmt.Sprintf(" and %d other resources that use it", x.Resources-1)
	}
	return who + " too old for " + what
}
