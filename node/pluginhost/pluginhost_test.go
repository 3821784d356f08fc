package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gw/edgeplugin/pluginv1"
	"gw/rpc/resource"
)

// program is the test plugin, built once.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "gw-testplugin-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "testplugin")
	out, err := exec.Command("go", "build", "-o", program, "./testdata/testplugin").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// named returns the test plugin under another name.
func named(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.Link(program, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// memory is a KV that notes expiries.
type memory struct {
	mu      sync.Mutex
	values  map[string][]byte
	expires map[string]time.Time
}

func newMemory() *memory {
	return &memory{values: map[string][]byte{}, expires: map[string]time.Time{}}
}

func (m *memory) Read(_ context.Context, key string) ([]byte, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.values[key]
	return v, ok, nil
}

func (m *memory) Write(_ context.Context, key string, value []byte, expires time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if key == "" {
		return errors.New("no key")
	}
	m.values[key], m.expires[key] = value, expires
	return nil
}

func (m *memory) Delete(_ context.Context, key string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.values[key]
	delete(m.values, key)
	return ok, nil
}

func (m *memory) List(_ context.Context, prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := slices.Sorted(maps.Keys(m.values))
	return slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, prefix) }), nil
}

// logBuffer is a log to look into.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// quick makes what waits wait little.
var quick = Pace{Backoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond, Health: 50 * time.Millisecond, HealthTimeout: 2 * time.Second}

