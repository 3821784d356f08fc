package raftstore

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"gw/rpc/gwv1"
)

// ErrDiskLow means that the disk of this hub is too full for the command. It comes with ErrNotProposed.
var ErrDiskLow = errors.New("the hub's disk is nearly full")

// space watches how much room there is where the store is.
type space struct {
	dir           string
	measure       func(dir string) (free, total uint64, err error)
	low, critical uint64 // bytes; 0: a share of the disk

	mu          sync.Mutex
	at          time.Time // of the last measurement
	free, total uint64
	err         error
}

// spacePace is how old a measurement may be.
const spacePace = time.Second

func statfs(dir string) (free, total uint64, err error) {
	var f syscall.Statfs_t
	if err := syscall.Statfs(dir, &f); err != nil {
		return 0, 0, fmt.Errorf("measure the disk of %s: %w", dir, err)
	}
	return f.Bavail * uint64(f.Bsize), f.Blocks * uint64(f.Bsize), nil
}

func (p *space) now() (free, total uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at.IsZero() || time.Since(p.at) >= spacePace {
		p.free, p.total, p.err = p.measure(p.dir)
		p.at = time.Now()
	}
	return p.free, p.total, p.err
}

// forget has the next question measured anew.
func (p *space) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = time.Time{}
}

// marks are the low-water mark and the critical one: a tenth of the disk but at most 512 MiB, and 3 % but at most
// 128 MiB, unless they were set.
func (p *space) marks(total uint64) (low, critical uint64) {
	low, critical = p.low, p.critical
	if low == 0 {
		low = min(total/10, 512<<20)
	}
	if critical == 0 {
		critical = min(total*3/100, 128<<20)
	}
	return low, min(critical, low)
}

// alarm is nil as long as there is room. It wraps ErrDiskLow.
func (p *space) alarm() error {
	free, total, err := p.now()
	if err != nil {
		return err
	}
	low, critical := p.marks(total)
	switch {
	case free < critical:
		return fmt.Errorf("%w: %s free of %s, less than %s: only sign-ins and what revokes or removes are taken", ErrDiskLow, mib(free), mib(total), mib(critical))
	case free < low:
		return fmt.Errorf("%w: %s free of %s, less than %s: no resources are saved or pushed", ErrDiskLow, mib(free), mib(total), mib(low))
	}
	return nil
}

func mib(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// refuses says why there is no room for a command. What takes access away is never refused: it must work when the disk
// is full for as long as the disk takes anything at all.
func (p *space) refuses(c *gwv1.Command) error {
	free, total, err := p.now()
	if err != nil {
		return nil // a disk that can't be measured may still take it
	}
	low, critical := p.marks(total)
	switch {
	case free >= low, essential(c):
		return nil
	case free < critical, bulk(c):
		return p.alarm()
	}
	return nil
}

// bulk commands can carry any amount of data.
func bulk(c *gwv1.Command) bool {
	switch c.GetBody().(type) {
	case *gwv1.Command_ChangeResources, *gwv1.Command_StageBlobs, *gwv1.Command_PushReleases:
		return true
	}
	return false
}

// essential commands take something away, or keep the cluster going, or are small and needed to do so: who is to revoke
// must be able to sign in, and hubs be told apart and compared.
func essential(c *gwv1.Command) bool {
	switch b := c.GetBody().(type) {
	case *gwv1.Command_ChangeResources:
		for _, e := range b.ChangeResources.GetEdits() {
			if !e.GetDelete() {
				return false
			}
		}
		return true
	case *gwv1.Command_OpenTerm, *gwv1.Command_Bootstrap, *gwv1.Command_RevokeToken, *gwv1.Command_DeleteApp,
		*gwv1.Command_DeleteSecret, *gwv1.Command_DeleteJoinToken, *gwv1.Command_DeleteSession,
		*gwv1.Command_RemoveEdge, *gwv1.Command_RevokeEdge, *gwv1.Command_DeleteUser, *gwv1.Command_RemoveHub, *gwv1.Command_RaiseEpoch,
		*gwv1.Command_PutSession, *gwv1.Command_EnrollHub, *gwv1.Command_PutHub, *gwv1.Command_Beacon:
		return true
	}
	return false
}

// DiskLow is nil as long as there is room for resources to be saved and pushed. It wraps ErrDiskLow.
func (s *Store) DiskLow() error { return s.space.alarm() }

// DiskFree is how many bytes there are left for the store, measured within the last second; 0 if that is not known.
func (s *Store) DiskFree() uint64 {
	free, _, err := s.space.now()
	if err != nil {
		return 0
	}
	return free
}
