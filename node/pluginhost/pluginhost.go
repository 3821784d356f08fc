// Package pluginhost owns the processes of plugins: it runs them, calls them, and survives them.
//
// A process speaks gw.plugin.v1 over hashicorp/go-plugin: gRPC with mutual TLS on a Unix socket in a directory of this
// user only. It gets its own process group, which ends as a whole, and an environment of PATH, HOME, TMPDIR and what its
// resource names. It is asked for its health, restarted with backoff, and every call to it has a deadline and a largest
// answer; what it writes goes to the log in bounded lines at a bounded rate. A child that leaves the process group
// outlives the plugin; nothing here keeps a plugin from doing what its user may do.
//
// Host keeps one process per digest of a plugin's resource. A Set is the plugins of one release: sets share the processes
// of what did not change between them, so a push restarts only what it changes. A set's processes end when the set has
// been replaced and no request holds it any more. An executable that is replaced without a change of the resource is taken
// at the process's next start; naming its SHA-256 makes every change one of the resource.
package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"gw/edgeplugin/pluginv1"
)

// Limits on what passes between gw and a plugin.
const (
	// MaxBody is the largest body a plugin is sent, in bytes.
	MaxBody = 4 << 20
	// maxMessage is the largest message in either direction.
	maxMessage = 8 << 20
	// maxCalls bounds the calls one process works on at once; more fail at once, so that a slow plugin holds a bounded
	// number of requests.
	maxCalls = 512
	// maxHostCalls bounds the calls of one process that gw works on at once, and maxHostMessage what each may bring: a
	// payload with its metadata, a value, or a batch of log lines. More calls wait in the process.
	maxHostCalls   = 128
	maxHostMessage = 2 << 20
)

// KV is what one plugin keeps. Its methods are called from any goroutine.
type KV interface {
	// Read returns a value, which is not changed; ok: there is one.
	Read(ctx context.Context, key string) (value []byte, ok bool, err error)
	// Write sets a value; a zero expires is never.
	Write(ctx context.Context, key string, value []byte, expires time.Time) error
	// Delete reports whether there was a value.
	Delete(ctx context.Context, key string) (bool, error)
	// List returns the keys that begin with prefix, sorted.
	List(ctx context.Context, prefix string) ([]string, error)
}

// SendFunc keeps a payload of a plugin for the hub and returns how many of that plugin's wait. The error wraps
// ErrPayloadTooLarge, ErrInvalidMetadata or ErrQueueFull if the payload was refused for that reason.
type SendFunc func(ctx context.Context, plugin uint32, payload []byte, correlationID string, metadata map[string]string) (pending int64, err error)

// Config is what a Host needs.
type Config struct {
	// Side is where the plugins run. Required.
	Side pluginv1.Side
	// Send takes what plugins send to the hub; nil: plugins here can't send.
	Send SendFunc
	// KV returns what a plugin keeps. nil: plugins here keep nothing.
	KV func(plugin uint32) KV
	// Logger gets what happens to plugins and what they write; nil: slog.Default().
	Logger *slog.Logger
	// Pace bounds the waits; its zero fields have defaults.
	Pace Pace
}

// Pace is how long things may take. A zero field is its default.
type Pace struct {
	// Start is how long a process may take until it is initialized. Default 20 s.
	Start time.Duration
	// Backoff is how long the first restart waits; each further one twice as long, up to MaxBackoff. Defaults 200 ms, 30 s.
	Backoff, MaxBackoff time.Duration
	// Steady is how long a process must have run for the next restart to wait only Backoff. Default 1 min.
	Steady time.Duration
	// Health is how often a process is asked for its health and how long it may take. Defaults 5 s, 3 s.
	Health, HealthTimeout time.Duration
	// Shutdown is how long a process may take to finish. Default 3 s.
	Shutdown time.Duration
	// Drain is how long the processes of a replaced set wait for requests that hold it. Default 10 min.
	Drain time.Duration
}

func (p Pace) orDefault() Pace {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&p.Start, 20*time.Second)
	set(&p.Backoff, 200*time.Millisecond)
	set(&p.MaxBackoff, 30*time.Second)
	set(&p.Steady, time.Minute)
	set(&p.Health, 5*time.Second)
	set(&p.HealthTimeout, 3*time.Second)
	set(&p.Shutdown, 3*time.Second)
	set(&p.Drain, 10*time.Minute)
	return p
}

// Host runs the plugins of one gw process. Its methods may be called from any goroutine.
type Host struct {
	c    Config
	log  *slog.Logger
	pace Pace

	mu      sync.Mutex
	procs   map[string]*process // by the plugin's digest; guarded by mu, as is all below
	current *Set                // nil: none yet
	closed  bool
	sockets string         // the directory of the sockets; "": none yet
	lock    *os.File       // held as long as sockets is there
	running sync.WaitGroup // of processes
}

