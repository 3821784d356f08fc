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
	Namespaces []string `name:"namespace" short:"n" placeholder:"NS" help:"Namespaces to compare; may be repeated. Default: all; with --from or --to: default."`
	From       uint64   `placeholder:"RELEASE" help:"Compare this release. Default: what edges are told to run."`
	To         uint64   `placeholder:"RELEASE" help:"With this release. Default: what is saved."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Diff) Examples() string {
	return `
gw diff
gw diff -n staging
gw diff -n staging --from 41 --to 42
gw diff -o json`
}

// Run compares what is saved with what is released, or two releases.
func (d *Diff) Run(ctx context.Context, c *Context) error {
	h, err := d.open(c)
	if err != nil {
		return err
	}
	if d.From > 0 || d.To > 0 {
		return d.releases(ctx, c, h)
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
			if err := printChange(c.Stdout, c.colors(c.Stdout), n.GetNamespace(), fmt.Sprintf("release %d", n.GetRelease()), "saved", r); err != nil {
				return err
			}
			changes++
		}
		for _, line := range tooOld(n) {
			c.say("%s: %s", n.GetNamespace(), line)
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

// releases compares two releases of one namespace, or one with what is saved.
func (d *Diff) releases(ctx context.Context, c *Context, h *hub) error {
	namespace := "default"
	switch len(d.Namespaces) {
	case 0:
	case 1:
		namespace = d.Namespaces[0]
	default:
		return usageError("releases are compared in one namespace at a time: give one -n with --from and --to")
	}
	res, err := h.releases.DiffReleases(ctx, &gwv1.DiffReleasesRequest{Namespace: namespace, From: d.From, To: d.To})
	if err != nil {
		return err
	}
	if !d.forPeople() {
		return d.one(c, res)
	}
	to := "saved"
	if d.To > 0 {
		to = fmt.Sprintf("release %d", d.To)
	}
	for _, r := range res.GetChanges() {
		if err := printChange(c.Stdout, c.colors(c.Stdout), namespace, fmt.Sprintf("release %d", res.GetFrom()), to, r); err != nil {
			return err
		}
	}
	if len(res.GetChanges()) == 0 {
		c.say("No difference.")
	}
	return nil
}

// printChange prints a unified diff of one resource's spec; from and to say what is compared.
func printChange(w io.Writer, colors bool, namespace, from, to string, r *gwv1.ResourceChange) error {
	before, err := specText(r.GetBefore())
	if err != nil {
		return err
	}
	after, err := specText(r.GetAfter())
	if err != nil {
		return err
	}
	name := namespace + "/" + r.GetKind() + "/" + r.GetName()
	left, right := fmt.Sprintf("%s (%s)", name, from), fmt.Sprintf("%s (%s)", name, to)
	if r.GetBefore() == nil {
		left = "/dev/null"
	}
	if r.GetAfter() == nil {
		right = "/dev/null"
	}
	text := "--- " + left + "\n+++ " + right + "\n" + unified(before, after)
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
