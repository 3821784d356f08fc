package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/rogpeppe/go-internal/testscript"

	"gw/node/sample"
	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

// clockVariable moves the clock of a gw process that a story starts: "1h" makes it an hour fast. Only the binary of
// this test knows it.
const clockVariable = "GW_TEST_CLOCK"

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gw": func() {
		now := time.Now
		if text := os.Getenv(clockVariable); text != "" {
			offset, err := time.ParseDuration(text)
			if err != nil {
				fmt.Fprintln(os.Stderr, clockVariable+":", err)
				os.Exit(2)
			}
			now = func() time.Time { return time.Now().Add(offset) }
		}
		os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, now))
	}})
}

// TestStories runs every story in testdata/story with real processes. Beside testscript's own commands they have:
//
//	hub start|kill|stop [N] [FLAG…]     hub N, 1 if not given; another than the first joins it. start signs in, so that
//	                                    gw commands work; they go to the hub started last, or named with "hub use N".
//	                                    N may be "leader"
//	cluster-is VOTERS TOLERANCE         how many hubs vote, and how many of them may fail: cluster-is 3 1
//	edge start [FLAG…]|kill|stop        an edge; its first start takes a join token from the hub
//	chat [-stream] MODEL TEXT           asks through the edge with the official SDK and $APP_TOKEN; prints the answer
//	await SECONDS COMMAND…              repeats chat, edge-did, edge-is, cluster-is, "exists FILE", "gw …" or "gw-says
//	                                    REGEXP …", which looks for a text in what gw prints, until it succeeds
//	gotool                              lets gw find the Go toolchain's caches, which HOME of a story hides
//	example NAME…                       builds example plugins into the script's directory
//	sleep SECONDS                       lets time pass in which nothing is to happen that could be waited for
//	edge-did TEXT                       whether its timeline has a line with the text
//	edge-is CONNECTION SYNC             what the hub says of the edge: connected 'in sync'
//	expand FILE…                        replaces $UPSTREAM and its like in files
//	fields FILE VARIABLE=FIELD…         takes fields of a JSON file into the environment
//
// $UPSTREAM is the URL of the sample upstream, $VENDOR_KEY the key it wants, $EDGE the edge's URL.
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/story",
		RequireExplicitExec: true,
		Setup:               setupStory,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"hub":        cmdHub,
			"edge":       cmdEdge,
			"chat":       cmdChat,
			"await":      cmdAwait,
			"edge-did":   cmdEdgeDid,
			"edge-is":    cmdEdgeIs,
			"cluster-is": cmdClusterIs,
			"fields":     cmdFields,
			"example":    cmdExample,
			"gotool":     cmdGoTool,
			"sleep":      cmdSleep,
			"expand":     cmdExpand,
		},
	})
}

// story is what the commands of one script share.
type story struct {
	hubs     [maxHubs]storyHub
	edge     *exec.Cmd
	edgePort int
	password string
}

const maxHubs = 3

// storyHub is one hub, and where it listens for the whole story.
type storyHub struct {
	cmd             *exec.Cmd
	port, adminPort int
}

func (h *storyHub) admin() string { return fmt.Sprintf("http://127.0.0.1:%d", h.adminPort) }

type storyKey struct{}

func storyOf(ts *testscript.TestScript) *story { return ts.Value(storyKey{}).(*story) }

func setupStory(env *testscript.Env) error {
	const vendorKey = "sk-sample"
	upstream := httptest.NewServer(sample.Handler(vendorKey))
	s := &story{}
	ports := []*int{&s.edgePort}
	for i := range s.hubs {
		ports = append(ports, &s.hubs[i].port, &s.hubs[i].adminPort)
	}
	for _, port := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		*port = l.Addr().(*net.TCPAddr).Port
		defer l.Close() // after all are chosen, so that they differ
	}
	env.Values[storyKey{}] = s
	env.Setenv("UPSTREAM", upstream.URL)
	env.Setenv("VENDOR_KEY", vendorKey)
	env.Setenv("EDGE", fmt.Sprintf("http://127.0.0.1:%d", s.edgePort))
	env.Setenv("GW_ADDR", s.hubs[0].admin())
	env.Setenv("HOME", env.WorkDir)
	env.Defer(func() {
		upstream.Close()
		end(s.edge, syscall.SIGKILL)
		for _, h := range s.hubs {
			end(h.cmd, syscall.SIGKILL)
		}
	})
	return nil
}

