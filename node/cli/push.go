package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gw/rpc/gwv1"
)

// PushOptions is the flags of a push.
type PushOptions struct {
	Note           string        `placeholder:"TEXT" help:"Shown in the history."`
	Base           string        `placeholder:"BASE" help:"Push only if exactly this would be released, as gw diff -o json named it."`
	Yes            bool          `short:"y" env:"-" help:"Don't ask."`
	ConfirmRemoval bool          `env:"-" help:"Push even if it removes more than half of a namespace's resources."`
	BreakGlass     bool          `env:"-" help:"Push although pushes are frozen. Takes an admin, and a --note."`
	Wait           share         `placeholder:"PERCENT" help:"Wait until this share of the registered edges has loaded it, such as 100%; exit with 3 if that does not come."`
	Timeout        time.Duration `default:"60s" help:"How long to wait."`
}

// Push is "gw push".
type Push struct {
	Namespaces []string `name:"namespace" short:"n" placeholder:"NS" help:"Namespaces to push, each with global as saved; may be repeated. Default: all."`
	PushOptions
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Push) Examples() string {
	return `
gw push
gw push -n staging --note "orders v2"
gw push --yes --wait 100% --timeout 2m`
}

// Run shows what would be pushed, asks on a terminal, pushes and waits.
func (p *Push) Run(ctx context.Context, c *Context) error {
	h, err := p.open(c)
	if err != nil {
		return err
	}
	return p.push(ctx, c, h, p.Namespaces, &p.Output)
}

// push pushes namespaces, all if there are none.
func (p *PushOptions) push(ctx context.Context, c *Context, h *hub, namespaces []string, out *Output) error {
	scope := &gwv1.Scope{Namespaces: namespaces}
	return p.release(ctx, c, h, out, releasing{
		verb: "Push", preview: &gwv1.PreviewPushRequest{Scope: scope}, nothing: "Nothing to push: what is saved is what is released.",
		do: func(base string) (*gwv1.PushResponse, error) {
			return h.releases.Push(ctx, &gwv1.PushRequest{Scope: scope, Note: p.Note, Base: base, ConfirmRemoval: p.ConfirmRemoval, BreakGlass: p.BreakGlass})
		},
	})
}

// releasing is one way of making releases: a push or a rollback.
type releasing struct {
	verb    string // "Push", before "to 2 namespaces"
	preview *gwv1.PreviewPushRequest
	nothing string // what people are told if nothing would be released
	do      func(base string) (*gwv1.PushResponse, error)
}

// release shows what would be released, asks on a terminal, does it and waits. Without a terminal nobody is asked: the
// command is the will.
func (p *PushOptions) release(ctx context.Context, c *Context, h *hub, out *Output, r releasing) error {
	preview, err := h.releases.PreviewPush(ctx, r.preview)
	if err != nil {
		return err
	}
	people := c.Stdout
	if !out.forPeople() {
		people = c.Stderr
	}
	changed := showPreview(c, people, preview, r.nothing)
	if problems := p.problems(c, preview); len(problems) > 0 {
		return fmt.Errorf("it can't be pushed like this:\n  %s", strings.Join(problems, "\n  "))
	}
	pushed := new(gwv1.PushResponse)
	if changed > 0 || p.Base != "" {
		base := p.Base
		if !p.Yes && c.interactive() {
			if err := c.confirm(ctx, fmt.Sprintf("%s to %s", r.verb, counted(changed, "namespace")), "--yes"); err != nil {
				return err
			}
			if base == "" {
				base = preview.GetBase() // what was agreed to, and nothing saved since
			}
		}
		if pushed, err = r.do(base); err != nil {
			return err
		}
		showPushed(people, pushed)
	}
	return p.finish(ctx, c, h, preview, pushed, out)
}

// problems are what a preview says would keep it from being made, with these flags.
func (p *PushOptions) problems(c *Context, preview *gwv1.PreviewPushResponse) []string {
	problems := slices.Clone(preview.GetProblems())
	for _, f := range preview.GetFreezes() {
		what := "pushes of " + f.GetNamespace()
		if f.GetNamespace() == "" {
			what = "all pushes"
		}
		if !p.BreakGlass {
			problems = append(problems, fmt.Sprintf("%s were frozen by %s %s: %s (gw unfreeze, or an admin's --break-glass)", what, f.GetBy(), c.ago(f.GetAt()), f.GetReason()))
		}
	}
	return problems
}

