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
