package gateway

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

// wait is what an exchange waits for.
type wait uint8

const (
	waitNothing      wait = iota
	waitClientBody        // the caller sends the request's body
	waitUpstreamBody      // the upstream takes the request's body
	waitUpstream          // the upstream sends the answer's body
	waitClient            // the caller takes the answer's body
)

var (
	errClientSlow   = errors.New("client sent nothing in time")
	errUpstreamIdle = errors.New("upstream sent nothing in time")
	errUpstreamFull = errors.New("upstream took nothing in time")
	errClientFull   = errors.New("client took nothing in time")
)

// watchdog ends an exchange that waits too long for one thing. It is idle until watch is called.
type watchdog struct {
	limit  time.Duration
	cancel context.CancelCauseFunc
	w      http.ResponseWriter

	mu    sync.Mutex
	timer *time.Timer // guarded by mu, as is what follows
	waits wait
	until time.Time
	over  bool
}

// watch restarts the time for a wait.
func (d *watchdog) watch(w wait) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waits = w
	d.until = time.Now().Add(d.limit)
	if d.timer == nil && !d.over {
		d.timer = time.AfterFunc(d.limit, d.fire)
	}
}

// rest says that nothing is waited for.
func (d *watchdog) rest() {
	d.mu.Lock()
	d.waits = waitNothing
	d.mu.Unlock()
}

// stop ends the watchdog; nothing of it touches the response any more.
func (d *watchdog) stop() {
	d.mu.Lock()
	d.over = true
	if d.timer != nil {
		d.timer.Stop()
	}
	d.mu.Unlock()
}

// fire runs when the time may be over. The timer is not set back with every wait, so it may come too early.
func (d *watchdog) fire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return
	}
	left := d.limit
	if d.waits != waitNothing {
		left = time.Until(d.until)
	}
	if left > 0 {
		d.timer.Reset(left)
		return
	}
	past := time.Unix(1, 0)
	switch d.waits {
	case waitClientBody:
		d.cancel(errClientSlow)
		_ = http.NewResponseController(d.w).SetReadDeadline(past)
	case waitUpstreamBody:
		d.cancel(errUpstreamFull)
	case waitUpstream:
		d.cancel(errUpstreamIdle)
	case waitClient:
		d.cancel(errClientFull)
		_ = http.NewResponseController(d.w).SetWriteDeadline(past)
	}
}
