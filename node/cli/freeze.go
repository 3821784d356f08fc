package cli

import (
	"context"
	"strings"

	"gw/rpc/gwv1"
)

// Freeze is "gw freeze [REASON]".
type Freeze struct {
	Reason     []string `arg:"" optional:"" help:"Why pushes are frozen; shown to who is refused. Without it, freezes are listed."`
	Namespaces []string `name:"namespace" short:"n" placeholder:"NS" help:"Namespaces to freeze; may be repeated. Default: all, those of later too."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*Freeze) Examples() string {
	return `
gw freeze
gw freeze the fair, until Monday
gw freeze -n payments audit`
}

// Run freezes pushes, or lists what is frozen.
func (f *Freeze) Run(ctx context.Context, c *Context) error {
	h, err := f.open(c)
	if err != nil {
		return err
	}
	if len(f.Reason) > 0 {
		_, err := h.releases.Freeze(ctx, &gwv1.FreezeRequest{Scope: &gwv1.Scope{Namespaces: f.Namespaces}, Reason: strings.Join(f.Reason, " ")})
		if err == nil {
			c.say("Pushes of %s are frozen. To end it: %s", frozenScope(f.Namespaces), unfreezeCommand(f.Namespaces))
		}
		return err
	}
	if len(f.Namespaces) > 0 {
		return usageError("say why, such as: gw freeze -n %s audit", f.Namespaces[0])
	}
	res, err := h.releases.ListFreezes(ctx, &gwv1.ListFreezesRequest{})
	if err != nil {
		return err
	}
	t := &table{headings: []string{"NAMESPACE", "FROZEN", "BY", "REASON"}}
	return list(&f.Output, c, res.GetFreezes(), "Nothing is frozen.", t, func(f *gwv1.PushFreeze) {
		namespace := f.GetNamespace()
		if namespace == "" {
			namespace = "all"
		}
		t.add(namespace, c.ago(f.GetAt()), f.GetBy(), f.GetReason())
	})
}

// Unfreeze is "gw unfreeze".
type Unfreeze struct {
	Namespaces []string `name:"namespace" short:"n" placeholder:"NS" help:"Namespaces whose own freeze ends; may be repeated. Default: the freeze of all."`
	Connection
}

// Examples returns the examples of the command's help.
func (*Unfreeze) Examples() string {
	return `
gw unfreeze
gw unfreeze -n payments`
}

// Run ends a freeze.
func (u *Unfreeze) Run(ctx context.Context, c *Context) error {
	h, err := u.open(c)
	if err != nil {
		return err
	}
	if _, err := h.releases.Unfreeze(ctx, &gwv1.UnfreezeRequest{Scope: &gwv1.Scope{Namespaces: u.Namespaces}}); err != nil {
		return err
	}
	c.say("Pushes of %s are no longer frozen.", frozenScope(u.Namespaces))
	return nil
}

func frozenScope(namespaces []string) string {
	if len(namespaces) == 0 {
		return "all namespaces"
	}
	return strings.Join(namespaces, ", ")
}

func unfreezeCommand(namespaces []string) string {
	command := "gw unfreeze"
	for _, n := range namespaces {
		command += " -n " + n
	}
	return command
}
