package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"gw/rpc/gwv1"
)

// Diff is "gw diff".
type Diff struct {
	Namespaces []string `name:"namespace" short:"n" placeholder:"NS" help:"Namespaces to compare; may be repeated. Default: all."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Diff) Examples() string {
	return `
gw diff
gw diff -n staging
gw diff -o json`
}

// Run compares what is saved with what is released.
func (d *Diff) Run(ctx context.Context, c *Context) error {
	h, err := d.open(c)
	if err != nil {
		return err
	}
	preview, err := h.releases.PreviewPush(ctx, &gwv1.PreviewPushRequest{Scope: &gwv1.Scope{Namespaces: d.Namespaces}})
	if err != nil {
		return err
	}
	if !d.forPeople() {
		return d.one(c, preview)
	}
	changes := 0
	for _, n := range preview.GetNamespaces() {
		for _, r := range n.GetChanges() {
			if err := printChange(c.Stdout, c.colors(c.Stdout), n, r); err != nil {
				return err
			}
			changes++
		}
	}
	if changes == 0 {
		c.say("No difference: what is saved is what is released.")
	}
	if problems := preview.GetProblems(); len(problems) > 0 {
		c.say("A push would be refused:\n  %s", strings.Join(problems, "\n  "))
	}
	return nil
}

// printChange prints a unified diff of one resource's spec.
func printChange(w io.Writer, colors bool, n *gwv1.NamespacePreview, r *gwv1.ResourceChange) error {
	before, err := specText(r.GetBefore())
	if err != nil {
		return err
	}
	after, err := specText(r.GetAfter())
	if err != nil {
		return err
	}
	name := n.GetNamespace() + "/" + r.GetKind() + "/" + r.GetName()
	released, saved := fmt.Sprintf("%s (release %d)", name, n.GetRelease()), name+" (saved)"
	if r.GetBefore() == nil {
		released = "/dev/null"
	}
	if r.GetAfter() == nil {
		saved = "/dev/null"
	}
	text := "--- " + released + "\n+++ " + saved + "\n" + unified(before, after)
	for _, line := range lines(printable(text)) {
		if _, err := fmt.Fprintln(w, diffPaint(line).on(line, colors)); err != nil {
			return err
		}
	}
	return nil
}

func diffPaint(line string) paint {
	switch {
	case strings.HasPrefix(line, "+++"), strings.HasPrefix(line, "---"), strings.HasPrefix(line, "@@"):
		return faint
	case strings.HasPrefix(line, "+"):
		return green
	case strings.HasPrefix(line, "-"):
		return red
	}
	return plainText
}

func specText(spec *structpb.Struct) (string, error) {
	if spec == nil {
		return "", nil
	}
	data, err := encodeYAML(wellKnown(spec))
	return string(data), err
}
