package cli_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gw/node/cli"
	"gw/rpc/identity"
)

// terminal is a pseudo terminal with a command at one end and a person at the other.
type terminal struct {
	t      *testing.T
	person *os.File
	seen   bytes.Buffer
	code   chan int
	stdout bytes.Buffer
}

// runOnTerminal runs a command with a terminal as its standard input and error, in an empty home.
func runOnTerminal(ctx context.Context, t *testing.T, env map[string]string, args ...string) *terminal {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	command, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, person: person, code: make(chan int, 1)}
	c := &cli.Context{Stdin: command, Stdout: &term.stdout, Stderr: command, Env: func(name string) string { return env[name] }, Now: func() time.Time { return now }}
	var running sync.WaitGroup
	running.Go(func() { term.code <- cli.Main(ctx, new(grammar), args, c) })
	t.Cleanup(func() {
		running.Wait()
		command.Close()
		person.Close()
	})
	return term
}

// expect reads what the command shows until it matches.
func (term *terminal) expect(pattern string) string {
	term.t.Helper()
	want, buffer := regexp.MustCompile(pattern), make([]byte, 1024)
	for !want.Match(term.seen.Bytes()) {
		n, err := term.person.Read(buffer)
		term.seen.Write(buffer[:n])
		if err != nil {
			term.t.Fatalf("waiting for %q: %v, seen:\n%s", pattern, err, term.seen.String())
		}
	}
	all := term.seen.String()
	term.seen.Reset()
	return all
}

// answer types a line.
func (term *terminal) answer(line string) {
	term.t.Helper()
	if _, err := io.WriteString(term.person, line+"\n"); err != nil {
		term.t.Fatal(err)
	}
}