func newHost(t *testing.T, c Config) *Host {
	t.Helper()
	c.Side = pluginv1.Side_SIDE_EDGE
	if c.Pace == (Pace{}) {
		c.Pace = quick
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	h := New(c)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func testPlugin(config map[string]string) Plugin {
	p := Plugin{ID: 7, Name: "test", Path: program, Hooks: []pluginv1.Hook{pluginv1.Hook_HOOK_PRE_AUTH}, Config: config, Timeout: 10 * time.Second}
	p.Digest = resource.DigestOf("Plugin", p.Name, fmt.Append(nil, config))
	return p
}

// adopt prepares and adopts a set of one.
func adopt(t *testing.T, h *Host, p Plugin) *Set {
	t.Helper()
	s, err := h.Prepare(t.Context(), []Plugin{p})
	if err != nil {
		t.Fatal(err)
	}
	h.Adopt(s)
	return s
}

func ask(t *testing.T, s *Set, do, body string) (*pluginv1.Decision, error) {
	t.Helper()
	return s.Request(t.Context(), 0, pluginv1.Hook_HOOK_PRE_AUTH, &pluginv1.Request{Method: "POST", Body: []byte(body),
		Headers: []*pluginv1.Header{{Name: "Do", Values: []string{do}}}})
}

// eventually polls for what another process does in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestAPluginIsAsked(t *testing.T) {
	h := newHost(t, Config{})
	s := adopt(t, h, testPlugin(nil))
	d, err := ask(t, s, "", "hello")
	if err != nil || !d.Modified || len(d.Headers) != 1 || d.Headers[0].Values[0] != "POST hello" {
		t.Fatalf("got %v, %v", d, err)
	}
	r, err := s.Response(t.Context(), 0, &pluginv1.Response{StatusCode: 200, Body: []byte("abc")})
	if err != nil || r.StatusCode != 201 || string(r.Body) != "ABC" || !r.ReplaceBody {
		t.Errorf("response: %v, %v", r, err)
	}
	c, err := s.Chunk(t.Context(), 0, &pluginv1.StreamChunk{Data: []byte("abc")})
	if err != nil || string(c.Data) != "ABC" {
		t.Errorf("chunk: %v, %v", c, err)
	}
	request, response, limit := s.Needs(0)
	if !request || !response || limit != MaxBody {
		t.Errorf("needs %v %v %d", request, response, limit)
	}
	if _, err := ask(t, s, "fail", ""); err == nil || !strings.Contains(err.Error(), "I don't feel like it") {
		t.Errorf("its own error: %v", err)
	}
	st := h.States()
	if len(st) != 1 || st[0].Phase != Running || st[0].Version != "1.2.3" || st[0].Calls != 4 || st[0].Failures != 1 || !st[0].Accepts || st[0].P99 < st[0].P50 || st[0].PID == 0 {
		t.Errorf("states %+v", st)
	}
}

func TestAnErrorOfThePluginIsTakenForNothingElse(t *testing.T) {
	h := newHost(t, Config{})
	s := adopt(t, h, testPlugin(nil))
	pid := h.States()[0].PID
	for do, want := range map[string]string{
		"fail late":        "ask the database: context deadline exceeded",
		"fail canceled":    "context canceled",
		"fail unavailable": "the database is away",
		"fail exhausted":   "the database is full",
	} {
		for range maxMissed {
			_, err := ask(t, s, do, "")
			if err == nil || !strings.HasPrefix(err.Error(), "the plugin says: ") || !strings.Contains(err.Error(), want) ||
				errors.Is(err, ErrTooSlow) || errors.Is(err, ErrCrashed) || errors.Is(err, ErrTooMuch) {
				t.Fatalf("%s: got %v, want the plugin's own words %q", do, err, want)
			}
		}
	}
	if st := h.States()[0]; st.PID != pid || st.Restarts != 0 {
		t.Errorf("state %+v, want the process with pid %d", st, pid)
	}
}

func TestOnlyTheHostsOwnClockMakesACallLate(t *testing.T) {
	p := &process{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	inst := &instance{hung: make(chan struct{})}
	for range maxMissed { // as of a plugin that is not written with edgeplugin
		if err := p.failed(ctx, inst, status.Error(codes.DeadlineExceeded, "the database is slow")); errors.Is(err, ErrTooSlow) || !strings.Contains(err.Error(), "the database is slow") {
			t.Fatalf("got %v", err)
		}
	}
	select {
	case <-inst.hung:
		t.Error("the plugin is taken to hang")
	default:
	}
}

func TestSendErrorsAreThemselvesInsideThePlugin(t *testing.T) {
	var sent []string
	refuse := map[string]error{"large": ErrPayloadTooLarge, "odd": ErrInvalidMetadata, "full": ErrQueueFull}
	h := newHost(t, Config{Send: func(_ context.Context, plugin uint32, payload []byte, id string, m map[string]string) (int64, error) {
		sent = append(sent, fmt.Sprint(plugin, string(payload), id, m))
		if err := refuse[string(payload)]; err != nil {
			return 3, fmt.Errorf("spool: %w", err)
		}
		return int64(len(sent)), nil
	}})
	s := adopt(t, h, testPlugin(nil))
	for _, c := range []struct{ payload, want string }{
		{"fine", "1 false false false"}, {"large", "3 true false false"}, {"odd", "3 false true false"}, {"full", "3 false false true"},
	} {
		d, err := ask(t, s, "send", c.payload)
		if err != nil || string(d.ResponseBody) != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.payload, d.GetResponseBody(), err, c.want)
		}
	}
	if want := "7 fine c map[k:v]"; len(sent) != 4 || !strings.HasPrefix(strings.ReplaceAll(sent[0], "7fine", "7 fine "), "7 fine") {
		t.Errorf("sent %q, want %q first", sent, want)
	}
}

func TestWhatAPluginSendsIsBounded(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	h := newHost(t, Config{
		KV: func(uint32) KV { return newMemory() },
		Send: func(ctx context.Context, _ uint32, payload []byte, _ string, _ map[string]string) (int64, error) {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			running--
			mu.Unlock()
			return 0, ctx.Err()
		}})
	s := adopt(t, h, testPlugin(nil))
	if _, err := ask(t, s, "send 200 at once", "x"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if most > maxHostCalls || most == 0 {
		t.Errorf("%d calls to gw ran at once, want at most %d", most, maxHostCalls)
	}
	large := strings.Repeat("x", 3<<20)
	if d, err := ask(t, s, "send", large); err != nil || string(d.ResponseBody) != "0 true false false" {
		t.Errorf("a payload of 3 MiB: %q, %v", d.GetResponseBody(), err)
	}
	if _, err := ask(t, s, "write", large); err == nil || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("a value of 3 MiB: %v", err)
	}
	if d, err := ask(t, s, "write", large[:1<<20]); err != nil || string(d.ResponseBody) != "written" {
		t.Errorf("a value of 1 MiB: %v, %v", d, err)
	}
}

