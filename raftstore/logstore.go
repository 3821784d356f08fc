package raftstore

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// diskPatience is how long a write to disk may take. Raft's leader goes on beating while its disk hangs, so that nobody
// takes over; better to stop.
const diskPatience = 10 * time.Second

// disk is what raft-boltdb does for us; tests put faults in between.
type disk interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

func openDisk(path string) (disk, error) {
	db, err := raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

// logStore stops at the first error of the disk: after a failed fsync, a later one can succeed without the data being
// there (the kernel has dropped it), and Raft would go on.
type logStore struct {
	disk
	failed   *latch
	patience time.Duration
	took     func(seconds float64) // told how long each write of entries took; nil: nobody
}

var errNotFound = raftboltdb.ErrKeyNotFound

// do runs one operation that changes the disk.
func (s *logStore) do(what string, f func() error) error {
	if err := s.failed.get(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	late := time.AfterFunc(s.patience, func() {
		s.failed.set(fmt.Errorf("%s: the disk has not answered for %v", what, s.patience))
	})
	err := f()
	late.Stop()
	if err != nil {
		s.failed.set(fmt.Errorf("%s: %w", what, err))
	}
	if failed := s.failed.get(); failed != nil {
		return failed
	}
	return nil
}

func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *logStore) StoreLogs(logs []*raft.Log) error {
	began := time.Now()
	err := s.do("write the log", func() error { return s.disk.StoreLogs(logs) })
	if s.took != nil {
		s.took(time.Since(began).Seconds())
	}
	return err
}

func (s *logStore) DeleteRange(from, to uint64) error {
	return s.do("shorten the log", func() error { return s.disk.DeleteRange(from, to) })
}

func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	err := s.disk.GetLog(index, l)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		s.failed.set(fmt.Errorf("read log entry %d: %w", index, err))
	}
	return err
}
