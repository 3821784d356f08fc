package cli

import (
	"context"
	"fmt"
	"strings"

	"gw/rpc/gwv1"
)

// EdgesRemove is "gw edges remove".
type EdgesRemove struct {
	ID  string `arg:"" name:"id" help:"Edge to forget."`
	Yes bool   `short:"y" env:"-" help:"Don't ask."`
	Connection
}

// Examples returns the examples of the command's help.
func (*EdgesRemove) Examples() string { return "gw edges remove edge-1\ngw edges remove edge-1 --yes" }

// Run forgets an edge, after asking.
func (e *EdgesRemove) Run(ctx context.Context, c *Context) error {
	h, err := e.open(c)
	if err != nil {
		return err
	}
	if !e.Yes {
		if err := c.confirm(ctx, fmt.Sprintf("Remove edge %s (a process that still runs registers again)", e.ID), "--yes"); err != nil {
			return err
		}
	}
	if _, err := h.fleet.RemoveEdge(ctx, &gwv1.RemoveEdgeRequest{Id: e.ID}); err != nil {
		return err
	}
	c.say("Removed edge %s.", e.ID)
	return nil
}

// EdgesRevoke is "gw edges revoke".
type EdgesRevoke struct {
	ID  string `arg:"" name:"id" help:"Edge to revoke."`
	Yes bool   `short:"y" env:"-" help:"Don't ask."`
	Connection
}

// Examples returns the examples of the command's help.
func (*EdgesRevoke) Examples() string { return "gw edges revoke edge-1\ngw edges revoke edge-1 --yes" }

// Run ends an edge's certificates, after asking.
func (e *EdgesRevoke) Run(ctx context.Context, c *Context) error {
	h, err := e.open(c)
	if err != nil {
		return err
	}
	if !e.Yes {
		question := fmt.Sprintf("Revoke edge %s (no hub talks to it before it enrols with a fresh join token; what it serves now it goes on serving until it is stopped)", e.ID)
		if err := c.confirm(ctx, question, "--yes"); err != nil {
			return err
		}
	}
	if _, err := h.fleet.RevokeEdge(ctx, &gwv1.RevokeEdgeRequest{Id: e.ID}); err != nil {
		return err
	}
	c.say("Revoked edge %s: every hub refuses it. To take it in again: gw join-token create", e.ID)
	return nil
}

// EdgesRetry is "gw edges retry".
type EdgesRetry struct {
	ID string `arg:"" name:"id" help:"Edge that rejected a release."`
	Connection
}

// Examples returns the examples of the command's help.
func (*EdgesRetry) Examples() string { return "gw edges retry edge-1" }

// Run makes an edge try its target again.
func (e *EdgesRetry) Run(ctx context.Context, c *Context) error {
	h, err := e.open(c)
	if err != nil {
		return err
	}
	if _, err := h.fleet.RetryEdge(ctx, &gwv1.RetryEdgeRequest{Id: e.ID}); err != nil {
		return err
	}
	c.say("Edge %s will try its target again: at once if it is connected, else when it is back. See: gw edges %s", e.ID, e.ID)
	return nil
}

// EdgesLabel is "gw edges label".
type EdgesLabel struct {
	ID     string   `arg:"" name:"id" help:"Edge to label."`
	Labels []string `arg:"" name:"label" help:"KEY=VALUE sets a label, KEY- removes one; others stay."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*EdgesLabel) Examples() string {
	return "gw edges label edge-1 zone=eu tier=2\ngw edges label edge-1 tier-"
}

// Run changes labels and prints all the edge has now.
func (e *EdgesLabel) Run(ctx context.Context, c *Context) error {
	req := &gwv1.SetEdgeLabelsRequest{Id: e.ID, Set: map[string]string{}}
	for _, l := range e.Labels {
		key, value, set := strings.Cut(l, "=")
		switch name, remove := strings.CutSuffix(l, "-"); {
		case set && key != "":
			req.Set[key] = value
		case remove && name != "":
			req.Remove = append(req.Remove, name)
		default:
			return usageError("%q is not a label; expected KEY=VALUE to set one, KEY- to remove one", l)
		}
	}
	h, err := e.open(c)
	if err != nil {
		return err
	}
	res, err := h.fleet.SetEdgeLabels(ctx, req)
	if err != nil {
		return err
	}
	if !e.forPeople() {
		return e.one(c, res)
	}
	fmt.Fprintln(c.Stdout, printable(pairs(res.GetLabels())))
	return nil
}
