package node

import (
	"log/slog"
	"strings"
	"testing"
)

func TestPluginsOfADevelopmentProcessWantAToolchain(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	d := &dev{config: DevConfig{Data: t.TempDir(), Plugins: true}, log: slog.New(slog.DiscardHandler)}
	if err := d.buildPlugins(t.Context()); err == nil || !strings.Contains(err.Error(), "no Go toolchain on the PATH: install it") {
		t.Errorf("got %v", err)
	}
}
