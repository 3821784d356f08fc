package cli

import (
	"context"
	"fmt"

	"gw/rpc/gwv1"
)

// Secrets is "gw secrets".
type Secrets struct {
	Put    SecretsPut    `cmd:"" help:"Save a value under a name, or replace it; it takes effect at once and is never shown again."`
	List   SecretsList   `cmd:"" help:"List names and versions of secrets."`
	Delete SecretsDelete `cmd:"" help:"Delete a secret that nothing names any more."`
}

// Examples returns the examples of the command's help.
func (*Secrets) Examples() string {
	return `
gw secrets put openai-key
gw secrets put openai-key -n staging --file ./key.txt
gw secrets list`
}

// SecretsPut is "gw secrets put".
type SecretsPut struct {
	Name      string `arg:"" help:"Name that resources refer to."`
	Namespace string `short:"n" help:"Namespace, or global; default: default."`
	File      string `short:"f" placeholder:"FILE" help:"File with the value, - for standard input; else it is asked for on a terminal, or read from standard input. A line feed at its end is dropped."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*SecretsPut) Examples() string {
	return `
gw secrets put openai-key
printenv OPENAI_API_KEY | gw secrets put openai-key
gw secrets put openai-key -n global --file ./key.txt`
}

const maxSecret = 64 << 10

// Run saves a value, which is never taken from an argument: those show in process lists and histories.
func (s *SecretsPut) Run(ctx context.Context, c *Context) error {
	h, err := s.open(c)
	if err != nil {
		return err
	}
	value, err := s.read(ctx, c)
	if err != nil {
		return err
	}
	res, err := h.access.PutSecret(ctx, &gwv1.PutSecretRequest{Name: s.Name, Namespace: s.Namespace, Value: value})
	if err != nil {
		return err
	}
	if !s.forPeople() {
		return s.one(c, res.GetSecret())
	}
	c.say("Saved secret %s in %s, version %d.", res.GetSecret().GetName(), res.GetSecret().GetNamespace(), res.GetSecret().GetVersion())
	return nil
}

func (s *SecretsPut) read(ctx context.Context, c *Context) (string, error) {
	if s.File != "" {
		return c.readValue(s.File, maxSecret)
	}
	if !c.isTerminal(c.Stdin) {
		return c.readValue("-", maxSecret)
	}
	value, err := c.askSecret(ctx, "Value of "+s.Name+": ")
	if err == nil && value == "" {
		err = fmt.Errorf("the value is empty, nothing was changed")
	}
	return value, err
}

// SecretsList is "gw secrets list".
type SecretsList struct {
	Namespace string `short:"n" help:"Namespace; default: all."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*SecretsList) Examples() string { return "gw secrets list\ngw secrets list -n global -o json" }

// Run lists secrets; their values can't be read by anyone.
func (s *SecretsList) Run(ctx context.Context, c *Context) error {
	h, err := s.open(c)
	if err != nil {
		return err
	}
	res, err := h.access.ListSecrets(ctx, &gwv1.ListSecretsRequest{Namespace: s.Namespace})
	if err != nil {
		return err
	}
	t := &table{headings: []string{"SECRET", "NAMESPACE", "VERSION", "SAVED", "BY"}}
	return list(&s.Output, c, res.GetSecrets(), "There are no secrets. Save one with: gw secrets put NAME", t, func(s *gwv1.Secret) {
		t.add(s.GetName(), s.GetNamespace(), itoa(s.GetVersion()), c.ago(s.GetUpdatedAt()), s.GetUpdatedBy())
	})
}

// SecretsDelete is "gw secrets delete".
type SecretsDelete struct {
	Name      string `arg:"" help:"Name of the secret."`
	Namespace string `short:"n" help:"Namespace; default: default."`
	Yes       bool   `short:"y" env:"-" help:"Don't ask."`
	Connection
}

// Examples returns the examples of the command's help.
func (*SecretsDelete) Examples() string {
	return "gw secrets delete old-key\ngw secrets delete old-key -n staging --yes"
}

// Run deletes a secret, after asking: its value is nowhere else.
func (s *SecretsDelete) Run(ctx context.Context, c *Context) error {
	h, err := s.open(c)
	if err != nil {
		return err
	}
	if !s.Yes {
		if err := c.confirm(ctx, fmt.Sprintf("Delete secret %s (its value can't be brought back)", s.Name), "--yes"); err != nil {
			return err
		}
	}
	if _, err := h.access.DeleteSecret(ctx, &gwv1.DeleteSecretRequest{Name: s.Name, Namespace: s.Namespace}); err != nil {
		return err
	}
	c.say("Deleted secret %s.", s.Name)
	return nil
}
