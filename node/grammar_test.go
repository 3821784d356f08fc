package node

import (
	"io"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"gw/node/cli"
	"gw/node/cli/configfile"
)

func TestEveryCommandShowsAnExample(t *testing.T) {
	parser := newParser(t)
	for _, n := range parser.Model.Leaves(true) {
		if cli.Examples(n) == "" {
			t.Errorf("%s has no example", n.FullPath())
		}
	}
}

func TestEveryFlagOfAProcessHasAVariable(t *testing.T) {
	for _, flag := range configfile.WithoutEnvironment(newParser(t).Model) {
		for _, process := range []string{"gw hub ", "gw edge ", "gw dev "} {
			if strings.HasPrefix(flag, process) {
				t.Errorf("%s can't be set by an environment variable", flag)
			}
		}
	}
}

func newParser(t *testing.T) *kong.Kong {
	t.Helper()
	parser, err := cli.NewParser(new(grammar), &cli.Context{Stdout: io.Discard, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	return parser
}
