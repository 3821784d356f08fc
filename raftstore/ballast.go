package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	// ballastPace is how often it is looked whether the ballast has to go, or can come back.
	ballastPace = 10 * time.Second
	// ballastShare of a disk is the most that a ballast takes.
	ballastShare = 20
)

// ballast is a file that keeps room on the store's disk which nothing else gets, so that there is some to give away. Only a
// snapshot shortens the log, and a snapshot that finds no room leaves the log as long as it is: without a reserve a disk
// that was once full stays so.
type ballast struct {
	path  string // "": there is none
	size  uint64 // at most
	space *space
	log   *slog.Logger
	given chan struct{} // has a value when the ballast has gone and a snapshot is due

	mu sync.Mutex // one at a time makes or removes the file
}

func newBallast(dir string, size uint64, space *space, log *slog.Logger) *ballast {
	b := &ballast{size: size, space: space, log: log, given: make(chan struct{}, 1)}
	if size > 0 {
		b.path = filepath.Join(dir, "ballast")
	}
	return b
}

// bytes is how much is kept in reserve now.
func (b *ballast) bytes() uint64 {
	if b.path == "" {
		return 0
	}
	info, err := os.Stat(b.path)
	if err != nil {
		return 0
	}
	return uint64(info.Size())
}

// detail says for Health whether there is a reserve; "" if there is to be none.
func (b *ballast) detail() string {
	switch held := b.bytes(); {
	case b.path == "":
		return ""
	case held == 0:
		return ", and nothing in reserve"
	default:
		return ", " + mib(held) + " in reserve"
	}
}

// settle gives the ballast up if the disk is critically full, and takes it back once there is room for it above the
// low-water mark. An error means that it could not be taken back, which is tried again.
func (b *ballast) settle() error {
	if b.path == "" {
		return nil
	}
	free, total, err := b.space.now()
	if err != nil {
		return err
	}
	low, critical := b.space.marks(total)
	held, size := b.bytes(), min(b.size, total/ballastShare)
	switch {
	case free < critical:
		b.give("the disk is critically full")
	case held == 0 && size > 0 && free >= low+size:
		return b.take(size)
	}
	return nil
}

// full takes note of an error of the disk: if it is full, the ballast goes, and a snapshot is due.
func (b *ballast) full(err error) {
	if errors.Is(err, syscall.ENOSPC) {
		b.give("a snapshot found no room")
	}
}

func (b *ballast) take(size uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, err := os.OpenFile(b.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = errors.Join(allocate(f, size), f.Close())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep room in reserve: %w", err), ignoreMissing(os.Remove(b.path)))
	}
	b.space.forget()
	return nil
}

func (b *ballast) give(why string) {
	if b.path == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.bytes()
	switch err := os.Remove(b.path); {
	case errors.Is(err, fs.ErrNotExist):
		return // there was none: a snapshot would find no more room than before
	case err != nil:
		b.log.Error("the reserve of the disk can't be given up", "file", b.path, "error", err)
		return
	}
	b.space.forget()
	b.log.Warn("the reserve of the disk is given up, so that the log can be shortened; make room", "file", b.path, "freed", mib(held), "reason", why)
	select {
	case b.given <- struct{}{}:
	default:
	}
}

// writeZeros is for file systems that set nothing aside.
func writeZeros(f *os.File, size uint64) error {
	zeros := make([]byte, 1<<20)
	for size > 0 {
		n, err := f.Write(zeros[:min(size, uint64(len(zeros)))])
		if err != nil {
			return err
		}
		size -= uint64(n)
	}
	return f.Sync()
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// keepBallast looks after the ballast, and shortens the log when it has gone, until the store ends.
func (s *Store) keepBallast() {
	if s.ballast.path == "" {
		return
	}
	look := time.NewTicker(ballastPace)
	defer look.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.ballast.given:
			if err := s.Snapshot(s.ctx); err != nil && s.ctx.Err() == nil {
				s.log.Error("the log could not be shortened", "error", err)
			}
			continue
		case <-look.C:
		}
		if err := s.ballast.settle(); err != nil {
			s.log.Warn("no room is kept in reserve", "error", err)
		}
	}
}