func TestKVOfAPlugin(t *testing.T) {
	kv := newMemory()
	h := newHost(t, Config{KV: func(plugin uint32) KV {
		if plugin != 7 {
			t.Errorf("KV of plugin %d", plugin)
		}
		return kv
	}})
	s := adopt(t, h, testPlugin(nil))
	d, err := ask(t, s, "kv", "")
	if want := "true two true [a/2]"; err != nil || string(d.ResponseBody) != want {
		t.Errorf("got %q, %v; want %q", d.GetResponseBody(), err, want)
	}
	if e := kv.expires["a/2"]; !e.Equal(time.Unix(2_000_000_000, 5)) || !kv.expires["a/1"].IsZero() {
		t.Errorf("expires %v", kv.expires)
	}
}

func TestKeysOfMoreThanAMessageAreListed(t *testing.T) {
	kv := newMemory()
	const n = 20_000 // of 512 bytes, the longest
	for i := range n {
		kv.values[fmt.Sprintf("many/%0507d", i)] = nil
	}
	kv.values["other"] = nil
	h := newHost(t, Config{KV: func(uint32) KV { return kv }})
	s := adopt(t, h, testPlugin(nil))
	for prefix, want := range map[string]string{"many/": fmt.Sprint(n, " true"), "": fmt.Sprint(n+1, " true"), "other": "1 true", "none": "0 true"} {
		if d, err := ask(t, s, "list", prefix); err != nil || string(d.ResponseBody) != want {
			t.Errorf("%q: got %q, %v; want %s", prefix, d.GetResponseBody(), err, want)
		}
	}
}

func TestKVFollowsTheContextOfAPayload(t *testing.T) {
	own, late := newMemory(), filepath.Join(t.TempDir(), "late")
	h := newHost(t, Config{KV: func(uint32) KV { return own }})
	adopt(t, h, testPlugin(map[string]string{"file": late}))
	bound := newMemory()
	handled, err := h.AcceptEdgePayload(t.Context(), 7, Payload{Payload: []byte("p"), SentAt: time.Now(), ReceivedAt: time.Now()}, bound)
	if err != nil || !handled {
		t.Fatal(handled, err)
	}
	if string(bound.values["of the call"]) != "p" || string(own.values["of the plugin"]) != "p" || len(bound.values) != 1 || len(own.values) != 1 {
		t.Errorf("call %q, plugin %q", bound.values, own.values)
	}
	if _, err := h.AcceptEdgePayload(t.Context(), 7, Payload{Payload: []byte("late")}, bound); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the late write fails", func() bool {
		b, err := os.ReadFile(late)
		return err == nil && strings.Contains(string(b), "has returned")
	})
	if _, ok := bound.values["late"]; ok {
		t.Error("a write after the call reached the call's KV")
	}
}

func TestOutcomesOfAPayload(t *testing.T) {
	h := newHost(t, Config{KV: func(uint32) KV { return newMemory() }})
	p := testPlugin(nil)
	p.Timeout = 300 * time.Millisecond
	adopt(t, h, p)
	if got := h.Receivers(); !slices.Equal(got, []uint32{7}) {
		t.Errorf("receivers %v", got)
	}
	for _, c := range []struct {
		payload string
		plugin  uint32
		handled bool
		want    string
		is      error
	}{
		{"complain", 7, true, "handled, but", nil},
		{"refuse", 7, false, "not mine", nil},
		{"x", 8, false, "", ErrNoPlugin},
		{"hang", 7, false, "", ErrTooSlow},
		{"exit", 7, false, "", ErrCrashed},
	} {
		handled, err := h.AcceptEdgePayload(t.Context(), c.plugin, Payload{Payload: []byte(c.payload)}, newMemory())
		if handled != c.handled || err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v; want %v, %v %s", c.payload, handled, err, c.handled, c.is, c.want)
		}
	}
	eventually(t, "it runs again", func() bool { return len(h.Receivers()) == 1 && h.States()[0].Restarts > 0 })
}

func TestAPluginThatCrashesIsStartedAgain(t *testing.T) {
	h := newHost(t, Config{})
	s := adopt(t, h, testPlugin(nil))
	if _, err := ask(t, s, "exit", ""); !errors.Is(err, ErrCrashed) {
		t.Fatalf("got %v, want ErrCrashed", err)
	}
	eventually(t, "it answers again", func() bool { _, err := ask(t, s, "", ""); return err == nil })
	if st := h.States()[0]; st.Restarts == 0 || !strings.Contains(st.LastError, "exit status 7") {
		t.Errorf("state %+v", st)
	}
}