// start starts gw with the script's environment and returns when its output has a line that ready matches.
func start(ts *testscript.TestScript, name string, env []string, ready *regexp.Regexp, args ...string) (*exec.Cmd, []string) {
	path, err := exec.LookPath("gw")
	ts.Check(err)
	cmd := exec.Command(path, args...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(append(os.Environ(), "HOME="+ts.Getenv("HOME")), env...)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	logFile, err := os.OpenFile(filepath.Join(cmd.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer logFile.Close()
	cmd.Stderr = logFile
	if ready == nil {
		cmd.Stdout, out = logFile, nil
	}
	ts.Check(cmd.Start())
	if ready == nil {
		return cmd, nil
	}
	lines := bufio.NewScanner(out)
	var all []string
	for lines.Scan() {
		all = append(all, lines.Text())
		if ready.MatchString(lines.Text()) {
			go io.Copy(io.Discard, out) // ends with the process
			return cmd, all
		}
	}
	end(cmd, syscall.SIGKILL)
	ts.Fatalf("%s did not start:\n%s\n%s", name, strings.Join(all, "\n"), ts.ReadFile(name+".log"))
	return nil, nil
}

// end ends a process that a script started.
func end(cmd *exec.Cmd, signal os.Signal) {
	if cmd == nil || cmd.ProcessState != nil {
		return
	}
	cmd.Process.Signal(signal)
	cmd.Wait()
}

func cmdHub(ts *testscript.TestScript, neg bool, args []string) {
	s := storyOf(ts)
	do, flags := verb(ts, neg, args), args[1:]
	n := 0
	if len(flags) > 0 && !strings.HasPrefix(flags[0], "-") {
		n, flags = s.hubNumber(ts, flags[0]), flags[1:]
	}
	h, name := &s.hubs[n], fmt.Sprintf("hub-%d", n+1)
	switch do {
	case "use":
		ts.Setenv("GW_ADDR", h.admin())
	case "kill":
		end(h.cmd, syscall.SIGKILL)
	case "stop":
		end(h.cmd, syscall.SIGTERM)
		if code := h.cmd.ProcessState.ExitCode(); code != 0 {
			ts.Fatalf("%s exited with %d\n%s", name, code, ts.ReadFile(name+".log"))
		}
	case "start":
		s.startHub(ts, n, name, flags)
	default:
		ts.Fatalf("hub %s: want start, kill, stop or use", do)
	}
}

// hubNumber reads "2" or "leader".
func (s *story) hubNumber(ts *testscript.TestScript, text string) int {
	if text == "leader" {
		status, err := clusterStatus(ts)
		ts.Check(err)
		for _, hub := range status.Hubs {
			for i := range s.hubs {
				if hub.Id == status.LeaderId && strings.HasSuffix(hub.Address, fmt.Sprintf(":%d", s.hubs[i].port)) {
					ts.Logf("the leader is hub %d", i+1)
					return i
				}
			}
		}
		ts.Fatalf("no leader: %v", status)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxHubs {
		ts.Fatalf("hub %s: want 1 to %d, or leader", text, maxHubs)
	}
	return n - 1
}

func (s *story) startHub(ts *testscript.TestScript, n int, name string, flags []string) {
	h := &s.hubs[n]
	args := append([]string{"hub", "--data-dir", name, "--listen", fmt.Sprintf("127.0.0.1:%d", h.port),
		"--admin-listen", fmt.Sprintf("127.0.0.1:%d", h.adminPort), "--heartbeat-interval", "1s"}, flags...)
	if _, err := os.Stat(ts.MkAbs(name + "/hub.pb")); n > 0 && errors.Is(err, os.ErrNotExist) {
		args = append(args, "--join", fmt.Sprintf("https://127.0.0.1:%d", s.hubs[0].port), "--token", s.joinToken(ts, "hub"))
	}
	cmd, lines := start(ts, name, nil, regexp.MustCompile(`an edge `), args...)
	h.cmd = cmd
	ts.Setenv("GW_ADDR", h.admin())
	if n > 0 {
		return // sessions are the cluster's
	}
	if m := regexp.MustCompile(`password (\S+)`).FindStringSubmatch(strings.Join(lines, "\n")); m != nil {
		s.password = m[1]
	}
	access := gwv1connect.NewAccessServiceClient(http.DefaultClient, h.admin())
	answer, err := access.SignIn(context.Background(), &gwv1.SignInRequest{User: "admin", Password: s.password})
	for range 3 { // where hubs have just lost their leader, it may not be known whether the call was served
		if connect.CodeOf(err) != connect.CodeUnavailable {
			break
		}
		ts.Logf("sign in again: %v", err)
		answer, err = access.SignIn(context.Background(), &gwv1.SignInRequest{User: "admin", Password: s.password})
	}
	ts.Check(err)
	ts.Setenv("GW_TOKEN", answer.BearerToken)
}

func clusterStatus(ts *testscript.TestScript) (*gwv1.GetClusterStatusResponse, error) {
	cluster := gwv1connect.NewClusterServiceClient(http.DefaultClient, ts.Getenv("GW_ADDR"), bearer(ts.Getenv("GW_TOKEN")))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return cluster.GetClusterStatus(ctx, &gwv1.GetClusterStatusRequest{})
}

func cmdClusterIs(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: cluster-is VOTERS TOLERANCE")
	}
	if got, err := clusterIs(ts); (got == strings.Join(args, " ")) == neg {
		ts.Fatalf("the cluster is %s (%v)", got, err)
	}
}

// clusterIs returns how many hubs vote and how many may fail.
func clusterIs(ts *testscript.TestScript) (string, error) {
	status, err := clusterStatus(ts)
	if err != nil {
		return "", err
	}
	voters := 0
	for _, h := range status.Hubs {
		if h.Voter {
			voters++
		}
	}
	return fmt.Sprintf("%d %d", voters, status.FailureTolerance), nil
}

func cmdEdge(ts *testscript.TestScript, neg bool, args []string) {
	s := storyOf(ts)
	switch verb(ts, neg, args) {
	case "kill":
		end(s.edge, syscall.SIGKILL)
	case "stop":
		end(s.edge, syscall.SIGTERM)
		if code := s.edge.ProcessState.ExitCode(); code != 0 {
			ts.Fatalf("the edge exited with %d\n%s", code, ts.ReadFile("edge.log"))
		}
	case "start":
		flags := []string{"edge", "--data-dir", "edge", "--id", "edge-1", "--listen", fmt.Sprintf("127.0.0.1:%d", s.edgePort),
			"--ops-listen", "off", "--access-log", "access.log"}
		if _, err := os.Stat(ts.MkAbs("edge/identity.pb")); errors.Is(err, os.ErrNotExist) {
			flags = append(flags, "--hub", fmt.Sprintf("https://127.0.0.1:%d", s.hubs[0].port), "--join-token", s.joinToken(ts, "edge"))
		}
		s.edge, _ = start(ts, "edge", []string{clockVariable + "=" + ts.Getenv(clockVariable)}, nil, append(flags, args[1:]...)...)
	default:
		ts.Fatalf("edge %s: want start, kill or stop", args[0])
	}
}

func (s *story) joinToken(ts *testscript.TestScript, role string) string {
	access := gwv1connect.NewAccessServiceClient(http.DefaultClient, ts.Getenv("GW_ADDR"), bearer(ts.Getenv("GW_TOKEN")))
	answer, err := access.CreateJoinToken(context.Background(), &gwv1.CreateJoinTokenRequest{Role: role})
	ts.Check(err)
	return answer.Credential
}

// bearer adds a bearer token to every call of a client.
func bearer(token string) connect.ClientOption {
	return connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			r.Header().Set("Authorization", "Bearer "+token)
			return next(ctx, r)
		}
	}))
}

