package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// place is where a store keeps what must survive the process, and the right to it.
type place struct {
	dir       string // "": none, there are no marks
	id        string // the hub whose place it is
	disk      disk
	snapshots raft.SnapshotStore
	unlock    func() error // the last thing to do
}

// openPlace locks a directory, made if it isn't there, and opens what is in it.
func openPlace(dir string, log *raftLogger) (*place, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	p := &place{dir: dir, unlock: lock.Close}
	path := filepath.Join(dir, "raft.db")
	_, statErr := os.Stat(path)
	if p.id, err = loadNodeID(dir, statErr == nil); err == nil {
		p.disk, err = openDisk(path)
	}
	if err == nil {
		p.snapshots, err = raft.NewFileSnapshotStoreWithLogger(dir, 3, log.Named("snapshot"))
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *place) close() error {
	var err error
	if p.disk != nil {
		err = p.disk.Close()
	}
	return errors.Join(err, p.unlock())
}

// Marks are files beside the store that say something about it before it is opened.
const (
	// markJoin is in a directory that waits, or waited once, to be added to a cluster: it never founds one.
	markJoin = "join"
	// markRecovered is there from an offline recovery until the next leadership has raised the epoch. It lists the hubs
	// that were members before.
	markRecovered = "recovered"
	// markCutShort is in a directory that can't be used any more, and says why.
	markCutShort = "restore-cut-short"
)

func (p *place) mark(name, text string) error {
	if p.dir == "" {
		return nil
	}
	if err := writeFile(filepath.Join(p.dir, name), []byte(text+"\n")); err != nil {
		return fmt.Errorf("mark the data directory: %w", err)
	}
	return nil
}

// marked returns a mark's text; there is false without it.
func (p *place) marked(name string) (text string, there bool, err error) {
	if p.dir == "" {
		return "", false, nil
	}
	data, err := os.ReadFile(filepath.Join(p.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	return string(data), err == nil, err
}

func (p *place) unmark(name string) error {
	if p.dir == "" {
		return nil
	}
	return os.Remove(filepath.Join(p.dir, name))
}

// discard removes a snapshot.
func (p *place) discard(id string) error {
	if p.dir == "" {
		return nil
	}
	return os.RemoveAll(filepath.Join(p.dir, "snapshots", id))
}

// logSize is how many bytes the log's file takes.
func (p *place) logSize() (int64, error) {
	if p.dir == "" {
		return 0, fs.ErrNotExist
	}
	info, err := os.Stat(filepath.Join(p.dir, "raft.db"))
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
