package pluginhost

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const (
	// socketDirs begins the names of directories of sockets.
	socketDirs = "gw-plugins-"
	// maxTempDir is how long the path of the directory for temporary files may be for sockets to be made below it: a
	// socket's path has at most 103 bytes on some systems, and 60 are added to it.
	maxTempDir = 40
	// lockName is a file in each directory, locked by the process whose sockets are there.
	lockName = "lock"
)

// makeSocketDir makes a directory that only this user may look into (mode 0700), and first removes those that processes
// left behind that were killed. The lock is to be closed once the directory is gone.
func makeSocketDir() (dir string, lock *os.File, err error) {
	parent := os.TempDir()
	if len(parent) > maxTempDir {
		parent = "/tmp"
	}
	removeAbandoned(parent)
	dir, err = os.MkdirTemp(parent, socketDirs)
	if err != nil {
		return "", nil, err
	}
	lock, err = os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err == nil {
		_, err = fmt.Fprintln(lock, os.Getpid()) // only a file with something in it has been locked
	}
	if err != nil {
		lock.Close()
		os.RemoveAll(dir)
		return "", nil, err
	}
	return dir, lock, nil
}

// removeAbandoned removes directories whose lock nobody holds. One whose lock is missing or
// empty is being made.
func removeAbandoned(parent string) {
	found, err := filepath.Glob(filepath.Join(parent, socketDirs+"*"))
	if err != nil {
		return // the pattern is a constant
	}
	for _, dir := range found {
		f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if info, err := f.Stat(); err == nil && info.Size() > 0 && syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.RemoveAll(dir)
		}
		f.Close()
	}
}
