package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// wholeFile is a file that gets its name when all of it is there. Until then it stands beside that name under another,
// with mode 0600.
type wholeFile struct {
	*os.File
	kept bool
}

// newWholeFile begins a file that will be in dir. The caller discards it in the end, in any case.
func newWholeFile(dir, name string) (*wholeFile, error) {
	f, err := os.CreateTemp(dir, "."+name+".*")
	if err != nil {
		return nil, err
	}
	return &wholeFile{File: f}, nil
}

// keep puts the file on the disk under its name, in place of the one there. Path is in the directory it was begun in.
func (f *wholeFile) keep(path string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	f.kept = true
	return syncDir(filepath.Dir(path))
}

// discard removes the file unless it was kept.
func (f *wholeFile) discard() {
	if !f.kept {
		f.Close()
		os.Remove(f.Name())
	}
}

// syncDir makes a new name in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeFile writes a file with mode 0600, whole or not at all.
func writeFile(path string, data []byte) error {
	f, err := newWholeFile(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return err
	}
	defer f.discard()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.keep(path)
}
