package raftstore

import "os"

// NodeID returns the ID that the store in a directory has, or will have: it makes the directory and an ID if there is
// no store yet. A directory that has lost its store is an error. It does not lock the directory.
func NodeID(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	used, err := holdsStore(dir)
	if err != nil {
		return "", err
	}
	return loadNodeID(dir, used)
}
