package raftstore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A hub that has lost its votes and its log is not the hub that had them.
func TestDirectoryThatLostItsStoreIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		gone []string
	}{
		{"raft.db alone", []string{"raft.db"}},
		{"a directory from before the mark", []string{"raft.db", markStore}},
		{"raft.db and the snapshots", []string{"raft.db", "snapshots"}},
		{"raft.db and the ID", []string{"raft.db", "node-id"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := testConfig(t.TempDir())
			if err := mustOpen(t, config).Close(); err != nil {
				t.Fatal(err)
			}
			for _, name := range c.gone {
				if err := os.RemoveAll(filepath.Join(config.Dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			s, err := Open(config)
			if err == nil {
				s.Close()
				t.Fatal("it was opened again")
			}
			if !strings.Contains(err.Error(), "join with an empty directory") {
				t.Errorf("the error does not say what to do: %v", err)
			}
			if _, err := NodeID(config.Dir); err == nil {
				t.Error("its ID is still given out")
			}
		})
	}
}

func TestIDMadeBeforeTheStoreIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	id, err := NodeID(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, testConfig(dir))
	if s.NodeID() != id {
		t.Errorf("the ID is %s, was %s", s.NodeID(), id)
	}
	if again, err := NodeID(dir); err != nil || again != id {
		t.Errorf("asked again: %s, %v", again, err)
	}
}

// A store made before there was the mark is given it.
func TestStoreWithoutItsMarkIsMarked(t *testing.T) {
	config := testConfig(t.TempDir())
	for range 2 {
		if err := mustOpen(t, config).Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(config.Dir, markStore)); err != nil {
			t.Fatal(err)
		}
	}
}
