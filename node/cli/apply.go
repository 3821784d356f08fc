package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Apply is "gw apply".
type Apply struct {
	File   []string `short:"f" required:"" sep:"none" placeholder:"FILE|DIR|-" help:"File, directory (read recursively for .yaml, .yml and .json) or - for standard input; may be repeated. All of it is saved, or nothing."`
	DryRun bool     `help:"Say what would be saved, and save nothing."`
	Prune  bool     `env:"-" help:"Also delete what is saved in the namespaces of these files and not in the files."`
	Push   bool     `env:"-" help:"Then push those namespaces."`
	PushOptions
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Apply) Examples() string {
	return `
gw apply -f orders.yaml
gw apply -f ./config --prune --dry-run
gw apply -f ./config --prune --push --wait 100%
kustomize build . | gw apply -f -`
}

// Run saves the resources of the files as one batch.
func (a *Apply) Run(ctx context.Context, c *Context) error {
	if a.DryRun && a.Push {
		return usageError("--dry-run saves nothing that --push could push; choose one")
	}
	docs, err := c.readDocuments(a.File)
	if err != nil {
		return err
	}
	h, err := a.open(c)
	if err != nil {
		return err
	}
	namespaces := map[string]bool{}
	req := &gwv1.ApplyResourcesRequest{DryRun: a.DryRun}
	for _, d := range docs {
		namespaces[d.Namespace] = true
		req.Resources = append(req.Resources, d.Proto())
	}
	scope := slices.Sorted(maps.Keys(namespaces))
	if a.Prune {
		req.PruneNamespaces = scope
	}
	res, err := h.config.ApplyResources(ctx, req)
	if err != nil {
		return locate(docs, err)
	}
	// With a push to follow, programs get the push's answer: one value on stdout.
	if a.forPeople() || !a.Push {
		if err := a.Output.outcomes(c, res.GetOutcomes()); err != nil {
			return err
		}
	}
	c.say("%s", a.summary(res.GetOutcomes()))
	if a.Push {
		return a.PushOptions.push(ctx, c, h, scope, &a.Output)
	}
	return nil
}

// summary tells what became of the batch, and what is next.
func (a *Apply) summary(outcomes []*gwv1.ResourceOutcome) string {
	var parts []string
	for _, change := range []gwv1.Change{gwv1.Change_CHANGE_CREATED, gwv1.Change_CHANGE_UPDATED, gwv1.Change_CHANGE_DELETED, gwv1.Change_CHANGE_UNCHANGED} {
		if n := countChange(outcomes, change); n > 0 {
			parts = append(parts, itoa(n)+" "+word(change))
		}
	}
	text := strings.Join(parts, ", ")
	changed := len(outcomes) > countChange(outcomes, gwv1.Change_CHANGE_UNCHANGED)
	switch {
	case a.DryRun:
		return "Would be: " + text + ". Nothing was saved."
	case changed && !a.Push:
		return "Saved: " + text + ". Edges run it after: gw push"
	default:
		return "Saved: " + text + "."
	}
}

func countChange(outcomes []*gwv1.ResourceOutcome, change gwv1.Change) (n int) {
	for _, o := range outcomes {
		if o.GetChange() == change {
			n++
		}
	}
	return n
}

// outcomes prints what became of resources. People are not shown the unchanged ones.
func (o *Output) outcomes(c *Context, outcomes []*gwv1.ResourceOutcome) error {
	t := &table{headings: []string{"CHANGE", "KIND", "NAMESPACE", "NAME"}}
	if o.forPeople() {
		outcomes = slices.DeleteFunc(slices.Clone(outcomes), func(o *gwv1.ResourceOutcome) bool { return o.GetChange() == gwv1.Change_CHANGE_UNCHANGED })
		if len(outcomes) == 0 {
			return nil
		}
	}
	return list(o, c, outcomes, "", t, func(r *gwv1.ResourceOutcome) {
		t.add(changeCell(r.GetChange()), r.GetKind(), r.GetNamespace(), r.GetName())
	})
}

func changeCell(change gwv1.Change) cell {
	colors := map[gwv1.Change]paint{gwv1.Change_CHANGE_CREATED: green, gwv1.Change_CHANGE_UPDATED: yellow, gwv1.Change_CHANGE_DELETED: red}
	return cell{word(change), colors[change]}
}

// locate turns a hub's refusal of documents into errors at the places in their files. Other errors are returned as they
// are.
func locate(docs []*resource.Document, err error) error {
	violations := detailOf(err).GetViolations()
	if len(violations) == 0 {
		return err
	}
	byKey := make(map[resource.Key]*resource.Document, len(docs))
	for _, d := range docs {
		byKey[d.Key] = d
	}
	errs := make(resource.Errors, len(violations))
	for i, v := range violations {
		errs[i] = violation(v)
		d := byKey[resource.Key{Kind: v.GetKind(), Namespace: v.GetNamespace(), Name: v.GetName()}]
		if d == nil {
			return err // about something outside of the files: its own text says more
		}
		errs[i] = errorAt(d, errs[i])
	}
	return errs
}