func verb(ts *testscript.TestScript, neg bool, args []string) string {
	if neg || len(args) == 0 {
		ts.Fatalf("want start, kill or stop, and no !")
	}
	return args[0]
}

// cmdChat prints the answer, or the status and code it was refused with.
func cmdChat(ts *testscript.TestScript, neg bool, args []string) {
	stream := len(args) > 0 && args[0] == "-stream"
	if stream {
		args = args[1:]
	}
	if len(args) != 2 {
		ts.Fatalf("usage: chat [-stream] MODEL TEXT")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	text, err := chat(ctx, ts.Getenv("EDGE"), ts.Getenv("APP_TOKEN"), args[0], args[1], stream)
	var refused *openai.Error
	switch {
	case errors.As(err, &refused):
		fmt.Fprintf(ts.Stderr(), "%d %s\n", refused.StatusCode, refused.Code)
	case err != nil:
		fmt.Fprintln(ts.Stderr(), err)
	default:
		fmt.Fprintln(ts.Stdout(), text)
	}
	if (err != nil) != neg {
		ts.Fatalf("chat: %q, %v", text, err)
	}
}

func chat(ctx context.Context, edge, token, model, text string, stream bool) (string, error) {
	client := openai.NewClient(option.WithBaseURL(edge+"/v1"), option.WithAPIKey(token), option.WithMaxRetries(0))
	params := openai.ChatCompletionNewParams{Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)}}
	if !stream {
		answer, err := client.Chat.Completions.New(ctx, params)
		if err != nil {
			return "", err
		}
		return answer.Choices[0].Message.Content, nil
	}
	chunks := client.Chat.Completions.NewStreaming(ctx, params)
	defer chunks.Close()
	acc := openai.ChatCompletionAccumulator{}
	for chunks.Next() {
		acc.AddChunk(chunks.Current())
	}
	if err := chunks.Err(); err != nil {
		return "", err
	}
	return acc.Choices[0].Message.Content, nil
}

