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
	used, err := holdsStore(dir)
	if err == nil {
		p.id, err = loadNodeID(dir, used)
	}
	if err == nil {
		p.disk, err = openDisk(filepath.Join(dir, "raft.db"))
	}
	if err == nil {
		err = p.markStore(used, log)
	}
	if err == nil {
		p.snapshots, err = raft.NewFileSnapshotStoreWithLogger(dir, 3, log.Named("snapshot"))
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// holdsStore reports whether there is a store in a directory. One that has lost its raft.db, and with it the log and whom
// this hub voted for, is an error: opened again under its ID it would vote twice.
func holdsStore(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, "raft.db"))
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look for the store in %s: %w", dir, err)
	}
	for _, trace := range []string{markStore, "snapshots"} {
		switch _, err := os.Stat(filepath.Join(dir, trace)); {
		case err == nil:
			return false, fmt.Errorf("%s had a store, but its raft.db is gone, and with it this hub's votes and log: "+
				"remove this hub from the cluster, and let it join with an empty directory", dir)
		case !errors.Is(err, fs.ErrNotExist):
			return false, fmt.Errorf("look for the store in %s: %w", dir, err)
		}
	}
	return false, nil
}

// markStore leaves a trace that there is a store. The mark reaches the disk only after raft.db has, since both are in one
// directory, and before any vote: a founding that a power cut ends is never taken for a loss.
func (p *place) markStore(used bool, log *raftLogger) error {
	_, there, err := p.marked(markStore)
	if err == nil && !there {
		err = p.mark(markStore, "a store was made here; without its raft.db this directory can't be used any more")
	}
	if err != nil && used {
		// A store of old on a full disk goes on without it.
		log.Warn("the data directory could not be marked", "error", err)
		return nil
	}
	return err
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
	// markStore is in every directory that holds a store, or held one.
	markStore = "store"
	// markJoin is in a directory that waits, or waited once, to be added to a cluster: it never founds one.
	markJoin = "join"
	// markRecovered is there from an offline recovery until the next leadership has raised the epoch. It lists the hubs
	// that were members before.
	markRecovered = "recovered"
	// markHalted is in the directory of a hub that was halted, and says why.
	markHalted = "halted"
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
