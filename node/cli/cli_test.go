package cli_test

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/alecthomas/kong"
	"github.com/rogpeppe/go-internal/testscript"

	"gw/node/cli"
	"gw/node/cli/configfile"
	"gw/rpc/gwv1"
)

type grammar struct{ cli.Commands }

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"gw": func() {
			patience, _ := time.ParseDuration(os.Getenv("PATIENCE"))
			c := &cli.Context{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Now: func() time.Time { return now }, Version: "v1.2.3",
				Patience: patience, Recover: fakeRecover, VerifyBackup: fakeVerify}
			os.Exit(cli.Main(context.Background(), new(grammar), os.Args[1:], c))
		},
	})
}

// TestScripts runs testdata/*.txtar. In them, "gw" is the binary, $HUB a fake hub's address that the commands use by
// default, $PATIENCE how long gw repeats calls, "code N gw …" runs gw and wants exit code N, and "hub" steers the fake hub; see hubCommand.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "", // rewrites the files that cmp compares with
		Setup: func(e *testscript.Env) error {
			h := newFakeHub()
			server := serve(h)
			e.Defer(server.Close)
			e.Values[hubKey{}] = h
			e.Setenv("HUB", server.URL)
			e.Setenv("GW_ADDR", server.URL)
			e.Setenv("GW_TOKEN", bearer)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else a race-checking gw takes a second to exit
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"hub":  hubCommand,
			"code": codeCommand,
		},
	})
}

type hubKey struct{}

// serve serves a hub's plain listener, as a hub does.
func serve(h http.Handler) *httptest.Server {
	server := httptest.NewUnstartedServer(h)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // connections are cut here on purpose
	server.Start()
	return server
}

// codeCommand runs a command that must exit with a code.
func codeCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// hubCommand steers the fake hub:
//
//	hub edges FILE        edges it shows: a JSON array of answers to ListEdges, one each time, the last for ever
//	hub progress FILE [then FILE]… [hold]
//	                      what WatchPush sends: a JSON array of messages, the next FILE the next time, the last for ever;
//	                      with "hold" the stream stays open after them
//	hub impact FILE       what PreviewPush adds to what it says of a namespace: a JSON object
//	hub refuse METHOD CODE REASON MESSAGE [KIND/NAME FIELD WHAT EXPECTED]
//	hub falter N METHOD REASON [lost]
//	                      the next N calls are unavailable; with "lost" the first of them is done all the same,
//	                      and with the REASON "cut" its connection ends without an answer
//	hub cluster FILE      what GetClusterStatus answers
//	hub age AGE           what stale reads carry as Gw-Age
//	hub make FILE CLUSTER FILLER
//	                      writes a sound backup with so much filler in it
//	hub backup FILE [cut|empty]
//	                      what Backup sends; cut in the middle, or not at all
//	hub restored FILE     compares FILE with what Restore was sent
//	hub refuse METHOD ok  no more
//	hub log FILE          writes the calls so far to a file and forgets them
func hubCommand(ts *testscript.TestScript, neg bool, args []string) {
	h := ts.Value(hubKey{}).(*fakeHub)
	h.mu.Lock()
	defer h.mu.Unlock()
	messages := func(file string) (raw []json.RawMessage) {
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(file)), &raw))
		return raw
	}
	switch args[0] {
	case "edges":
		h.edges = nil
		for _, r := range messages(args[1]) {
			m := new(gwv1.ListEdgesResponse)
			ts.Check(unmarshal(string(r), m))
			h.edges = append(h.edges, m)
		}
	case "progress":
		h.progress, h.hold = nil, slices.Contains(args, "hold")
		for _, file := range args[1:] {
			if file == "then" || file == "hold" {
				continue
			}
			var list []*gwv1.WatchPushResponse
			for _, r := range messages(file) {
				m := new(gwv1.WatchPushResponse)
				ts.Check(unmarshal(string(r), m))
				list = append(list, m)
			}
			h.progress = append(h.progress, list)
		}
	case "impact":
		h.impact = new(gwv1.NamespacePreview)
		ts.Check(unmarshal(ts.ReadFile(args[1]), h.impact))
	case "refuse":
		if args[2] == "ok" {
			delete(h.refusals, args[1])
			break
		}
		var code connect.Code
		ts.Check(code.UnmarshalText([]byte(args[2])))
		var violations []*gwv1.Violation
		if len(args) > 5 {
			kind, name, _ := strings.Cut(args[5], "/")
			violations = append(violations, &gwv1.Violation{Kind: kind, Namespace: "default", Name: name, Field: args[6], Code: "invalid", Message: args[7], Expected: args[8]})
		}
		h.refusals[args[1]] = refusal(code, args[3], args[4], violations...)
	case "falter":
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		h.falters[args[2]] = &falter{left: n, err: refusal(connect.CodeUnavailable, args[3], "there is no leader"), lost: len(args) > 4}
	case "log":
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Join(h.log, "\n")+"\n"), 0o600))
		h.log = nil
	default:
		hubClusterCommand(ts, h, args)
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

// eachCommand calls visit with every command and its arguments, the program itself included.
func eachCommand(node *kong.Node, args []string, visit func(*kong.Node, []string)) {
	visit(node, args)
	for _, child := range node.Children {
		eachCommand(child, append(slices.Clone(args), child.Name), visit)
	}
}

func TestEveryHelpHasAnExampleThatParses(t *testing.T) {
	commands := 0
	eachCommand(newParser(t).Model.Node, nil, func(node *kong.Node, args []string) {
		commands++
		var out, errs strings.Builder
		c := &cli.Context{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Env: func(string) string { return "" }}
		if code := cli.Main(t.Context(), new(grammar), append(slices.Clone(args), "--help"), c); code != 0 || errs.Len() > 0 {
			t.Errorf("gw %q --help: exit code %d, %s", args, code, errs.String())
		}
		if !strings.Contains(out.String(), "\nExamples:\n") || node.Help == "" {
			t.Errorf("gw %q --help has no help or example:\n%s", args, out.String())
		}
		for line := range strings.SplitSeq(cli.Examples(node), "\n") {
			about := args
			if node.Parent != nil && node.Parent.DefaultCmd == node { // it goes without its name
				about = args[:len(args)-1]
			}
			if !strings.Contains(line, "gw "+strings.Join(about, " ")) {
				t.Errorf("gw %q: the example %q is not about it", args, line)
			}
			if args, ok := strings.CutPrefix(line, "gw "); ok && !strings.ContainsAny(line, "|<>$&") {
				if _, err := cli.Parse(newParser(t), words(args)); err != nil {
					t.Errorf("example %q: %v", line, err)
				}
			}
		}
	})
	if commands < 30 {
		t.Errorf("visited %d commands, want all of them", commands)
	}
}

// words splits a command line like a shell that knows quotes and nothing else.
func words(line string) (out []string) {
	quote, word := rune(0), ""
	for _, r := range line + " " {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote = r
		case quote == 0 && r == ' ':
			if word != "" {
				out = append(out, word)
			}
			word = ""
		default:
			word += string(r)
		}
	}
	return out
}

func TestOnlyConsentHasNoEnvironment(t *testing.T) {
	consent := []string{"--yes", "--confirm-removal", "--break-glass", "--all", "--prune", "--push", "--no-targets", "--no-policies", "--adopt"}
	others := []string{"gw login --token", "--config"}
	for _, flag := range configfile.WithoutEnvironment(newParser(t).Model) {
		if !slices.ContainsFunc(append(consent, others...), func(name string) bool { return strings.HasSuffix(flag, name) }) {
			t.Errorf("%s has no environment variable", flag)
		}
	}
}