// cmdEdgeIs compares what the hub says of the edge.
func cmdEdgeIs(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: edge-is CONNECTION SYNC")
	}
	got, err := edgeStates(ts)
	if is := err == nil && got == strings.Join(args, ", "); is == neg {
		ts.Fatalf("the edge is %s (%v)", got, err)
	}
}

func edgeStates(ts *testscript.TestScript) (string, error) {
	fleet := gwv1connect.NewFleetServiceClient(http.DefaultClient, ts.Getenv("GW_ADDR"), bearer(ts.Getenv("GW_TOKEN")))
	answer, err := fleet.GetEdge(context.Background(), &gwv1.GetEdgeRequest{Id: "edge-1"})
	if err != nil {
		return "", err
	}
	word := func(s, prefix string) string {
		return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(s, prefix), "_", " "))
	}
	return word(answer.Edge.Connection.String(), "CONNECTION_") + ", " + word(answer.Edge.Sync.String(), "SYNC_"), nil
}

// cmdEdgeDid looks for a line of the edge's timeline.
func cmdEdgeDid(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: edge-did TEXT")
	}
	got, err := edgeDid(ts)
	if err != nil || strings.Contains(got, args[0]) == neg {
		ts.Fatalf("the edge's timeline: %v\n%s", err, got)
	}
}

