package node

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// listed is what go list says of one package.
type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// TestImportsPointOneWay holds the rooms to their doors.
func TestImportsPointOneWay(t *testing.T) {
	packages := goList(t)
	rules := []struct {
		say      string
		from     func(path string) bool
		direct   bool // only what is imported directly counts
		excluded func(from, path string) bool
	}{
		{"only raftstore imports hashicorp/raft", not(under("gw/raftstore")), true, to("github.com/hashicorp/raft")},
		{"only edgestore imports SQLite", not(under("gw/node/edgestore")), true, to("modernc.org/sqlite")},
		{"rooms under node do not import one another", under("gw/node/"), true, func(from, path string) bool {
			return strings.HasPrefix(path, "gw/node/") && room(path) != room(from)
		}},
		{"nobody but main imports node", func(path string) bool { return path != "gw" }, true, func(_, path string) bool { return path == "gw/node" }},
		{"plugins are run by pluginhost alone", not(under("gw/node/pluginhost", "gw/edgeplugin")), true, to("github.com/hashicorp/go-plugin")},
		{"what authors build on knows no room", under("gw/edgeplugin"), false, to("gw/node", "gw/raftstore", "gw/ui", "gw/rpc", "connectrpc.com")},
		{"the edge never meets the hub", under("gw/node/gateway", "gw/node/edgestore", "gw/node/uplink", "gw/node/pluginhost"), false, to("gw/raftstore", "gw/ui")},
		{"what crosses the wire knows no room", under("gw/rpc/"), false, to("gw/raftstore", "gw/node", "gw/ui")},
		{"the state is free of I/O", under("gw/raftstore/state"), false, to("net/http", "os/exec", "database/sql", "github.com/hashicorp/raft")},
		{"dialects are free of I/O", under("gw/node/gateway/llm"), false, to("net/http", "os/exec", "database/sql")},
	}
	for _, rule := range rules {
		met := false
		for _, p := range packages {
			if !rule.from(p.ImportPath) {
				continue
			}
			met = true
			imports := p.Deps
			if rule.direct {
				imports = p.Imports
			}
			for _, path := range imports {
				if rule.excluded(p.ImportPath, path) {
					t.Errorf("%s: %s imports %s", rule.say, p.ImportPath, path)
				}
			}
		}
		if !met {
			t.Errorf("%s: no package is meant", rule.say)
		}
	}
}

// under matches packages at or below a path; with a slash at its end, only below.
func under(paths ...string) func(string) bool {
	return func(path string) bool {
		return slices.ContainsFunc(paths, func(p string) bool {
			return path == p || strings.HasPrefix(path, strings.TrimSuffix(p, "/")+"/")
		})
	}
}

func not(f func(string) bool) func(string) bool {
	return func(path string) bool { return !f(path) }
}

func to(paths ...string) func(from, path string) bool {
	return func(_, path string) bool { return under(paths...)(path) }
}

// room returns the name of the room under node that a package belongs to.
func room(path string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, "gw/node/"), "/")
	return name
}

func goList(t *testing.T) (packages []listed) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", "gw/...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages
		case err != nil:
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}
