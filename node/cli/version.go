package cli

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version is "gw version".
type Version struct {
	Output
}

// Examples returns the examples of the command's help.
func (*Version) Examples() string { return "gw version\ngw version -o json" }

// Run prints what binary this is.
func (v *Version) Run(_ context.Context, c *Context) error {
	version, revision := BuildVersion()
	if c.Version != "" {
		version = c.Version
	}
	platform := runtime.GOOS + "/" + runtime.GOARCH
	if !v.forPeople() {
		return v.value(c, object{{"version", version}, {"revision", revision}, {"go", runtime.Version()}, {"platform", platform}})
	}
	if revision != "" {
		version += " (" + revision + ")"
	}
	_, err := fmt.Fprintf(c.Stdout, "gw %s, %s, %s\n", version, runtime.Version(), platform)
	return err
}

// BuildVersion returns the version the binary was built as, "devel" if none was recorded, and the commit it was built
// from, with "+changes" if there were uncommitted ones; "" if unknown.
func BuildVersion() (version, revision string) {
	version = "devel"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version, ""
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		version = v
	}
	changes := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			changes = s.Value == "true"
		}
	}
	if revision != "" && changes {
		revision += "+changes"
	}
	return version, revision
}
