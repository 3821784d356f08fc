package cli

import (
	"context"
	"fmt"
	"strings"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Apps is "gw apps".
type Apps struct {
	Create AppsCreate `cmd:"" help:"Make an app."`
	Update AppsUpdate `cmd:"" help:"Change an app; what isn't given stays as it is."`
	List   AppsList   `cmd:"" help:"List apps."`
	Delete AppsDelete `cmd:"" help:"Delete an app and revoke its tokens."`
}

// Examples returns the examples of the command's help.
func (*Apps) Examples() string {
	return `
gw apps create web --target 'LLM/*' --target API/orders
gw apps list
gw apps delete web`
}

// AppFields is the flags that describe an app.
type AppFields struct {
	Owner    *string  `help:"Who answers for it."`
	Targets  []string `name:"target" placeholder:"TARGET" help:"What it may call: LLM/openai, API/orders, 'LLM/*' or '*'; may be repeated."`
	Policies []string `name:"policy" placeholder:"NAME" help:"Policies that each of its requests must pass; may be repeated."`
}

func (f *AppFields) fill(app *gwv1.App) {
	if f.Owner != nil {
		app.Owner = *f.Owner
	}
	if f.Targets != nil {
		app.Targets = f.Targets
	}
	if f.Policies != nil {
		app.Policies = f.Policies
	}
}

// AppsCreate is "gw apps create".
type AppsCreate struct {
	Name      string `arg:"" help:"Name of the app."`
	Namespace string `short:"n" help:"Namespace whose edges serve it, or global for all; default: default."`
	AppFields
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*AppsCreate) Examples() string {
	return `
gw apps create web --target 'LLM/*'
gw apps create billing -n staging --owner team-a --target API/orders --target LLM/openai`
}

// Run makes an app.
func (a *AppsCreate) Run(ctx context.Context, c *Context) error {
	h, err := a.open(c)
	if err != nil {
		return err
	}
	app := &gwv1.App{Name: a.Name, Namespace: a.Namespace}
	a.fill(app)
	res, err := h.access.CreateApp(ctx, &gwv1.CreateAppRequest{App: app})
	if err != nil {
		return err
	}
	if !a.forPeople() {
		return a.one(c, res.GetApp())
	}
	app = res.GetApp()
	c.say("Created app %s in %s.", app.GetName(), app.GetNamespace())
	if len(app.GetTargets()) == 0 {
		c.say("It may call nothing yet. Allow it something with: gw apps update %s%s --target 'LLM/*'", app.GetName(), inNamespace(app.GetNamespace()))
	}
	c.say("Make its credential with: gw tokens create %s%s", app.GetName(), inNamespace(app.GetNamespace()))
	return nil
}

// inNamespace is the flag that names a namespace, "" for the default one.
func inNamespace(namespace string) string {
	if namespace == "" || namespace == resource.Default {
		return ""
	}
	return " -n " + namespace
}

// AppsUpdate is "gw apps update".
type AppsUpdate struct {
	Name      string `arg:"" help:"Name of the app."`
	Namespace string `short:"n" help:"Namespace of the app; default: default."`
	AppFields
	NoTargets  bool `env:"-" help:"Let it call nothing."`
	NoPolicies bool `env:"-" help:"Let it pass without policies."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*AppsUpdate) Examples() string {
	return `
gw apps update web --target 'LLM/*' --target API/orders
gw apps update web -n staging --owner team-b --no-policies`
}

// Run changes what is given of an app.
func (a *AppsUpdate) Run(ctx context.Context, c *Context) error {
	switch {
	case a.NoTargets && a.Targets != nil:
		return usageError("--no-targets and --target contradict each other")
	case a.NoPolicies && a.Policies != nil:
		return usageError("--no-policies and --policy contradict each other")
	case a.Owner == nil && a.Targets == nil && a.Policies == nil && !a.NoTargets && !a.NoPolicies:
		return usageError("say what to change: --owner, --target, --policy, --no-targets or --no-policies")
	}
	h, err := a.open(c)
	if err != nil {
		return err
	}
	app, err := h.findApp(ctx, a.Namespace, a.Name)
	if err != nil {
		return err
	}
	a.fill(app)
	if a.NoTargets {
		app.Targets = nil
	}
	if a.NoPolicies {
		app.Policies = nil
	}
	res, err := h.access.UpdateApp(ctx, &gwv1.UpdateAppRequest{App: app})
	if err != nil {
		return err
	}
	if !a.forPeople() {
		return a.one(c, res.GetApp())
	}
	c.say("Updated app %s in %s.", res.GetApp().GetName(), res.GetApp().GetNamespace())
	return nil
}

func (h *hub) findApp(ctx context.Context, namespace, name string) (*gwv1.App, error) {
	if namespace == "" {
		namespace = resource.Default
	}
	res, err := h.access.ListApps(ctx, &gwv1.ListAppsRequest{Namespace: namespace})
	if err != nil {
		return nil, err
	}
	for _, app := range res.GetApps() {
		if app.GetName() == name && app.GetNamespace() == namespace {
			return app, nil
		}
	}
	return nil, fmt.Errorf("there is no app %s in namespace %s; see: gw apps list", name, namespace)
}

// AppsList is "gw apps list".
type AppsList struct {
	Namespace string `short:"n" help:"Namespace; default: all."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*AppsList) Examples() string { return "gw apps list\ngw apps list -n staging -o yaml" }

// Run lists apps.
func (a *AppsList) Run(ctx context.Context, c *Context) error {
	h, err := a.open(c)
	if err != nil {
		return err
	}
	res, err := h.access.ListApps(ctx, &gwv1.ListAppsRequest{Namespace: a.Namespace})
	if err != nil {
		return err
	}
	t := &table{headings: []string{"APP", "NAMESPACE", "OWNER", "TARGETS", "POLICIES", "TOKENS", "CREATED"}}
	return list(&a.Output, c, res.GetApps(), "There are no apps yet. Make one with: gw apps create NAME --target 'LLM/*'", t, func(a *gwv1.App) {
		t.add(a.GetName(), a.GetNamespace(), a.GetOwner(), strings.Join(a.GetTargets(), " "), strings.Join(a.GetPolicies(), " "), itoa(a.GetTokens()), c.ago(a.GetCreatedAt()))
	})
}

// AppsDelete is "gw apps delete".
type AppsDelete struct {
	Name      string `arg:"" help:"Name of the app."`
	Namespace string `short:"n" help:"Namespace of the app; default: default."`
	Yes       bool   `short:"y" env:"-" help:"Don't ask."`
	Connection
}

// Examples returns the examples of the command's help.
func (*AppsDelete) Examples() string {
	return "gw apps delete web\ngw apps delete web -n staging --yes"
}

// Run deletes an app, after asking.
func (a *AppsDelete) Run(ctx context.Context, c *Context) error {
	h, err := a.open(c)
	if err != nil {
		return err
	}
	if !a.Yes {
		if err := c.confirm(ctx, fmt.Sprintf("Delete app %s and revoke its tokens", a.Name), "--yes"); err != nil {
			return err
		}
	}
	res, err := h.access.DeleteApp(ctx, &gwv1.DeleteAppRequest{Namespace: a.Namespace, Name: a.Name})
	if err != nil {
		return err
	}
	c.say("Deleted app %s and revoked %s.", a.Name, counted(res.GetRevokedTokens(), "token"))
	return nil
}