func TestAPluginThatHangsIsCutAndStartedAgain(t *testing.T) {
	h := newHost(t, Config{})
	p := testPlugin(nil)
	p.Timeout = 30 * time.Millisecond
	s := adopt(t, h, p)
	for range maxMissed {
		if _, err := ask(t, s, "hang", ""); !errors.Is(err, ErrTooSlow) {
			t.Fatalf("got %v, want ErrTooSlow", err)
		}
	}
	eventually(t, "it is started again", func() bool { return h.States()[0].Restarts == 1 && h.States()[0].Phase == Running })
	if st := h.States()[0]; !strings.Contains(st.LastError, "did not answer 10 calls") {
		t.Errorf("state %+v", st)
	}
}

func TestAPluginThatIsDeafToItsHealthIsStartedAgain(t *testing.T) {
	pace := quick
	pace.HealthTimeout = 20 * time.Millisecond
	h := newHost(t, Config{Pace: pace})
	adopt(t, h, testPlugin(map[string]string{"mode": "deaf"}))
	eventually(t, "it is started again", func() bool { return h.States()[0].Restarts > 0 })
	if st := h.States()[0]; !strings.Contains(st.LastError, "health") {
		t.Errorf("state %+v", st)
	}
}

func TestAPluginThatIsUnwellSaysSo(t *testing.T) {
	h := newHost(t, Config{})
	adopt(t, h, testPlugin(map[string]string{"mode": "unwell"}))
	eventually(t, "the problem is known", func() bool { return h.States()[0].Sentence() == "plugin test says: the cache is cold" })
}

func TestAHugeAnswerIsAnError(t *testing.T) {
	h := newHost(t, Config{})
	s := adopt(t, h, testPlugin(nil))
	if _, err := ask(t, s, "huge", ""); !errors.Is(err, ErrTooMuch) {
		t.Errorf("got %v, want ErrTooMuch", err)
	}
	if _, err := ask(t, s, "", ""); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestTheEnvironmentIsScrubbed(t *testing.T) {
	t.Setenv("GW_TEST_SECRET", "s3cret")
	t.Setenv("GW_TEST_GIVEN", "given")
	h := newHost(t, Config{})
	p := testPlugin(nil)
	p.Env = []string{"GW_TEST_GIVEN"}
	d, err := ask(t, adopt(t, h, p), "env", "")
	if err != nil {
		t.Fatal(err)
	}
	// Lines of a certificate have no names.
	listed := regexp.MustCompile(`(?s)-----BEGIN .*?-----END [A-Z ]+-----`).ReplaceAllString(string(d.ResponseBody), "")
	for line := range strings.Lines(listed) {
		name, _, ok := strings.Cut(line, "=")
		if ok && name != "PATH" && name != "HOME" && name != "TMPDIR" && name != "GW_TEST_GIVEN" && name != "GW_PLUGIN" && !strings.HasPrefix(name, "PLUGIN_") {
			t.Errorf("the plugin has %s", name)
		}
	}
	if strings.Contains(string(d.ResponseBody), "s3cret") || !strings.Contains(string(d.ResponseBody), "GW_TEST_GIVEN=given") {
		t.Errorf("environment: %s", d.ResponseBody)
	}
}

func TestPluginsThatCantStart(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	pace := quick
	pace.Start = 2 * time.Second
	for _, c := range []struct{ name, path, want string }{
		{"missing", "/does/not/exist", "there is no file /does/not/exist"},
		{"no program", text, "exec format error"},
		{"exits", named(t, "exits"), "exit status 3"},
		{"wrong version", named(t, "wrongversion"), "99"},
		{"mute", named(t, "mute"), "did not say in time that it is a plugin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, Config{Pace: pace})
			p := testPlugin(nil)
			p.Path = c.path
			_, err := h.Prepare(t.Context(), []Plugin{p})
			var start *StartError
			if !errors.As(err, &start) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want a StartError with %q", err, c.want)
			}
			s := h.Assemble([]Plugin{p})
			h.Adopt(s)
			if _, err := ask(t, s, "", ""); !errors.Is(err, ErrNotRunning) {
				t.Errorf("asked: %v", err)
			}
			eventually(t, "the state says why", func() bool { return strings.Contains(h.States()[0].Sentence(), c.want) })
			if c.name == "exits" && !strings.Contains(h.States()[0].LastError, "I can't go on") {
				t.Errorf("last error %q, without the process's last words", h.States()[0].LastError)
			}
		})
	}
}

