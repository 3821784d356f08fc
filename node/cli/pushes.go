package cli

import (
	"context"
	"fmt"
	"strings"

	"gw/rpc/gwv1"
)

// Pushes is "gw pushes [N]".
type Pushes struct {
	Number    uint64 `arg:"" optional:"" name:"number" help:"Push to show in full, with its edges."`
	Namespace string `short:"n" help:"Only pushes that released this namespace."`
	Limit     uint32 `default:"20" help:"How many to list, at most 100."`
	Stale
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Pushes) Examples() string {
	return `
gw pushes
gw pushes -n staging --limit 5
gw pushes 42
gw pushes 42 -o json | jq -r '.edges[] | select(.outcome == "failed").edge'`
}

// Run lists pushes and rollbacks, newest first, or shows one.
func (p *Pushes) Run(ctx context.Context, c *Context) error {
	h, err := p.openStale(c, &p.Connection)
	if err != nil {
		return err
	}
	if p.Number > 0 {
		return p.show(ctx, c, h)
	}
	res, err := h.releases.ListPushes(ctx, &gwv1.ListPushesRequest{Namespace: p.Namespace, Limit: p.Limit})
	if err != nil {
		return err
	}
	t := &table{headings: []string{"PUSH", "KIND", "NAMESPACES", "EDGES", "LOADED", "FAILED", "MADE", "BY", "NOTE"}}
	return list(&p.Output, c, res.GetPushes(), "Nothing was pushed yet. Push what is saved with: gw push", t, func(p *gwv1.PushSummary) {
		failed := cell{text: itoa(p.GetProgress().GetFailed())}
		if p.GetProgress().GetFailed() > 0 {
			failed.paint = red
		}
		t.add(itoa(p.GetNumber()), pushKind(p), strings.Join(releasedIn(p), " "), itoa(p.GetProgress().GetEdges()), itoa(p.GetProgress().GetLoaded()),
			failed, c.ago(p.GetCreatedAt()), p.GetCreatedBy(), p.GetNote())
	})
}

// pushKind says in a few words what a push was.
func pushKind(p *gwv1.PushSummary) string {
	kind := "push"
	switch {
	case p.GetRollback() && p.GetRollbackTo() > 0:
		kind = fmt.Sprintf("rollback to %d", p.GetRollbackTo())
	case p.GetRollback():
		kind = "rollback"
	}
	if p.GetBreakGlass() {
		kind += ", glass broken"
	}
	return kind
}

func releasedIn(p *gwv1.PushSummary) (namespaces []string) {
	for _, n := range p.GetNamespaces() {
		if n.GetReleased() {
			namespaces = append(namespaces, n.GetNamespace())
		}
	}
	return namespaces
}

func (p *Pushes) show(ctx context.Context, c *Context, h *hub) error {
	whole, err := h.getPush(ctx, p.Number)
	if err != nil {
		return err
	}
	if !p.forPeople() {
		return p.one(c, whole)
	}
	s := whole.GetPush()
	fmt.Fprintf(c.Stdout, "%s %d by %s, %s\n", strings.ToUpper(pushKind(s)[:1])+pushKind(s)[1:], s.GetNumber(), printable(s.GetCreatedBy()), c.ago(s.GetCreatedAt()))
	if s.GetNote() != "" {
		fmt.Fprintf(c.Stdout, "  %s\n", printable(s.GetNote()))
	}
	for _, n := range s.GetNamespaces() {
		what := "unchanged"
		if n.GetReleased() {
			what = fmt.Sprintf("release %d, %d created, %d updated, %d deleted", n.GetRelease(), n.GetCreated(), n.GetUpdated(), n.GetDeleted())
		}
		fmt.Fprintf(c.Stdout, "  %s: %s\n", printable(n.GetNamespace()), what)
	}
	g := s.GetProgress()
	fmt.Fprintf(c.Stdout, "  %d of %d edges have loaded it, %d failed, %d on their way, %d offline\n\n", g.GetLoaded(), g.GetEdges(), g.GetFailed(), g.GetWaiting(), g.GetOffline())
	if len(whole.GetEdges()) == 0 && g.GetEdges() > 0 {
		c.say("Which edges these were is kept of the newest pushes only.")
		return nil
	}
	t := &table{headings: []string{"EDGE", "NAMESPACE", "OUTCOME", "WHY"}}
	return list(&p.Output, c, whole.GetEdges(), "It was for no edges: none was registered there.", t, func(e *gwv1.PushedEdge) {
		t.add(e.GetEdge(), e.GetNamespace(), outcomeCell(e), e.GetReason())
	})
}

func outcomeCell(e *gwv1.PushedEdge) cell {
	text := word(e.GetOutcome())
	switch e.GetOutcome() {
	case gwv1.EdgeOutcome_EDGE_OUTCOME_LOADED, gwv1.EdgeOutcome_EDGE_OUTCOME_SUPERSEDED:
		return cell{text, green}
	case gwv1.EdgeOutcome_EDGE_OUTCOME_FAILED:
		return cell{text, red}
	case gwv1.EdgeOutcome_EDGE_OUTCOME_WAITING, gwv1.EdgeOutcome_EDGE_OUTCOME_OFFLINE:
		return cell{text, yellow}
	}
	return cell{text, faint}
}

// getPush returns a push with the edges of all pages.
func (h *hub) getPush(ctx context.Context, number uint64) (*gwv1.GetPushResponse, error) {
	req := &gwv1.GetPushRequest{Number: number, PageSize: 1000}
	whole, err := h.releases.GetPush(ctx, req)
	for err == nil && len(whole.GetEdges()) < int(whole.GetTotal()) {
		req.Offset = uint32(len(whole.GetEdges()))
		var more *gwv1.GetPushResponse
		if more, err = h.releases.GetPush(ctx, req); err == nil {
			if len(more.GetEdges()) == 0 {
				break // edges have gone since
			}
			whole.Edges = append(whole.Edges, more.GetEdges()...)
		}
	}
	return whole, err
}
