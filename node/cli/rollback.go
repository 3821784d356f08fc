package cli

import (
	"context"

	"gw/rpc/gwv1"
)

// Rollback is "gw rollback".
type Rollback struct {
	Namespaces []string `name:"namespace" short:"n" placeholder:"NS" help:"Namespaces to roll back; may be repeated. Default: all."`
	To         uint64   `placeholder:"PUSH" help:"Bring back what was released after this push (gw pushes). Default: what each namespace had before its newest release."`
	PushOptions
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Rollback) Examples() string {
	return `
gw rollback
gw rollback -n staging --note "orders v2 loses carts"
gw rollback --to 41 --yes --wait 100%`
}

// Run shows what a rollback would change, asks on a terminal, rolls back and waits.
func (r *Rollback) Run(ctx context.Context, c *Context) error {
	h, err := r.open(c)
	if err != nil {
		return err
	}
	scope := &gwv1.Scope{Namespaces: r.Namespaces}
	made := false
	err = r.release(ctx, c, h, &r.Output, releasing{
		verb:    "Roll back",
		preview: &gwv1.PreviewPushRequest{Scope: scope, Rollback: true, RollbackTo: r.To},
		nothing: "Nothing to roll back: that is what is released.",
		do: func(base string) (*gwv1.PushResponse, error) {
			pushed, err := h.releases.Rollback(ctx, &gwv1.RollbackRequest{Scope: scope, To: r.To, Note: r.Note, Base: base,
				ConfirmRemoval: r.ConfirmRemoval, BreakGlass: r.BreakGlass})
			made = pushed.GetNumber() > 0
			return pushed, err
		},
	})
	if made {
		c.say("What is saved was left as it is; the next push releases it again. To see how it differs: gw diff")
	}
	return err
}
