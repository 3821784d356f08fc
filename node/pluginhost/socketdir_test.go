package pluginhost

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDirectoriesOfKilledProcessesAreRemoved(t *testing.T) {
	temp, err := os.MkdirTemp("/tmp", "gw-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	t.Setenv("TMPDIR", temp)
	live, held, err := makeSocketDir()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	dead, lock, err := makeSocketDir()
	if err != nil {
		t.Fatal(err)
	}
	lock.Close() // as when the process ends, however it does
	begun := filepath.Join(temp, socketDirs+"begun")
	foreign := filepath.Join(temp, "other-plugins")
	for _, dir := range []string{begun, foreign} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(begun, lockName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, next, err := makeSocketDir()
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	for dir, want := range map[string]bool{live: true, dead: false, begun: true, foreign: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", dir, err == nil, want)
		}
	}
}

func TestTheDirectoryOfSocketsIsMadeWhenItCanBe(t *testing.T) {
	parent, err := os.MkdirTemp("/tmp", "gw-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(parent)
	temp := filepath.Join(parent, "tmp")
	t.Setenv("TMPDIR", temp) // is not there yet
	h := newHost(t, Config{})
	if _, err := h.Prepare(t.Context(), []Plugin{testPlugin(nil)}); err == nil || !strings.Contains(err.Error(), "directory of plugins' sockets") {
		t.Fatalf("without a place for it: %v", err)
	}
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	s := adopt(t, h, testPlugin(nil))
	if _, err := ask(t, s, "", ""); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(h.sockets); err != nil { // as those do who clean up
		t.Fatal(err)
	}
	other := testPlugin(map[string]string{"mode": "other"})
	if _, err := ask(t, adopt(t, h, other), "", ""); err != nil {
		t.Errorf("after the directory was removed: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left after Close: %v, %v", left, err)
	}
}

func TestSocketsAreNotMadeWhereTheirPathsWouldBeTooLong(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("long", 20))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", long)
	dir, lock, err := makeSocketDir()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	defer lock.Close()
	if filepath.Dir(dir) != "/tmp" {
		t.Errorf("made %s", dir)
	}
}
