package cli

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"

	"gw/node/cli/configfile"
	"gw/rpc/resource"
)

// Main runs the command that args name and returns the process's exit code. grammar is a pointer to a kong struct that
// embeds Commands and may have more, each with Run(ctx context.Context, c *Context) error. Errors are explained on
// c.Stderr.
func Main(ctx context.Context, grammar any, args []string, c *Context, options ...kong.Option) int {
	parser, err := NewParser(grammar, c, options...)
	if err == nil {
		err = run(ctx, parser, args, c)
	}
	if text := Explain(err); text != "" {
		var inFile resource.Errors
		if !errors.As(err, &inFile) { // lines that begin with FILE:LINE:COL are left to begin with it
			text = "gw: " + text
		}
		fmt.Fprintln(c.Stderr, printable(text))
	}
	return ExitCode(err)
}

// errHelp ends a parse that printed help.
var errHelp = errors.New("help was printed")

func run(ctx context.Context, parser *kong.Kong, args []string, c *Context) error {
	chosen, err := Parse(parser, args)
	if errors.Is(err, errHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	chosen.BindTo(ctx, (*context.Context)(nil))
	return chosen.Run(c)
}

// Parse parses args; without any it prints the help. Its errors are ExitErrors with ExitUsage.
func Parse(parser *kong.Kong, args []string) (*kong.Context, error) {
	if len(args) == 0 {
		args = []string{"--help"}
	}
	chosen, err := parser.Parse(args)
	if err == nil || errors.Is(err, errHelp) {
		return chosen, err
	}
	hint := "gw --help"
	var parseErr *kong.ParseError
	if errors.As(err, &parseErr) && parseErr.Context != nil && parseErr.Context.Selected() != nil {
		hint = commandPath(parseErr.Context.Selected()) + " --help"
	}
	return nil, &ExitError{ExitUsage, &usage{err, hint}}
}

// usage is a command line that could not be understood, and where to look.
type usage struct {
	err  error
	hint string
}

func (u *usage) Error() string { return u.err.Error() }
func (u *usage) Unwrap() error { return u.err }

// NewParser returns the parser of a grammar: help with examples, files for --config and GW_ environment variables as
// in package configfile. Help ends Parse, not the process.
func NewParser(grammar any, c *Context, options ...kong.Option) (*kong.Kong, error) {
	all := []kong.Option{
		kong.Name("gw"),
		kong.Description("A control plane and gateway for AI and API traffic.\n\nThe hub keeps configuration, the edges serve by it. Start with: gw dev"),
		kong.Writers(c.Stdout, c.Stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 110}),
		kong.Help(printHelp),
		kong.Exit(func(int) {}),
		kong.NoDefaultHelp(),
		kong.Embed(&helpOption{}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "run", Title: "Processes:"},
			{Key: "session", Title: "Session:"},
			{Key: "configuration", Title: "Configuration (takes effect with the next push):"},
			{Key: "release", Title: "Releases:"},
			{Key: "fleet", Title: "Fleet:"},
			{Key: "access", Title: "Access (takes effect at once):"},
			{Key: "cluster", Title: "Cluster:"},
			{Key: "hub", Title: "Hub (default: where you are logged in):"},
		}),
	}
	all = append(all, configfile.Options("GW")...)
	parser, err := kong.New(grammar, append(all, options...)...)
	if err != nil {
		return nil, fmt.Errorf("build the command line: %w", err)
	}
	return parser, nil
}

type helpOption struct {
	Help helpFlag `short:"h" help:"Show help and examples."`
}

// helpFlag prints the help of the command before it and ends the parse with errHelp. Kong's own exits the process.
type helpFlag bool

// IgnoreDefault makes help about the command that was named, not about its default subcommand.
func (helpFlag) IgnoreDefault() {}

// BeforeReset is called by kong as soon as arguments are read, before anything is required of them.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	if err := ctx.PrintUsage(false); err != nil {
		return err
	}
	return errHelp
}

// Examples returns what a command's help shows as examples, "" if it has none: the Examples method of its struct.
func Examples(node *kong.Node) string {
	target := node.Target
	if !target.IsValid() {
		return ""
	}
	if target.Kind() != reflect.Pointer && target.CanAddr() {
		target = target.Addr()
	}
	with, ok := target.Interface().(interface{ Examples() string })
	if !ok {
		return ""
	}
	return strings.Trim(with.Examples(), "\n")
}

// Examples returns the examples of "gw --help".
func (*Commands) Examples() string {
	return `
gw login https://hub.example:7070
gw apply -f ./config && gw diff
gw push --note "orders v2" --wait 100%
gw edges`
}

func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, ctx); err != nil {
		return err
	}
	node := ctx.Selected()
	if node == nil {
		node = ctx.Model.Node
	}
	if text := Examples(node); text != "" {
		fmt.Fprintf(ctx.Stdout, "\nExamples:\n  %s\n", strings.ReplaceAll(text, "\n", "\n  "))
	}
	if len(node.Children) > 0 {
		fmt.Fprintf(ctx.Stdout, "\nMore about one: %s <command> --help\n", commandPath(node))
	}
	return nil
}

// commandPath returns "gw tokens create", without the aliases kong would put in.
func commandPath(node *kong.Node) string {
	if node.Parent == nil {
		return node.Name
	}
	return commandPath(node.Parent) + " " + node.Name
}
