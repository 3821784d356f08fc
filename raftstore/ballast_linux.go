package raftstore

import (
	"errors"
	"os"
	"syscall"
)

// allocate gives a new file size bytes of the disk.
func allocate(f *os.File, size uint64) error {
	err := syscall.Fallocate(int(f.Fd()), 0, 0, int64(size))
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return writeZeros(f, size)
	}
	return err
}
