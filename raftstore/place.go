package raftstore

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// place is where a store keeps what must survive the process, and the right to it.
type place struct {
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
	p := &place{unlock: lock.Close}
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
