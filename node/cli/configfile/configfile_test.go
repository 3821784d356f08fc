package configfile

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

type serve struct {
	Listen  string            `default:":8080"`
	DataDir string            `required:""`
	Grace   time.Duration     `default:"24h"`
	Hubs    []string          `name:"hub"`
	Ports   []int             ``
	Labels  map[string]string ``
	Level   string            `enum:"info,debug" default:"info"`
	Strict  bool              ``
	Yes     bool              `env:"-"`
	Key     string            `env:"GW_SECRET_KEY"`
	Config  string            ``
}

type grammar struct {
	Serve serve    `cmd:""`
	Other struct{} `cmd:""`
}

// parseArgs parses a command line with config.yaml holding text, "" for none.
func parseArgs(t *testing.T, text string, args ...string) (serve, error) {
	t.Helper()
	var g grammar
	k, err := kong.New(&g, append(Options("GW"), kong.Name("gw"), kong.Exit(func(int) { t.Error("kong wants to exit") }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if text != "" {
		if err := os.WriteFile("config.yaml", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config=config.yaml")
	}
	_, err = k.Parse(append([]string{"serve"}, args...))
	return g.Serve, err
}

func TestEveryKindOfValueIsRead(t *testing.T) {
	got, err := parseArgs(t, `
listen: 127.0.0.1:1
data_dir: /srv/gw
grace: 90m
hub: [https://a:1, "https://b:2,with-comma"]
ports: [1, 2]
labels: {zone: eu, tier: 1}
level: debug
strict: true
key: 0123
`)
	if err != nil {
		t.Fatal(err)
	}
	want := serve{Listen: "127.0.0.1:1", DataDir: "/srv/gw", Grace: 90 * time.Minute, Hubs: []string{"https://a:1", "https://b:2,with-comma"},
		Ports: []int{1, 2}, Labels: map[string]string{"zone": "eu", "tier": "1"}, Level: "debug", Strict: true, Key: "0123", Config: "config.yaml"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestArgumentOverEnvironmentOverFileOverDefault(t *testing.T) {
	t.Setenv("GW_LISTEN", "from environment")
	t.Setenv("GW_GRACE", "2h")
	got, err := parseArgs(t, "data-dir: from file\nlisten: from file\ngrace: 3h\n", "--listen=from argument")
	if err != nil {
		t.Fatal(err)
	}
	if got.Listen != "from argument" || got.Grace != 2*time.Hour || got.DataDir != "from file" || got.Level != "info" {
		t.Errorf("got %+v", got)
	}
}

func TestEmptyEnvironmentCountsAsUnset(t *testing.T) {
	t.Setenv("GW_LISTEN", "")
	t.Setenv("GW_GRACE", "")
	t.Setenv("GW_LEVEL", "")
	got, err := parseArgs(t, "data-dir: x\nlisten: from file\n")
	if err != nil {
		t.Fatal(err)
	}
	if got.Listen != "from file" || got.Grace != 24*time.Hour || got.Level != "info" {
		t.Errorf("got %+v", got)
	}
}

func TestFileMayBeNamedByTheEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.json")
	if err := os.WriteFile(file, []byte("{\n\t\"data-dir\": \"here\"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GW_CONFIG", file)
	got, err := parseArgs(t, "")
	if err != nil || got.DataDir != "here" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestWrongFilesSayWhere(t *testing.T) {
	for name, test := range map[string]struct{ file, want string }{
		"near key":       {"data-dir: x\nlisten-on: y\nlisen: z\n", "config.yaml:2:1 unknown key \"listen-on\", did you mean \"listen\"?\nconfig.yaml:3:1 unknown key \"lisen\", did you mean \"listen\"?"},
		"far key":        {"postgres-url: x\n", `config.yaml:1:1 unknown key "postgres-url"; known are data-dir, grace, hub, key, labels, level, listen, ports, strict, yes`},
		"config itself":  {"config: x\n", `config.yaml:1:1 unknown key "config"; known are`},
		"twice":          {"data-dir: x\ndata_dir: y\n", `config.yaml:2:1 data-dir is set twice`},
		"duration":       {"data-dir: x\ngrace:   soon\n", `config.yaml:2:10 grace: expected duration but got "soon"`},
		"number":         {"ports: [1, two]\n", `config.yaml:1:8 ports: expected a valid 64 bit int but got "two"`},
		"enum":           {"level: loud\n", `config.yaml:1:8 level: "loud" is not one of info, debug`},
		"bool":           {"strict: maybe\n", `config.yaml:1:9 strict: `},
		"no value":       {"listen:\n", `config.yaml:1:8 listen: has no value`},
		"list for value": {"listen: [a]\n", `config.yaml:1:9 listen: expected one value`},
		"map for list":   {"hub: {a: b}\n", `config.yaml:1:6 hub: expected a value or a list of values`},
		"value for map":  {"labels: [a]\n", `config.yaml:1:9 labels: expected "key: value" lines`},
		"not a mapping":  {"- a\n", `config.yaml:1:1 expected "flag: value" lines`},
		"two documents":  {"listen: a\n---\nlisten: b\n", `config.yaml:2:1 expected one document`},
		"syntax":         {"listen: a\n  b: c\n", `config.yaml:2:1 mapping values are not allowed`},
		"list by alias":  {"hub: &a [x]\ndata-dir: *a\n", `config.yaml:2:11 data-dir: expected one value`},
		"alias of alias": {"hub: &a [*a]\n", `config.yaml:1:6 hub: expected a list of values`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseArgs(t, test.file, "--data-dir=given")
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("got %v, want Errors", err)
			}
			if !strings.HasPrefix(errs.Error(), test.want) {
				t.Errorf("got  %s\nwant %s", errs, test.want)
			}
		})
	}
}

func TestMissingAndHugeFilesAreRefused(t *testing.T) {
	if _, err := parseArgs(t, "", "--data-dir=x", "--config=nowhere.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want not exist", err)
	}
	if _, err := parseArgs(t, "# "+strings.Repeat("x", MaxSize), "--data-dir=x"); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v, want too large", err)
	}
}

func TestEmptyFileChangesNothing(t *testing.T) {
	got, err := parseArgs(t, "# nothing yet\n", "--data-dir=x")
	if err != nil || got.Listen != ":8080" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestFlagsHaveEnvironmentNames(t *testing.T) {
	k, err := kong.New(new(grammar), append(Options("GW"), kong.Name("gw"))...)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := WithoutEnvironment(k.Model), []string{"gw serve --yes"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, f := range k.Model.Children[0].Flags {
		want := map[string]string{"data-dir": "GW_DATA_DIR", "key": "GW_SECRET_KEY"}[f.Name]
		if want != "" && !reflect.DeepEqual(f.Envs, []string{want}) {
			t.Errorf("--%s: got %q, want %q", f.Name, f.Envs, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"listen: x\n", "{\"ports\": [1, 2]}", "hub:\n- a\n- b\n", "labels: {a: b}", "a: &x [*x]", "---\n---\n", "? [a]\n: b", "grace: 1h # c", "!!binary x: y"} {
		f.Add([]byte(seed))
	}
	k, err := kong.New(new(grammar), append(Options("GW"), kong.Name("gw"))...)
	if err != nil {
		f.Fatal(err)
	}
	flags := k.Model.Children[0].Flags
	f.Fuzz(func(t *testing.T, data []byte) {
		values, errs := parse("f", data, flags)
		for _, e := range errs {
			if e.Line < 1 || e.Column < 1 || e.Line > len(data)+2 {
				t.Errorf("position %d:%d is outside of the file", e.Line, e.Column)
			}
		}
		for flag := range values {
			if flag.Name == FlagName {
				t.Error("a file named another file")
			}
		}
	})
}
