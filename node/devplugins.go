package node

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"gw/node/cli"
)

// The example plugins as resources: $DIR stands for where their programs are, $DATA for the data directory and $UPSTREAM for
// the sample upstream's URL.
//
//go:embed sample/plugins.yaml
var samplePlugins string

// pluginDir is where the example plugins are built, an absolute path.
func (d *dev) pluginDir() (string, error) {
	dir, err := filepath.Abs(filepath.Join(d.config.Data, "plugins"))
	if err != nil {
		return "", fmt.Errorf("find the data directory: %w", err)
	}
	return dir, nil
}

// buildPlugins builds the examples from the sources that this program carries, as the author of a plugin would.
func (d *dev) buildPlugins(ctx context.Context) error {
	dir, err := d.pluginDir()
	if err != nil {
		return err
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		return usage("--plugins builds the example plugins, and there is no Go toolchain on the PATH: install it (https://go.dev/dl), or start without --plugins")
	}
	sources := filepath.Join(dir, "sdk")
	if err := os.RemoveAll(sources); err != nil {
		return fmt.Errorf("make room for the sources of the example plugins: %w", err)
	}
	if err := cli.WriteSDK(sources); err != nil {
		return fmt.Errorf("write the sources of the example plugins: %w", err)
	}
	d.log.InfoContext(ctx, "building the example plugins", "sources", sources)
	build := exec.CommandContext(ctx, goTool, "build", "-o", dir+string(filepath.Separator), "./edgeplugin/examples/...")
	build.Dir = sources
	build.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the example plugins in %s: %w\n%s", sources, err, out)
	}
	return nil
}

// pluginResources returns the plugins' configuration.
func (d *dev) pluginResources() (string, error) {
	dir, err := d.pluginDir()
	if err != nil {
		return "", err
	}
	return strings.NewReplacer("$DIR", filepath.ToSlash(dir), "$DATA", filepath.ToSlash(filepath.Dir(dir)), "$UPSTREAM", d.upstream.url()).Replace(samplePlugins), nil
}

// describePlugins says what to try with the plugins, "" if there are none.
func (d *dev) describePlugins() string {
	if !d.config.Plugins {
		return ""
	}
	return fmt.Sprintf(`
Example plugins run, too. Call the model twice: the second answer comes from the cache, which tells the hub within 10 s:

  gw plugins                    what runs where, and how fast
  gw plugins kv 7 total         hits and misses of all edges' caches
  gw plugins kv 8               requests and errors by day and target; each is in %s
  curl -s %s/alerts             what the web hook was told; %s/shop/fail fails, and ten in a minute are an alert

`, filepath.Join(d.config.Data, "audit.jsonl"), d.upstream.url(), d.file.Edge)
}
