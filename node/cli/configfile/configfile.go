// Package configfile owns the rule by which a command's flags get their values from places other than its arguments:
// argument over environment over --config file over default, and in the file nothing that isn't a flag.
package configfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

// FlagName is the name of the flag that makes a command take a file: a string, empty for none.
const FlagName = "config"

// MaxSize is the most bytes a file may have.
const MaxSize = 1 << 20

// Options returns the kong options that give every command with a --config flag (FlagName) its file and its environment:
//
//   - every flag of the command is a key of the file, spelled like the flag or with underscores ("data-dir", "data_dir"),
//   - every flag is an environment variable, prefix and name in capitals ("GW_DATA_DIR" for prefix "GW"), unless its
//     env tag names another or is "-", which means none; an empty variable counts as unset.
//
// A file with an unknown or repeated key or a value its flag refuses fails the parse with Errors inside a
// kong.ParseError. Kong's own file resolvers pass over unknown keys and rank above the environment, so they are not used.
func Options(prefix string) []kong.Option {
	// With a resolver there from the start, kong lets values that refuse to parse be overruled before it complains.
	none := kong.ResolverFunc(func(*kong.Context, *kong.Path, *kong.Flag) (any, error) { return nil, nil })
	return []kong.Option{environment(prefix), kong.Resolvers(none), kong.WithBeforeResolve(resolve)}
}

// WithoutEnvironment lists, as "command --flag", the flags of commands with a --config flag that no environment
// variable can set. A process that must be configurable without arguments has none.
func WithoutEnvironment(app *kong.Application) []string {
	var missing []string
	eachConfigured(app.Node, func(n *kong.Node) {
		for _, f := range n.Flags {
			if f.Name != "help" && len(f.Tag.Envs) == 0 {
				missing = append(missing, n.FullPath()+" --"+f.Name)
			}
		}
	})
	return missing
}

func environment(prefix string) kong.Option {
	return kong.PostBuild(func(k *kong.Kong) error {
		eachConfigured(k.Model.Node, func(n *kong.Node) {
			for _, f := range n.Flags {
				envs := f.Tag.Envs
				switch {
				case f.Name == "help" || len(envs) == 1 && envs[0] == "-":
					envs = nil
				case len(envs) == 0:
					envs = []string{prefix + "_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(f.Name))}
				}
				f.Envs, f.Tag.Envs = envs, envs
			}
		})
		return nil
	})
}

// eachConfigured visits every command that has a --config flag.
func eachConfigured(n *kong.Node, visit func(*kong.Node)) {
	if configFlag(n) != nil {
		visit(n)
	}
	for _, child := range n.Children {
		eachConfigured(child, visit)
	}
}

func configFlag(n *kong.Node) *kong.Flag {
	for _, f := range n.Flags {
		if f.Name == FlagName {
			return f
		}
	}
	return nil
}

// resolve is called once for each part of the command line; the chosen command's turn reads its file.
func resolve(ctx *kong.Context, path *kong.Path) error {
	command := ctx.Selected()
	if command == nil || path.Command != command {
		return nil
	}
	flag := configFlag(command)
	if flag == nil {
		return nil
	}
	values := map[*kong.Flag]any{}
	if file, _ := ctx.FlagValue(flag).(string); file != "" {
		data, err := read(file)
		if err != nil {
			return err
		}
		read, errs := parse(file, data, command.Flags)
		if len(errs) > 0 {
			return errs
		}
		values = read
	}
	ctx.AddResolver(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
		empty := false
		for _, env := range f.Tag.Envs {
			value, set := os.LookupEnv(env)
			if value != "" {
				return nil, nil
			}
			empty = empty || set
		}
		if value, ok := values[f]; ok {
			return value, nil
		}
		if empty && f.HasDefault {
			return f.Default, nil
		}
		return nil, nil
	}))
	return nil
}

func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read --%s: %w", FlagName, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read --%s %s: %w", FlagName, file, err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("read --%s %s: more than %d bytes", FlagName, file, MaxSize)
	}
	return data, nil
}

// Error is one thing wrong with a file.
type Error struct {
	File         string
	Line, Column int // from 1
	Message      string
}

// Error returns "FILE:LINE:COL message".
func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d %s", e.File, e.Line, e.Column, e.Message)
}

// Errors is everything found wrong with a file at once.
type Errors []*Error

// Error returns one line per error.
func (es Errors) Error() string {
	all := make([]error, len(es))
	for i, e := range es {
		all[i] = e
	}
	return errors.Join(all...).Error()
}
