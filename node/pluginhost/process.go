package pluginhost

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gw/edgeplugin/pluginv1"
	"gw/rpc/latency"
)

func itoa(i int) string { return strconv.Itoa(i) }

// Phase is how far a plugin's process is.
type Phase string

// The phases of a process.
const (
	Starting   Phase = "starting"
	Running    Phase = "running"
	Restarting Phase = "restarting" // waits, or is being started again
	Stopped    Phase = "stopped"
)

// process keeps one plugin running, by one instance of it after the other.
type process struct {
	host   *Host
	plugin Plugin
	log    *slog.Logger
	output *output
	ctx    context.Context
	cancel context.CancelFunc
	maker  *Set // which set it was made for
	refs   int  // sets that want it; guarded by Host.mu

	// tried is closed after the first attempt, whose error firstErr is.
	tried    chan struct{}
	firstErr error

	instance atomic.Pointer[instance] // nil: not running
	calls    atomic.Uint64
	failures atomic.Uint64
	took     [latency.Buckets]atomic.Uint64
	working  chan struct{} // a place per call

	mu        sync.Mutex // guards all below
	phase     Phase
	since     time.Time
	restarts  uint64
	lastError string
	manifest  *pluginv1.ManifestResponse // of the last instance; nil: none yet
	problem   string                     // what the plugin says is wrong with it
}

func newProcess(h *Host, p Plugin, maker *Set) *process {
	ctx, cancel := context.WithCancel(context.Background())
	log := h.log.With("plugin", p.Name, "plugin_id", p.ID)
	return &process{
		host: h, plugin: p, log: log, output: newOutput(log), ctx: ctx, cancel: cancel, maker: maker,
		tried: make(chan struct{}), working: make(chan struct{}, maxCalls), phase: Starting, since: time.Now(),
	}
}

// isNew reports whether the process was made for s.
func (p *process) isNew(s *Set) bool { return p.maker == s }

// run keeps an instance running until the process is given up.
func (p *process) run() {
	defer p.set(Stopped)
	for failed := 0; ; {
		began := time.Now()
		inst, err := p.launch()
		p.note(err)
		if inst != nil {
			p.started(inst)
		}
		p.first(err)
		if inst != nil {
			reason := p.watch(inst)
			p.instance.Store(nil)
			if p.ctx.Err() != nil {
				inst.shutdown(p.host.pace.Shutdown)
				return
			}
			inst.kill()
			p.note(reason)
			if time.Since(began) >= p.host.pace.Steady {
				failed = 0
			}
		}
		if p.ctx.Err() != nil || !p.pause(failed) {
			return
		}
		failed++
		p.mu.Lock()
		p.restarts++
		p.mu.Unlock()
	}
}

// first publishes the outcome of the first attempt.
func (p *process) first(err error) {
	select {
	case <-p.tried:
	default:
		p.firstErr = err
		close(p.tried)
	}
}

// pause waits before a restart; false: there is to be none.
func (p *process) pause(failed int) bool {
	wait := p.host.pace.Backoff
	for range failed {
		if wait *= 2; wait >= p.host.pace.MaxBackoff {
			wait = p.host.pace.MaxBackoff
			break
		}
	}
	p.set(Restarting)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

func (p *process) set(phase Phase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != phase {
		p.phase, p.since = phase, time.Now()
	}
}

func (p *process) started(inst *instance) {
	p.mu.Lock()
	p.phase, p.since, p.manifest, p.problem = Running, time.Now(), inst.manifest, ""
	p.mu.Unlock()
	p.instance.Store(inst)
	p.log.Info("plugin started", "version", inst.manifest.Version, "pid", inst.pid())
}

// note keeps and logs why the plugin is not running.
func (p *process) note(err error) {
	if err == nil || p.ctx.Err() != nil {
		return
	}
	text := err.Error() + p.output.lastWords()
	p.mu.Lock()
	p.lastError, p.problem = text, ""
	p.mu.Unlock()
	p.log.Error("the plugin is not running and will be started again", "error", text)
}

// watch waits until the instance is to be replaced, and says why.
func (p *process) watch(inst *instance) error {
	t := time.NewTicker(p.host.pace.Health)
	defer t.Stop()
	missed := 0
	for {
		select {
		case <-p.ctx.Done():
			return p.ctx.Err()
		case <-inst.exited():
			return fmt.Errorf("its process ended: %s", inst.runner.outcome())
		case <-inst.hung:
			return fmt.Errorf("it did not answer %d calls in a row in time", maxMissed)
		case <-t.C:
		}
		ctx, cancel := context.WithTimeout(p.ctx, p.host.pace.HealthTimeout)
		r, err := inst.client.Health(ctx, &pluginv1.HealthRequest{})
		cancel()
		if err == nil {
			missed = 0
			p.mu.Lock()
			p.problem = clip(r.Problem, 1024)
			p.mu.Unlock()
			continue
		}
		if missed++; missed == 2 {
			return fmt.Errorf("it did not answer when it was asked for its health: %s", status.Convert(err).Message())
		}
	}
}

// maxMissed is how many calls in a row may miss their deadline before the process is started again.
const maxMissed = 10

// call calls the instance that runs, within the plugin's deadline.
func (p *process) call(ctx context.Context, f func(context.Context, *instance) error) error {
	inst := p.instance.Load()
	if inst == nil {
		p.failures.Add(1)
		return ErrNotRunning
	}
	select {
	case p.working <- struct{}{}:
		defer func() { <-p.working }()
	default:
		p.failures.Add(1)
		return ErrBusy
	}
	limited, cancel := context.WithTimeout(ctx, p.plugin.Timeout)
	defer cancel()
	began := time.Now()
	err := f(limited, inst)
	p.calls.Add(1)
	p.took[latency.Bucket(time.Since(began))].Add(1)
	if err == nil {
		inst.missed.Store(0)
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err() // the caller left: it says nothing about the plugin
	}
	p.failures.Add(1)
	return p.failed(limited, inst, err)
}

// failed says what an error of a call means. Only the clock here makes a call late, not what the plugin says; it may say so
// a little before ctx's own timer is noticed.
func (p *process) failed(ctx context.Context, inst *instance, err error) error {
	st, _ := status.FromError(err)
	deadline, _ := ctx.Deadline()
	switch {
	case !time.Now().Before(deadline):
		if inst.missed.Add(1) == maxMissed {
			inst.hang()
		}
		return fmt.Errorf("%w (%v)", ErrTooSlow, p.plugin.Timeout)
	case st.Code() == codes.Unavailable || st.Code() == codes.Canceled:
		return ErrCrashed
	case st.Code() == codes.ResourceExhausted:
		return fmt.Errorf("%w: more than %d bytes", ErrTooMuch, maxMessage)
	}
	inst.missed.Store(0)
	return fmt.Errorf("the plugin says: %s", clip(st.Message(), 1024))
}

// clip returns the beginning of s in at most n bytes of UTF-8.
func clip(s string, n int) string {
	if s = strings.ToValidUTF8(s, "\uFFFD"); len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