// echoes tells whether the terminal shows what is typed.
func (term *terminal) echoes() bool {
	term.t.Helper()
	state, err := unix.IoctlGetTermios(int(term.person.Fd()), unix.TCGETS)
	if err != nil {
		term.t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// awaitSilence waits until it doesn't.
func (term *terminal) awaitSilence() {
	term.t.Helper()
	for term.echoes() {
		if len(term.code) > 0 {
			term.t.Fatal("the command ended and never stopped the echo")
		}
		runtime.Gosched()
	}
}

func (term *terminal) exit(want int) {
	term.t.Helper()
	if got := <-term.code; got != want {
		term.t.Errorf("exit code %d, want %d", got, want)
	}
}

func TestPasswordIsAskedForAndNotShown(t *testing.T) {
	server := httptest.NewServer(newFakeHub())
	defer server.Close()
	home := t.TempDir()
	term := runOnTerminal(t.Context(), t, map[string]string{"HOME": home}, "login", server.URL)
	term.expect(`User \[admin\]: `)
	term.answer("")
	term.expect("Password of admin: ")
	term.awaitSilence()
	term.answer("secret password")
	if shown := term.expect("Logged in to .* as admin"); strings.Contains(shown, "secret password") {
		t.Errorf("the password was shown:\n%s", shown)
	}
	term.exit(0)
	if _, err := os.Stat(filepath.Join(home, ".config/gw/credentials.json")); err != nil {
		t.Error(err)
	}
}

func TestInterruptEndsAQuestion(t *testing.T) {
	server := httptest.NewServer(newFakeHub())
	defer server.Close()
	ctx, interrupt := context.WithCancel(t.Context())
	term := runOnTerminal(ctx, t, map[string]string{"HOME": t.TempDir()}, "login", server.URL, "--user", "admin")
	term.expect("Password of admin: ")
	term.awaitSilence()
	interrupt()
	term.expect("interrupted")
	term.exit(1)
	if !term.echoes() {
		t.Error("the terminal was left silent")
	}
	term.answer("") // lets the read that was left behind end
}

func TestPushAsksAndPushesWhatWasShown(t *testing.T) {
	h := newFakeHub()
	server := httptest.NewServer(h)
	defer server.Close()
	t.Setenv("GW_ADDR", server.URL)
	t.Setenv("GW_TOKEN", bearer)
	file := filepath.Join(t.TempDir(), "orders.yaml")
	if err := os.WriteFile(file, []byte("kind: API\nmetadata: {name: orders}\nspec: {paths: [/orders], upstreams: [{url: http://orders:1}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	term := runOnTerminal(t.Context(), t, nil, "apply", "-f", file)
	term.expect("Saved: 1 created")
	term.exit(0)

	for _, test := range []struct {
		answer, shown string
		code, pushes  int
	}{
		{"", "not confirmed, nothing was changed", 1, 0},
		{"n", "not confirmed, nothing was changed", 1, 0},
		{"yes", "", 0, 1},
	} {
		term := runOnTerminal(t.Context(), t, nil, "push", "--note", "why")
		term.expect(`Push to 1 namespace\? \[y/N\] `)
		term.answer(test.answer)
		if test.shown != "" {
			term.expect(test.shown)
		}
		term.exit(test.code)
		h.mu.Lock()
		calls := strings.Join(h.log, "\n")
		h.mu.Unlock()
		if got := strings.Count(calls, `Push {"base":"base-0","note":"why"`); got != test.pushes {
			t.Errorf("after %q: %d pushes, want %d:\n%s", test.answer, got, test.pushes, calls)
		}
	}
}

func TestColorsAreForTerminalsWithoutNoColor(t *testing.T) {
	server := httptest.NewServer(newFakeHub())
	defer server.Close()
	t.Setenv("GW_ADDR", server.URL)
	t.Setenv("GW_TOKEN", bearer)
	for _, test := range []struct {
		terminal bool
		env      map[string]string
		want     bool
	}{
		{true, nil, true},
		{true, map[string]string{"NO_COLOR": "1"}, false},
		{true, map[string]string{"TERM": "dumb"}, false},
		{false, nil, false},
	} {
		var out bytes.Buffer
		c := &cli.Context{Stdin: strings.NewReader(""), Stdout: &out, Stderr: io.Discard,
			Env: func(name string) string { return test.env[name] }, IsTerminal: func(any) bool { return test.terminal }}
		if code := cli.Main(t.Context(), new(grammar), []string{"namespaces"}, c); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		if got := strings.Contains(out.String(), "\x1b["); got != test.want {
			t.Errorf("terminal %v, %v: colors %v, want %v", test.terminal, test.env, got, test.want)
		}
	}
}

// tlsLogin runs "gw login" against a TLS server nobody knows, answering yes or no to all questions.
func tlsLogin(t *testing.T, home, answer string, args ...string) (code int, shown string) {
	t.Helper()
	var errs bytes.Buffer
	c := &cli.Context{Stdin: strings.NewReader(answer), Stdout: io.Discard, Stderr: &errs,
		Env: func(name string) string { return map[string]string{"HOME": home}[name] }, IsTerminal: func(any) bool { return answer != "" },
		ReadPassword: func(context.Context) ([]byte, error) { return []byte("secret password"), nil }}
	return cli.Main(t.Context(), new(grammar), append([]string{"login", "--user", "admin"}, args...), c), errs.String()
}

func TestLoginPinsAnUnknownCertificateAfterShowingIt(t *testing.T) {
	server := httptest.NewUnstartedServer(newFakeHub())
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes are refused here on purpose
	server.StartTLS()
	defer server.Close()
	other, err := identity.NewCA("other", now)
	if err != nil {
		t.Fatal(err)
	}
	pin := fmt.Sprintf("sha256:%x", identity.PinOf(server.Certificate()))
	wrong := fmt.Sprintf("sha256:%x", identity.PinOf(other.Certificate))
	home := t.TempDir()
	credentials := filepath.Join(home, ".config/gw/credentials.json")

	if code, shown := tlsLogin(t, home, "", server.URL); code != cli.ExitUsage || !strings.Contains(shown, "pass --ca-pin "+pin) {
		t.Errorf("without a terminal: exit code %d, %s", code, shown)
	}
	if code, shown := tlsLogin(t, home, "n\n", server.URL); code != cli.ExitFailed || !strings.Contains(shown, pin) {
		t.Errorf("not trusted: exit code %d, %s", code, shown)
	}
	if code, shown := tlsLogin(t, home, "y\n", server.URL, "--ca-pin", wrong); code != cli.ExitFailed || !strings.Contains(shown, "someone is in between") {
		t.Errorf("wrong pin: exit code %d, %s", code, shown)
	}
	if _, err := os.Stat(credentials); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("credentials were saved: %v", err)
	}
	if code, shown := tlsLogin(t, home, "y\n", server.URL); code != 0 || !strings.Contains(shown, pin) {
		t.Fatalf("trusted: exit code %d, %s", code, shown)
	}
	data, err := os.ReadFile(credentials)
	if err != nil || !strings.Contains(string(data), pin) {
		t.Fatalf("got %s, %v, want the pin saved", data, err)
	}
	whoami := func() (int, string) {
		var errs bytes.Buffer
		c := &cli.Context{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &errs, Env: func(name string) string { return map[string]string{"HOME": home}[name] }}
		return cli.Main(t.Context(), new(grammar), []string{"whoami"}, c), errs.String()
	}
	if code, shown := whoami(); code != 0 {
		t.Errorf("with the pin: exit code %d, %s", code, shown)
	}
	if err := os.WriteFile(credentials, bytes.ReplaceAll(data, []byte(pin), []byte(wrong)), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, shown := whoami(); code != cli.ExitFailed || !strings.Contains(shown, "someone is in between") {
		t.Errorf("with another pin: exit code %d, %s", code, shown)
	}
	if code, shown := tlsLogin(t, home, "y\n", server.URL); code != 0 || !strings.Contains(shown, "NOT the one you trusted before: "+wrong) {
		t.Errorf("changed: exit code %d, %s", code, shown)
	}
	if code, shown := tlsLogin(t, home, "", server.URL, "--ca-pin", pin, "--token", bearer); code != 0 {
		t.Errorf("with --ca-pin: exit code %d, %s", code, shown)
	}
}
