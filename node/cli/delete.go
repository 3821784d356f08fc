package cli

import (
	"context"

	"gw/rpc/gwv1"
)

// Delete is "gw delete".
type Delete struct {
	Kind      string   `arg:"" optional:"" help:"API or LLM; KIND/NAME names one."`
	Name      string   `arg:"" optional:"" help:"Name of the resource."`
	File      []string `short:"f" sep:"none" placeholder:"FILE|DIR|-" help:"Delete the resources of these files instead; may be repeated. All of them are deleted, or none."`
	Namespace string   `short:"n" help:"Namespace of the resource; default: default."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Delete) Examples() string {
	return `
gw delete API orders
gw delete LLM/openai -n staging
gw delete -f ./old`
}

// Run deletes one resource, or those of files as one batch.
func (d *Delete) Run(ctx context.Context, c *Context) error {
	keys, err := d.keys(c)
	if err != nil {
		return err
	}
	h, err := d.open(c)
	if err != nil {
		return err
	}
	res, err := h.config.DeleteResources(ctx, &gwv1.DeleteResourcesRequest{Keys: keys})
	if err != nil {
		return err
	}
	if err := d.outcomes(c, res.GetOutcomes()); err != nil {
		return err
	}
	c.say("Deleted: %d. Edges drop them after: gw push", countChange(res.GetOutcomes(), gwv1.Change_CHANGE_DELETED))
	return nil
}

func (d *Delete) keys(c *Context) ([]*gwv1.ResourceKey, error) {
	if len(d.File) > 0 {
		if d.Kind != "" || d.Namespace != "" {
			return nil, usageError("-f says what to delete, so kind, name and --namespace are too much")
		}
		docs, err := c.readDocuments(d.File)
		if err != nil {
			return nil, err
		}
		keys := make([]*gwv1.ResourceKey, len(docs))
		for i, doc := range docs {
			keys[i] = &gwv1.ResourceKey{Kind: doc.Kind, Namespace: doc.Namespace, Name: doc.Name}
		}
		return keys, nil
	}
	if d.Kind == "" {
		return nil, usageError("say what to delete: KIND NAME, or -f FILE")
	}
	kind, name, err := kindAndName(d.Kind, d.Name)
	if err != nil {
		return nil, err
	}
	if kind == "" || name == "" {
		return nil, usageError("say which one to delete: KIND NAME, or -f FILE")
	}
	return []*gwv1.ResourceKey{{Kind: kind, Namespace: d.Namespace, Name: name}}, nil
}
