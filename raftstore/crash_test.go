package raftstore

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

const crashDir = "RAFTSTORE_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		os.Exit(writeUntilKilled(dir, os.Getenv("RAFTSTORE_CRASH_FROM")))
	}
	os.Exit(m.Run())
}

// writeUntilKilled is the child: it saves resources and prints the number of each once it is acknowledged.
func writeUntilKilled(dir, from string) int {
	c := testConfig(dir)
	c.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	c.snapshotThreshold, c.trailingLogs = 16, 8
	s, err := Open(c)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	n, _ := strconv.Atoi(from)
	for ; ; n++ {
		if _, err := s.Propose(context.Background(), save("default", fmt.Sprintf("r%d", n), strconv.Itoa(n))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(n)
	}
}

func TestKilledProcessLosesNothingAcknowledged(t *testing.T) {
	dir, acknowledged := t.TempDir(), -1
	for round := range 4 {
		acknowledged = runUntilKilled(t, dir, acknowledged, 20+30*round)
		c := testConfig(dir)
		c.snapshotThreshold, c.trailingLogs = 16, 8
		s := mustOpen(t, c)
		for n := range acknowledged + 1 {
			r, ok := s.State().Resource("API", "default", fmt.Sprintf("r%d", n))
			if !ok || string(r.Spec) != strconv.Itoa(n) {
				t.Fatalf("round %d: write %d of %d was acknowledged and is lost", round, n, acknowledged)
			}
		}
		if round%2 == 0 { // from now on a snapshot is part of what is restored
			if err := s.raft.Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// runUntilKilled starts a child that writes on from number after, kills it with no warning after count writes, and
// returns the last one acknowledged.
func runUntilKilled(t *testing.T, dir string, after, count int) int {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(self)
	child.Env = append(os.Environ(), crashDir+"="+dir, fmt.Sprintf("RAFTSTORE_CRASH_FROM=%d", after+1))
	var stderr strings.Builder
	child.Stderr = &stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	last, lines := after, bufio.NewReader(out)
	for read := 0; ; read++ {
		if read == count {
			if err := child.Process.Kill(); err != nil { // SIGKILL
				t.Fatal(err)
			}
		}
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if last, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err := child.Wait(); err == nil || last < after+count {
		t.Fatalf("the child ended by itself after write %d: %v, %s", last, err, stderr.String())
	}
	return last
}
