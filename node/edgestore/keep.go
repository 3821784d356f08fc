package edgestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
)

// What must be on disk, in the order it is saved again.
const (
	keepIdentity = iota
	keepRelease
	keepSecrets
	keepTokens // before the access version, which is about them
	keepAccess
	keeps
)

const (
	firstRetry = time.Second // doubles up to lastRetry
	lastRetry  = time.Minute
)

// errLost is why what was saved is not on disk any more.
var errLost = errors.New("its file was damaged and set aside")

// keeper holds the last of everything that must be on disk, and saves it again: what the disk refused until it takes it,
// and all of config.db after a damaged one was set aside. One goroutine does, from start to stop.
type keeper struct {
	saving sync.Mutex // held while something is saved, so that the newest of a kind is what lands last

	mu   sync.Mutex // guards the rest; nothing else is locked under it
	kept [keeps]keepsake
	log  *slog.Logger // nil: slog.Default()

	wake   chan struct{} // capacity 1
	cancel context.CancelFunc
	done   chan struct{}
}

// keepsake is one thing that must be on disk.
type keepsake struct {
	what string
	save func(context.Context) error // nil: there is none
	err  error                       // why it is not on disk; nil: it is
}

func (k *keeper) start() {
	ctx, cancel := context.WithCancel(context.Background())
	k.wake, k.cancel, k.done = make(chan struct{}, 1), cancel, make(chan struct{})
	go k.run(ctx)
}

// stop ends the goroutine and waits for it. It may be called again.
func (k *keeper) stop() {
	k.cancel()
	<-k.done
}

func (k *keeper) run(ctx context.Context) {
	defer close(k.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		}
		for wait := firstRetry; k.fault() != nil; wait = min(2*wait, lastRetry) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			k.saveAgain(ctx)
		}
	}
}

// put saves something new in the place of what was kept there, and keeps it whether or not the disk takes it.
func (k *keeper) put(ctx context.Context, at int, what string, save func(context.Context) error) error {
	k.saving.Lock()
	defer k.saving.Unlock()
	k.set(at, keepsake{what: what, save: save})
	err := save(ctx)
	if !errors.Is(err, ErrClosed) {
		k.note(at, err)
	}
	return err
}

// remember keeps what was read from the disk, unless something newer is kept.
func (k *keeper) remember(at int, what string, save func(context.Context) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kept[at].save == nil {
		k.kept[at] = keepsake{what: what, save: save}
	}
}

func (k *keeper) set(at int, item keepsake) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept[at] = item
}

// note takes over how saving went.
func (k *keeper) note(at int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept[at].err = err
	if err != nil {
		k.wakeLocked()
	}
}

func (k *keeper) wakeLocked() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// saveAgain tries once more what is not on disk.
func (k *keeper) saveAgain(ctx context.Context) {
	k.saving.Lock()
	defer k.saving.Unlock()
	for at := range keeps {
		k.mu.Lock()
		item := k.kept[at]
		k.mu.Unlock()
		if item.err == nil {
			continue
		}
		err := item.save(ctx)
		if ctx.Err() != nil {
			return
		}
		k.note(at, err)
		if err == nil {
			k.logger().Info("it is saved now", "what", item.what)
		}
	}
}

// lost notes that config.db was set aside: what was saved in it no longer is.
func (k *keeper) lost(aside string) {
	k.logger().Error("config.db was damaged: it was set aside, and what is known is saved in a new one", "set_aside", aside)
	k.mu.Lock()
	defer k.mu.Unlock()
	for at := keepRelease; at < keeps; at++ {
		if item := &k.kept[at]; item.save != nil && item.err == nil {
			item.err = fmt.Errorf("save %s: %w as %s", item.what, errLost, filepath.Base(aside))
			k.wakeLocked()
		}
	}
}

// fault returns why something is not on disk; nil: all is.
func (k *keeper) fault() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, item := range k.kept {
		errs = append(errs, item.err)
	}
	return errors.Join(errs...)
}

func (k *keeper) logger() *slog.Logger {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.log == nil {
		return slog.Default()
	}
	return k.log
}

// Fault returns why something that must be on disk is not: the disk refused it, or its file was damaged and set aside. It
// is nil once everything was saved, which the store tries again until Close. It doesn't block on the disk.
func (s *Store) Fault() error { return s.keep.fault() }

// LogTo has the store say by log what happens while nobody waits for it: a damaged file that is replaced, and what is saved
// again. Before, slog.Default() is used.
func (s *Store) LogTo(log *slog.Logger) {
	s.keep.mu.Lock()
	defer s.keep.mu.Unlock()
	s.keep.log = log
}
