package raftstore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// NodeID returns the ID that the store in a directory has, or will have: it makes the directory and an ID if there is
// no store yet. It does not lock the directory.
func NodeID(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	_, err := os.Stat(filepath.Join(dir, "raft.db"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return loadNodeID(dir, err == nil)
}