func TestInitializeThatFailsIsToBeTriedAgain(t *testing.T) {
	h := newHost(t, Config{})
	_, err := h.Prepare(t.Context(), []Plugin{testPlugin(map[string]string{"mode": "refuses"})})
	var start *StartError
	if !errors.As(err, &start) || !strings.Contains(err.Error(), "the database is not there") {
		t.Errorf("got %v", err)
	}
}

func TestAConfigThatThePluginDoesNotTakeIsInvalid(t *testing.T) {
	h := newHost(t, Config{})
	p := testPlugin(map[string]string{"size": "11", "colour": "red"})
	p.Hooks = append(p.Hooks, pluginv1.Hook_HOOK_AUTH)
	_, err := h.Prepare(t.Context(), []Plugin{p})
	if err == nil || !strings.Contains(err.Error(), "spec.hooks[1]: is auth, for which the plugin has no method") {
		t.Errorf("hooks: %v", err)
	}
	p.Hooks = p.Hooks[:1]
	_, err = h.Prepare(t.Context(), []Plugin{p})
	var errs resource.Errors
	if !errors.As(err, &errs) || len(errs) != 2 {
		t.Fatalf("got %v, want two errors", err)
	}
	for i, want := range []string{`Plugin/test spec.config["colour"]: is not known to the plugin, expected one of file, mode, size`,
		`Plugin/test spec.config["size"]: is too large, expected a whole number, at least 1, at most 10`} {
		if errs[i].Error() != want {
			t.Errorf("got  %s\nwant %s", errs[i], want)
		}
	}
}

func TestAPinnedFileIsStartedOnlyAsItIs(t *testing.T) {
	h := newHost(t, Config{})
	p := testPlugin(nil)
	p.SHA256 = make([]byte, 32)
	if _, err := h.Prepare(t.Context(), []Plugin{p}); err == nil || !strings.Contains(err.Error(), "has the SHA-256") {
		t.Errorf("another file: %v", err)
	}
}

