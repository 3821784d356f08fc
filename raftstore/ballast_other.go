//go:build !linux

package raftstore

import "os"

// allocate gives a new file size bytes of the disk.
func allocate(f *os.File, size uint64) error { return writeZeros(f, size) }
