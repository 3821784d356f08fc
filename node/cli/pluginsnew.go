package cli

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"gw/edgeplugin"
	"gw/rpc/resource"
)

// PluginsNew writes the beginning of a plugin.
type PluginsNew struct {
	Name string `arg:"" help:"The plugin's name; also the folder's, unless --dir names another."`
	Dir  string `placeholder:"DIR" help:"The folder to make. Default: NAME here."`
	ID   uint32 `name:"id" default:"1" placeholder:"NUMBER" help:"The plugin's number, by which its payloads find their hub plugin."`
}

// Examples are shown by "gw plugins new --help".
func (*PluginsNew) Examples() string {
	return `
gw plugins new ratelimit
gw plugins new ratelimit --dir src/ratelimit --id 42`
}

// Run writes the folder, whole or not at all.
func (p *PluginsNew) Run(_ context.Context, c *Context) error {
	if !resource.ValidName(p.Name) {
		return usageError("%q can't be a plugin's name: want %s", p.Name, resource.NameRule)
	}
	if p.ID == 0 {
		return usageError("a plugin's number is at least 1: give --id")
	}
	dir, err := filepath.Abs(cmp.Or(p.Dir, p.Name))
	if err != nil {
		return err
	}
	if _, err := os.Lstat(dir); err == nil {
		return fmt.Errorf("%s is there already and was left as it is; choose another folder with --dir", dir)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	unfinished, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(unfinished) // gone after the rename
	if err := p.write(unfinished, dir); err != nil {
		return err
	}
	if err := os.Chmod(unfinished, 0o755); err != nil {
		return err
	}
	if err := os.Rename(unfinished, dir); err != nil {
		return err
	}
	fmt.Fprintf(c.Stdout, "Wrote %s. Next:\n\n  cd %s\n  go test ./...\n  go build -o %s .\n  gw apply --push -f plugin.yaml\n", dir, dir, p.Name)
	return nil
}

// write fills a folder that will be known as dir.
func (p *PluginsNew) write(into, dir string) error {
	if err := WriteSDK(filepath.Join(into, "sdk")); err != nil {
		return err
	}
	fill := strings.NewReplacer("NAME", p.Name, "PATH", path.Join(filepath.ToSlash(dir), p.Name), "ID  ", fmt.Sprintf("%-4d", p.ID))
	template, err := fs.Sub(edgeplugin.Sources(), "template")
	if err != nil {
		return err
	}
	return eachFile(template, func(name string, text []byte) error {
		switch name = strings.TrimSuffix(name, ".txt"); name {
		case "sdk.mod":
			return nil // the SDK's own
		case "go.sum":
		default:
			text = []byte(fill.Replace(string(text)))
		}
		return writeNew(filepath.Join(into, name), text)
	})
}

// WriteSDK writes the SDK's sources into dir, as a module that builds by itself: gw, with edgeplugin, edgeplugintest and
// the examples. What is in dir is written over.
func WriteSDK(dir string) error {
	return eachFile(edgeplugin.Sources(), func(name string, text []byte) error {
		switch name {
		case "template/sdk.mod.txt":
			if err := writeNew(filepath.Join(dir, "go.mod"), text); err != nil {
				return err
			}
		case "template/go.sum.txt":
			if err := writeNew(filepath.Join(dir, "go.sum"), text); err != nil {
				return err
			}
		}
		return writeNew(filepath.Join(dir, "edgeplugin", filepath.FromSlash(name)), text)
	})
}

// eachFile calls f with every file but tests.
func eachFile(files fs.FS, f func(name string, text []byte) error) error {
	return fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		return f(name, text)
	})
}

func writeNew(file string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}