// edgeDid returns the edge's timeline, one event a line.
func edgeDid(ts *testscript.TestScript) (string, error) {
	fleet := gwv1connect.NewFleetServiceClient(http.DefaultClient, ts.Getenv("GW_ADDR"), bearer(ts.Getenv("GW_TOKEN")))
	answer, err := fleet.GetEdge(context.Background(), &gwv1.GetEdgeRequest{Id: "edge-1"})
	var lines strings.Builder
	for _, e := range answer.GetEvents() {
		fmt.Fprintln(&lines, e.Text, e.By)
	}
	return lines.String(), err
}

// cmdAwait repeats "chat" or "edge-is", also negated, until it holds.
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	args = args[1:]
	want := args[0] != "!"
	if !want {
		args = args[1:]
	}
	began := time.Now()
	var last string
	for {
		var holds bool
		switch args[0] {
		case "chat":
			last, err = chat(ctx, ts.Getenv("EDGE"), ts.Getenv("APP_TOKEN"), args[1], args[2], false)
			holds = err == nil
			var refused *openai.Error
			if !want && !errors.As(err, &refused) {
				holds = true // not being reached is not being refused
			}
		case "edge-is":
			last, err = edgeStates(ts)
			holds = err == nil && last == strings.Join(args[1:], ", ")
		case "edge-did":
			last, err = edgeDid(ts)
			holds = err == nil && strings.Contains(last, args[1])
		case "cluster-is":
			last, err = clusterIs(ts)
			holds = err == nil && last == strings.Join(args[1:], " ")
		case "exists":
			_, err = os.Stat(ts.MkAbs(args[1]))
			last, holds = "", err == nil
		case "gw":
			err = ts.Exec("gw", args[1:]...)
			last, holds = "", err == nil
		case "gw-says":
			err = ts.Exec("gw", args[2:]...)
			last = ts.ReadFile("stdout")
			holds = err == nil && regexp.MustCompile(args[1]).MatchString(last)
		default:
			ts.Fatalf("await %s: want chat, edge-did, edge-is, cluster-is, exists or gw", args[0])
		}
		if holds == want {
			ts.Logf("after %v", time.Since(began).Round(time.Millisecond))
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("not within %v: last %q, %v\nhub: %s\nedge: %s", limit, last, err, tail(ts, "hub-1.log"), tail(ts, "edge.log"))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func tail(ts *testscript.TestScript, name string) string {
	b, _ := os.ReadFile(ts.MkAbs(name))
	return string(b[max(0, len(b)-2000):])
}

// cmdFields sets environment variables from a JSON file.
func cmdFields(ts *testscript.TestScript, neg bool, args []string) {
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &object))
	for _, arg := range args[1:] {
		variable, path, _ := strings.Cut(arg, "=")
		var value any = object
		for name := range strings.SplitSeq(path, ".") {
			fields, _ := value.(map[string]any)
			value = fields[name]
		}
		if value == nil {
			ts.Fatalf("%s has no field %s", args[0], path)
		}
		ts.Setenv(variable, fmt.Sprint(value))
	}
}

// cmdGoTool is for gw dev --plugins, which builds.
func cmdGoTool(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range []string{"GOCACHE", "GOMODCACHE"} {
		value, err := exec.Command("go", "env", name).Output()
		ts.Check(err)
		ts.Setenv(name, strings.TrimSpace(string(value)))
	}
	ts.Setenv("PATH", ts.Getenv("PATH")+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// cmdExample builds as a user would, with this process's own caches.
func cmdExample(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		build := exec.Command("go", "build", "-o", ts.MkAbs(name), "gw/edgeplugin/examples/"+name)
		if out, err := build.CombinedOutput(); err != nil {
			ts.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
}

func cmdSleep(ts *testscript.TestScript, neg bool, args []string) {
	seconds, err := strconv.ParseFloat(args[0], 64)
	ts.Check(err)
	time.Sleep(time.Duration(seconds * float64(time.Second)))
}

func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(os.Expand(ts.ReadFile(name), ts.Getenv)), 0o600))
	}
}
