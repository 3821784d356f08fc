package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gw/rpc/resource"
)

// What "gw plugins new" writes is built, tested and started where nothing of gw's repository is near.
func TestANewPluginCompilesOutsideTheRepository(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "greeter")
	var out bytes.Buffer
	p := &PluginsNew{Name: "greeter", Dir: dir, ID: 42}
	if err := p.Run(t.Context(), &Context{Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"vet", "./..."}, {"test", "."}, {"build", "-o", "greeter", "."}} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, text)
		}
	}
	text, err := exec.CommandContext(t.Context(), filepath.Join(dir, "greeter")).CombinedOutput()
	if err == nil || !strings.Contains(string(text), "This binary is a plugin") {
		t.Errorf("started by hand: %v\n%s", err, text)
	}
	file, err := os.ReadFile(filepath.Join(dir, "plugin.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	docs, err := resource.Parse("plugin.yaml", file)
	if err != nil || len(docs) != 1 || docs[0].Name != "greeter" || !strings.Contains(string(file), "id: 42 ") ||
		!strings.Contains(string(file), "file://"+dir+"/greeter") {
		t.Errorf("plugin.yaml: %v\n%s", err, file)
	}
	if !strings.Contains(out.String(), "go build -o greeter .") {
		t.Errorf("said %s", out.String())
	}
	if err := p.Run(t.Context(), &Context{Stdout: &out}); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("again: %v", err)
	}
}

// The SDK is given away with the versions that gw itself is built with, as far as it names them.
func TestTheSDKNamesTheVersionsGwIsBuiltWith(t *testing.T) {
	own, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"sdk.mod.txt", "go.mod.txt"} {
		text, err := os.ReadFile(filepath.Join("../../edgeplugin/template", file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) < 2 || len(fields) > 4 {
				continue
			}
			switch fields[0] {
			case "github.com/hashicorp/go-plugin", "github.com/hashicorp/go-hclog", "google.golang.org/grpc", "google.golang.org/protobuf":
				if !strings.Contains(string(own), "\t"+fields[0]+" "+fields[1]) {
					t.Errorf("%s asks for %s %s, and gw's go.mod for another", file, fields[0], fields[1])
				}
			}
		}
	}
}