// New makes a host that runs nothing yet. Close it.
func New(c Config) *Host {
	h := &Host{c: c, log: c.Logger, pace: c.Pace.orDefault(), procs: map[string]*process{}}
	if h.log == nil {
		h.log = slog.Default()
	}
	return h
}

// Close ends every process and returns when all are gone. Calls that run fail.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	for _, p := range h.procs {
		p.cancel()
	}
	h.mu.Unlock()
	h.running.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sockets == "" {
		return nil
	}
	err := errors.Join(os.RemoveAll(h.sockets), h.lock.Close())
	h.sockets = ""
	return err
}

// socketDir returns the directory of the sockets. It is made when it is first wanted, and again if somebody removed it.
func (h *Host) socketDir() (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return "", errors.New("gw ends")
	}
	if h.sockets != "" {
		if _, err := os.Stat(h.sockets); err == nil {
			return h.sockets, nil
		}
		h.lock.Close()
		h.sockets = ""
	}
	dir, lock, err := makeSocketDir()
	if err != nil {
		return "", fmt.Errorf("make the directory of plugins' sockets: %w", err)
	}
	h.sockets, h.lock = dir, lock
	return dir, nil
}

// Prepare returns a set of the given plugins, having started those that no set runs yet. The error is resource.Errors if
// the plugins are not as the resources say, which trying again does not change, or wraps a *StartError for one that could
// not be started now; then nothing has changed. Adopt or Release the set.
func (h *Host) Prepare(ctx context.Context, plugins []Plugin) (*Set, error) {
	s := h.Assemble(plugins)
	var invalid error
	for _, p := range s.procs {
		if !p.isNew(s) {
			continue
		}
		select {
		case <-p.tried:
		case <-ctx.Done():
			s.Release()
			return nil, ctx.Err()
		}
		if p.firstErr == nil {
			continue
		}
		if isInvalid(p.firstErr) {
			invalid = joinInvalid(invalid, p.firstErr)
			continue
		}
		s.Release()
		return nil, p.firstErr
	}
	if invalid != nil {
		s.Release()
		return nil, invalid
	}
	return s, nil
}

// Assemble returns a set of the given plugins and starts those that no set runs yet, without waiting: those that can't be
// started are tried again and again. Adopt or Release the set.
func (h *Host) Assemble(plugins []Plugin) *Set {
	s := &Set{host: h, procs: make([]*process, len(plugins))}
	s.holds.Store(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, p := range plugins {
		key := p.key()
		proc := h.procs[key]
		if proc == nil {
			proc = newProcess(h, p, s)
			if h.procs[key] = proc; h.closed {
				proc.cancel()
			}
			h.running.Go(proc.run)
		}
		proc.refs++
		s.procs[i] = proc
	}
	return s
}

// Adopt makes s the current set: the one whose plugins get payloads and are told of by States. The one before ends when
// nothing holds it any more, at the latest after Pace.Drain.
func (h *Host) Adopt(s *Set) {
	h.mu.Lock()
	old := h.current
	h.current = s
	h.mu.Unlock()
	if old == nil || old == s {
		return
	}
	old.Release()
	time.AfterFunc(h.pace.Drain, old.drop)
}

// drop gives up a set's share in its processes.
func (h *Host) drop(procs []*process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range procs {
		if p.refs--; p.refs == 0 {
			delete(h.procs, p.plugin.key())
			p.cancel()
		}
	}
}

// set returns the current set, nil before the first.
func (h *Host) set() *Set {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current
}

// hold returns the current set, to be released; nil: there is none yet.
func (h *Host) hold() *Set {
	for {
		if s := h.set(); s == nil || s.Hold() {
			return s
		} // it has been replaced since
	}
}

// find returns the set's process of a plugin, nil if there is none.
func (s *Set) find(id uint32) *process {
	for _, p := range s.procs {
		if p.plugin.ID == id {
			return p
		}
	}
	return nil
}

// Why a plugin could not be asked, or did not answer. A call's error wraps one of these, or is what the plugin said.
var (
	ErrNoPlugin   = errors.New("there is no plugin with this ID")
	ErrNotRunning = errors.New("the plugin is not running")
	ErrBusy       = errors.New("the plugin has too many calls to answer")
	ErrCrashed    = errors.New("the plugin went down")
	ErrTooSlow    = errors.New("the plugin did not answer in time")
	ErrTooMuch    = errors.New("the plugin's answer is too large")
)

// Why a payload was refused, as a SendFunc says it.
var (
	ErrPayloadTooLarge = errors.New("payload too large")
	ErrInvalidMetadata = errors.New("invalid metadata")
	ErrQueueFull       = errors.New("queue full")
)

// StartError says that a plugin could not be started. Trying again may help.
type StartError struct {
	Plugin string
	Err    error
}

// Error names the plugin and what happened.
func (e *StartError) Error() string { return fmt.Sprintf("start plugin %s: %v", e.Plugin, e.Err) }

// Unwrap returns what happened.
func (e *StartError) Unwrap() error { return e.Err }