// finish waits if that is wanted, and prints what programs read.
func (p *PushOptions) finish(ctx context.Context, c *Context, h *hub, preview *gwv1.PreviewPushResponse, pushed *gwv1.PushResponse, out *Output) error {
	answer := plainOf(pushed).(object)
	var waited error
	if p.Wait > 0 {
		w := newWait(c, h, p, preview, pushed)
		var failed *ExitError
		if waited = w.run(ctx); waited != nil && !errors.As(waited, &failed) {
			return waited
		}
		answer = append(answer, member{"wait", w.result()})
		if waited == nil {
			c.say("%s", w.success())
		}
	}
	if !out.forPeople() {
		if err := out.value(c, answer); err != nil {
			return err
		}
	}
	return waited
}

// showPreview tells people what would be released, or nothing, and returns in how many namespaces.
func showPreview(c *Context, w io.Writer, preview *gwv1.PreviewPushResponse, nothing string) (changed int) {
	colors := c.colors(w)
	for _, n := range preview.GetNamespaces() {
		if len(n.GetChanges()) == 0 && n.GetReleasedChecksum() == n.GetExpectedChecksum() {
			continue
		}
		changed++
		from := ""
		if n.GetSource() > 0 {
			from = fmt.Sprintf(" back to release %d,", n.GetSource())
		}
		fmt.Fprintf(w, "%s:%s %s, %s, %s of %s\n", printable(n.GetNamespace()), from, counted(len(n.GetChanges()), "change"),
			edgesOf(n), byteSize(n.GetSizeBytes()), byteSize(n.GetMaxSizeBytes()))
		for _, r := range n.GetChanges() {
			sign := map[gwv1.Change]string{gwv1.Change_CHANGE_CREATED: "+", gwv1.Change_CHANGE_UPDATED: "~", gwv1.Change_CHANGE_DELETED: "-"}[r.GetChange()]
			fmt.Fprintf(w, "  %s\n", changeCell(r.GetChange()).paint.on(sign+" "+printable(r.GetKind()+"/"+r.GetName()), colors))
		}
		for _, line := range tooOld(n) {
			fmt.Fprintf(w, "  %s\n", yellow.on("! "+printable(line), colors))
		}
	}
	if changed == 0 {
		fmt.Fprintln(w, nothing)
	}
	return changed
}

// tooOld says which edges would keep what they run because they come from before what would be released, and why.
func tooOld(n *gwv1.NamespacePreview) (lines []string) {
	for _, x := range n.GetTooOld() {
		names := strings.Join(x.GetEdgeIds(), ", ")
		if more := int(x.GetEdges()) - len(x.GetEdgeIds()); more > 0 {
			names += fmt.Sprintf(" and %d more", more)
		}
		lines = append(lines, x.GetReason()+": "+names)
	}
	switch n.GetTooOldEdges() {
	case 0:
	case 1:
		lines = append(lines, "1 edge would keep what is loaded there until gw is updated on it")
	default:
		lines = append(lines, fmt.Sprintf("%d edges would keep what is loaded there until gw is updated on them", n.GetTooOldEdges()))
	}
	return lines
}

func edgesOf(n *gwv1.NamespacePreview) string {
	text := counted(n.GetEdges(), "edge")
	if n.GetEdges() > n.GetConnectedEdges() {
		text += fmt.Sprintf(" (%d connected)", n.GetConnectedEdges())
	}
	return text
}

func showPushed(w io.Writer, pushed *gwv1.PushResponse) {
	if pushed.GetNumber() == 0 {
		fmt.Fprintln(w, "Nothing was pushed: what is saved is what is released.")
		return
	}
	for _, n := range pushed.GetNamespaces() {
		if !n.GetReleased() {
			continue
		}
		fmt.Fprintf(w, "Pushed %s: release %d, %d created, %d updated, %d deleted\n", printable(n.GetNamespace()), n.GetRelease(), n.GetCreated(), n.GetUpdated(), n.GetDeleted())
	}
}

// counted returns "1 edge" or "2 edges".
func counted[T ~int | ~uint32](n T, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func byteSize(n uint64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
}