func TestAFloodOfOutputIsBounded(t *testing.T) {
	log := &logBuffer{}
	h := newHost(t, Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
	s := adopt(t, h, testPlugin(map[string]string{"mode": "flood"}))
	began := time.Now()
	eventually(t, "lines are dropped", func() bool { return strings.Contains(log.String(), "lines were dropped") })
	if _, err := ask(t, s, "", ""); err != nil {
		t.Errorf("asked during the flood: %v", err)
	}
	lines := strings.Count(log.String(), "\n")
	if most := lineBurst + 2*linesPerSecond*(2+int(time.Since(began).Seconds())); lines > most {
		t.Errorf("%d lines, want at most %d", lines, most)
	}
	for line := range strings.Lines(log.String()) {
		if len(line) > maxLine+1024 {
			t.Fatalf("a line of %d bytes", len(line))
		}
	}
}

func TestALineThatIsCutSaysSo(t *testing.T) {
	log := &logBuffer{}
	o := newOutput(slog.New(slog.NewTextHandler(log, nil)))
	o.line(slog.LevelInfo, "first", []string{"key", "value"})
	o.line(slog.LevelInfo, "second", []string{"key", strings.Repeat("v", 2*maxLine), "lost", "lost"})
	o.line(slog.LevelInfo, "third", slices.Repeat([]string{"k"}, 2*maxFields+2))
	o.line(slog.LevelInfo, strings.Repeat("\x80m", maxLine), nil)
	fmt.Fprintf(o.stream("stdout"), "%s\n%s\n", strings.Repeat("s", 2*maxLine), "short")
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	for i, cut := range []bool{false, true, true, true, true, false} {
		if got := strings.HasSuffix(lines[i], " said.cut=true"); got != cut {
			t.Errorf("line %d ends in %q", i, lines[i][max(0, len(lines[i])-40):])
		}
		if len(lines[i]) > maxLine+200 {
			t.Errorf("line %d has %d bytes", i, len(lines[i]))
		}
	}
	if !strings.Contains(lines[4], "said.stream=stdout") {
		t.Error("a long line of a stream lacks the stream's name")
	}
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// zombie reports whether a process has ended and waits for somebody to notice, as orphans do under a lazy init.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

func TestChildrenEndWithThePlugin(t *testing.T) {
	for _, end := range []string{"crash", "close"} {
		t.Run(end, func(t *testing.T) {
			h := newHost(t, Config{})
			file := filepath.Join(t.TempDir(), "pid")
			s := adopt(t, h, testPlugin(map[string]string{"mode": "forks", "file": file}))
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(string(b))
			if err != nil || !alive(pid) {
				t.Fatal(pid, err)
			}
			if end == "crash" {
				if _, err := ask(t, s, "exit", ""); !errors.Is(err, ErrCrashed) {
					t.Fatal(err)
				}
			} else if err := h.Close(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the child is gone", func() bool { return !alive(pid) || zombie(pid) })
		})
	}
}

func TestAReplacedPluginEndsWithItsLastRequest(t *testing.T) {
	h := newHost(t, Config{})
	file := filepath.Join(t.TempDir(), "ended")
	old := adopt(t, h, testPlugin(map[string]string{"mode": "records", "file": file}))
	oldPID := h.States()[0].PID
	if !old.Hold() {
		t.Fatal("a current set can't be held")
	}
	adopt(t, h, testPlugin(map[string]string{"mode": "other"}))
	if pid := h.States()[0].PID; pid == oldPID {
		t.Error("the changed plugin runs in the same process")
	}
	if d, err := ask(t, old, "", "held"); err != nil || d.Headers[0].Values[0] != "POST held" {
		t.Errorf("held: %v, %v", d, err)
	}
	old.Release()
	eventually(t, "the old process has shut down", func() bool { _, err := os.Stat(file); return err == nil && !alive(oldPID) })
	if old.Hold() {
		t.Error("a set that was given up can be held")
	}
}

func TestAReplacedPluginEndsWithItsLastPayload(t *testing.T) {
	pace := quick
	pace.Shutdown = time.Millisecond
	h := newHost(t, Config{Pace: pace})
	file := filepath.Join(t.TempDir(), "busy")
	old := adopt(t, h, testPlugin(map[string]string{"file": file}))
	oldPID := h.States()[0].PID
	outcome := make(chan error, 1)
	go func() {
		handled, err := h.AcceptEdgePayload(t.Context(), 7, Payload{Payload: []byte("wait")}, newMemory())
		if err == nil && !handled {
			err = errors.New("not handled")
		}
		outcome <- err
	}()
	eventually(t, "the plugin has the payload", func() bool { _, err := os.Stat(file); return err == nil })
	adopt(t, h, testPlugin(map[string]string{"mode": "other"}))
	if n := old.holds.Load(); n != 1 {
		t.Errorf("the old set is held %d times, want once, for the payload", n)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := <-outcome; err != nil {
		t.Errorf("the payload: %v", err)
	}
	eventually(t, "the old process has ended", func() bool { return !alive(oldPID) })
}

func TestAnUnchangedPluginKeepsItsProcess(t *testing.T) {
	h := newHost(t, Config{})
	adopt(t, h, testPlugin(nil))
	pid := h.States()[0].PID
	other := testPlugin(map[string]string{"mode": "other"})
	other.ID, other.Name = 8, "other"
	s, err := h.Prepare(t.Context(), []Plugin{other, testPlugin(nil)})
	if err != nil {
		t.Fatal(err)
	}
	h.Adopt(s)
	if st := h.States(); st[0].PID != pid || len(st) != 2 {
		t.Errorf("states %+v, want the first with pid %d", st, pid)
	}
	failing := testPlugin(map[string]string{"mode": "refuses"})
	if _, err := h.Prepare(t.Context(), []Plugin{failing, testPlugin(nil)}); err == nil {
		t.Error("a set that can't start was prepared")
	}
	if st := h.States(); st[0].PID != pid || st[0].Phase != Running {
		t.Errorf("after a failure: %+v", st)
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	h := newHost(t, Config{})
	adopt(t, h, testPlugin(nil))
	pid, sockets := h.States()[0].PID, h.sockets
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if alive(pid) {
		t.Error("the process is still there")
	}
	if _, err := h.socketDir(); err == nil {
		t.Error("a directory is made after Close")
	}
	if _, err := os.Stat(sockets); sockets == "" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the sockets' directory: %v", err)
	}
}
