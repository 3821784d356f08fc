package cli_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gw/node/cli"
	"gw/rpc/gwv1"
)

// runAnswering runs a command on a terminal whose person answers everything the same way.
func runAnswering(t *testing.T, answer string, change func(*cli.Context), args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	c := &cli.Context{Stdin: strings.NewReader(answer), Stdout: &out, Stderr: &errs, Env: func(string) string { return "" }, Now: func() time.Time { return now },
		IsTerminal: func(any) bool { return answer != "" }, Recover: fakeRecover, VerifyBackup: fakeVerify}
	if change != nil {
		change(c)
	}
	code = cli.Main(t.Context(), new(grammar), args, c)
	return code, out.String(), errs.String()
}

// loggedIn serves a fake hub that commands use.
func loggedIn(t *testing.T) *fakeHub {
	t.Helper()
	h := newFakeHub()
	server := serve(h)
	t.Cleanup(server.Close)
	t.Setenv("GW_ADDR", server.URL)
	t.Setenv("GW_TOKEN", bearer)
	return h
}

func TestRecoveringAsksAfterSayingWhatItFound(t *testing.T) {
	for _, test := range []struct {
		answer    string
		code      int
		recovered bool
		shown     string
	}{
		{"n\n", cli.ExitFailed, false, "not confirmed, nothing was changed"},
		{"y\n", 0, true, "Recovered."},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "raft.db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		code, _, shown := runAnswering(t, test.answer, nil, "cluster", "recover", "--data-dir", dir)
		_, err := os.Stat(filepath.Join(dir, "recovered"))
		if code != test.code || (err == nil) != test.recovered || !strings.Contains(shown, test.shown) {
			t.Errorf("%q: exit code %d, recovered %v, shown:\n%s", test.answer, code, err == nil, shown)
		}
		explained, found, asked := strings.Index(shown, "has lost most of its voters"), strings.Index(shown, "its last entry is 42"), strings.Index(shown, "[y/N]")
		if explained < 0 || found < explained || asked < found {
			t.Errorf("%q: explained at %d, found at %d, asked at %d, want them in this order:\n%s", test.answer, explained, found, asked, shown)
		}
	}
}

func TestRemovingAHubAndRestoringAsk(t *testing.T) {
	h := loggedIn(t)
	h.status = &gwv1.GetClusterStatusResponse{ClusterId: "c1a5", Hubs: []*gwv1.HubStatus{{Id: "abcdef00", Voter: true}}}
	file := filepath.Join(t.TempDir(), "x.gwb")
	if err := os.WriteFile(file, fakeBackup(cli.BackupInfo{ClusterID: "c1a5"}, 10), 0o600); err != nil {
		t.Fatal(err)
	}
	for method, args := range map[string][]string{"RemoveHub ": {"cluster", "remove", "abcd"}, "Restore": {"restore", file}} {
		for _, test := range []struct {
			answer string
			code   int
		}{{"n\n", cli.ExitFailed}, {"y\n", 0}} {
			h.mu.Lock()
			h.log = nil
			h.mu.Unlock()
			code, _, shown := runAnswering(t, test.answer, nil, args...)
			h.mu.Lock()
			called := strings.Contains(strings.Join(h.log, "\n"), method)
			h.mu.Unlock()
			if code != test.code || called != (test.code == 0) {
				t.Errorf("gw %q, %q: exit code %d, called %v, shown:\n%s", args, test.answer, code, called, shown)
			}
		}
	}
}

func TestProgressIsShownOnATerminal(t *testing.T) {
	h := loggedIn(t)
	h.status = &gwv1.GetClusterStatusResponse{ClusterId: "c1a5"}
	h.backup = fakeBackup(cli.BackupInfo{ClusterID: "c1a5"}, 3<<20)
	file := filepath.Join(t.TempDir(), "x.gwb")
	for _, test := range []struct {
		args []string
		want string
	}{{[]string{"backup", "-f", file}, "\r\x1b[K2.0 MiB received"}, {[]string{"restore", file, "--yes"}, "\r\x1b[K2.0 MiB sent"}} {
		code, stdout, stderr := runAnswering(t, "y\n", nil, test.args...)
		if code != 0 || !strings.Contains(stderr, test.want) || strings.Contains(stdout, "MiB received") {
			t.Errorf("gw %q: exit code %d, stdout %q, stderr %q, want %q in it", test.args, code, stdout, stderr, test.want)
		}
		if n := strings.Count(stderr, "\r"); n > 10 {
			t.Errorf("gw %q: showed it %d times for 3 MiB", test.args, n)
		}
		if _, _, stderr = runAnswering(t, "", nil, test.args...); strings.Contains(stderr, "\r") {
			t.Errorf("gw %q without a terminal: %q", test.args, stderr)
		}
	}
	if h.chunks < 12 || !bytes.Equal(h.restored, h.backup) {
		t.Errorf("restored %d bytes in %d pieces", len(h.restored), h.chunks)
	}
}

// failing writes so much and then nothing.
type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errors.New("no space left on device")
	}
	return len(p), nil
}

func TestABackupThatCantBeWrittenFails(t *testing.T) {
	h := loggedIn(t)
	h.backup = fakeBackup(cli.BackupInfo{ClusterID: "c1a5"}, 1<<20)
	code, _, shown := runAnswering(t, "", func(c *cli.Context) { c.Stdout = &failing{1 << 19} }, "backup", "-f", "-")
	if code != cli.ExitFailed || !strings.Contains(shown, "save the backup: no space left on device") || strings.Contains(shown, "Wrote") {
		t.Errorf("exit code %d, shown:\n%s", code, shown)
	}
}

func TestAnInterruptedBackupLeavesNoFile(t *testing.T) {
	h := loggedIn(t)
	h.backup = fakeBackup(cli.BackupInfo{ClusterID: "c1a5"}, 1<<20)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	// The person's patience ends when the first piece is shown.
	stderr := writerFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	})
	c := &cli.Context{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: stderr, Now: func() time.Time { return now }, IsTerminal: func(any) bool { return true }, VerifyBackup: fakeVerify}
	if code := cli.Main(ctx, new(grammar), []string{"backup", "-f", dir}, c); code != cli.ExitFailed {
		t.Errorf("exit code %d", code)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("got %v, %v, want an empty directory", left, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestAProcessWithoutAStoreRefuses(t *testing.T) {
	loggedIn(t)
	without := func(c *cli.Context) { c.Recover, c.VerifyBackup = nil, nil }
	for _, args := range [][]string{{"cluster", "recover", "--data-dir", "x", "--yes"}, {"backup"}, {"backup", "verify", os.Args[0]}, {"restore", os.Args[0], "--yes"}} {
		if code, _, shown := runAnswering(t, "", without, args...); code != cli.ExitFailed || !strings.Contains(shown, "this binary can't") {
			t.Errorf("gw %q: exit code %d, shown:\n%s", args, code, shown)
		}
	}
}
