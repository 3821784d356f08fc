package raftstore

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lockDir makes sure that one process at a time uses dir. The lock ends with the process, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0)
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		return nil, fmt.Errorf("%s is in use by process %s: one hub at a time may use a data directory",
			dir, strings.TrimSpace(string(holder[:n])))
	}
	// For the sentence above only, so a failure to write it is no reason to stop.
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return f, nil
}

// loadNodeID returns the ID of the hub whose directory this is, or makes one at random if there is no store yet. It
// stands for what this directory voted, so it is tied to the directory and to nothing else: no host, no address.
func loadNodeID(dir string, used bool) (string, error) {
	path := filepath.Join(dir, "node-id")
	data, err := os.ReadFile(path)
	if err == nil {
		id := strings.TrimSpace(string(data))
		if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 {
			return "", fmt.Errorf("%s does not hold a node ID", path)
		}
		return id, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the node ID: %w", err)
	}
	if used {
		return "", fmt.Errorf("%s has a store but no node-id: it is not complete, and a new ID would forget its votes", dir)
	}
	raw := make([]byte, 16)
	rand.Read(raw) // never fails
	id := hex.EncodeToString(raw)
	if err := writeFile(path, []byte(id+"\n")); err != nil {
		return "", fmt.Errorf("write the node ID: %w", err)
	}
	return id, nil
}

// writeFile makes a file that is there whole or not at all, also after a power cut.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing, once renamed
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
