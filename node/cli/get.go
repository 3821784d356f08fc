package cli

import (
	"context"
	"fmt"
	"strings"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Get is "gw get".
type Get struct {
	Kind      string `arg:"" help:"API or LLM (or apis, llm, …), or all; KIND/NAME names one."`
	Name      string `arg:"" optional:"" help:"Name of one resource."`
	Namespace string `short:"n" help:"Namespace; default: default for one resource, every namespace for many."`
	Stale
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Get) Examples() string {
	return `
gw get all
gw get API -n staging
gw get API orders -o yaml
gw get all -o yaml > saved.yaml && gw apply -f saved.yaml`
}

// Run shows one resource or many.
func (g *Get) Run(ctx context.Context, c *Context) error {
	kind, name, err := kindAndName(g.Kind, g.Name)
	if err != nil {
		return err
	}
	if kind == "" && name != "" {
		return usageError("a name needs a kind: gw get API %s", name)
	}
	h, err := g.openStale(c, &g.Connection)
	if err != nil {
		return err
	}
	if name != "" {
		res, err := h.config.GetResource(ctx, &gwv1.GetResourceRequest{Kind: kind, Namespace: g.Namespace, Name: name})
		if err != nil {
			return err
		}
		if !g.forPeople() {
			return g.one(c, res.GetResource())
		}
		return g.print(c, []*gwv1.Resource{res.GetResource()})
	}
	all, err := h.listResources(ctx, kind, g.Namespace)
	if err != nil {
		return err
	}
	return g.print(c, all)
}

func (g *Get) print(c *Context, resources []*gwv1.Resource) error {
	if g.Output.Output == "yaml" {
		return printDocuments(c, resources)
	}
	t := &table{headings: []string{"KIND", "NAMESPACE", "NAME", "WHAT", "SAVED", "BY"}}
	return list(&g.Output, c, resources, "Nothing is saved here yet. Save resources with: gw apply -f FILE", t, func(r *gwv1.Resource) {
		t.add(r.GetKind(), r.GetMetadata().GetNamespace(), r.GetMetadata().GetName(), describe(r), c.ago(r.GetStatus().GetUpdatedAt()), r.GetStatus().GetUpdatedBy())
	})
}

// printDocuments prints resources as the documents of a file that apply reads again.
func printDocuments(c *Context, resources []*gwv1.Resource) error {
	for i, r := range resources {
		data, err := encodeYAML(resourceOf(r))
		if err != nil {
			return fmt.Errorf("encode as yaml: %w", err)
		}
		if i > 0 {
			data = append([]byte("---\n"), data...)
		}
		if _, err := c.Stdout.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// describe tells in a few words what a resource does, "" for one this binary can't read.
func describe(r *gwv1.Resource) string {
	d, err := resource.FromProto(r)
	if err != nil {
		return ""
	}
	switch spec := d.Spec.(type) {
	case *gwv1.APISpec:
		text := strings.Join(spec.GetPaths(), " ")
		if len(spec.GetUpstreams()) > 0 {
			text += " → " + spec.GetUpstreams()[0].GetUrl()
		}
		if n := len(spec.GetUpstreams()); n > 1 {
			text += fmt.Sprintf(" and %d more", n-1)
		}
		return text
	case *gwv1.LLMSpec:
		return word(spec.GetDialect()) + " at " + spec.GetBaseUrl()
	}
	return ""
}

// listResources returns every resource of a kind and namespace, "" for all.
func (h *hub) listResources(ctx context.Context, kind, namespace string) ([]*gwv1.Resource, error) {
	var all []*gwv1.Resource
	req := &gwv1.ListResourcesRequest{Kind: kind, Namespace: namespace, PageSize: 1000}
	for {
		res, err := h.config.ListResources(ctx, req)
		if err != nil {
			return nil, err
		}
		all = append(all, res.GetResources()...)
		if res.GetNextPageToken() == "" || len(res.GetResources()) == 0 {
			return all, nil
		}
		req.PageToken = res.GetNextPageToken()
	}
}

// kindAndName reads "API orders", "API/orders" and "apis"; "all" is the kind "".
func kindAndName(kind, name string) (string, string, error) {
	if k, n, ok := strings.Cut(kind, "/"); ok {
		if name != "" {
			return "", "", usageError("%s names a resource already, so %q is too much", kind, name)
		}
		kind, name = k, n
	}
	if strings.EqualFold(kind, "all") {
		return "", name, nil
	}
	for _, known := range resource.Kinds() {
		if strings.EqualFold(kind, known) || strings.EqualFold(kind, known+"s") {
			return known, name, nil
		}
	}
	return "", "", usageError("%q is not a kind; expected one of %s, or all", kind, strings.Join(resource.Kinds(), ", "))
}
